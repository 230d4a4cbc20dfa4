// Verdicts: each goes to the server at once, and counts when the server says that it is on the disk.
const UNSENT = new Map(); // what the server has not acknowledged, by sample
const UNDO = []; // [sample, what was said of it before]
const SAYS = { keep: "keep", reject: "reject", relabel: "relabel", none: "no verdict" };
let fresh = 0; // verdicts that no selection knows of yet
let queue = Promise.resolve(); // one after the other: the last word must come last

// What the server is told of a sample: everything that is to be said of it from now on.
function asked_of(id, said, more = {}) {
  const { verdict = "none", from_class_id = null, to_class_id = null, why = "", note = "" } = said || {};
  return { sample_id: id, verdict, from_class_id, to_class_id, why, note, ...more };
}

// What was said last of a sample, acknowledged or not.
function latest(id) { return UNSENT.get(id) || VERDICTS.get(id); }

async function post(wanted) {
  try {
    const answer = await fetch("verdicts", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(wanted) });
    const told = await answer.json();
    if (answer.status === 400) refuse(wanted, told.error);
    else if (!answer.ok) tellUnsent(told.error);
    else accept(wanted, told);
  } catch {
    tellUnsent("the server does not answer. Start `maskmill review` again and judge on its new page, or try again");
  }
}

function send(wanted) {
  UNSENT.set(wanted.sample_id, wanted);
  tell(`${SAYS[wanted.verdict]}: saving …`);
  queue = queue.then(() => post(wanted));
}

// A later word on the same sample may be under way by now: that one is still to come.
function settle(wanted) {
  if (UNSENT.get(wanted.sample_id) === wanted) UNSENT.delete(wanted.sample_id);
}

function accept(wanted, { verdict, new: number }) {
  const id = wanted.sample_id;
  settle(wanted);
  fresh = number;
  if (verdict) VERDICTS.set(id, verdict);
  else VERDICTS.delete(id);
  tell(verdict ? `saved: ${verdict.words}` : "saved: nothing is said of this sample any more");
  if (UNSENT.size === 0) byId("unsent").hidden = true;
  showSaid(id);
}

function refuse(wanted, words) {
  settle(wanted);
  tell(`not saved: ${words}`);
}

function tell(text) { byId("told").textContent = text; }

function tellUnsent(words) {
  tell("not saved");
  byId("unsent").hidden = false;
  byId("unsent-words").textContent = `${UNSENT.size} not saved: ${words}.`;
}

// Everything on the page that speaks of what was said of a sample.
function showSaid(id) {
  for (const shown of document.querySelectorAll(`.card[data-id="${CSS.escape(id)}"]`)) {
    shown.querySelector(".said")?.remove();
    const chip = saidChip(id);
    if (chip) shown.querySelector("figcaption").prepend(chip);
  }
  const next = fresh === 1 ? "1 verdict is" : `${count(fresh)} verdicts are`;
  byId("desk-state").textContent = fresh ? `${next} new; the next run honours ${fresh === 1 ? "it" : "them"}:` : "Selection honours all that was said.";
  byId("desk-command").hidden = !fresh;
  if (viewed >= 0 && ROWS.sample_id[viewed] === id) showJudged(viewed);
}

// The desk below an opened sample.
function showJudged(row) {
  const said = VERDICTS.get(ROWS.sample_id[row]);
  for (const word of ["keep", "reject", "relabel"]) byId(word).setAttribute("aria-pressed", String(said?.verdict === word));
  byId("view-said").replaceChildren(...(said ? [saidChip(ROWS.sample_id[row]), ` ${saidWords(said)}`] : []));
}

function openDesk(row) {
  const said = latest(ROWS.sample_id[row]);
  byId("why").value = said?.why || "";
  byId("note").value = said?.note || "";
  closeBoxes();
  showJudged(row);
}

function closeBoxes() {
  byId("relabel-box").hidden = true;
  byId("note-box").hidden = true;
}

function boxIsOpen() { return !byId("relabel-box").hidden || !byId("note-box").hidden; }

function say(row, more, advance) {
  const id = ROWS.sample_id[row];
  const before = latest(id);
  const open = byId("view").open && row === viewed;
  const why = open ? byId("why").value.trim() : before?.why || "";
  UNDO.push([id, before]);
  send(asked_of(id, { note: before?.note }, { why, ...more }));
  closeBoxes();
  if (open && advance && byId("advance").checked) step(1);
}

function undo() {
  const last = UNDO.pop();
  if (last) {
    const [id, before] = last;
    if (byId("view").open) show(PLACE.get(id));
    send(asked_of(id, before));
  } else if (viewed >= 0 && byId("view").open && latest(ROWS.sample_id[viewed])) {
    send(asked_of(ROWS.sample_id[viewed]));
  } else {
    tell("nothing to undo");
  }
}

// Classes that the mask shows as it was ingested, whatever it was called since.
function stated(row) {
  return RUN.stated[ROWS.sample_id[row]] || ROWS.classes[row].map((number) => RUN.classes[number].id);
}

