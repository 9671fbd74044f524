// Following an answer: server-sent events over fetch, which can carry headers (EventSource cannot), resumed at a cursor.

import { Unreachable, isFinal, pause, read, request } from "./api.js";

// The server sends something at least every 10 s. After 25 s of nothing the connection is dead, whatever TCP believes.
const SILENCE_SECONDS = 25;

/** The events of a body, as { type, data, id }; `alive` is called whenever anything arrives, comments too. */
export async function* events(body, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  let event = { type: "", data: [], id: null };
  while (true) {
    const { done, value } = await reader.read();
    if (done) {
      return; // an event without an empty line behind it was cut off and does not count
    }
    alive();
    buffer += value;
    // A carriage return at the end may be half of a line end.
    const lines = buffer.split(/\r\n|\n|\r(?!$)/);
    buffer = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (event.data.length) {
          yield { type: event.type || "message", data: event.data.join("\n"), id: event.id };
        }
        event = { type: "", data: [], id: null };
        continue;
      }
      const [, name, value] = /^([^:]*):? ?([^]*)$/.exec(line);
      if (name === "event") {
        event.type = value;
      } else if (name === "data") {
        event.data.push(value);
      } else if (name === "id") {
        event.id = value;
      }
    }
  }
}

/**
 * Follow a question until its end, through every loss of the connection.
 *
 * Calls `on.status(object)`, `on.delta(text)`, `on.restarted()`, `on.final(object)`; `on.connected()` on the first byte
 * of each connection; `on.lost(problem)` when one is lost and will be tried again; `on.refused(problem)` when trying
 * again is in vain. Returns what stops it.
 */
export function follow(id, on) {
  const stopped = new AbortController();
  run(id, on, stopped.signal).catch((error) => {
    if (!stopped.signal.aborted) {
      throw error;
    }
  });
  return () => stopped.abort();
}

async function run(id, on, stopped) {
  let cursor = null;
  for (let attempt = 0; ; attempt += 1) {
    const silence = new AbortController();
    let timer;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_SECONDS * 1000);
    };
    const signal = AbortSignal.any([stopped, silence.signal]);
    try {
      alive();
      const path = `api/answer/${id}/events` + (cursor === null ? "" : `?starting_after=${encodeURIComponent(cursor)}`);
      const response = await request(path, { headers: { Accept: "text/event-stream" }, cache: "no-store", signal });
      if (response.status === 204) {
        on.final(await read(id, signal)); // everything had been delivered but the end
        return;
      }
      on.connected();
      for await (const event of events(response.body, alive)) {
        stopped.throwIfAborted(); // several events can have come at once
        attempt = 0;
        cursor = event.id ?? cursor;
        const data = JSON.parse(event.data);
        if (event.type === "delta") {
          on.delta(data.text);
        } else if (event.type === "status") {
          on.status(data);
        } else if (event.type === "restarted") {
          cursor = event.id;
          on.restarted();
        } else if (isFinal(event.type)) {
          on.final(data);
          return;
        }
      }
      throw new Unreachable();
    } catch (error) {
      stopped.throwIfAborted();
      const problem = "retryable" in error ? error : new Unreachable();
      if (!problem.retryable) {
        on.refused(problem);
        return;
      }
      on.lost(problem);
      await pause(attempt, problem, stopped);
    } finally {
      clearTimeout(timer);
      silence.abort();
    }
  }
}
