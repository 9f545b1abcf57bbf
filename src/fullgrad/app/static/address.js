/** Keeps the choice, but not the photograph, in the address behind the #. */

/** Write a choice into the address, without a step in the history. */
export function remember(choice) {
  const words = new URLSearchParams({ model: choice.model, method: choice.method });
  if (choice.target !== null) words.set("target", choice.target);
  if (choice.ratherThan !== null) words.set("rather_than", choice.ratherThan);
  if (Object.keys(choice.options).length) words.set("options", JSON.stringify(choice.options));
  if (choice.second) {
    words.set("with", choice.second);
    if (Object.keys(choice.secondOptions).length) {
      words.set("with-options", JSON.stringify(choice.secondOptions));
    }
  }
  history.replaceState(null, "", `#${words}`);
}

/**
 * Read the choice from the address.
 * @param {object} about the server's models and methods
 * @returns {{choice: object, problems: string[]}} the choice, and the parts of the address that
 *     cannot be used and are left out
 */
export function recalled(about) {
  const words = new URLSearchParams(location.hash.slice(1));
  const problems = [];
  const choice = {
    model: 0, target: null, ratherThan: null, method: about.recommended, options: {},
    second: null, secondOptions: {},
  };
  const whole = (name, end) => {
    const text = words.get(name);
    if (text === null) return null;
    if (/^\d+$/.test(text) && Number(text) < end) return Number(text);
    problems.push(`${name}=${text}`);
    return null;
  };
  choice.model = whole("model", about.models.length) ?? 0;
  choice.target = whole("target", about.models[choice.model].outputs);
  choice.ratherThan = whole("rather_than", about.models[choice.model].outputs);
  if (choice.ratherThan !== null && choice.ratherThan === choice.target) {
    problems.push(`rather_than=${choice.ratherThan}, which is the target itself`);
    choice.ratherThan = null;
  }
  const method = (name, options) => {
    const text = words.get(name);
    if (text === null) return [null, {}];
    const found = about.methods.find((m) => m.name === text);
    if (!found || found.applies[choice.model] !== true) {
      problems.push(`${name}=${text}`);
      return [null, {}];
    }
    return [text, given(words.get(options), found, options, problems)];
  };
  const [first, firstOptions] = method("method", "options");
  if (first) [choice.method, choice.options] = [first, firstOptions];
  [choice.second, choice.secondOptions] = method("with", "with-options");
  return { choice, problems };
}

function given(text, method, name, problems) {
  if (text === null) return {};
  try {
    const found = JSON.parse(text);
    const known = method.options.map((o) => o.name);
    const plain = typeof found === "object" && found !== null && !Array.isArray(found);
    if (plain && Object.keys(found).every((key) => known.includes(key))) return found;
  } catch {
    // reported below
  }
  problems.push(`${name}=${text}`);
  return {};
}
