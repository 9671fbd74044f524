"""A deterministic OpenAI-compatible model server that fails on request: the instrument of tests and benchmarks.

It behaves like vLLM: streams, ``stream_options`` with continuous usage, ``continue_final_message``, stop strings,
``max_tokens``, ``/v1/models``, ``/tokenize``, vLLM's wordings of errors. It only streams.

    python -m tests.fakes.model_server --port 0        # prints its URL, as http://127.0.0.1:41001/v1, when it listens

The answer is a number of words chosen by the last user message without its directives, whatever the other messages
and the sampling are: ``expected_answer(question)`` knows it, and a continued answer goes on with the same words. A word
is a token; a prompt has a token for each word and four for each message.

Directives stand in the last user message, as ``[[tokens=20 delay=0.01 fault=cut at=7]]``:

- ``tokens=N``: tokens of the whole answer (12). ``words=mixed``: of several scripts, with emoji and line breaks.
  ``echo=N``: the answer is the question itself, N times on lines of their own, in as many tokens as it takes.
- ``delay=S``: seconds before each token but the first (0: everything in one write). ``first=S``: before the first.
- ``hold=K``: waits after K tokens until the next ``POST /fake/release``, which lets all go on that wait then.
- ``finish=REASON``: the finish reason instead of ``stop``.
- ``manner=NAME``: how the stream is written, out of manners.py; all of them say the same.
- ``fault=NAME``: see below. ``at=K``: it comes after K tokens, where it comes within the stream (half of them).
  K counts from the beginning of the answer, so that a continuation of K tokens or more meets the fault at once.
  ``times=N``: only for the first N requests with this question. ``retry_after=TEXT``: that header with the fault.
  ``code=N``: the code in the error object of ``fault=error`` (500).

Faults before the stream: a status from 400 to 599; ``context`` (400, too long for the model), ``close`` (the connection
closes before any byte), ``hang-before`` (nothing comes), ``garbage-body`` (200 with a web page), ``not-http``.
Faults within it, after ``at`` tokens: ``hang`` (nothing more comes), ``cut`` (the connection closes), ``end`` (the
stream just ends), ``error`` (an error object), ``garbage`` (an event that is not JSON), ``huge`` (a line of 2 MiB),
``flood`` (large events for ever, whatever ``max_tokens`` says), ``exit`` (the server's process ends, for all).
Faults at its end: ``no-done`` (without ``[DONE]``), ``no-finish`` (without a finish reason).

``POST /fake/faults {"fault": "503", "times": 3, "at": 5, "retry_after": "2", "code": 500, "everywhere": true}`` makes
the next ``times`` requests fail (without: until cleared), whatever they ask; ``everywhere`` includes ``/v1/models`` and
``/tokenize``. ``manner`` may be given too, with or without a fault; with the fault ``unlisted`` the model is missing:
from ``/v1/models``, and for whoever asks it. ``{"fault": ""}`` clears.

``GET /fake/stats`` counts lookups (of ``/v1/models`` and ``/tokenize``), requests, streams in flight now and at most,
completed, aborted (the client left) and faulted ones, and tokens written; ``?question=TEXT`` counts for one question,
``?questions=1`` for each. ``last_abort_at`` is on the system's monotonic clock, in seconds.
"""

import argparse
import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web

from tests.fakes.manners import data
from tests.fakes.script import Script, answer_tokens, continued, cut_at_stop, expected_answer, question_of, read_script
from tests.fakes.stream import FOREVER, Counts, Stream, error

__all__ = ["Counts", "FakeModelServer", "Options", "Script", "expected_answer"]


@dataclass(frozen=True)
class Options:
    """How the server is set up; ``script`` holds the defaults of the directives."""

    host: str = "127.0.0.1"
    port: int = 0
    models: Sequence[str] = ("fake-model",)
    root: str = ""
    """Where the weights lie, of all models; empty: the model's name."""
    context: int = 4096
    can_continue: bool = True
    owned_by: str = "vllm"
    listing: tuple[int, object] | None = None
    """Status and body of ``/v1/models``, instead of vLLM's."""
    unknown_fields: Sequence[str] = ()
    """Fields of a request that are refused as vLLM's web framework refuses extra ones; also within stream_options."""
    refuses_late: bool = False
    """Whether such a refusal comes as a gateway's does: as the first event, after HTTP 200."""
    script: Script = field(default_factory=Script)


