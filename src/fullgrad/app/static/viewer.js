/** Shows photograph, map, opacity, stages and the swipe, all without asking the server. */

import { breakable, byId, el, show } from "./dom.js";
import { titleOf } from "./names.js";
import { number, numberName, share, sides, signed, subject } from "./numbers.js";
import { zooming } from "./zoom.js";

/** Draw a color scale with its ends. */
function scaleOf(label, signedMap, left, right, says) {
  return el("div", { class: "scale" },
    label ? el("p", { class: "scale-name", text: label }) : "",
    el("div", { class: `ramp ${signedMap ? "diverging" : "sequential"}`, "aria-hidden": "true" }),
    el("div", { class: "ends" }, el("span", { text: left }),
      signedMap ? el("span", { text: "0" }) : "", el("span", { text: right })),
    says ? el("p", { class: "hint", text: says }) : "");
}

/** Show the whole photograph, and the part of it that the network sees. */
function drawFrame({ frame: [left, top, width, height] }, photograph) {
  show(Boolean(photograph.size), byId("frame"));
  if (!photograph.size) return;
  byId("frame-photo").src = photograph.address;
  byId("frame-photo").alt = `The whole photograph ${photograph.name}; a frame marks what the network sees`;
  const box = byId("frame-box").style;
  [box.left, box.top, box.width, box.height] =
    [left, top, width, height].map((part) => `${100 * part}%`);
}

function mapScale(result, label) {
  const { least, most, signed: hasSign, says, cell } = result.map;
  if (!hasSign) return scaleOf(label, false, `least ${number(least)}`, `most ${number(most)}`, says);
  const range = `The ${cell ? "cells' sums" : "map's numbers"} go from ${number(least)} to ` +
    `${number(most)}.`;
  return scaleOf(label, true, ...sides(result.target), `${says} ${range}`);
}

function stageScale(result, label) {
  if (result.map.signed) {
    return scaleOf(label, true, ...sides(result.target),
      "One scale for the maps of all stages, so their colors can be compared.");
  }
  return scaleOf(label, false, "least", "most", "Each stage's map has a color scale of its own: compare " +
    "stages by their sums, not by their colors.");
}

/**
 * Set up the picture.
 * @param {function(?string)} stageShown receives the name of the stage that is shown, null for the
 *     whole map
 */
