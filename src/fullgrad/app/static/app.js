/** Runs the page: what is chosen, what is asked of the server, and what is shown. */

import { recalled, remember } from "./address.js";
import { about, download, explain } from "./api.js";
import { classChooser } from "./classes.js";
import { byId, el, show } from "./dom.js";
import { methodChooser } from "./methods.js";
import { learn, named, titleOf } from "./names.js";
import { className, number, probability, shortened, subject } from "./numbers.js";
import { ratherChooser } from "./rather.js";
import { busy, fail, note, say, stay, tellProgress } from "./status.js";
import { photographStrip } from "./strip.js";
import { nameIt, readPhotograph, watchPhotographs } from "./upload.js";
import { viewer } from "./viewer.js";
import { drawWaterfall, markStage } from "./waterfall.js";

let info; // what the server knows
let choice; // what is chosen now
let photograph = null; // {blob, name, address, size, turn, classes, kept, keptSecond}
let turns = 0; // photographs so far
let shown = null; // {key, request, result, photograph} of the first method
let shownSecond = null;
let running = null; // AbortController of the only request that may still be shown
let loading = null; // of a download

const view = viewer(markStage);
const classes = classChooser((target) => {
  choice.target = target;
  const same = choice.ratherThan !== null && choice.ratherThan === explained();
  if (same) choice.ratherThan = null;
  update();
  if (same) {
    note("The class at 'Rather than' is the one that is explained now, so it is compared with no " +
      "other.");
  }
});
const rather = ratherChooser((other) => {
  if (other !== null && other === explained()) {
    classesAsked();
    note("That is the class that is explained. Choose another one to compare it with.");
    return;
  }
  choice.ratherThan = other;
  update();
});
const limits = new Map(); // of signed scales: one for all classes of a photograph
let predicted = null; // index of the photograph's most probable class, once it is known
let first;
let second;
let strip;

// What is asked for now; two equal keys mean equal results.
const firstRequest = () => ({
  model: choice.model, target: choice.target, rather_than: choice.ratherThan,
  method: choice.method, options: choice.options,
});
const secondRequest = (target) => ({
  model: choice.model, target: target.index, rather_than: target.rather_than?.index ?? null,
  method: choice.second, options: choice.secondOptions,
});
const keyOf = (request) => JSON.stringify([photograph.turn, request]);

/** The index of the class that is to be explained, null where it is not known yet. */
const explained = () => choice.target ?? predicted;

/** Show which classes are asked for. */
function classesAsked() {
  classes.asked(choice.target);
  rather.asked(explained(), choice.ratherThan);
}

// Maps of the same photograph by the same method share a scale, whichever class they explain.
const scaleOf = (request) => JSON.stringify([
  photograph.turn, request.model, request.method, request.options, request.rather_than !== null,
]);

/** Explain, on the scale of the classes before; the scale grows with what is found. */
async function explainOnScale(request, parts, how) {
  const scale = scaleOf(request);
  const result = await explain(photograph, request, parts, limits.get(scale) ?? null, how);
  if (result.map.limit) limits.set(scale, Math.max(result.map.limit, limits.get(scale) ?? 0));
  return result;
}

/** Say which part of what is on screen belongs to an earlier choice. */
function markStale() {
  const one = shown && shown.key !== keyOf(firstRequest());
  const other = shown && !one && shownSecond &&
    shownSecond.key !== keyOf(secondRequest(shown.result.target));
  const told = byId("stale");
  show(Boolean(one || other), told);
  byId("answer").classList.toggle("stale", Boolean(one));
  if (one) {
    const of = shown.photograph === photograph ? "" : ` in ${shortened(shown.photograph.name)}`;
    told.textContent = `Still the earlier result: ${titleOf(shown.result.method)} for ` +
      `${shortened(subject(shown.result.target), 100)}${of}.`;
  } else if (other) {
    told.textContent = `On the right still the earlier map: ${titleOf(shownSecond.result.method)}.`;
  }
}

/** The facts of a result about the number that is explained. */
function numbersOf(target) {
  const other = target.rather_than;
  if (!other) {
    return [["Logit", number(target.logit),
      "The network's raw output for this class, before softmax. This number is split into parts."]];
  }
  return [
    ["Rather than", `${className(other)}, number ${other.index}`,
      "The class that it is compared with."],
    ["Logits", `${number(target.logit)} and ${number(other.logit)}`,
      "The network's raw outputs for the two classes, before softmax."],
    ["Margin", number(other.margin),
      "The first logit minus the second. This number is split into parts: what raises it speaks " +
      `for ${className(target)} rather than for ${className(other)}.`],
  ];
}

