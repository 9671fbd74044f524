"""One answer of the fake model server on its way, and the counters. See model_server.py."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from tests.fakes.manners import MANNERS, data
from tests.fakes.script import Script

FOREVER: Final = 86_400.0
_LARGEST_WRITE: Final = 1 << 16
_FLOOD_PAUSE: Final = 0.002


@dataclass
class Counts:
    """What was asked of the server."""

    lookups: int = 0
    requests: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    completed: int = 0
    aborted: int = 0
    faulted: int = 0
    tokens_written: int = 0
    last_abort_at: float = 0.0

    def begin(self) -> None:
        self.requests += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)


class Stream:
    """One answer on its way."""

    def __init__(
        self,
        request: web.Request,
        body: Mapping[str, Any],
        prompt_tokens: int,
        script: Script,
        counted: Sequence[Counts],
        released: asyncio.Event,
    ) -> None:
        options = body.get("stream_options") or {}
        self._with_usage = bool(options.get("include_usage"))
        self._usage_each = self._with_usage and bool(options.get("continuous_usage_stats"))
        self._request = request
        self._model = body["model"]
        self._prompt_tokens = prompt_tokens
        self._script = script
        self._counted = counted
        self._released = released
        self._manner = MANNERS[script.manner]
        self._written = 0
        self.faulted = False
        """Whether the answer failed as it was told to."""

    async def write(self, tokens: Sequence[str], finish: str, already: int = 0) -> web.StreamResponse:
        """``already``: tokens of the answer that a continuation begins with, and goes on from."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(self._request)
        script = self._script
        await asyncio.sleep(script.first)
        buffered = bytearray(self._manner.begins + self._event({"role": "assistant", "content": ""}))
        for index, token in enumerate(tokens):
            position = already + index
            passed = index == 0 and position > script.fault_position
            if script.fault and (position == script.fault_position or passed):
                await response.write(buffered)
                buffered.clear()
                await self._fail_within(response)
                if self.faulted:
                    return response
            if position == script.hold:
                await response.write(buffered)
                buffered.clear()
                await self._released.wait()
            if (script.delay and index) or len(buffered) > _LARGEST_WRITE:
                await response.write(buffered)
                buffered.clear()
                await asyncio.sleep(script.delay)
            self._count()
            buffered += self._event({"content": token})
        if script.fault != "no-finish":
            buffered += self._event({}, finish)
        if self._with_usage:
            buffered += self._manner.write({"choices": [], "model": self._model, "usage": self._usage()})
        if script.fault != "no-done":
            buffered += self._manner.ends
        await response.write(buffered)
        if self._manner.stays:
            await asyncio.sleep(FOREVER)
        await response.write_eof()
        return response

    async def _fail_within(self, response: web.StreamResponse) -> None:
        transport = self._request.transport
        match self._script.fault:
            case "hang":
                await asyncio.sleep(FOREVER)
            case "cut":
                self.faulted = True
                if transport is not None:
                    transport.abort()
            case "end":
                self.faulted = True
                await response.write_eof()
            case "error":
                self.faulted = True
                # As vLLM words it when its queue is full.
                message = "The engine is currently busy." if self._script.code == 503 else "told to fail"
                told = {"message": message, "type": "InternalServerError", "code": self._script.code}
                await response.write(data({"error": told}) + b"data: [DONE]\n\n")
                await response.write_eof()
            case "garbage":
                await response.write(b"data: {this is not JSON\n\n")
            case "huge":
                await response.write(b"data: " + b"x" * (2 << 20))
            case "flood":
                while True:
                    await response.write(self._event({"content": " flood" * 10_000}))
                    await asyncio.sleep(_FLOOD_PAUSE)
            case "exit":
                os._exit(1)

    def _event(self, delta: Mapping[str, str], finish: str | None = None) -> bytes:
        event: dict[str, Any] = {
            "id": "chatcmpl-fake",
            "object": "chat.completion.chunk",
            "model": self._model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }
        if self._usage_each:
            event["usage"] = self._usage()
        return self._manner.write(event)

    def _usage(self) -> Mapping[str, int]:
        prompt = self._prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": self._written, "total_tokens": prompt + self._written}

    def _count(self) -> None:
        self._written += 1
        for counts in self._counted:
            counts.tokens_written += 1


def error(status: int, message: str, kind: str, param: str | None = None) -> web.Response:
    told = {"message": message, "type": kind, "param": param, "code": status}
    return web.json_response({"error": told}, status=status)
