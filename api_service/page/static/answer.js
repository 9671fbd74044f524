// The open question: its answer as it is written, its state in words, and what can be done with it.

import { cancel, isFinal } from "./api.js";
import { GrowingMarkdown } from "./markdown.js";
import * as store from "./store.js";
import { follow } from "./stream.js";
import { words } from "./words.js";

const byId = (id) => document.getElementById(id);
const article = byId("open");
const questionText = byId("question-text");
const answer = byId("answer");
const pulse = byId("pulse");
const notice = byId("notice");
const bar = byId("bar");
const dot = byId("dot");
const statusText = byId("status-text");
const stop = byId("stop");
const again = byId("again");
const copyAnswer = byId("copy-answer");
const said = byId("said");

const LONG_CHARACTERS = 280;
const LONG_LINES = 5;

let shown = null; // { id, markdown, status, stopping, leave }

/** Say something to those who listen to the page, and do not see it change. */
export function announce(message) {
  said.textContent = "";
  setTimeout(() => (said.textContent = message), 50); // so that the same words twice are said twice
}

/** Hide a button; who was on it finds themselves somewhere sensible, and not nowhere. */
function hide(button, instead) {
  const focused = button === document.activeElement;
  button.hidden = true;
  if (focused) {
    (instead.hidden ? byId("question") : instead).focus({ preventScroll: true });
  }
}

function setStatus(status, message) {
  dot.dataset.state = status;
  if (statusText.textContent !== message) {
    statusText.textContent = message;
  }
}

function setNotice(message, kind = "") {
  notice.hidden = message === "";
  notice.dataset.kind = kind;
  notice.textContent = message;
}

function queuedWords({ queue_position: position, estimated_wait_seconds: wait }) {
  const parts = [];
  if (Number.isFinite(position)) {
    parts.push(words.position(position));
  } else if (position) {
    parts.push(words.positionAtLeast(Number.parseInt(position))); // "1000+"
  }
  if (Number.isFinite(wait)) {
    parts.push(words.wait(Math.max(1, Math.round(wait))));
  }
  return parts.join(", ") || words.states.queued;
}

function finish(question) {
  const { status } = question;
  const id = shown.id;
  const following = shown.following && atEnd();
  store.note(id, status);
  shown.status = status;
  answer.removeAttribute("aria-busy");
  pulse.hidden = true;
  again.hidden = store.find(id) === undefined;
  hide(stop, again);
  let told = "";
  if (status === "completed" || status === "incomplete") {
    // The final object is the last word, also where Redis had lost what was streamed.
    shown.markdown.set(question.answer_text);
    told = status === "incomplete" ? (words.cutOff[question.finish_reason] ?? words.cutOff.other) : "";
    setNotice(told, "warning");
  } else {
    shown.markdown.set(shown.markdown.text);
    told = question.answer_text + (question.replayed_as ? ` ${words.replayed(question.replayed_as)}` : "");
    setNotice(told, status === "failed" ? "error" : "plain");
  }
  copyAnswer.hidden = shown.markdown.text === "";
  const cached = store.find(id)?.cached;
  const taken = (Date.parse(question.finished_at) - Date.parse(question.created_at)) / 1000;
  // Where only its link is known: an answer that was there before the question is one from before.
  const completed = cached || taken < 0 ? words.cached : words.completed(Number.isFinite(taken) ? taken : null);
  setStatus(status, status === "completed" ? completed : words.states[status]);
  if (following) {
    toEnd(); // the notice would be beneath the question box
  }
}

/** Whether the reader is at the end of the page, so that it should stay in sight as the page grows. */
function atEnd() {
  const { scrollTop, clientHeight, scrollHeight } = document.scrollingElement;
  return scrollHeight - scrollTop - clientHeight < 80;
}

function toEnd() {
  document.scrollingElement.scrollTop = document.scrollingElement.scrollHeight;
}

