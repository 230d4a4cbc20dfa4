// The list of samples: what is asked for, which rows answer it in which order, and their cards.
const PAGE = 60;
const TEXTS = ROWS.sample_id.map((id, row) => `${id}\n${ROWS.file[row] || ""}\n${ROWS.prompt[row] || ""}`.toLowerCase());
const asked = { text: "", reasons: new Set(), class: "", source: "", judged: "", score: "", low: null, high: null, sort: "id" };
let found = [];
let shown = 0;

function sorts() {
  const made = [["id", "by id (chance)"]];
  if (ROWS.margin.some((value) => value !== null)) made.push(["margin", "margin, worst first"], ["close", "margin, closest calls first"]);
  for (const { column, title } of RUN.scores) made.push([`worst:${column}`, `${title}, worst first`], [`best:${column}`, `${title}, best first`]);
  return [...made, ["file", "file name"]];
}

function sortKeys(sort) {
  if (sort === "margin") return ROWS.margin;
  if (sort === "close") return ROWS.margin.map((value) => (value === null ? null : Math.abs(value)));
  if (sort === "file") return ROWS.file;
  if (sort === "id") return ROWS.sample_id.map((id, row) => (PICTURES.has(id) ? row : row + COUNT)); // pictures first
  const [way, column] = sort.split(":");
  const { high_is_bad: highIsBad } = RUN.scores.find((score) => score.column === column);
  const sign = (way === "worst") === highIsBad ? -1 : 1;
  return ROWS[column].map((value) => (value === null ? null : sign * value));
}

// Rows that answer what is asked, in order; what has no number comes last, equal ones stay by id.
function answer() {
  const text = asked.text.trim().toLowerCase();
  const values = asked.score ? ROWS[asked.score] : null;
  const rows = [];
  for (let row = 0; row < COUNT; row += 1) {
    if (text && !TEXTS[row].includes(text)) continue;
    if (asked.reasons.size && !asked.reasons.has(reasonOf(row).name)) continue;
    if (asked.class !== "" && !ROWS.classes[row].includes(Number(asked.class))) continue;
    if (asked.source !== "" && ROWS.source[row] !== Number(asked.source)) continue;
    if (asked.judged !== "" && !isJudged(ROWS.sample_id[row], asked.judged)) continue;
    if (asked.low !== null && !(values[row] !== null && values[row] >= asked.low)) continue;
    if (asked.high !== null && !(values[row] !== null && values[row] <= asked.high)) continue;
    rows.push(row);
  }
  const keys = sortKeys(asked.sort);
  return rows.sort((a, b) => {
    if (keys[a] === keys[b]) return a - b;
    if (keys[a] === null) return 1;
    if (keys[b] === null) return -1;
    return keys[a] < keys[b] ? -1 : 1;
  });
}

const JUDGED = [["no", "not judged"], ["yes", "judged"], ["keep", "kept by a person"], ["reject", "rejected by a person"], ["relabel", "relabelled"], ["note", "with a note"]];

function isJudged(id, wanted) {
  const said = VERDICTS.get(id);
  const judged = Boolean(said) && said.verdict !== "none";
  if (wanted === "no") return !judged;
  if (wanted === "yes") return judged;
  return wanted === "note" ? Boolean(said?.note) : said?.verdict === wanted;
}

function layersOf(id, picture) {
  const made = [element("img", { src: picture.image, width: picture.width, height: picture.height, alt: `sample ${id.slice(0, 12)}` })];
  if (picture.overlay) made.push(element("img", { src: picture.overlay, className: "overlay", alt: "" }));
  return made;
}

function card(row) {
  const id = ROWS.sample_id[row];
  const picture = PICTURES.get(id);
  const file = ROWS.file[row] || "";
  const shot = element("button", { type: "button", className: "shot", "aria-label": `open sample ${id.slice(0, 12)}${file && `, ${file}`}` });
  if (picture) {
    shot.append(...layersOf(id, picture));
  } else {
    shot.append(element("span", { className: "unpictured" }, RUN.desk ? "…" : "no picture in this page"));
    if (RUN.desk) EYE.observe(shot);
  }
  if (ROWS.fault[row]) shot.append(element("span", { className: "fault", title: "This fault was planted" }, ROWS.fault[row].replaceAll("_", " ")));
  const said = saidChip(id);
  const caption = element("figcaption", {}, ...(said ? [said] : []), badge(reasonOf(row)));
  if (ROWS.score[row] !== null && ROWS.threshold[row] !== null) {
    caption.append(element("span", { className: "verdict" }, element("b", {}, words(ROWS.score[row])), ` against ${words(ROWS.threshold[row])}`));
  }
  const scores = RUN.scores.filter(({ column }) => column !== "ignore_fraction" && ROWS[column][row] !== null);
  caption.append(chips(row), element("span", { className: "small" }, scores.map(({ column, title }) => `${title} ${words(ROWS[column][row])}`).join(" · ")));
  if (file) caption.append(element("span", { className: "small file" }, file));
  caption.append(element("code", { title: id }, id.slice(0, 12)));
  return element("figure", { className: "card", "data-id": id, "data-reason": reasonOf(row).name }, shot, caption);
}

