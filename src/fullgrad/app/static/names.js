/** Names of the methods for people. */

const titles = new Map();

/** Learn the methods that the server has. */
export function learn(methods) {
  for (const { name, title } of methods) titles.set(name, title);
}

/** Return a method's name for people. */
export function titleOf(name) {
  return titles.get(name) ?? name;
}

/** Write a text's identifiers of methods (those with an underscore) as their names. */
export function named(text) {
  return text.replace(/\b[a-z]+(?:_[a-z]+)+\b/g, titleOf);
}
