// The list of this browser's questions, and what has become of those that are not open.

import { Problem, isFinal, read } from "./api.js";
import * as store from "./store.js";
import { moment, words } from "./words.js";

const LOOK_SECONDS = 3;
const MOST_AT_ONCE = 5;

const list = document.getElementById("questions");
const none = document.getElementById("no-questions");
const toggle = document.getElementById("list-toggle");
const panel = document.getElementById("list");
const main = document.querySelector("main");

let open = null;
let drawn = "";

function entry(record) {
  const item = document.createElement("li");
  const link = document.createElement("a");
  link.href = `#${record.id}`;
  if (record.id === open) {
    link.setAttribute("aria-current", "page");
  }
  const text = document.createElement("span");
  text.className = "text";
  text.dir = "auto";
  text.textContent = record.text;
  const state = document.createElement("span");
  state.className = "state";
  state.dataset.state = record.status;
  state.textContent = words.states[record.status] ?? record.status;
  const time = document.createElement("time");
  time.textContent = moment(record.at);
  const line = document.createElement("span");
  line.className = "line";
  line.append(state, time);
  link.append(text, line);
  const remove = document.createElement("button");
  remove.type = "button";
  remove.className = "remove";
  remove.setAttribute("aria-label", words.remove(record.text.slice(0, 80)));
  remove.textContent = "×";
  remove.addEventListener("click", () => {
    const index = [...list.children].indexOf(item);
    store.remove(record.id);
    // The button is gone: the one that took its place has the focus, else the next best thing.
    (list.children[Math.min(index, list.children.length - 1)]?.querySelector(".remove") ??
      document.getElementById("new")).focus();
  });
  item.append(link, remove);
  return item;
}

function draw() {
  const records = store.all();
  const state = JSON.stringify([open, records]);
  if (state === drawn) {
    return;
  }
  drawn = state;
  const focused = list.contains(document.activeElement) && document.activeElement.getAttribute("href");
  list.replaceChildren(...records.map(entry));
  none.hidden = records.length > 0;
  if (focused) {
    list.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  }
}

/** Mark this question as the open one. */
export function show(id) {
  open = id;
  draw();
  setOpen(false);
}

// On a narrow screen the list lies over the page.
function setOpen(shown) {
  toggle.setAttribute("aria-expanded", String(shown));
  panel.classList.toggle("shown", shown);
  main.inert = shown;
}

async function look() {
  const waiting = store.all().filter((record) => record.id !== open && !isFinal(record.status));
  for (const record of waiting.slice(0, MOST_AT_ONCE)) {
    try {
      store.note(record.id, (await read(record.id)).status);
    } catch (problem) {
      if (problem.code === "question_not_found") {
        store.note(record.id, "gone");
      } else if (problem instanceof Problem) {
        break; // the next look may find the server again
      } else {
        throw problem;
      }
    }
  }
}

/** Show the list and keep it current. */
export function start() {
  store.onChange(draw);
  toggle.addEventListener("click", () => setOpen(toggle.getAttribute("aria-expanded") !== "true"));
  list.addEventListener("click", (event) => event.target.closest("a") && setOpen(false));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && panel.classList.contains("shown")) {
      setOpen(false);
      toggle.focus();
    }
  });
  draw();
  const again = async () => {
    if (!document.hidden) {
      await look();
    }
    setTimeout(again, LOOK_SECONDS * 1000);
  };
  again();
}
