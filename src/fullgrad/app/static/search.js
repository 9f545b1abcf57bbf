/** Searches a model's classes by name or number: a text field with a list below it. */

import { el, show } from "./dom.js";

const MOST = 50; // classes listed for a search
const ENOUGH = 240; // pixels of a list's height

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
 * Set up a search field.
 * @param {{search: Element, list: Element, hint: Element}} parts the field, the list of what was
 *     found, and where the count is said
 * @param {function(number)} chosen receives the index of a class
 */
export function classSearch({ search, list, hint }, chosen) {
  let model = { classes: null, outputs: 0 };
  let options = [];
  let active = -1;

  /** Open the list where there is room: below the field, or above it. */
  function place() {
    const field = search.getBoundingClientRect();
    const state = document.querySelector(".state").getBoundingClientRect();
    const below = (state.top > field.bottom ? state.top : innerHeight) - field.bottom;
    const up = below < ENOUGH && field.top > below;
    list.classList.toggle("above", up);
    list.style.maxHeight = `${Math.max(80, Math.min(ENOUGH, (up ? field.top : below) - 12))}px`;
  }

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
          id: `${list.id}-${place}`,
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
    place();
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
    /** Search the classes of another model. */
    model(next) {
      model = next;
      search.value = "";
      close();
      hint.textContent = "";
    },
  };
}
