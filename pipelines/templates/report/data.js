// What the page holds: rows of samples as columns, pictures of some of them. Names from data become text, never markup.
const RUN = JSON.parse(document.getElementById("run-data").textContent);
const ROWS = RUN.rows;
const COUNT = ROWS.sample_id.length;
const PLACE = new Map(ROWS.sample_id.map((id, row) => [id, row]));
const PICTURES = new Map();
const VERDICTS = new Map(Object.entries(RUN.verdicts)); // what people said, by sample

function collectPictures() {
  for (const card of document.querySelectorAll(".card[data-id]")) {
    const [image, overlay] = card.querySelectorAll("img");
    PICTURES.set(card.dataset.id, { image: image.src, overlay: overlay ? overlay.src : "", width: image.width, height: image.height });
  }
}

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "style") Object.entries(value).forEach(([key, text]) => made.style.setProperty(key, text));
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

function byId(id) { return document.getElementById(id); }

function words(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) < 100 ? value.toFixed(3) : Math.round(value).toLocaleString("en");
}

function count(value) { return value.toLocaleString("en"); }

function reasonOf(row) { return RUN.reasons[ROWS.reason[row]]; }

function dot(reason) {
  return element("i", { className: `dot ${reason.pattern}`, style: { "background-color": reason.colour } });
}

function badge(reason) {
  return element("span", { className: "badge", title: reason.explain, style: { "--c": reason.colour } }, dot(reason), reason.label);
}

function saidChip(id) {
  const said = VERDICTS.get(id);
  return said ? element("span", { className: `said ${said.verdict}`, title: saidWords(said) }, said.words) : null;
}

// Who said it, when, and why.
function saidWords({ who, at, why, note }) {
  return [`${who}, ${at}`, why, note].filter(Boolean).join(" · ");
}

function chips(row) {
  const made = ROWS.classes[row].map((number) => {
    const { name, colour } = RUN.classes[number];
    return element("span", { className: "chip" }, element("i", { style: { background: colour } }), name);
  });
  return element("span", { className: "classes" }, ...made);
}

// The run's folder as the browser sees it, so that commands can be pasted; RUN where the page came over a network.
function runFolder() {
  if (RUN.desk) return RUN.desk.run;
  if (location.protocol !== "file:") return "RUN";
  return decodeURIComponent(location.pathname).replace(/\/report\/[^/]*$/, "") || "RUN";
}

function shellWord(text) {
  return /^[\w@%+=:,.\/-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = element("textarea", { value: text, className: "offscreen" });
    (button.closest("dialog") || document.body).append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    button.focus();
  }
  button.textContent = "copied";
  setTimeout(() => { button.textContent = "copy"; }, 1500);
}
