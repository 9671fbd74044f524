// The page: which question is open is in its address (#42), so that each has a link of its own.

import * as answer from "./answer.js";
import * as composer from "./composer.js";
import * as key from "./key.js";
import * as list from "./list.js";
import * as store from "./store.js";
import { language, speak, words } from "./words.js";

const question = document.getElementById("question");

function openId() {
  const id = Number(/^#([1-9]\d{0,15})$/.exec(location.hash)?.[1]);
  return Number.isSafeInteger(id) ? id : null;
}

function route() {
  const id = openId();
  const text = id === null ? "" : (store.find(id)?.text ?? words.questionNumber(id));
  document.title = text ? `${text.trim().replace(/\s+/g, " ").slice(0, 60)} – askmesh` : "askmesh";
  answer.show(id);
  list.show(id);
  window.scrollTo(0, 0);
}

function opened(text, taken) {
  store.add({
    id: taken.question_id,
    text,
    status: taken.status,
    at: Date.now(),
    cached: taken.cached,
  });
  location.hash = `#${taken.question_id}`;
}

document.documentElement.lang = language;
speak(document);
document.getElementById("page").hidden = false;

composer.start(opened);
answer.start(async (text) => {
  const taken = await composer.deliver(text, { fresh: true });
  if (taken) {
    opened(text, taken);
  }
});
list.start();
key.start();
route();

window.addEventListener("hashchange", route);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) {
    document.title = document.title.replace(/^✓ /, "");
  }
});
document.getElementById("skip").addEventListener("click", composer.focus);
for (const id of ["home", "new"]) {
  document.getElementById(id).addEventListener("click", () => {
    list.show(openId());
    composer.focus();
  });
}
// Whoever opens a question from the list goes on reading there.
document.getElementById("questions").addEventListener("click", (event) => {
  if (event.target.closest("a")) {
    setTimeout(() => question.focus({ preventScroll: true }));
  }
});
if (openId() === null) {
  composer.focus();
}