/** Close what is open and show this question; null: none. */
export function show(id) {
  shown?.leave();
  shown?.markdown.stop();
  shown = null;
  setNotice("");
  answer.replaceChildren();
  article.hidden = bar.hidden = id === null;
  byId("welcome").hidden = id !== null;
  if (id === null) {
    return;
  }
  const record = store.find(id);
  const text = record?.text ?? words.questionNumber(id);
  const long = text.length > LONG_CHARACTERS || text.split("\n", LONG_LINES).length === LONG_LINES;
  questionText.textContent = text;
  questionText.classList.toggle("long", long);
  questionText.tabIndex = long ? 0 : -1; // it scrolls
  setStatus("queued", words.connecting);
  for (const button of [stop, again, copyAnswer]) {
    hide(button, byId("question"));
  }
  pulse.hidden = false;
  answer.setAttribute("aria-busy", "true");

  const growing = new GrowingMarkdown(answer, () => {
    if (mine.following) {
      toEnd();
    }
  });
  const mine = (shown = { id, markdown: growing, status: null, following: false, stopping: false, leave: () => {} });
  let last = null;
  const say = (status, message) => {
    last = [status, message];
    setStatus(status, message);
  };
  mine.leave = follow(id, {
    connected() {
      setStatus(...(last ?? ["queued", words.connecting]));
    },
    status(status) {
      mine.status = status.status;
      store.note(id, status.status);
      stop.hidden = false;
      if (status.status === "queued") {
        say("queued", queuedWords(status));
      } else if (status.status === "in_progress") {
        setNotice("");
        say("in_progress", words.writing);
      }
    },
    delta(text) {
      // Only what is being written is followed: a finished answer is read from its beginning.
      mine.following = mine.status === "in_progress" && atEnd();
      growing.append(text);
    },
    restarted() {
      growing.set("");
      setNotice(words.restarted, "plain");
    },
    final(question) {
      finish(question);
      if (document.hidden) {
        document.title = `✓ ${document.title}`;
      }
    },
    lost(problem) {
      setStatus("lost", words.reconnecting(problem.message));
    },
    refused(problem) {
      if (problem.code === "question_not_found") {
        store.note(id, "gone");
      }
      answer.removeAttribute("aria-busy");
      pulse.hidden = true;
      again.hidden = record === undefined;
      hide(stop, again);
      setStatus("failed", words.states[problem.code === "question_not_found" ? "gone" : "failed"]);
      setNotice(problem.reference ? `${problem.message} ${words.reference(problem.reference)}` : problem.message, "error");
    },
  });
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Over plain HTTP from another machine there is no clipboard to write to, but a selection can be copied.
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "hidden";
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    button.focus();
    if (!copied) {
      announce(words.notCopied);
      return;
    }
  }
  announce(words.copied);
  button.textContent = words.copied;
  setTimeout(() => (button.textContent = words.copy), 1500);
}

/** `askAgain(text)` is called when the reader wants a new answer to the open question. */
export function start(askAgain) {
  answer.addEventListener("click", (event) => {
    const button = event.target.closest("button.copy");
    if (button) {
      copy(button.closest(".code-frame").querySelector("pre").textContent, button);
    }
  });
  copyAnswer.addEventListener("click", () => copy(shown.markdown.text, copyAnswer));
  again.addEventListener("click", () => askAgain(store.find(shown.id).text));
  stop.addEventListener("click", async () => {
    const mine = shown;
    if (mine.stopping) {
      return;
    }
    mine.stopping = true; // a disabled button would lose the focus
    setStatus("in_progress", words.stopping);
    try {
      const question = await cancel(mine.id);
      if (shown === mine && !isFinal(mine.status)) {
        mine.leave();
        finish(question);
      }
    } catch (problem) {
      if (shown === mine) {
        mine.stopping = false;
        setNotice(words.stopFailed(problem.message), "error");
      }
    }
  });
}
