/** Chooses the class that the explained one is compared with: none, a probable one, or any. */

import { byId, el } from "./dom.js";
import { className, probability } from "./numbers.js";
import { classSearch } from "./search.js";

const NONE = "";

/**
 * Set up the part of the page where the other class is chosen.
 * @param {function(?number)} chosen receives the index of a class, or null for none
 */
export function ratherChooser(chosen) {
  const select = byId("rather");
  const parts = {
    search: byId("rather-search"), list: byId("rather-found"), hint: byId("rather-hint"),
  };
  const searching = classSearch(parts, chosen);
  let model = { classes: null, outputs: 0 };
  let probable = [];

  select.addEventListener("change", () =>
    chosen(select.value === NONE ? null : Number(select.value)));

  return {
    /** Offer the classes of another model. */
    model(next) {
      model = next;
      searching.model(next);
    },
    /** Offer the classes that are probable in a photograph; none: forget them. */
    predictions(found) {
      probable = found;
    },
    /** Show the class that was asked for, null for none, and leave out the explained one. */
    asked(explained, other) {
      const offered = probable.filter((entry) => entry.index !== explained);
      if (other !== null && !offered.some((entry) => entry.index === other)) {
        offered.push({ index: other, name: model.classes?.[other] ?? null });
      }
      select.replaceChildren(
        el("option", { value: NONE, text: "no other class" }),
        ...offered.map((entry) => el("option", {
          value: entry.index,
          text: entry.probability === undefined
            ? className(entry) : `${className(entry)} (${probability(entry.probability)})`,
        })),
      );
      select.value = other === null ? NONE : String(other);
    },
  };
}