function openRelabel() {
  const option = (value, text) => element("option", { value: String(value) }, text);
  const names = new Map(RUN.desk.classes.map(({ id, name }) => [id, name]));
  const own = stated(viewed);
  const said = VERDICTS.get(ROWS.sample_id[viewed]);
  const parts = own.length > 1 ? own.map((id) => option(id, names.get(id) || `class ${id}`)) : [];
  byId("relabel-from").replaceChildren(option("", own.length > 1 ? "everything in the mask" : names.get(own[0]) || "the mask"), ...parts);
  byId("relabel-to").replaceChildren(...RUN.desk.classes.map(({ id, name }) => option(id, name)));
  byId("relabel-from").value = said?.from_class_id ?? "";
  byId("relabel-to").value = said?.to_class_id ?? (RUN.desk.classes.find(({ id }) => !own.includes(id)) || RUN.desk.classes[0]).id;
  byId("note-box").hidden = true;
  byId("relabel-box").hidden = false;
  byId("relabel-to").focus();
}

function relabel() {
  const from = byId("relabel-from").value;
  say(viewed, { verdict: "relabel", from_class_id: from === "" ? null : Number(from), to_class_id: Number(byId("relabel-to").value) }, true);
  byId("relabel").focus();
}

function openNote() {
  byId("relabel-box").hidden = true;
  byId("note-box").hidden = false;
  byId("note").focus();
}

function saveNote() {
  const said = latest(ROWS.sample_id[viewed]);
  const { verdict = "none", from_class_id = null, to_class_id = null } = said || {};
  say(viewed, { verdict, from_class_id, to_class_id, note: byId("note").value.trim() }, false);
  byId("note-open").focus();
}

const KEYS = {
  k: (row) => say(row, { verdict: "keep" }, true),
  r: (row) => say(row, { verdict: "reject" }, true),
  l: (row) => { if (!byId("view").open) show(row); openRelabel(); },
  n: (row) => { if (!byId("view").open) show(row); openNote(); },
  u: () => undo(),
};

function judgeByKey(event) {
  const deed = KEYS[event.key.toLowerCase()];
  if (!deed || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=radio], [type=checkbox], [type=range]), select, textarea")) return;
  const shot = document.activeElement.closest(".card[data-id] .shot");
  const row = byId("view").open ? viewed : shot && PLACE.get(shot.closest(".card").dataset.id);
  if (row === undefined || row === null || row < 0) {
    if (event.key.toLowerCase() === "u") undo();
    return;
  }
  event.preventDefault();
  deed(row);
}

// Pictures that the page does not hold come from the server when they are looked at.
async function fetchPicture(id) {
  if (!PICTURES.has(id)) {
    const answer = await fetch(`picture/${encodeURIComponent(id)}`);
    if (answer.ok) PICTURES.set(id, await answer.json());
  }
  return PICTURES.get(id);
}

const EYE = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    EYE.unobserve(target);
    const shownCard = target.closest(".card");
    fetchPicture(shownCard.dataset.id).then((picture) => {
      if (!picture || !target.isConnected) return;
      target.querySelector(".unpictured")?.remove();
      target.prepend(...layersOf(shownCard.dataset.id, picture));
    }, () => {});
  }
}, { rootMargin: "300px" });

async function startDesk() {
  for (const [word, key] of [["keep", "k"], ["reject", "r"], ["relabel", "l"], ["note-open", "n"], ["undo", "u"]]) {
    byId(word).addEventListener("click", () => KEYS[key](viewed));
  }
  byId("relabel-go").addEventListener("click", relabel);
  byId("note-go").addEventListener("click", saveNote);
  byId("relabel-box").addEventListener("keydown", (event) => { if (event.key === "Enter" && event.target.matches("select")) { event.preventDefault(); relabel(); } });
  byId("note").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) saveNote(); });
  byId("judge").addEventListener("submit", (event) => event.preventDefault());
  byId("why").addEventListener("keydown", (event) => { if (event.key === "Enter") byId("keep").focus(); });
  byId("view").addEventListener("cancel", (event) => {
    if (!boxIsOpen()) return;
    event.preventDefault(); // Esc closes the box first
    closeBoxes();
    byId("keep").focus();
  });
  byId("view").addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !boxIsOpen()) return;
    event.preventDefault();
    closeBoxes();
    byId("keep").focus();
  });
  byId("try-again").addEventListener("click", () => { for (const wanted of UNSENT.values()) send(wanted); });
  document.addEventListener("keydown", judgeByKey);
  addEventListener("beforeunload", (event) => { if (UNSENT.size) event.preventDefault(); });
  byId("desk-command").replaceChildren(command(`maskmill run ${shellWord(`${RUN.desk.run}/config.json`)}`));
  const { verdicts, new: number } = await (await fetch("verdicts")).json();
  VERDICTS.clear();
  for (const [id, said] of Object.entries(verdicts)) VERDICTS.set(id, said);
  fresh = number;
}
