// Puts the parts to work. Without this script the page still shows everything but the list.
collectPictures();
watchSliders();
byId("masks").addEventListener("change", (event) => document.body.classList.toggle("no-masks", !event.target.checked));
if (byId("bench")) {
  byId("static").remove();
  byId("bench").hidden = false;
  fillTools();
  watchView();
  recall();
  byId("grid").addEventListener("keydown", walk);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || byId("view").open || event.target.matches("input, select, textarea")) return;
    event.preventDefault();
    byId("search").focus();
  });
}
// Paper cannot be clicked: words and test pictures are printed open.
addEventListener("beforeprint", () => {
  for (const closed of document.querySelectorAll(".term:not([open]), .sheets details:not([open])")) {
    closed.open = true;
    addEventListener("afterprint", () => { closed.open = false; }, { once: true });
  }
});
document.documentElement.dataset.ready = "yes";
