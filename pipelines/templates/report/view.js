// One sample at large: its picture in layers, its scores against their thresholds, where it came from, what it is like.
const LAYERS = [["both", "mask and outline"], ["mask", "mask"], ["outline", "outline"], ["none", "image alone"], ["label", "labeler's mask"]];
const EDGE = 255; // opacity of an outline in a stored mask; regions are fainter
const FILL = 120;
let viewed = -1;
let layer = "both";
let opener = null;

function drawMask(row) {
  const canvas = byId("view-mask");
  const picture = PICTURES.get(ROWS.sample_id[row]);
  const source = layer === "label" ? RUN.labels[ROWS.sample_id[row]] : picture?.overlay;
  canvas.hidden = !source || layer === "none";
  if (canvas.hidden) return;
  const drawn = new Image();
  drawn.addEventListener("load", () => {
    if (row !== viewed) return;
    canvas.width = drawn.naturalWidth;
    canvas.height = drawn.naturalHeight;
    const context = canvas.getContext("2d");
    context.drawImage(drawn, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
    for (let at = 3; at < pixels.data.length; at += 4) {
      const edge = pixels.data[at] === EDGE;
      if (layer === "outline" && !edge) pixels.data[at] = 0;
      if (layer === "mask" && edge) pixels.data[at] = FILL;
    }
    context.putImageData(pixels, 0, 0);
  });
  drawn.src = source;
}

function showLayers(row) {
  const id = ROWS.sample_id[row];
  const has = { both: PICTURES.get(id)?.overlay, mask: PICTURES.get(id)?.overlay, outline: PICTURES.get(id)?.overlay, none: PICTURES.has(id), label: RUN.labels[id] };
  const choices = LAYERS.filter(([name]) => has[name]);
  if (!has[layer] && choices.length) layer = choices[0][0];
  byId("layers").replaceChildren(...choices.map(([name, title]) => {
    const input = element("input", { type: "radio", name: "layer", value: name, checked: name === layer });
    return element("label", {}, input, title);
  }));
  drawMask(row);
}

function showPicture(row) {
  const picture = PICTURES.get(ROWS.sample_id[row]);
  if (!picture && RUN.desk) fetchPicture(ROWS.sample_id[row]).then((found) => { if (found && row === viewed) showPicture(row); }, () => {});
  const image = byId("view-image");
  image.hidden = !picture;
  byId("no-picture").hidden = Boolean(picture);
  if (picture) {
    image.src = picture.image;
    image.alt = `sample ${ROWS.sample_id[row]}`;
    byId("stage").style.setProperty("--shape", `${picture.width} / ${picture.height}`);
  }
  showLayers(row);
}

function scoreLines(row) {
  return RUN.scores.filter(({ column }) => ROWS[column][row] !== null).map(({ column, title, words: said, limit, side }) => {
    const name = element("details", { className: "term" }, element("summary", {}, title), element("p", {}, said));
    const against = limit ? `${side} ${limit}` : "–";
    return element("tr", {}, element("td", {}, name), element("td", { className: "n" }, words(ROWS[column][row])), element("td", { className: "n" }, against));
  });
}

function fact(title, value) {
  return value === null || value === undefined || value === "" ? [] : [element("dt", {}, title), element("dd", {}, value)];
}

function facts(row) {
  return [
    ...fact("File", ROWS.file[row]),
    ...fact("Source", ROWS.source[row] === null ? "" : RUN.sources[ROWS.source[row]]),
    ...fact("Prompt", ROWS.prompt[row]),
    ...fact("Made by", ROWS.model[row]),
    ...fact("Classes", ROWS.classes[row].length ? chips(row) : ""),
    ...fact("Planted fault", ROWS.fault[row]),
    ...(RUN.desk ? [] : reviewFact(ROWS.sample_id[row])),
    ...fact("Stored in", ROWS.shard[row] && `samples/${ROWS.shard[row]}`),
  ];
}

function reviewFact(id) {
  const said = VERDICTS.get(id);
  return said ? fact("Review", element("span", {}, saidChip(id), ` ${saidWords(said)}`)) : [];
}

function neighbour([id, cosine, set]) {
  const row = set ? undefined : PLACE.get(id);
  const picture = PICTURES.get(id);
  const parts = [picture && element("img", { src: picture.image, alt: "" }), element("span", {}, `${id.slice(0, 12)} · alike ${cosine.toFixed(3)}`)];
  if (set) parts.push(element("span", { className: "small" }, `in ${set}`));
  if (row === undefined) return element("span", { className: "near" }, ...parts.filter(Boolean));
  const button = element("button", { type: "button", className: "near" }, ...parts.filter(Boolean), badge(reasonOf(row)));
  button.addEventListener("click", () => show(row));
  return button;
}

function command(text) {
  const button = element("button", { type: "button", className: "copy" }, "copy");
  button.addEventListener("click", () => copyText(text, button));
  return element("p", { className: "command" }, element("code", {}, text), button);
}

function verdictOf(row) {
  const reason = reasonOf(row);
  const said = reason.name === "kept" ? "" : ` ${reason.explain}.`;
  const scored = ROWS.score[row] !== null && ROWS.threshold[row] !== null;
  const against = scored ? ` Decided by ${words(ROWS.score[row])} against ${words(ROWS.threshold[row])} (margin ${words(ROWS.margin[row])}).` : "";
  return [badge(reason), `${said}${against}`];
}

function show(row) {
  viewed = row;
  const id = ROWS.sample_id[row];
  byId("view-title").textContent = (ROWS.file[row] || id.slice(0, 12)).split("/").pop();
  byId("view-verdict").replaceChildren(...verdictOf(row));
  byId("view-why").textContent = ROWS.detail[row] || "";
  byId("view-scores").replaceChildren(...scoreLines(row));
  byId("view-facts").replaceChildren(...fact("Id", element("code", {}, id)), ...facts(row));
  const near = ROWS.near[row];
  byId("near-title").hidden = near.length === 0;
  byId("view-near").replaceChildren(...near.map(neighbour));
  const folder = runFolder();
  byId("view-commands").replaceChildren(
    command(`maskmill explain ${shellWord(folder)} ${shellWord(id)}`),
    command(`maskmill regenerate ${shellWord(`${folder}/config.json`)} ${shellWord(id)}`),
  );
  const at = found.indexOf(row);
  byId("previous").disabled = at <= 0;
  byId("next").disabled = at < 0 || at + 1 >= found.length;
  showPicture(row);
  if (RUN.desk) openDesk(row);
  if (!byId("view").open) byId("view").showModal();
}

function step(by) {
  const at = found.indexOf(viewed);
  if (at >= 0 && found[at + by] !== undefined) show(found[at + by]);
}

function pressed(event) {
  if (event.target.matches("input, select, textarea") && event.target.type !== "radio") return;
  if (event.target.type !== "radio" && event.key === "ArrowLeft") step(-1);
  else if (event.target.type !== "radio" && event.key === "ArrowRight") step(1);
  else if (event.key === "m" || event.key === "M") {
    layer = layer === "none" ? "both" : "none";
    showLayers(viewed);
  }
}

function watchView() {
  const view = byId("view");
  document.addEventListener("click", (event) => {
    const shot = event.target.closest(".card[data-id] .shot");
    const row = shot && PLACE.get(shot.closest(".card").dataset.id);
    if (row === undefined || row === null) return;
    opener = shot;
    show(row);
  });
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => view.close());
  view.addEventListener("click", (event) => { if (event.target === view) view.close(); });
  view.addEventListener("close", () => opener?.focus());
  view.addEventListener("keydown", pressed);
  byId("layers").addEventListener("change", (event) => {
    layer = event.target.value;
    drawMask(viewed);
  });
  byId("opacity").addEventListener("input", (event) => { byId("view-mask").style.opacity = event.target.value / 100; });
  let start = null;
  byId("stage").addEventListener("pointerdown", (event) => { start = event.pointerType === "mouse" ? null : event.clientX; });
  byId("stage").addEventListener("pointerup", (event) => {
    if (start !== null && Math.abs(event.clientX - start) > 40) step(event.clientX < start ? 1 : -1);
    start = null;
  });
}