export function viewer(stageShown) {
  const picture = byId("picture");
  const opacity = byId("opacity");
  const stage = byId("stage");
  const swipe = byId("swipe");
  const zoom = zooming(picture);
  let result = null;
  let second = null;
  let photograph = null;

  const current = () => (Number(stage.value) > 0 ? result.stages[Number(stage.value) - 1] : null);

  function drawOpacity() {
    const share = Number(opacity.value) / 100;
    byId("heat-first").style.opacity = share;
    byId("heat-second").style.opacity = share;
    byId("opacity-says").textContent = `${opacity.value} %`;
    opacity.setAttribute("aria-valuetext", `${opacity.value} %`);
    picture.classList.toggle("gray", byId("gray").checked);
  }

  function drawSwipe() {
    const at = Number(swipe.value);
    byId("sheet-second").style.clipPath = `inset(0 0 0 ${at}%)`;
    byId("divider").style.left = `${at}%`;
    if (!result || !second) return;
    swipe.setAttribute("aria-valuetext",
      `left ${at} %: ${titleOf(result.method)}, right ${100 - at} %: ${titleOf(second.method)}`);
  }

  function drawScales(own) {
    const name = own ? `FullGrad, stage ${own.name}` : titleOf(result.method);
    const label = second ? `Left: ${name}` : null;
    const first = own ? stageScale(result, label) : mapScale(result, label);
    byId("scales").replaceChildren(first,
      second ? mapScale(second, `Right: ${titleOf(second.method)}`) : "");
  }

  function drawStage() {
    const own = current();
    const place = Number(stage.value);
    const count = result.stages?.length ?? 0;
    const heat = byId("heat-first");
    const png = own ? own.png : result.map.png;
    show(Boolean(png), heat);
    show(!png, byId("no-position"));
    if (png) heat.src = png;
    heat.alt = own
      ? `Map of stage ${own.name} for ${subject(result.target)}`
      : `Map of ${titleOf(result.method)} for ${subject(result.target)}`;
    // Stages come from the split of the logit, whatever the method of the whole map.
    byId("tag-first").replaceChildren(
      ...(own ? ["FullGrad, stage ", ...breakable(own.name)] : [titleOf(result.method)]));
    const part = own && share(own.share);
    const sum = own && `sum ${signed(own.sum)}${part ? `, ${part} of the ${numberName(result.target)}` : ""}`;
    const others = result.method === "fullgrad" ? "" : " (the stages' maps are FullGrad's)";
    byId("stage-says").replaceChildren(...(own
      ? [`Stage ${place} of ${count}: `, ...breakable(own.name), `; ${sum}.`]
      : [`The whole map. Move to see ${count} stages, one at a time${others}.`]));
    stage.setAttribute("aria-valuetext", own ? `stage ${own.name}, ${sum}` : "whole map");
    byId("stage-back").disabled = place === 0;
    byId("stage-next").disabled = place === count;
    drawScales(own);
    stageShown(own ? own.name : null);
  }

  function drawSecond() {
    const both = Boolean(second);
    show(both, byId("sheet-second"), byId("divider"), byId("tag-second"), byId("swipe-field"),
      byId("swipe-note"));
    if (both) {
      byId("photo-second").src = second.photograph;
      byId("heat-second").src = second.map.png;
      byId("heat-second").alt = `Map of ${titleOf(second.method)} for ${subject(second.target)}`;
      byId("tag-second").textContent = titleOf(second.method);
    }
    drawSwipe();
  }

  function drag(event) {
    if (!second || zoom.enlarged() || !(event.buttons & 1)) return; // which moves the picture
    const box = picture.getBoundingClientRect();
    const at = Math.round((100 * (event.clientX - box.left)) / box.width);
    swipe.value = Math.min(100, Math.max(0, at));
    drawSwipe();
  }

  function step(by) {
    stage.value = Number(stage.value) + by;
    drawStage();
  }

  function tell() {
    zoom.show([result, second].filter(Boolean));
  }

  opacity.addEventListener("input", drawOpacity);
  byId("gray").addEventListener("change", drawOpacity);
  stage.addEventListener("input", drawStage);
  byId("stage-back").addEventListener("click", () => step(-1));
  byId("stage-next").addEventListener("click", () => step(1));
  swipe.addEventListener("input", drawSwipe);
  picture.addEventListener("pointerdown", drag);
  picture.addEventListener("pointermove", drag);
  drawOpacity();

  return {
    /**
     * Show a result of a photograph, and a second one beside it unless that is null. The stage
     * stays the same where the new result has it, the enlargement where the photograph does.
     */
    show(next, beside, from) {
      const before = result && current()?.name;
      if (from !== photograph) zoom.reset();
      [result, second, photograph] = [next, beside, from];
      picture.style.aspectRatio = `${next.width} / ${next.height}`;
      byId("photo-first").src = next.photograph;
      byId("photo-first").alt =
        `What the network sees: the photograph, resized and cropped to ${next.width} by ` +
        `${next.height} pixels`;
      const stages = next.stages ?? [];
      stage.max = stages.length;
      const place = before ? stages.findIndex((s) => s.name === before) : -1;
      stage.value = place + 1;
      show(stages.length > 0, byId("stage-field"));
      show(stages.length === 0, byId("no-stages"));
      byId("says").textContent =
        `The network sees ${next.width} × ${next.height} pixels: the photograph resized and ` +
        "cropped.";
      drawFrame(next, from);
      show(Boolean(next.reason), byId("reason"));
      byId("reason").textContent =
        next.reason ? `Why ${titleOf(next.method)}? It is ${next.reason}.` : "";
      drawSecond();
      drawStage();
      tell();
    },
    /** Show the stage of a name, or the whole map where it is shown already. */
    pick(name) {
      const place = 1 + result.stages.findIndex((own) => own.name === name);
      stage.value = Number(stage.value) === place ? 0 : place;
      drawStage();
      picture.scrollIntoView({ block: "nearest" });
    },
    /** Show a second method beside the first; null takes it away. */
    compare(next) {
      second = next;
      drawSecond();
      if (!result) return;
      drawScales(current());
      tell();
    },
    /** Return the map's opacity, from 0 to 1. */
    opacity: () => Number(opacity.value) / 100,
  };
}
