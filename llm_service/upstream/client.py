"""HTTP client of the OpenAI-compatible model server."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import orjson
from yarl import URL

from foundation.unreadable import Unreadable
from llm_service.errors import LlmError, Reason
from llm_service.upstream.refusals.classification import error_of_object, error_of_response
from llm_service.upstream.refusals.vendor_words import URL_REMEDY
from llm_service.upstream.sockets import BUFFERED_BYTES, GATHERED, LowWaterMark, ReadGathering, open_socket
from llm_service.upstream.stream.completions import CompletionReader, Piece, interrupted

_CONNECT_SECONDS: Final = 5.0
_LOOKUP_SECONDS: Final = 10.0
_MAX_ERROR_BYTES: Final = 1 << 16
_MAX_LOOKUP_BYTES: Final = 1 << 22
# The server has no list of models, but may serve one.
_NO_LIST: Final = frozenset((404, 405, 501))
# NestJS, on which gateways are built, answers a POST with 201.
_ACCEPTED: Final = frozenset((200, 201))
# How long to read after a finish reason: the text is whole, and only counts are expected.
_AFTER_FINISH_SECONDS: Final = 1.5
# The same for servers that put a finish reason into every chunk (lhenault/simpleAI#39).
_AFTER_MANY_SECONDS: Final = 30.0


class ModelServerClient:
    """One OpenAI-compatible server; an async context manager that owns the connections.

    Every request has a connection of its own. llama.cpp's HTTP server drops kept-alive connections: a reused one may be
    lost before any byte of the answer, and a generation must not be sent twice. Reuse would save 0.3 of the 4 ms of CPU
    that an answer of 32 tokens costs.

    Raises LlmError, never an error of the HTTP library.
    """

    def __init__(self, base_url: str, api_key: str | None = None, *, gathering: ReadGathering = GATHERED) -> None:
        """``base_url`` ends with /v1, and may hold a name and a password. Raises ValueError if it is not a URL."""
        self._gathering = gathering
        url = URL(base_url.rstrip("/"))
        # This class makes the header itself, in UTF-8: the HTTP library knows Latin-1 only, and fails beside a key.
        self._base = url.with_user(None)
        self.host = f"{url.host}:{url.port}"
        """The host and the port, without the name and the password that the URL may hold."""
        self._completions = self._base / "chat/completions"
        self._headers = {"User-Agent": "askmesh-llm-service", "Content-Type": "application/json"}
        if url.user is not None:
            user = f"{url.user}:{url.password or ''}"
            self._headers["Authorization"] = f"Basic {b64encode(user.encode()).decode()}"
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._session: aiohttp.ClientSession | None = None
        self._unreadable = Unreadable()
        self._open = 0

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # Cookies from the answer to one caller must not travel with another's request.
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=open_socket),
            headers=self._headers,
            read_bufsize=BUFFERED_BYTES,
            # A generation may wait in the model server's queue as long as its caller does.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def models(self) -> list[Mapping[str, Any]] | None:
        """The entries of /models that have an ``id``, in the server's order; None where the server has no such list."""
        try:
            answer = await self._lookup("GET", self._base / "models")
        except LlmError as error:
            if error.http_status in _NO_LIST:
                return None
            raise
        entries = answer
        if isinstance(answer, dict):
            entries = answer.get("data")
            if entries is None and "data" not in answer:
                entries = answer.get("models")  # as Ollama's own list has it
        if not isinstance(entries, list | None):
            raise _unusable("models", "that is not a list of models")
        named = [{**entry, "id": id_} for entry in map(_as_entry, entries or ()) if (id_ := _id_of(entry))]
        return list(named)

    async def ask_beside(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """POST to a path of the server's own, which stands beside /v1 and not below it."""
        root = self._base.parent if self._base.name == "v1" else self._base
        answer = await self._lookup("POST", root / path, orjson.dumps(body))
        if not isinstance(answer, dict):
            raise _unusable(path, "that is not a JSON object")
        return answer

    async def complete(self, body: bytes) -> AsyncGenerator[Piece, None]:
        """The stream of a /chat/completions request with ``"stream": true``.

        The first piece is empty: the server has accepted the request. One of the last pieces holds a finish reason of
        finish_reasons.py, with which the text is whole: what follows is read for counts for a moment, and errors in it
        are ignored. The first text is never held back; what follows is gathered where many requests are open. Closing
        the generator closes the connection, which stops the server.
        """
        async with self._request("POST", self._completions, body) as response:
            yield Piece()
            reader = CompletionReader()
            piece = Piece()
            whole_until: float | None = None
            is_cut = False
            gathering = self._gathering
            with closing(LowWaterMark(response)) as low_water:
                received = b"begin"
                while received and not piece.is_last:
                    try:
                        received = await (
                            response.content.readany() if whole_until is None else _soon(response, whole_until)
                        )
                    except (aiohttp.ClientError, OSError):
                        received, is_cut = _left(response), True
                    piece = reader.feed(received) if received else reader.finish()
                    if piece.finish_reason is not None:
                        patience = _AFTER_MANY_SECONDS if reader.ends_often else _AFTER_FINISH_SECONDS
                        whole_until = asyncio.get_running_loop().time() + patience
                    elif not reader.is_whole:
                        whole_until = None
                    if self._open >= gathering.least_requests and reader.wrote and whole_until is None:
                        low_water.raise_for(gathering.seconds(self._open))
                    yield piece
            if reader.skipped:
                self._unreadable.skip("an event of the model server", "it is no completion chunk")
            if not reader.is_whole:
                if piece.error is not None:
                    raise _failure(piece.error, wrote=reader.wrote)
                ending = piece if piece.failure is not None else reader.ending(is_done=piece.done, is_cut=is_cut)
                if ending.failure is not None:
                    raise ending.failure
                yield ending

    async def _lookup(self, method: str, url: URL, body: bytes | None = None) -> object:
        try:
            async with asyncio.timeout(_LOOKUP_SECONDS), self._request(method, url, body) as response:
                received = await _head(response, _MAX_LOOKUP_BYTES)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _unavailable(error) from None
        except LlmError as error:
            raise _of_lookup(error) from None
        try:
            answer = orjson.loads(received)
        except ValueError:
            raise _unusable(url.name, "that is not JSON") from None
        if isinstance(answer, dict) and answer.get("error"):
            raise _of_lookup(error_of_object(None, answer))
        return answer

    @asynccontextmanager
    async def _request(self, method: str, url: URL, body: bytes | None = None) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None, "enter the context first"
        try:
            response = await self._session.request(method, url, data=body, allow_redirects=False)
        except aiohttp.ClientResponseError:
            message = "the model server does not speak HTTP: check ASKMESH_MODEL_URL, its port and its https"
            raise LlmError(Reason.MODEL_SERVER_UNAVAILABLE, message) from None
        except (aiohttp.ClientError, OSError) as error:
            raise _unavailable(error) from None
        self._open += 1
        try:
            async with response:
                if response.status not in _ACCEPTED:
                    raise await _refused(response)
                yield response
        finally:
            self._open -= 1


async def _refused(response: aiohttp.ClientResponse) -> LlmError:
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            body = await _head(response, _MAX_ERROR_BYTES)
    except (TimeoutError, aiohttp.ClientError, OSError):
        body = b""
    return error_of_response(response.status, response.headers, body)


def _unavailable(error: Exception) -> LlmError:
    why = type(getattr(error, "os_error", error)).__name__
    return LlmError(Reason.MODEL_SERVER_UNAVAILABLE, f"the model server cannot be reached ({why})")


def _of_lookup(error: LlmError) -> LlmError:
    """The error of a lookup. It generates nothing, so that its refusal says nothing against a request."""
    if error.reason in (Reason.MODEL_SERVER_DENIED, Reason.MODEL_SERVER_OVERLOADED):
        return error
    return LlmError(
        Reason.MODEL_SERVER_UNAVAILABLE, error.why, retry_after=error.retry_after, http_status=error.http_status
    )


def _unusable(name: str, what: str) -> LlmError:
    return LlmError(
        Reason.MODEL_SERVER_UNAVAILABLE, f"the model server answers /{name} with something {what}: {URL_REMEDY}"
    )


def _as_entry(entry: object) -> Mapping[str, Any]:
    if isinstance(entry, str):
        return {"id": entry}
    return entry if isinstance(entry, dict) else {}


def _id_of(entry: Mapping[str, Any]) -> str | None:
    """The id of a model, which Ollama's own list calls its name; None for an entry that cannot be asked for."""
    found = entry.get("id") or entry.get("name") or entry.get("model")
    return found if isinstance(found, str) else None


def _failure(error: Mapping[str, Any], *, wrote: bool) -> LlmError:
    """The error that an error object in the stream means: a broken-off answer once text has come.

    An overload stays an overload, so that it counts against no question.
    """
    said = error_of_object(error.get("code"), error)
    return interrupted() if wrote and said.reason is not Reason.MODEL_SERVER_OVERLOADED else said


async def _soon(response: aiohttp.ClientResponse, until: float) -> bytes:
    """What comes next after the finish reason; empty if nothing comes until then."""
    try:
        async with asyncio.timeout_at(until):
            return await response.content.readany()
    except TimeoutError:
        return b""


def _left(response: aiohttp.ClientResponse) -> bytes:
    """What had come before the connection broke. The HTTP library's public methods raise instead of returning it."""
    return response.content._read_nowait(-1)  # noqa: SLF001


async def _head(response: aiohttp.ClientResponse, limit: int) -> bytes:
    received = bytearray()
    async for part in response.content.iter_any():
        received += part
        if len(received) > limit:
            break
    return bytes(received[:limit])
