// The question box. What is in it stays until the server has taken it, through reloads and outages.

import { ask, newKey, pause } from "./api.js";
import { words } from "./words.js";

const DRAFT = "askmesh.draft";

const form = document.getElementById("composer");
const box = document.getElementById("text");
const send = document.getElementById("send");
const said = document.getElementById("sending");
const hint = document.getElementById("hint");
const doNotSend = document.getElementById("do-not-send");

let sending = null;

function keepDraft() {
  try {
    sessionStorage.setItem(DRAFT, box.value);
  } catch {
    // Without storage a reload loses the draft.
  }
}

function fit() {
  if (!CSS.supports("field-sizing", "content")) {
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight}px`;
  }
  send.disabled = box.value.trim() === "";
}

function show(message, { waiting = false } = {}) {
  said.textContent = message;
  hint.hidden = message !== "";
  said.hidden = message === "";
  doNotSend.hidden = !waiting;
}

/** Ask until the server has taken the question or refused it for good; null if the reader has thought better of it. */
export async function deliver(text, { fresh = false } = {}) {
  sending?.abort();
  const mine = (sending = new AbortController());
  const key = newKey();
  box.readOnly = true;
  form.setAttribute("aria-busy", "true");
  // An answer within a blink needs no word.
  const slow = setTimeout(() => show(words.sending), 500);
  try {
    for (let attempt = 0; ; attempt += 1) {
      try {
        const asked = await ask(text, key, { fresh, signal: mine.signal });
        show("");
        return asked;
      } catch (problem) {
        mine.signal.throwIfAborted();
        clearTimeout(slow);
        if (!problem.retryable || problem.code === "internal_error") {
          show(problem.reference ? `${problem.message} ${words.reference(problem.reference)}` : problem.message);
          return null;
        }
        show(words.sendingWaits(problem.message), { waiting: true });
        await pause(attempt, problem, mine.signal);
      }
    }
  } catch (error) {
    if (!mine.signal.aborted) {
      throw error;
    }
    return null;
  } finally {
    clearTimeout(slow);
    if (sending === mine) {
      sending = null;
      box.readOnly = false;
      doNotSend.hidden = true;
      form.removeAttribute("aria-busy");
    }
  }
}

/** Put the cursor into the box. */
export function focus() {
  box.focus();
}

/** `asked(record)` is called with each question that the server has taken. */
export function start(asked) {
  box.value = readDraft();
  fit();
  box.addEventListener("input", () => {
    keepDraft();
    fit();
    if (!sending) {
      show("");
    }
  });
  box.addEventListener("keydown", (event) => {
    // While letters are composed (Japanese, Chinese), Enter belongs to the composition.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = box.value;
    if (text.trim() === "" || sending) {
      return;
    }
    const taken = await deliver(text);
    if (taken) {
      box.value = "";
      keepDraft();
      // On a phone the keyboard makes room for the answer; elsewhere the next question can be typed at once.
      if (matchMedia("(hover: none)").matches) {
        box.blur();
      } else {
        box.focus();
      }
      fit();
      asked(text, taken);
    }
  });
  doNotSend.addEventListener("click", () => {
    sending?.abort();
    show("");
    box.focus();
  });
}

function readDraft() {
  try {
    return sessionStorage.getItem(DRAFT) ?? "";
  } catch {
    return "";
  }
}