/** List the most probable classes of what is shown. */
function listClasses({ result }) {
  const known = result.top.some((entry) => entry.index === result.target.index);
  classes.predictions(known ? result.top : [...result.top, result.target]);
  rather.predictions(result.top);
  predicted = result.top[0].index;
  classesAsked();
}

function showFirst(found) {
  shown = found;
  const { result } = found;
  // The second map stays where it is of the same photograph, model, class, method and options.
  if (shownSecond?.key !== keyOf(secondRequest(result.target))) shownSecond = null;
  const model = info.models[result.model];
  const target = result.target;
  listClasses(found);
  show(false, byId("empty"));
  show(true, byId("answer"));
  byId("headline").textContent = subject(target);
  const facts = [
    ["Class", `${className(target)}, number ${target.index}`,
      `What is explained; the model ${model.name} tells ${model.outputs} classes apart.`],
    ["Probability", probability(target.probability),
      "How sure the network is of this class (softmax of all outputs); not how often it is right."],
    ...numbersOf(target),
    ["Time", `${result.seconds.toFixed(2)} s`, "What the computation took on the server."],
  ];
  byId("facts").replaceChildren(...facts.map(([name, value, what]) =>
    el("div", {}, el("dt", { text: name }), el("dd", { text: value }),
      el("dd", { class: "hint", text: what }))));
  const notes = result.notes ?? [];
  show(notes.length > 0, byId("notes"));
  byId("notes").replaceChildren(...notes.map((text) => el("li", { text: named(text) })));
  drawWaterfall(result, view.pick);
  view.show(result, shownSecond?.result ?? null, found.photograph);
}

/** Use a new choice, and hide what failed of an earlier one. */
function update() {
  remember(choice);
  note("");
  classesAsked();
  if (!photograph) return;
  fail("photograph", null);
  fail("download", null);
  compute();
}

/** Compute what is chosen and show it; a computation under way is given up. */
async function compute() {
  running?.abort();
  const own = new AbortController();
  running = own;
  const how = {
    signal: own.signal,
    progress: (told) => own === running && tellProgress(told),
  };
  fail("result", null);
  if (!choice.second && shownSecond) {
    shownSecond = null;
    view.compare(null);
  }
  markStale();
  busy(true);
  try {
    const from = photograph;
    const request = firstRequest();
    const key = keyOf(request);
    if (shown?.key !== key) {
      if (from.kept?.key !== key) {
        say(`Explaining with ${titleOf(request.method)} …`);
        const result = await explainOnScale(request, "all", how);
        if (own !== running) return;
        from.kept = { key, request, result, photograph: from };
      }
      showFirst(from.kept);
      markStale();
    }
    const beside = secondRequest(shown.result.target);
    const besideKey = keyOf(beside);
    if (choice.second && shownSecond?.key !== besideKey) {
      if (from.keptSecond?.key !== besideKey) {
        say(`Comparing with ${titleOf(beside.method)} …`);
        const result = await explainOnScale(beside, "map", how);
        if (own !== running) return;
        from.keptSecond = { key: besideKey, request: beside, result };
      }
      shownSecond = from.keptSecond;
      view.compare(shownSecond.result);
      markStale();
    }
    const target = shown.result.target;
    const sure = target.rather_than ? `margin ${number(target.rather_than.margin)}`
      : `probability ${probability(target.probability)}`;
    say(`Done: ${shortened(subject(target), 100)}, ${sure}.`);
  } catch (error) {
    if (own !== running || error.name === "AbortError") return;
    say("");
    if (error.kind === "photograph") {
      comeBack(error);
      return;
    }
    fail("result", error, compute);
  } finally {
    if (own === running) {
      running = null;
      busy(false);
    }
  }
}

function stop() {
  stay();
  running?.abort();
  running = null;
  busy(false);
  say("Stopped. Any choice starts again.");
}

function forgetClasses() {
  predicted = null;
  classes.forget();
  rather.predictions([]);
}

/** Ask about a photograph; what was chosen for the one before comes back with it. */
function choose(next) {
  if (photograph === next) return;
  if (photograph && next) { // the first one is asked what the address says
    photograph.classes = [choice.model, choice.target, choice.ratherThan];
    const [model, ...asked] = next.classes ?? [];
    [choice.target, choice.ratherThan] = model === choice.model ? asked : [null, null];
  }
  photograph = next;
  if (next) next.turn ??= ++turns;
  loading?.abort();
  byId("download-says").textContent = "";
  nameIt(next);
  strip.mark(next);
}

