/** Runs the page: what is chosen, what is asked of the server, and what is shown. */

import { recalled, remember } from "./address.js";
import { Refusal, about, download, explain } from "./api.js";
import { classChooser } from "./classes.js";
import { byId, el, show } from "./dom.js";
import { methodChooser } from "./methods.js";
import { className, number, probability, shortened, subject } from "./numbers.js";
import { ratherChooser } from "./rather.js";
import { watchPhotographs } from "./upload.js";
import { viewer } from "./viewer.js";
import { drawWaterfall, markStage } from "./waterfall.js";

let info; // what the server knows
let choice; // what is chosen now
let photograph = null; // {blob, name, turn}
let shown = null; // {key, request, result} of the first method
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
    byId("notice").textContent = "The class at 'Rather than' is the one that is explained now, so " +
      "it is compared with no other.";
  }
});
const rather = ratherChooser((other) => {
  if (other !== null && other === explained()) {
    classesAsked();
    byId("notice").textContent = "That is the class that is explained. Choose another one to " +
      "compare it with.";
    return;
  }
  choice.ratherThan = other;
  update();
});
const limits = new Map(); // of signed scales: one for all classes of a photograph
let predicted = null; // index of the photograph's most probable class, once it is known
let first;
let second;

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

function say(text) {
  if (byId("status").textContent !== text) byId("status").textContent = text;
}

/**
 * Say what failed, beside other failures.
 * @param {"start"|"photograph"|"result"|"download"} what the action that was tried
 * @param {?Error} error the failure; null where there is none, or the action is tried again
 * @param {function()} again tries the action again, where that may help
 * @param {string} words the text of the button for it
 */
function fail(what, error, again, words = "Try again") {
  const box = byId("error");
  box.querySelector(`[data-of="${what}"]`)?.remove();
  if (error) {
    const own = el("div", { "data-of": what }, el("p", { text: error.message }));
    if (["busy", "connection", "internal"].includes(error.kind)) {
      own.append(el("button", {
        type: "button", class: "plain", text: words, onclick: () => {
          stay();
          again();
        },
      }));
    }
    box.append(own);
  }
  show(box.children.length > 0, box);
  if (error && !(error instanceof Refusal)) throw error;
}

/** Keep the keyboard's focus where the button that has it is about to disappear. */
function stay() {
  byId("result").focus({ preventScroll: true });
}

function tellProgress(progress) {
  say(progress.text.charAt(0).toUpperCase() + progress.text.slice(1));
  const bar = byId("progress");
  if (progress.of) {
    bar.max = progress.of;
    bar.value = progress.done ?? 0;
  } else bar.removeAttribute("value");
}

function busy(on) {
  show(on, byId("progress"), byId("stop"));
  byId("progress").removeAttribute("value");
  byId("result").setAttribute("aria-busy", String(on));
}

/** Say which part of what is on screen belongs to an earlier choice. */
function markStale() {
  const one = shown && shown.key !== keyOf(firstRequest());
  const other = shown && !one && shownSecond &&
    shownSecond.key !== keyOf(secondRequest(shown.result.target));
  const note = byId("stale");
  show(Boolean(one || other), note);
  byId("answer").classList.toggle("stale", Boolean(one));
  if (one) {
    note.textContent = `Still the earlier result: ${shown.result.method} for ` +
      `${shortened(subject(shown.result.target), 100)}.`;
  } else if (other) {
    note.textContent = `On the right still the earlier map: ${shownSecond.result.method}.`;
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

function showFirst(key, request, result) {
  shown = { key, request, result };
  // The second map stays where it is of the same photograph, model, class, method and options.
  if (shownSecond?.key !== keyOf(secondRequest(result.target))) shownSecond = null;
  const model = info.models[result.model];
  const target = result.target;
  const known = result.top.some((entry) => entry.index === target.index);
  classes.predictions(known ? result.top : [...result.top, target]);
  rather.predictions(result.top);
  predicted = result.top[0].index;
  classesAsked();
  show(false, byId("empty"));
  show(true, byId("answer"), byId("to-result"));
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
  byId("notes").replaceChildren(...notes.map((text) => el("li", { text })));
  drawWaterfall(result);
  view.show(result, shownSecond?.result ?? null);
}

/** Use a new choice, and hide what failed of an earlier one. */
function update() {
  remember(choice);
  byId("notice").textContent = "";
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
    const request = firstRequest();
    const key = keyOf(request);
    if (shown?.key !== key) {
      say(`Explaining with ${request.method} …`);
      const result = await explainOnScale(request, "all", how);
      if (own !== running) return;
      showFirst(key, request, result);
      markStale();
    }
    const beside = secondRequest(shown.result.target);
    if (choice.second && shownSecond?.key !== keyOf(beside)) {
      say(`Comparing with ${beside.method} …`);
      const result = await explainOnScale(beside, "map", how);
      if (own !== running) return;
      shownSecond = { key: keyOf(beside), request: beside, result };
      view.compare(result);
      markStale();
    }
    const target = shown.result.target;
    const sure = target.rather_than ? `margin ${number(target.rather_than.margin)}`
      : `probability ${probability(target.probability)}`;
    say(`Done: ${shortened(subject(target), 100)}, ${sure}.`);
  } catch (error) {
    if (own !== running || error.name === "AbortError") return;
    say("");
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

function forget() {
  shown = null;
  shownSecond = null;
  limits.clear();
  loading?.abort();
  byId("download-says").textContent = "";
  view.clear();
  forgetClasses();
  show(false, byId("answer"), byId("to-result"), byId("stale"));
  show(true, byId("empty"));
}

function forgetClasses() {
  predicted = null;
  classes.forget();
  rather.predictions([]);
}

function takePhotograph({ blob, name }) {
  if (photograph) [choice.target, choice.ratherThan] = [null, null]; // it has other classes
  photograph = { blob, name, turn: (photograph?.turn ?? 0) + 1 };
  forget();
  update();
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
    notice = `${choice.method} does not apply to this model; ${next} is used instead.`;
    choice.method = next;
    choice.options = {};
  }
  if (choice.second && !second.applies(choice.model, choice.second)) {
    notice += ` ${choice.second} does not apply either way; the comparison is closed.`;
    choice.second = null;
    choice.secondOptions = {};
  }
  describeModel();
  forgetClasses();
  setMethods();
  update();
  byId("notice").textContent = notice;
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
    const file = await download(kind, photograph, shown.request, how, own.signal);
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
  watchPhotographs(info.limits, takePhotograph, (message) =>
    fail("photograph", new Refusal(message, "photograph")));
  byId("stop").addEventListener("click", stop);
  for (const button of document.querySelectorAll("[data-download]")) {
    button.addEventListener("click", () => fetchFile(button.dataset.download));
  }
  byId("version").textContent = `fullgrad ${info.version}.`;
  say("Ready for a photograph.");
  if (found.problems.length) {
    byId("notice").textContent =
      `The address names what this viewer does not have (${found.problems.join(", ")}); the default ` +
      "is used instead.";
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
byId("to-result").addEventListener("click", goToResult);
start();
