/** Chooses the class to explain: one of the ten most probable, or any class by search. */

import { byId, el, show } from "./dom.js";
import { className, probability } from "./numbers.js";

const MOST = 50; // classes listed for a search

/** Find the classes that match a search text, the best matches first. */
export function matching(text, names, outputs) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return [];
  const found = [];
  const words = wanted.split(/\s+/);
  for (let index = 0; index < outputs; index += 1) {
    const name = (names?.[index] ?? `class ${index}`).toLowerCase();
    if (String(index) === wanted) found.push([0, index]);
    else if (name.startsWith(wanted)) found.push([1, index]);
    else if (words.every((word) => name.includes(word))) found.push([2, index]);
  }
  return found.sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, index]) => index);
}

/**
 * Set up the part of the page where a class is chosen.
 * @param {function(?number)} chosen receives the index of a class, or null for the most probable
 */
export function classChooser(chosen) {
  const top = byId("top");
  const search = byId("search");
  const list = byId("found");
  const hint = byId("search-hint");
  let model = { classes: null, outputs: 0 };
  let options = [];
  let active = -1;

  byId("predicted").addEventListener("click", () => {
    search.focus({ preventScroll: true }); // the button goes
    chosen(null);
  });

  function close() {
    show(false, list);
    search.setAttribute("aria-expanded", "false");
    search.removeAttribute("aria-activedescendant");
    active = -1;
  }

  function pick(index) {
    search.value = "";
    hint.textContent = "";
    close();
    chosen(index);
  }

  function point(place) {
    list.children[active]?.setAttribute("aria-selected", "false");
    active = place;
    const option = list.children[active];
    if (!option) {
      search.removeAttribute("aria-activedescendant");
      return;
    }
    option.setAttribute("aria-selected", "true");
    search.setAttribute("aria-activedescendant", option.id);
    option.scrollIntoView({ block: "nearest" });
  }

  function open() {
    const all = matching(search.value, model.classes, model.outputs);
    options = all.slice(0, MOST);
    list.replaceChildren(
      ...options.map((index, place) =>
        el("li", {
          id: `found-${place}`,
          role: "option",
          "aria-selected": "false",
          onmousedown: (event) => event.preventDefault(), // the text keeps the focus
          onclick: () => pick(index),
        }, el("span", { text: model.classes?.[index] ?? `class ${index}` }),
          el("span", { class: "index", text: String(index) })),
      ),
    );
    active = -1;
    search.removeAttribute("aria-activedescendant");
    const more = all.length - options.length;
    const some = options.length === 1 ? "1 class" : `${options.length} classes`;
    if (!search.value.trim()) hint.textContent = "";
    else if (!all.length) hint.textContent = "No class of this model has that name or number.";
    else hint.textContent = more ? `The first ${some}; ${more} more match.` : `${some} found.`;
    show(options.length > 0, list);
    search.setAttribute("aria-expanded", String(options.length > 0));
    list.scrollTop = 0;
  }

  search.addEventListener("input", open);
  search.addEventListener("blur", close);
  search.addEventListener("keydown", (event) => {
    const count = list.hidden ? 0 : options.length;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!count) open();
      else if (event.key === "ArrowDown") point((active + 1) % count);
      else point((Math.max(active, 0) - 1 + count) % count);
    } else if (event.key === "Enter" && count) {
      event.preventDefault();
      pick(options[Math.max(active, 0)]);
    } else if (event.key === "Escape") {
      if (count) event.preventDefault();
      else search.value = "";
      close();
    }
  });

  return {
    /** Offer the classes of another model. */
    model(next) {
      model = next;
      search.value = "";
      close();
      hint.textContent = "";
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
        `to 100 % over all ${model.outputs} classes. Choose one to explain its output.`;
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
