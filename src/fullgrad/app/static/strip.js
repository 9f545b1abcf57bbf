/** Lists the photographs: the person's, the newest first, then samples. A click shows one. */

import { fetched } from "./api.js";
import { byId, el } from "./dom.js";

const MOST = 12; // photographs beside the samples
const SAMPLES = [["cat.jpg", "a cat"], ["coffee.jpg", "a cup of coffee"], ["rocket.jpg", "a rocket"]];

/**
 * Set up the strip.
 * @param {function(object)} chosen receives the photograph that was clicked
 * @param {function(Blob, string): Promise<object>} read makes a photograph of a file
 * @param {function(Error)} failed receives the reason why a sample cannot be had
 */
export function photographStrip(chosen, read, failed) {
  const list = byId("strip");
  let own = []; // the newest first
  const samples = SAMPLES.map(([name, what]) => ({ name, what, address: `/static/sample-${name}` }));
  let current = null;

  function draw() {
    const held = document.activeElement?.closest?.("#strip button")?.dataset.address;
    list.replaceChildren(...[...own, ...samples].map((one) =>
      el("li", {}, el("button", {
        type: "button",
        title: one.what ? `Sample: ${one.what}` : one.name,
        "data-address": one.address,
        "aria-pressed": String(current !== null && [one, one.photograph].includes(current)),
        onclick: () => pick(one),
      }, el("img", { src: one.address, alt: one.what ? `Sample: ${one.what}` : one.name })))));
    if (held) [...list.querySelectorAll("button")].find((b) => b.dataset.address === held)?.focus();
  }

  async function pick(one) {
    if (!one.what) {
      chosen(one);
      return;
    }
    try {
      one.photograph ??= await read(await fetched(one.address), one.name);
      chosen(one.photograph);
    } catch (error) {
      failed(error);
    }
  }

  draw();
  return {
    /** Add a person's photograph; the oldest goes where there are too many. */
    add(photograph) {
      own.unshift(photograph);
      for (const old of own.slice(MOST)) URL.revokeObjectURL(old.address);
      own = own.slice(0, MOST);
      draw();
    },
    /** Take a photograph out. */
    remove(photograph) {
      own = own.filter((one) => one !== photograph);
      draw();
    },
    /** Mark the photograph that is shown, null for none. */
    mark(photograph) {
      current = photograph;
      draw();
    },
  };
}
