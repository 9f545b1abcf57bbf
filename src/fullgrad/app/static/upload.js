/** Takes photographs that are chosen, dropped or pasted, and checks them against the limits. */

import { Refusal } from "./api.js";
import { byId, show } from "./dom.js";
import { megabytes, megapixels } from "./numbers.js";

/** Return a picture's width and height, or null where this browser cannot show it. */
function sizeOf(address) {
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve([image.naturalWidth, image.naturalHeight]);
    image.onerror = () => resolve(null);
    image.src = address;
  });
}

/**
 * Read a photograph, as far as a browser can, and check it against the limits.
 * @param {Blob} blob
 * @param {string} name
 * @param {{bytes: number, pixels: number}} limits the server's limits
 * @returns {Promise<{blob: Blob, name: string, address: string, size: ?number[]}>}
 * @throws {Refusal} the reason why it is not sent
 */
export async function readPhotograph(blob, name, limits) {
  const refuse = (text) => new Refusal(`${name} ${text}`, "photograph");
  if (blob.size > limits.bytes) {
    throw refuse(`has ${megabytes(blob.size)}; at most ${megabytes(limits.bytes)} can be sent.`);
  }
  if (blob.size === 0) throw refuse("is empty.");
  let held; // a copy: the file may be changed or moved before it is sent again
  try {
    held = new Blob([await blob.arrayBuffer()], { type: blob.type });
  } catch {
    throw refuse("cannot be read. Is it a folder?");
  }
  const address = URL.createObjectURL(held);
  const size = await sizeOf(address);
  if (size && size[0] * size[1] > limits.pixels) {
    URL.revokeObjectURL(address);
    throw refuse(`has ${size[0]} × ${size[1]} pixels (${megapixels(size[0] * size[1])}); at most ` +
      `${megapixels(limits.pixels)} can be sent. Make it smaller first.`);
  }
  return { blob: held, name, address, size };
}

/** Name the photograph that is asked about; null for none. */
export function nameIt(photograph) {
  const said = byId("file-name");
  show(Boolean(photograph), said);
  if (!photograph) return;
  const { name, size } = photograph;
  said.textContent = size ? `${name}, ${size[0]} × ${size[1]} pixels` : name;
}

/**
 * Watch for photographs.
 * @param {{bytes: number, pixels: number}} limits the server's limits
 * @param {function(object, boolean)} taken receives each photograph, and whether it is to be shown
 * @param {function(?Error)} refused receives why files are not sent; null when they are first read
 */
export function watchPhotographs(limits, taken, refused) {
  const drop = byId("drop");
  const file = byId("file");
  let turn = 0;
  byId("limits").textContent =
    `Up to ${megabytes(limits.bytes)} and ${megapixels(limits.pixels)} each.`;

  /** Take all files; the first that can be used is shown, unless others were given meanwhile. */
  async function takeAll(files) {
    const found = [...files];
    if (!found.length) return;
    const mine = ++turn;
    const reasons = [];
    let first = true;
    refused(null);
    for (const one of found) {
      try {
        taken(await readPhotograph(one, one.name || "pasted picture", limits), first && mine === turn);
        first = false;
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        reasons.push(error.message);
      }
    }
    if (reasons.length) refused(new Refusal(reasons.join(" "), "photograph"));
  }

  file.addEventListener("change", () => {
    takeAll(file.files);
    file.value = ""; // so that the same file can be chosen again
  });
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    drop.classList.remove("over");
    if (!carriesFiles(event)) return;
    event.preventDefault();
    takeAll(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => takeAll(event.clipboardData?.files ?? []));
}
