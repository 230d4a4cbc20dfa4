// Puts the parts to work. Without this script the page still shows everything but the list.
collectPictures();
watchSliders();
byId("masks").addEventListener("change", (event) => document.body.classList.toggle("no-masks", !event.target.checked));

function openBench() {
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

function ready() { document.documentElement.dataset.ready = "yes"; }

// Paper cannot be clicked: words and test pictures are printed open.
addEventListener("beforeprint", () => {
  for (const closed of document.querySelectorAll(".term:not([open]), .sheets details:not([open])")) {
    closed.open = true;
    addEventListener("afterprint", () => { closed.open = false; }, { once: true });
  }
});

if (RUN.desk && byId("bench")) {
  startDesk().then(() => {
    openBench();
    for (const id of VERDICTS.keys()) showSaid(id);
    if (VERDICTS.size === 0) showSaid("");
  }, () => { byId("desk-state").textContent = "The server does not answer; start `maskmill review` again."; }).finally(ready);
} else {
  if (byId("bench")) openBench();
  ready();
}
