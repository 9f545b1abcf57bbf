/** Draws where the logit comes from: a table whose bars each begin where the last one ends. */

import { breakable, byId, el, show } from "./dom.js";
import { number, numberName, share, signed, subject, tiny } from "./numbers.js";

const MANY = 24; // rows beyond which the table scrolls by itself

/** Compute where each bar begins and ends, and the ends of the scale. */
export function laidOut(found) {
  let sum = 0;
  const bars = [{ name: "input", value: found.input }, ...found.stages].map((part) => {
    const start = sum;
    sum += part.value;
    return { ...part, start, end: sum };
  });
  const all = [0, found.output, ...bars.map((bar) => bar.end)];
  return { bars, low: Math.min(...all), high: Math.max(...all) };
}

function bar(start, end, kind, { low, high }) {
  const span = high - low || 1;
  const place = (value) => (100 * (value - low)) / span;
  const own = el("span", { class: kind });
  own.style.left = `${place(Math.min(start, end))}%`;
  own.style.width = `${place(Math.max(start, end)) - place(Math.min(start, end))}%`;
  const zero = el("span", { class: "zero" });
  zero.style.left = `${place(0)}%`;
  return el("span", { class: "bar", "aria-hidden": "true" }, own, zero);
}

function row(name, drawn, value, part, attributes = {}) {
  // Narrow screens lay the rows out as a grid, so the roles of a table are stated.
  return el("tr", { role: "row", ...attributes },
    el("th", { scope: "row", role: "rowheader" }, ...name),
    el("td", { class: "drawn", role: "cell" }, drawn),
    el("td", { class: "n", role: "cell", text: value }),
    el("td", { class: "n part", role: "cell", text: part }));
}

const head = (text, kind) => el("th", { scope: "col", role: "columnheader", class: kind, text });

/** Let a table of many rows scroll by itself, with the keyboard too. */
function scrolling(box, on, what) {
  box.classList.toggle("scrolls", on);
  const words = { role: "region", "aria-label": `All parts of the ${what}`, tabindex: "0" };
  for (const [name, value] of Object.entries(words)) {
    if (on) box.setAttribute(name, value);
    else box.removeAttribute(name);
  }
}

/**
 * Draw the waterfall of a result, or say that there is none.
 * @param {object} result
 * @param {function(string)} pick receives the stage of the row that was chosen
 */
export function drawWaterfall(result, pick) {
  const found = result.waterfall;
  show(Boolean(found), byId("waterfall-part"));
  show(!found, byId("no-waterfall"));
  const what = numberName(result.target);
  byId("waterfall-title").textContent = `Where the ${what} comes from`;
  byId("no-waterfall").textContent =
    `There is no split of the ${what} for this result, so no waterfall.`;
  if (!found) return;
  const scale = laidOut(found);
  const of = (value) => (found.output ? share(value / found.output) : "");
  const label = subject(result.target);
  const stages = new Set((result.stages ?? []).map((stage) => stage.name));
  const rows = scale.bars.map((part, place) => {
    const stage = place > 0 && stages.has(part.name); // the first row is the input's
    const name = breakable(part.name);
    return row(stage ? [el("button", { type: "button", "aria-pressed": "false" }, ...name)] : name,
      bar(part.start, part.end, part.value < 0 ? "lowers" : "raises", scale),
      signed(part.value), of(part.value),
      stage ? { "data-stage": part.name, class: "pick", onclick: () => pick(part.name) } : {});
  });
  const last = scale.bars[scale.bars.length - 1].end;
  rows.push(row(["residual"], bar(last, last, "none", scale), tiny(found.residual), "",
    { class: "residual" }));
  rows.push(row([`sum = ${what}`], bar(0, found.output, "total", scale), signed(found.output),
    found.output ? "100 %" : "", { class: "total" }));
  byId("waterfall-says").textContent =
    `The ${what} of ${label}, ${number(found.output)}, is the sum of what the photograph itself ` +
    "contributes (input: pixels times their gradients) and what the biases inside each stage of " +
    "the network contribute (biases times their gradients), whatever the method of the map.";
  scrolling(byId("waterfall-box"), rows.length > MANY, what);
  byId("waterfall-box").replaceChildren(
    el("table", { class: "waterfall", role: "table" },
      el("caption", { class: "unseen", text: `Parts of the ${what} of ${label}, in the order of the ` +
        `network, with the sum of each and its share of the ${what}` }),
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" },
        head("part", ""), head("running sum", "drawn"), head("sum", "n"), head("share", "n part"))),
      el("tbody", { role: "rowgroup" }, ...rows)));
  byId("waterfall-legend").textContent =
    `A bar begins where the one above it ends; the thin line is zero. Red and + raise the ${what}, ` +
    `blue and − lower it. A share is of the ${what}; parts of both signs cancel, so it can exceed ` +
    `100 %. The residual is the ${what} minus all parts: the computer's rounding, which shows that ` +
    `nothing is missing.${stages.size ? " A row shows its stage in the picture." : ""}`;
}

/** Mark the row of a stage, or none, and bring it into view where the table scrolls by itself. */
export function markStage(name) {
  const box = byId("waterfall-box");
  for (const found of box.querySelectorAll("tr[data-stage]")) {
    const current = name !== null && found.dataset.stage === name;
    found.classList.toggle("current", current);
    found.querySelector("button").setAttribute("aria-pressed", String(current));
    if (current) box.scrollTop = found.offsetTop - box.clientHeight / 2;
  }
}
