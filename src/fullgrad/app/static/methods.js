/** Builds the form of a method and its options from what the server knows. */

import { el, show } from "./dom.js";
import { named, titleOf } from "./names.js";

// The meanings of the registered methods' options; a user's own method has no text here.
const MEANINGS = {
  psi: "How a stage's numbers are rescaled before they are summed: per layer, per channel, or not " +
    "at all, with their sign.",
  terms: "Which parts count: a name, or stages with commas between them.",
  samples: "Noisy copies that are averaged; more are smoother and slower.",
  scale: "Strength of the noise, as a share of the input's range.",
  grid: "Random numbers along each side of the map; more make smaller blobs.",
  seed: "Starts the random numbers: the same seed gives the same map.",
  n_steps: "Steps from the baseline to the input; more are more exact and slower.",
  baseline: "The value of an input that counts as nothing; 0 is the mean color.",
  layer: "Module path of the layer to look at; empty: the last one with positions.",
  relu: "Drop what speaks against the class.",
};
const NONE = ""; // the value of "no second method"

function shownDefault(value) {
  if (value === null || value === undefined) return "chosen by the method";
  if (typeof value === "boolean") return value ? "on" : "off";
  return String(value);
}

function wanted({ kind, least, most }) {
  const what = kind === "integer" ? "a whole number" : "a number";
  const small = least !== null && least !== undefined && Math.abs(least) < 1e6;
  return small ? `${what} from ${least} to ${most}` : what;
}

/**
 * Build one option's field; `read` returns its value, `undefined` for the default; `good` returns
 * whether the value is valid, and marks the field where it is not.
 */
function field(option, id, value, changed) {
  const hint = `${id}-hint`;
  const says = el("p", { class: "hint", id: hint });
  const meaning = MEANINGS[option.name];
  const about = meaning ? `${meaning} ` : "";
  const some = option.kind === "text" && option.choices?.length
    ? ` For example ${option.choices.join(", ")}.` : "";
  const normal = `${about}Default: ${shownDefault(option.default)}.${some}`;
  says.textContent = normal;
  const common = { id, "aria-describedby": hint };
  let control;
  let read;
  let suggested = "";
  if (option.kind === "flag") {
    control = el("input", { type: "checkbox", ...common });
    control.checked = Boolean(value ?? option.default);
    read = () => control.checked;
  } else if (option.kind === "choice") {
    const choices = option.choices.some((c) => c === option.default)
      ? option.choices
      : [option.default, ...option.choices];
    control = el("select", common, ...choices.map((choice, place) =>
      el("option", { value: place, text: choice === null ? "chosen by the method" : String(choice) })));
    const chosen = choices.findIndex((c) => c === (value ?? option.default));
    control.value = String(Math.max(chosen, 0));
    read = () => choices[Number(control.value)];
  } else if (option.kind === "number" || option.kind === "integer") {
    const step = option.kind === "integer" ? 1 : "any";
    control = el("input", {
      type: "number", step, inputmode: "decimal", min: option.least, max: option.most, ...common,
    });
    control.value = value ?? option.default ?? "";
    read = () => (control.value === "" ? option.default : Number(control.value));
  } else {
    const list = option.choices ? `${id}-list` : null;
    control = el("input", { type: "text", autocomplete: "off", spellcheck: "false", list, ...common });
    control.value = value ?? option.default ?? "";
    if (list) suggested = el("datalist", { id: list }, ...option.choices.map((c) => el("option", { value: c })));
    read = () => (control.value === "" ? option.default : control.value);
  }
  const good = () => {
    const valid = control.checkValidity();
    control.setAttribute("aria-invalid", String(!valid));
    says.textContent = valid ? normal
      : `This must be ${wanted(option)}. Until then, changes of options have no effect. ${normal}`;
    return valid;
  };
  good(); // the value may come from an address
  control.addEventListener("change", changed);
  const label = el("label", { for: id, text: option.name.replaceAll("_", " ") });
  const wrapper = el("div", { class: "field" });
  if (option.kind === "flag") wrapper.append(el("div", { class: "check" }, control, label), says);
  else wrapper.append(label, control, suggested, says);
  return {
    element: wrapper,
    good,
    read: () => {
      const found = read();
      return found === option.default ? undefined : found;
    },
  };
}

/**
 * Build the choice of a method.
 * @param {Element} place the element that receives it
 * @param {object[]} methods the server's methods
 * @param {{id: string, label: string, none: ?string}} how its texts, and the name of "no method"
 * @param {function(?string, object)} changed receives the method's name (null: none) and options
 */
export function methodChooser(place, methods, { id, label, none }, changed) {
  const select = el("select", { id, "aria-describedby": `${id}-about` });
  const about = el("p", { class: "hint", id: `${id}-about` });
  const refused = el("details", { class: "refused" });
  const options = el("details", { class: "options" });
  const visible = el("label", { for: id, class: "unseen", text: label });
  place.append(el("div", { class: "field" }, visible, select, about), refused, options);
  let fields = {};

  function values() {
    const given = {};
    for (const [name, own] of Object.entries(fields)) {
      const value = own.read();
      if (value !== undefined) given[name] = value;
    }
    return given;
  }

  function tell() {
    const bad = Object.values(fields).filter((own) => !own.good()); // each is marked
    if (bad.length) return;
    changed(select.value === NONE ? null : select.value, values());
  }

  function describe(given) {
    const method = methods.find((m) => m.name === select.value);
    fields = {};
    show(Boolean(method?.options.length), options);
    if (!method) {
      about.textContent = "See two methods on the same photograph, with a swipe between them.";
      options.replaceChildren();
      return;
    }
    about.replaceChildren(
      `${named(method.about)}${method.reference ? ` (${method.reference})` : ""} In Python and commands: `,
      el("code", { text: method.name }), ".");
    for (const option of method.options) {
      fields[option.name] = field(option, `${id}-${option.name}`, given[option.name], tell);
    }
    options.replaceChildren(
      el("summary", { text: `Options of ${titleOf(method.name)}` }),
      ...Object.values(fields).map((own) => own.element),
    );
    options.open = options.open || Object.keys(given).length > 0;
  }

  select.addEventListener("change", () => {
    describe({});
    tell();
  });

  return {
    /** Show a choice for a model, without calling `changed`. */
    set(model, name, given) {
      const apply = (m) => m.applies[model] === true;
      select.replaceChildren(
        ...(none ? [el("option", { value: NONE, text: none })] : []),
        ...methods.map((m) => el("option", {
          value: m.name,
          disabled: !apply(m),
          text: apply(m) ? titleOf(m.name) : `${titleOf(m.name)} (does not apply)`,
        })),
      );
      select.value = name ?? NONE;
      const not = methods.filter((m) => !apply(m));
      show(not.length > 0 && !none, refused); // shown once on the page
      const count = not.length === 1 ? "1 method does" : `${not.length} methods do`;
      refused.replaceChildren(
        el("summary", { text: `${count} not apply to this model` }),
        el("ul", {}, ...not.map((m) =>
          el("li", {}, el("strong", { text: titleOf(m.name) }), `: ${m.applies[model]}`))),
      );
      describe(given);
    },
    /** Return whether a method applies to a model. */
    applies(model, name) {
      return methods.some((m) => m.name === name && m.applies[model] === true);
    },
  };
}
