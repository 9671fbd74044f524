// What the page says to the server, and what the server's refusals say to people.

import * as key from "./key.js";
import { language, words } from "./words.js";

const STATES = ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled", "expired"];

/** Whether a state is one that never changes again. */
export function isFinal(status) {
  return STATES.indexOf(status) > 1 || status === "gone";
}

/** The server refused a request, or could not carry it out: RFC 9457. */
export class Problem extends Error {
  /** `retryAfter` in seconds, null where the server names none. */
  constructor({ code, detail, retryable, reference = null, retryAfter = null }) {
    super(detail);
    this.code = code;
    this.retryable = retryable;
    this.reference = reference;
    this.retryAfter = retryAfter;
  }
}

/** No answer came: the network or the server is gone. Trying again can help. */
export class Unreachable extends Problem {
  constructor() {
    super({ code: "unreachable", detail: words.offline, retryable: true });
  }
}

/**
 * A fetch that rejects by Problem alone, or by AbortError where its signal says so.
 *
 * Where the server wants a key it waits until the reader has given one, and tries again with it.
 */
export async function request(path, options = {}) {
  while (true) {
    const used = key.current();
    try {
      return await requestWith(used, path, options);
    } catch (problem) {
      if (problem.code !== "unauthenticated" || !(await key.another(used, { asked: options.method === "POST", signal: options.signal }))) {
        throw problem;
      }
    }
  }
}

async function requestWith(secret, path, { headers = {}, signal, ...options }) {
  let response;
  try {
    response = await fetch(path, {
      ...options,
      signal,
      headers: { "Accept-Language": language, ...(secret && { Authorization: `Bearer ${secret}` }), ...headers },
      credentials: "same-origin",
    });
  } catch (error) {
    if (signal?.aborted) {
      throw error;
    }
    throw new Unreachable();
  }
  if (!response.ok) {
    throw await problemOf(response);
  }
  return response;
}

async function problemOf(response) {
  const retryAfter = Number.parseFloat(response.headers.get("Retry-After")) || null;
  const told = await response.json().catch(() => ({}));
  if (typeof told?.code !== "string") {
    // Not this server's words: a proxy's page, for example.
    const retryable = response.status >= 500 || response.status === 429 || response.status === 408;
    return new Problem({ code: "unexpected", detail: words.unexpected(response.status), retryable, retryAfter });
  }
  const detail = words.problems[told.code] ?? String(told.detail ?? told.title ?? words.unexpected(response.status));
  const reference = told.code === "internal_error" ? String(told.request_id) : null;
  return new Problem({ code: told.code, detail, retryable: told.retryable === true, reference, retryAfter });
}

async function json(response) {
  try {
    return await response.json();
  } catch {
    throw new Unreachable(); // cut off in the middle
  }
}

/** Ask. To repeat it with the same key is safe. `fresh`: a new answer, whatever was answered before. */
export async function ask(text, key, { fresh = false, signal } = {}) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
  if (fresh) {
    headers["Cache-Control"] = "no-cache";
  }
  const body = JSON.stringify({ question_text: text });
  return json(await request("api/ask", { method: "POST", headers, body, signal }));
}

/** The question as it is now. */
export async function read(id, signal) {
  return json(await request(`api/answer/${id}`, { signal, cache: "no-store" }));
}

/** End the question; returns it. */
export async function cancel(id) {
  return json(await request(`api/answer/${id}/cancel`, { method: "POST" }));
}

/** A random key. crypto.randomUUID is absent where the page comes over plain HTTP from another machine. */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Wait before trying again, shorter if the network or the reader comes back. Rejects when the signal says so. */
export function pause(attempt, problem, signal) {
  const seconds = Math.max(problem.retryAfter ?? 0, Math.min(8, 0.4 * 2 ** attempt) * (0.75 + Math.random() / 2));
  return new Promise((resolve, reject) => {
    const over = new AbortController();
    const done = (settle, value) => {
      clearTimeout(timer);
      over.abort();
      settle(value);
    };
    const timer = setTimeout(() => done(resolve), seconds * 1000);
    window.addEventListener("online", () => done(resolve), { signal: over.signal });
    document.addEventListener("visibilitychange", () => document.hidden || done(resolve), { signal: over.signal });
    signal.addEventListener("abort", () => done(reject, signal.reason), { signal: over.signal });
  });
}