class FakeModelServer:
    """The server in the calling process; an async context manager."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.counts = Counts()
        self.bodies: list[Mapping[str, Any]] = []
        """The latest requests for completions, at most 100."""
        self.headers: Mapping[str, str] = {}
        """Those of the latest request for completions."""
        self.url = ""
        self._by_question: dict[str, Counts] = defaultdict(Counts)
        self._fault: dict[str, Any] = {}
        self._released = asyncio.Event()
        application = web.Application(client_max_size=64 << 20)
        application.add_routes(
            [
                web.get("/health", self._health),
                web.get("/v1/models", self._models),
                web.post("/v1/chat/completions", self._completions),
                web.post("/tokenize", self._tokenize),
                web.get("/fake/stats", self._stats),
                web.post("/fake/faults", self._faults),
                web.post("/fake/release", self._release),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.options.host, self.options.port, backlog=4096)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    def of(self, question: str) -> Counts:
        """The counters of one question, with or without its directives."""
        return self._by_question[question_of(question)]

    def fail(self, fault: str, **how: Any) -> None:
        """Make requests fail as POST /fake/faults does; an empty name clears."""
        self._fault = {"fault": fault, **how} if fault or how else {}

    def release(self) -> None:
        """Let all streams go on that are held now."""
        self._released.set()
        self._released = asyncio.Event()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, request: web.Request) -> web.Response:
        self.counts.lookups += 1
        if (fault := self._elsewhere()) is not None:
            return await self._refusal(request, fault)
        if self.options.listing is not None:
            status, listing = self.options.listing
            return web.json_response(listing, status=status)
        entries = [
            {"id": name, "object": "model", "created": 1, "owned_by": self.options.owned_by}
            | {"root": self.options.root or name}
            | {"max_model_len": self.options.context}
            for name in self._served
        ]
        return web.json_response({"object": "list", "data": entries})

    async def _tokenize(self, request: web.Request) -> web.Response:
        self.counts.lookups += 1
        if (fault := self._elsewhere()) is not None:
            return await self._refusal(request, fault)
        body = await request.json()
        prompt = "".join(f"<{message['role']}>{message['content']}</>" for message in body["messages"])
        if body.get("continue_final_message") and self.options.can_continue:
            prompt = prompt.removesuffix("</>")
        elif body.get("add_generation_prompt", True):
            prompt += "<assistant>"
        tokens = [ord(character) for character in prompt]
        return web.json_response({"count": len(tokens), "max_model_len": self.options.context, "tokens": tokens})

    async def _stats(self, request: web.Request) -> web.Response:
        if "question" in request.query:
            return web.json_response(asdict(self.of(request.query["question"])))
        answer = asdict(self.counts)
        if request.query.get("questions"):
            answer["questions"] = {question: asdict(counts) for question, counts in self._by_question.items()}
        return web.json_response(answer)

    async def _faults(self, request: web.Request) -> web.Response:
        self.fail(**await request.json())
        return web.Response(status=204)

    async def _release(self, _: web.Request) -> web.Response:
        self.release()
        return web.Response(status=204)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.headers = request.headers
        self.bodies = [*self.bodies[-99:], body]
        asked = next((m["content"] for m in reversed(body["messages"]) if m["role"] == "user"), "")
        counted = (self.counts, self._by_question[question_of(asked)])
        for counts in counted:
            counts.begin()
        try:
            script = self._script(asked, counted[1])
            answer, completed = await self._answer(request, body, asked, script, counted)
        except (asyncio.CancelledError, ConnectionError):
            for counts in counted:
                counts.aborted += 1
                counts.last_abort_at = time.monotonic()
            raise
        finally:
            for counts in counted:
                counts.in_flight -= 1
        for counts in counted:
            counts.completed += completed
            counts.faulted += not completed
        return answer

    @property
    def _served(self) -> Sequence[str]:
        return () if self._fault.get("fault") == "unlisted" else self.options.models

    def _script(self, asked: str, counts: Counts) -> Script:
        script = read_script(asked, self.options.script)
        if script.fault and 0 <= script.times < counts.requests:
            script = replace(script, fault="")
        return self._server_fault(script) or script

    def _elsewhere(self) -> Script | None:
        return self._server_fault(self.options.script) if self._fault.get("everywhere") else None

    def _server_fault(self, script: Script) -> Script | None:
        if not self._fault:
            return None
        fault = dict(self._fault)
        if "times" in fault:
            self._fault["times"] -= 1
            if self._fault["times"] <= 0:
                self._fault = {}
        wanted = {name: fault[name] for name in ("fault", "at", "retry_after", "code", "manner") if name in fault}
        return replace(script, **wanted)

    async def _answer(
        self, request: web.Request, body: Mapping[str, Any], asked: str, script: Script, counted: Sequence[Counts]
    ) -> tuple[web.StreamResponse, bool]:
        if body["model"] not in self._served:
            return error(404, f"The model `{body['model']}` does not exist.", "NotFoundError", param="model"), False
        sent = body.keys() | {f"stream_options.{name}" for name in body.get("stream_options") or ()}
        if unknown := sorted(name for name in sent if name.rpartition(".")[2] in self.options.unknown_fields):
            problems = [
                {"type": "extra_forbidden", "loc": ("body", *name.split(".")), "msg": "Extra inputs are not permitted"}
                | {"input": body["messages"]}
                for name in unknown
            ]
            if self.options.refuses_late:
                event = {"error": {"message": str(problems), "type": "BadRequestError", "code": 400}}
                return web.Response(body=data(event), content_type="text/event-stream"), False
            return error(400, str(problems), "BadRequestError"), False
        if not body.get("stream"):
            return error(400, "this fake only streams", "BadRequestError"), False
        prompt = sum(4 + len(message["content"].split()) for message in body["messages"])
        context, limit = self.options.context, body.get("max_tokens") or body.get("max_completion_tokens")
        room = context - prompt
        if script.fault == "context" or room < 1:
            return error(
                400,
                f"This model's maximum context length is {context} tokens. However, your prompt contains at least"
                f" {prompt} input tokens, which exceeds this limit even without any output tokens."
                f" Please reduce the length of the input prompt. (parameter=input_tokens, value={prompt})",
                "BadRequestError",
            ), False
        if limit and limit > context:
            told = f"max_tokens={limit} cannot be greater than max_model_len={context}."
            return error(400, told, "BadRequestError"), False
        if script.fault in ("close", "hang-before", "garbage-body", "not-http") or script.fault.isdigit():
            return await self._refusal(request, script), False
        whole = tokens = answer_tokens(asked, script)
        last = body["messages"][-1]
        if body.get("continue_final_message") and last["role"] == "assistant" and self.options.can_continue:
            tokens = continued(whole, last["content"])
        already = len(whole) - len(tokens)
        tokens, stopped = cut_at_stop(tokens, body.get("stop") or ())
        allowed = min(room, limit or room)
        finish = script.finish or ("stop" if stopped or len(tokens) <= allowed else "length")
        stream = Stream(request, body, prompt, script, counted, self._released)
        answer = await stream.write(tokens[:allowed], finish, already)
        return answer, not stream.faulted

    async def _refusal(self, request: web.Request, script: Script) -> web.Response:
        match script.fault:
            case "close" | "not-http":
                assert request.transport is not None
                if script.fault == "not-http":
                    request.transport.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
                request.transport.close()
                return web.Response()
            case "hang-before":
                await asyncio.sleep(FOREVER)
            case "garbage-body":
                return web.Response(text="<html>welcome</html>", content_type="text/html")
        answer = error(int(script.fault), f"the fake was told to answer {script.fault}", "FakeError")
        if script.retry_after:
            answer.headers["Retry-After"] = script.retry_after
        return answer


async def _serve(options: Options) -> None:
    async with FakeModelServer(options) as server:
        sys.stdout.write(server.url + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    defaults = Options()
    parser = argparse.ArgumentParser(description="A deterministic OpenAI-compatible model server for tests.")
    parser.add_argument("--host", default=defaults.host)
    parser.add_argument("--port", type=int, default=defaults.port, help="0 takes a free one")
    parser.add_argument("--model", action="append", dest="models", help="may be given several times")
    parser.add_argument("--root", default=defaults.root, help="where the models' weights lie")
    parser.add_argument("--context", type=int, default=defaults.context, help="tokens of prompt and answer together")
    parser.add_argument("--cannot-continue", action="store_true")
    parser.add_argument("--owned-by", default=defaults.owned_by)
    parser.add_argument("--tokens", type=int, default=defaults.script.tokens)
    parser.add_argument("--delay", type=float, default=defaults.script.delay, help="seconds between tokens")
    arguments = parser.parse_args()
    options = Options(
        host=arguments.host,
        port=arguments.port,
        models=tuple(arguments.models or defaults.models),
        root=arguments.root,
        context=arguments.context,
        can_continue=not arguments.cannot_continue,
        owned_by=arguments.owned_by,
        script=Script(tokens=arguments.tokens, delay=arguments.delay),
    )
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(options))


if __name__ == "__main__":
    main()
