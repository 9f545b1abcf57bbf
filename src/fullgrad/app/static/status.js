/** Says what the page is doing, and what failed. */

import { Refusal } from "./api.js";
import { byId, el, show } from "./dom.js";

/** Say what the page is doing, or has done. */
export function say(text) {
  if (byId("status").textContent !== text) byId("status").textContent = text;
}

/** Say something beside it. */
export function note(text) {
  byId("notice").textContent = text;
}

/**
 * Say what failed, beside other failures.
 * @param {"start"|"photograph"|"result"|"download"} what the action that was tried
 * @param {?Error} error the failure; null where there is none, or the action is tried again
 * @param {function()} again tries the action again, where that may help
 * @param {string} words the text of the button for it
 */
export function fail(what, error, again, words = "Try again") {
  const box = byId("error");
  box.querySelector(`[data-of="${what}"]`)?.remove();
  if (error) {
    const own = el("div", { "data-of": what }, el("p", { text: error.message }));
    if (again && ["busy", "connection", "internal"].includes(error.kind)) {
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
export function stay() {
  byId("result").focus({ preventScroll: true });
}

/** Show a line of progress. */
export function tellProgress(progress) {
  say(progress.text.charAt(0).toUpperCase() + progress.text.slice(1));
  const bar = byId("progress");
  if (progress.of) {
    bar.max = progress.of;
    bar.value = progress.done ?? 0;
  } else bar.removeAttribute("value");
}

/** Show whether something is computed. */
export function busy(on) {
  show(on, byId("progress"), byId("stop"));
  byId("progress").removeAttribute("value");
  byId("result").setAttribute("aria-busy", String(on));
}