function showMore() {
  const next = found.slice(shown, shown + PAGE);
  byId("grid").append(...next.map(card));
  shown += next.length;
  byId("more").hidden = shown >= found.length;
}

function refresh() {
  found = answer();
  shown = 0;
  byId("grid").replaceChildren();
  showMore();
  const all = RUN.total > COUNT ? ` (this page lists ${count(COUNT)} of the run's ${count(RUN.total)} samples, chosen by hash)` : "";
  byId("found").textContent = `${count(found.length)} of ${count(COUNT)} samples${all}`;
  remember();
  const only = RUN.reasons.filter((reason) => asked.reasons.has(reason.name) && reason.name !== "kept");
  byId("reason-words").textContent = only.map((reason) => `${reason.label}: ${reason.explain}.`).join(" ");
}

function readTools() {
  const limit = (id) => (byId(id).value === "" || !byId("range-score").value ? null : Number(byId(id).value));
  Object.assign(asked, { text: byId("search").value, class: byId("class").value, source: byId("source").value, judged: byId("judged").value });
  Object.assign(asked, { score: byId("range-score").value, low: limit("low"), high: limit("high"), sort: byId("sort").value });
  refresh();
}

// What is asked for stands in the address, so that a reload, a bookmark or a colleague sees the same list.
const FIELDS = ["search", "sort", "class", "source", "judged", "range-score", "low", "high"];

function remember() {
  const said = new URLSearchParams();
  for (const id of FIELDS) if (byId(id).value !== byId(id).dataset.usual) said.set(id, byId(id).value);
  for (const reason of asked.reasons) said.append("reason", reason);
  if (String(said) || location.hash.startsWith("#samples?")) history.replaceState(null, "", `#samples${String(said) && `?${said}`}`);
}

function recall() {
  const said = new URLSearchParams(location.hash.startsWith("#samples?") ? location.hash.slice("#samples?".length) : "");
  for (const id of FIELDS) {
    const field = byId(id);
    field.dataset.usual = field.value;
    const wanted = said.get(id);
    if (wanted !== null && (!field.options || [...field.options].some((option) => option.value === wanted))) field.value = wanted;
  }
  for (const reason of said.getAll("reason")) if (RUN.reasons.some(({ name }) => name === reason)) asked.reasons.add(reason);
  markReasons();
  readTools();
  if (String(said)) byId("samples").scrollIntoView({ behavior: "instant" });
}

function fillTools() {
  const options = (id, pairs) => byId(id).append(...pairs.map(([value, text]) => element("option", { value: String(value) }, text)));
  options("sort", sorts());
  options("class", RUN.classes.map(({ name }, number) => [number, name]));
  options("source", RUN.sources.map((name, number) => [number, name]));
  options("range-score", [...RUN.scores.map(({ column, title }) => [column, title]), ["margin", "margin"]]);
  options("judged", JUDGED);
  byId("source-field").hidden = RUN.sources.length < 2;
  byId("judged-field").hidden = !RUN.desk && VERDICTS.size === 0;
  byId("tools").addEventListener("input", readTools);
  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  byId("tools").addEventListener("reset", (event) => {
    event.preventDefault(); // the browser would empty the fields after this, and the address would lag behind the list
    for (const id of FIELDS) byId(id).value = byId(id).dataset.usual;
    asked.reasons.clear();
    markReasons();
    readTools();
  });
  byId("reasons").addEventListener("click", (event) => {
    const button = event.target.closest("[data-filter]");
    if (!button) return;
    const reason = button.dataset.filter;
    if (!asked.reasons.delete(reason)) asked.reasons.add(reason);
    markReasons();
    refresh();
  });
  byId("more").addEventListener("click", () => {
    const first = shown;
    showMore();
    byId("grid").children[first]?.querySelector(".shot").focus();
  });
}

function markReasons() {
  for (const button of document.querySelectorAll("[data-filter]")) button.setAttribute("aria-pressed", String(asked.reasons.has(button.dataset.filter)));
}

// Arrow keys walk through the grid as it lies on the screen.
function walk(event) {
  const shots = [...byId("grid").querySelectorAll(".shot")];
  const at = shots.indexOf(document.activeElement);
  if (at < 0 || !event.key.startsWith("Arrow")) return;
  const top = byId("grid").children[0].offsetTop;
  const columns = [...byId("grid").children].findIndex((child) => child.offsetTop > top);
  const across = columns < 0 ? shots.length : columns;
  const to = shots[at + { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[event.key]];
  event.preventDefault();
  to?.focus();
}