function takePhotograph(next) {
  choose(next);
  forgetClasses(); // the next one has others
  update();
}

/** Go back to the photograph that is shown: the one that was asked about cannot be used. */
function comeBack(error) {
  const bad = photograph;
  error.message = `${bad.name}: ${error.message}`;
  strip.remove(bad);
  choose(shown?.photograph ?? null);
  remember(choice);
  fail("photograph", error);
  if (!shown) return;
  listClasses(shown);
  markStale();
  if (shown.key !== keyOf(firstRequest())) compute();
  else say(`Still shown: ${shown.photograph.name}.`);
}

function describeModel() {
  const model = info.models[choice.model];
  const spec = model.spec === model.name ? "" : `${model.spec}; `;
  const weights = model.weights ? ` Weights: ${model.weights}.` : "";
  byId("model-about").textContent =
    `${spec}${model.outputs} classes; sees ${model.width} × ${model.height} pixels.${weights}`;
  classes.model(model);
  rather.model(model);
}

function takeModel() {
  choice.model = Number(byId("model").value);
  [choice.target, choice.ratherThan] = [null, null]; // its classes are others
  let notice = "";
  if (!first.applies(choice.model, choice.method)) {
    const next = info.methods.find((m) => m.applies[choice.model] === true).name;
    notice = `${titleOf(choice.method)} does not apply to this model; ${titleOf(next)} is used ` +
      "instead.";
    choice.method = next;
    choice.options = {};
  }
  if (choice.second && !second.applies(choice.model, choice.second)) {
    notice += ` ${titleOf(choice.second)} does not apply either way; the comparison is closed.`;
    choice.second = null;
    choice.secondOptions = {};
  }
  describeModel();
  forgetClasses();
  setMethods();
  update();
  note(notice);
}

function setMethods() {
  first.set(choice.model, choice.method, choice.options);
  second.set(choice.model, choice.second, choice.secondOptions);
}

async function fetchFile(kind) {
  loading?.abort();
  const own = new AbortController();
  loading = own;
  fail("download", null);
  byId("download-says").textContent = `Making the ${kind} …`;
  try {
    const how = { opacity: view.opacity(), limit: shown.result.map.limit };
    const file = await download(kind, shown.photograph, shown.request, how, own.signal);
    if (own !== loading) return;
    const address = URL.createObjectURL(file.blob);
    el("a", { href: address, download: file.name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
    byId("download-says").textContent = `${file.name} is ready.`;
  } catch (error) {
    if (own !== loading || error.name === "AbortError") return;
    byId("download-says").textContent = "";
    fail("download", error, () => fetchFile(kind), `Try the ${kind} again`);
  }
}

function goToResult(event) {
  event.preventDefault(); // the address behind the # holds the choice
  byId("result").focus();
  byId("result").scrollIntoView();
}

async function begin() {
  say("Asking the server what it has …");
  info = await about();
  learn(info.methods);
  const found = recalled(info);
  choice = found.choice;
  byId("model").replaceChildren(
    ...info.models.map((m, place) => el("option", { value: place, text: m.name })));
  byId("model").value = String(choice.model);
  byId("model").addEventListener("change", takeModel);
  first = methodChooser(byId("first-method"), info.methods, { id: "method", label: "Method" },
    (name, options) => {
      [choice.method, choice.options] = [name, options];
      update();
    });
  second = methodChooser(byId("second-method"), info.methods,
    { id: "second", label: "Compare with", none: "no second method" }, (name, options) => {
      [choice.second, choice.secondOptions] = [name, options];
      update();
    });
  describeModel();
  setMethods();
  classesAsked();
  const refused = (error) => fail("photograph", error);
  strip = photographStrip(takePhotograph,
    (blob, name) => readPhotograph(blob, name, info.limits), refused);
  watchPhotographs(info.limits, (next, first) => {
    strip.add(next);
    if (first) takePhotograph(next);
  }, refused);
  byId("stop").addEventListener("click", stop);
  for (const button of document.querySelectorAll("[data-download]")) {
    button.addEventListener("click", () => fetchFile(button.dataset.download));
  }
  byId("version").textContent = `fullgrad ${info.version}.`;
  say("Ready for a photograph.");
  if (found.problems.length) {
    note(`The address names what this viewer does not have (${found.problems.join(", ")}); the default ` +
      "is used instead.");
  }
}

function start() {
  fail("start", null);
  begin().catch((error) => {
    say("");
    fail("start", error, start);
  });
}

byId("skip").addEventListener("click", goToResult);
start();
