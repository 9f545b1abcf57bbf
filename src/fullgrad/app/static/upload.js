/** Takes a photograph that is chosen, dropped or pasted, and checks it against the limits. */

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
 * Watch for photographs.
 * @param {{bytes: number, pixels: number}} limits the server's limits
 * @param {function({blob: Blob, name: string})} taken receives a photograph
 * @param {function(string)} refused receives the reason why a file is not sent
 */
export function watchPhotographs(limits, taken, refused) {
  const drop = byId("drop");
  const file = byId("file");
  const preview = byId("preview");
  let address = null;
  let turn = 0;
  byId("limits").textContent =
    `Up to ${megabytes(limits.bytes)} and ${megapixels(limits.pixels)}.`;

  async function take(blob, name) {
    const mine = ++turn;
    if (blob.size > limits.bytes) {
      refused(`${name} has ${megabytes(blob.size)}; at most ${megabytes(limits.bytes)} can be sent.`);
      return;
    }
    if (blob.size === 0) {
      refused(`${name} is empty.`);
      return;
    }
    let held; // a copy: the file may be changed or moved before it is sent again
    try {
      held = new Blob([await blob.arrayBuffer()], { type: blob.type });
    } catch {
      refused(`${name} cannot be read. Is it a folder?`);
      return;
    }
    const next = URL.createObjectURL(held);
    const size = await sizeOf(next);
    if (mine !== turn) {
      URL.revokeObjectURL(next);
      return;
    }
    if (size && size[0] * size[1] > limits.pixels) {
      URL.revokeObjectURL(next);
      refused(
        `${name} has ${size[0]} × ${size[1]} pixels (${megapixels(size[0] * size[1])}); at most ` +
          `${megapixels(limits.pixels)} can be sent. Make it smaller first.`,
      );
      return;
    }
    if (address) URL.revokeObjectURL(address);
    address = next;
    if (size) preview.src = address;
    else preview.removeAttribute("src");
    show(Boolean(size), preview);
    const said = byId("file-name");
    said.textContent = size ? `${name}, ${size[0]} × ${size[1]} pixels` : name;
    show(true, said);
    byId("file-label").textContent = "Choose another";
    taken({ blob: held, name });
  }

  function takeFirst(files) {
    const found = [...files];
    if (!found.length) return;
    take(found[0], found[0].name || "pasted picture");
  }

  file.addEventListener("change", () => {
    takeFirst(file.files);
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
    takeFirst(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => takeFirst(event.clipboardData?.files ?? []));
}
