/** Chooses the class to explain: one of the ten most probable, or any class by search. */

import { byId, el, show } from "./dom.js";
import { className, probability } from "./numbers.js";
import { classSearch } from "./search.js";

/**
 * Set up the part of the page where a class is chosen.
 * @param {function(?number)} chosen receives the index of a class, or null for the most probable
 */
export function classChooser(chosen) {
  const top = byId("top");
  const search = byId("search");
  const searching = classSearch({ search, list: byId("found"), hint: byId("search-hint") }, chosen);
  let outputs = 0;

  byId("predicted").addEventListener("click", () => {
    search.focus({ preventScroll: true }); // the button goes
    chosen(null);
  });

  return {
    /** Offer the classes of another model. */
    model(next) {
      outputs = next.outputs;
      searching.model(next);
    },
    /** Forget the photograph's classes. */
    forget() {
      top.replaceChildren();
      show(true, byId("class-hint"));
      byId("class-hint").textContent =
        "The ten most probable classes appear here once there is a photograph. Without a choice, " +
        "the most probable one is explained.";
    },
    /** Mark the class that was asked for, null for the most probable. */
    asked(target) {
      show(target !== null, byId("predicted"));
      for (const button of top.querySelectorAll("button")) {
        const own = Number(button.dataset.index);
        const pressed = target === null ? button.dataset.place === "0" : own === target;
        button.setAttribute("aria-pressed", String(pressed));
      }
    },
    /** List what the model sees in the photograph. */
    predictions(found) {
      byId("class-hint").textContent =
        "What the network sees, with its probabilities: the softmax of its outputs, which sums " +
        `to 100 % over all ${outputs} classes. Choose one to explain its output.`;
      const held = document.activeElement?.closest?.("#top button")?.dataset.index;
      top.replaceChildren(
        ...found.map((entry, place) => {
          const bar = el("span", { class: "fill" });
          bar.style.width = `${Math.max(100 * entry.probability, 0.5)}%`;
          return el("li", {}, el("button", {
            type: "button",
            "data-index": entry.index,
            "data-place": place,
            "aria-pressed": "false",
            onclick: () => chosen(entry.index),
          }, el("span", { class: "name", text: className(entry) }),
            el("span", { class: "percent", text: probability(entry.probability) }),
            el("span", { class: "bar", "aria-hidden": "true" }, bar)));
        }),
      );
      if (held !== undefined) top.querySelector(`[data-index="${held}"]`)?.focus();
    },
  };
}
