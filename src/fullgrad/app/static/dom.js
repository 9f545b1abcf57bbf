/** Makes and finds elements. Text is always set as text, never as markup. */

/** Find the element of an id, which the page must have. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element #${id}`);
  return found;
}

/**
 * Make an element.
 * @param {string} tag
 * @param {object} attributes `class`, `text`, any attribute; null, undefined and false are left out
 * @param {...(Node|string)} children
 */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** Let a long module name break into lines behind its dots and underscores. */
export function breakable(name) {
  if (name.length < 20) return [name];
  return name.split(/(?<=[._/])/).flatMap((part, place) => (place ? [el("wbr"), part] : [part]));
}

/** Show or hide elements. */
export function show(shown, ...elements) {
  for (const element of elements) element.hidden = !shown;
}
