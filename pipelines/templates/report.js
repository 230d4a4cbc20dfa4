const shelves = document.querySelectorAll(".shelf");
const buttons = document.querySelectorAll("[data-filter]");
buttons.forEach((button) => button.addEventListener("click", () => {
  const wanted = button.dataset.filter;
  buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
  shelves.forEach((shelf) => { shelf.hidden = wanted !== "" && shelf.dataset.reason !== wanted; });
}));
document.getElementById("masks").addEventListener("change", (event) => {
  document.body.classList.toggle("no-masks", !event.target.checked);
});
