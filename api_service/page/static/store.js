// This browser's questions, newest first: { id, text, status, at, cached }. Answers stay on the server.

import { isFinal } from "./api.js";

const KEY = "askmesh.questions";
const MOST = 200;

// Where storage is refused (a private window, a full disk), the list lives as long as the page.
let memory = null;

function valid(record) {
  return Number.isSafeInteger(record?.id) && typeof record.text === "string" && typeof record.status === "string";
}

/** All of them. */
export function all() {
  if (memory !== null) {
    return memory;
  }
  try {
    const stored = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(stored) ? stored.filter(valid) : [];
  } catch {
    return [];
  }
}

/** The one with this id, or undefined. */
export function find(id) {
  return all().find((record) => record.id === id);
}

/** Put a question at the top of the list. */
export function add(record) {
  save([record, ...all().filter((other) => other.id !== record.id)].slice(0, MOST));
}

/** Note what became of a question; one that is not in the list stays out of it. */
export function note(id, status) {
  const records = all();
  const record = records.find((other) => other.id === id);
  // A late word of another tab does not undo an end.
  if (record && record.status !== status && !(isFinal(record.status) && !isFinal(status))) {
    record.status = status;
    save(records);
  }
}

/** Take a question out of the list. The server keeps it. */
export function remove(id) {
  save(all().filter((record) => record.id !== id));
}

const listeners = [];

/** Call this whenever the list has changed, here or in another tab. */
export function onChange(listener) {
  listeners.push(listener);
}

function save(records) {
  try {
    localStorage.setItem(KEY, JSON.stringify(records));
    memory = null;
  } catch {
    memory = records;
  }
  changed();
}

function changed() {
  for (const listener of listeners) {
    listener();
  }
}

window.addEventListener("storage", (event) => {
  if (event.key === KEY || event.key === null) {
    changed();
  }
});
