/** Enlarges the picture, moves it, and says the maps' numbers at a point of it. */

import { byId, show } from "./dom.js";
import { titleOf } from "./names.js";
import { number, signed } from "./numbers.js";

const MOST = 16; // times the size

/** Read a map's numbers, row by row. */
function valuesOf(map) {
  const bytes = Uint8Array.from(atob(map.values), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

/** Return a map's number at a point, from 0 to 1 across and down. */
function valueAt(map, values, x, y) {
  const column = Math.min(map.columns - 1, Math.floor(x * map.columns));
  return values[Math.min(map.rows - 1, Math.floor(y * map.rows)) * map.columns + column];
}

/**
 * Set up enlarging and pointing.
 * @param {Element} picture
 */
export function zooming(picture) {
  const heats = [...picture.querySelectorAll("img")];
  const cross = byId("cross");
  const under = byId("under");
  let zoom = 1;
  let [left, top] = [0, 0]; // of what is seen, from 0 to 1 of the picture
  let point = null; // [x, y] from 0 to 1 of the picture
  let shown = []; // results with their numbers

  const within = (value, most) => Math.min(most, Math.max(0, value));

  function draw() {
    for (const image of heats) {
      image.style.transform = zoom === 1 ? ""
        : `translate(${-100 * zoom * left}%, ${-100 * zoom * top}%) scale(${zoom})`;
    }
    picture.classList.toggle("enlarged", zoom > 1);
    byId("zoom-says").textContent = `${zoom}×`;
    byId("zoom-out").disabled = zoom === 1;
    byId("zoom-in").disabled = zoom === MOST;
    if (!point) return;
    cross.style.left = `${100 * zoom * (point[0] - left)}%`;
    cross.style.top = `${100 * zoom * (point[1] - top)}%`;
  }

  /** Enlarge so that a point keeps its place. */
  function enlarge(by, at = [left + 0.5 / zoom, top + 0.5 / zoom]) {
    const next = Math.min(MOST, Math.max(1, zoom * by));
    const most = 1 - 1 / next;
    left = within(at[0] - ((at[0] - left) * zoom) / next, most);
    top = within(at[1] - ((at[1] - top) * zoom) / next, most);
    zoom = next;
    draw();
  }

  function move(x, y) {
    left = within(left + x, 1 - 1 / zoom);
    top = within(top + y, 1 - 1 / zoom);
    draw();
  }

  function placeOf(event) {
    const box = picture.getBoundingClientRect();
    return [left + (event.clientX - box.left) / box.width / zoom,
      top + (event.clientY - box.top) / box.height / zoom];
  }

  /** Say the numbers at a point, or how to have them said. */
  function tell(at, byKey = false) {
    point = at;
    show(Boolean(byKey && at), cross);
    if (!at || !shown.length) {
      under.textContent = shown.length
        ? "Point at the picture for the map's number there." : "";
      return;
    }
    const { width, height } = shown[0].result;
    const numbers = shown.map(({ result, values }) => {
      const { map } = result;
      const value = valueAt(map, values, ...at);
      const cell = map.cell ? ` in this cell of about ${map.cell} × ${map.cell} pixels` : "";
      return `${titleOf(result.method)} ${map.signed ? signed(value) : number(value)}${cell}`;
    });
    under.textContent = `Column ${Math.floor(at[0] * width)}, row ${Math.floor(at[1] * height)} of the ` +
      `whole map: ${numbers.join("; ")}.`;
    draw();
  }

  function pressed(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey || !shown.length) return;
    if (step) {
      const { width, height } = shown[0].result;
      const by = event.shiftKey ? 1 : 8; // pixels of the map
      const [x, y] = point ?? [left + 0.5 / zoom, top + 0.5 / zoom];
      const most = (size) => 1 - 0.5 / size;
      const at = [within(x + (by * step[0]) / width, most(width)),
        within(y + (by * step[1]) / height, most(height))];
      move(Math.min(0, at[0] - left) + Math.max(0, at[0] - left - 1 / zoom),
        Math.min(0, at[1] - top) + Math.max(0, at[1] - top - 1 / zoom));
      tell(at, true);
    } else if (event.key === "+" || event.key === "=") enlarge(2, point ?? undefined);
    else if (event.key === "-") enlarge(0.5, point ?? undefined);
    else if (event.key === "0") enlarge(1 / MOST);
    else return;
    event.preventDefault();
  }

  byId("zoom-in").addEventListener("click", () => enlarge(2));
  byId("zoom-out").addEventListener("click", () => enlarge(0.5));
  picture.addEventListener("dblclick", (event) => enlarge(event.shiftKey ? 0.5 : 2, placeOf(event)));
  picture.addEventListener("keydown", pressed);
  picture.addEventListener("blur", () => tell(null));
  picture.addEventListener("pointerleave", () => tell(null));
  picture.addEventListener("pointermove", (event) => {
    if (zoom > 1 && event.buttons & 1) {
      const box = picture.getBoundingClientRect();
      move(-event.movementX / box.width / zoom, -event.movementY / box.height / zoom);
    }
    tell(placeOf(event).map((value) => within(value, 1)));
  });

  return {
    /** Whether the picture is enlarged, so that dragging moves it. */
    enlarged: () => zoom > 1,
    /** Say the numbers of these results from now on; the enlargement stays. */
    show(results) {
      shown = results.map((result) => ({ result, values: valuesOf(result.map) }));
      tell(null);
      draw();
    },
    /** Show the whole picture. */
    reset: () => enlarge(1 / MOST),
  };
}
