// A slider on a histogram: with another threshold, how many would stay, and what to say to the next run.
const SVG = "http://www.w3.org/2000/svg";

function watchSlider(panel, slider) {
  const box = panel.querySelector(".slider");
  const input = box.querySelector("input");
  const figure = panel.querySelector("svg");
  const [, , width, height] = figure.getAttribute("viewBox").split(" ").map(Number);
  const line = document.createElementNS(SVG, "line");
  line.setAttribute("class", "slide");
  line.setAttribute("y1", "14");
  line.setAttribute("y2", String(height - 26));
  figure.append(line);
  input.style.setProperty("margin-left", `calc(${100 * slider.left}% - 8px)`); // half of the handle, so that it meets the line
  input.style.setProperty("width", `calc(${100 * (1 - slider.left - slider.right)}% + 16px)`);
  box.hidden = false;

  const move = () => {
    const at = Number(input.value);
    const x = width * (slider.left + (at / (slider.values.length - 1)) * (1 - slider.left - slider.right));
    line.setAttribute("x1", x.toFixed(1));
    line.setAttribute("x2", x.toFixed(1));
    const { kept, turned_away: away } = slider;
    const [stay, back] = [slider.stay[at], slider.back[at]];
    const range = back ? `${count(stay)} to ${count(stay + back)}` : count(stay);
    const returns = back ? `; of the ${count(away)} that this score turned away, ${count(back)} would pass it` : "";
    box.querySelector("output").textContent = `Keeping what is ${slider.side} ${slider.values[at]}: ${range} of ${count(slider.total)} would stay. ${count(stay)} of the ${count(kept)} kept now pass${returns}.`;
    box.querySelector("code").textContent = `--set ${slider.key}=${slider.values[at]}`;
    input.setAttribute("aria-valuetext", `${slider.side} ${slider.values[at]}: ${range} would stay`);
  };
  const button = box.querySelector(".copy");
  button.addEventListener("click", () => copyText(box.querySelector("code").textContent, button));
  input.addEventListener("input", move);
  move();
}

function watchSliders() {
  for (const panel of document.querySelectorAll(".panel[data-column]")) {
    const slider = RUN.sliders[panel.dataset.column];
    if (slider) watchSlider(panel, slider);
  }
}
