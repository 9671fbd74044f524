// The key that some servers ask for: kept in this browser, sent as a header, asked for when a request was refused.

import { words } from "./words.js";

const KEY = "askmesh.key";

const dialog = document.getElementById("key");
const form = document.getElementById("key-form");
const field = document.getElementById("key-text");
const refused = document.getElementById("key-refused");
const forget = document.getElementById("key-forget");
const change = document.getElementById("change-key");

// Where storage is refused (a private window, a full disk), the key lives as long as the page.
let memory = null;
let waiting = null; // { promise, settle } while the dialog is open for requests that were refused
let declined = null; // the key with which the reader would not go on; until they ask for the dialog themselves

/** The key to send, or null. */
export function current() {
  if (memory !== null) {
    return memory || null;
  }
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function keep(key) {
  try {
    if (key) {
      localStorage.setItem(KEY, key);
    } else {
      localStorage.removeItem(KEY);
    }
    memory = null;
  } catch {
    memory = key ?? "";
  }
  change.hidden = !key;
}

function open(message) {
  refused.textContent = message;
  refused.hidden = message === "";
  forget.hidden = current() === null;
  field.value = "";
  if (!dialog.open) {
    dialog.showModal();
  }
  field.focus();
}

/**
 * Whether there is a key other than the one that was refused: at once, or when the reader has given one.
 *
 * `asked`: the reader did something, and did not just look. Who would give no key before may give one now.
 */
export async function another(used, { asked, signal }) {
  if (current() !== used) {
    return true; // given meanwhile, here or in another tab
  }
  if (!asked && declined === (used ?? "")) {
    return false;
  }
  change.hidden = false;
  if (waiting === null) {
    let settle;
    const promise = new Promise((resolve) => (settle = resolve));
    waiting = { promise, settle };
    open(used === null ? "" : words.keyRefused);
  }
  const given = await waiting.promise;
  signal?.throwIfAborted();
  return given;
}

function settle(given) {
  waiting?.settle(given);
  waiting = null;
}

/** Watch the dialog and the button that opens it. */
export function start() {
  change.hidden = current() === null;
  change.addEventListener("click", () => {
    declined = null;
    open("");
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault(); // the policy of this page lets no form be sent
    const key = field.value.trim();
    if (!/^[\x21-\x7e]+$/.test(key)) {
      open(words.keyMalformed);
      return;
    }
    declined = null;
    keep(key);
    dialog.close();
    settle(true);
    // What was refused before and waits for nothing starts anew.
    window.dispatchEvent(new HashChangeEvent("hashchange"));
  });
  forget.addEventListener("click", () => {
    keep(null);
    dialog.close();
  });
  document.getElementById("key-cancel").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    field.value = "";
    if (waiting !== null) {
      declined = current() ?? "";
      settle(false);
    }
  });
  window.addEventListener("storage", (event) => {
    if (event.key === KEY || event.key === null) {
      change.hidden = current() === null;
      if (waiting !== null && current() !== null) {
        dialog.close();
        settle(true);
      }
    }
  });
}
