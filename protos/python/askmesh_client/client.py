"""Asks llm_service and gives back what the contract defines; adds deadlines, cancellation and typed errors."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeAlias, cast

import grpc.aio
from askmesh.llm.v1 import errors_pb2
from askmesh.llm.v1.generation_pb2 import GenerationSpec
from askmesh.llm.v1.generation_service_pb2 import (
    Completed,
    GenerateRequest,
    GenerateResponse,
    GenerateStreamRequest,
    GenerateStreamResponse,
    ListModelsRequest,
    Model,
    Started,
    TextDelta,
)
from askmesh.llm.v1.generation_service_pb2_grpc import GenerationServiceStub
from grpc import StatusCode

from askmesh_client.channel import MAX_REQUEST_BYTES, open_channel
from askmesh_client.errors import FieldViolation, InvalidRequestError, ServerDefectError, error_from
from askmesh_client.tls import Certificates, Pem, TlsFiles

if TYPE_CHECKING:
    from askmesh.llm.v1.generation_service_pb2_grpc import GenerationServiceAsyncStub

_LONGEST_CALL_SECONDS: Final = 24 * 3600.0

Event: TypeAlias = Started | TextDelta | Completed

GENERATION_SECONDS: Final = 600.0
"""Deadline of a generation where the caller names none."""

LIST_MODELS_SECONDS: Final = 10.0
"""Deadline of list_models() where the caller names none; its retries are within it."""


class GenerationStream:
    """The events of one generation: Started, any number of TextDelta, Completed. Read it once, in one task.

    ::

        async with client.stream(spec) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    print(event.text, end="")

    Leaving ``async with``, or cancelling the task that reads, stops the model at once. Breaking out of a bare
    ``async for`` does so when the stream is garbage collected: at once in CPython, unless an exception's traceback
    or a variable still holds it.

    Reading raises a GenerationError if the generation fails. What was read until then is all the text that was written.
    """

    # A class, not an async generator: the event loop closes an abandoned generator only later, in a task of its own.
    # What it costs: see GenerationClient.stream.

    def __init__(self, call: grpc.aio.UnaryStreamCall[GenerateStreamRequest, GenerateStreamResponse]) -> None:
        self._call = call
        self._engine_started = False
        self._ended = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        self._call.cancel()

    def cancel(self) -> None:
        """Stop the model at once, unless the generation has ended. Only for the task that reads."""
        self._ended = True
        self._call.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._ended:
            try:
                response = await self._call.read()
            except grpc.aio.AioRpcError as error:
                self._ended = True
                raise error_from(error, engine_started=self._engine_started) from error
            if not isinstance(response, GenerateStreamResponse):  # grpc.aio.EOF
                self._ended = True
                raise ServerDefectError(
                    "the stream ended without Completed", code=StatusCode.OK, engine_started=self._engine_started
                )
            kind = response.WhichOneof("event")
            if kind == "text":
                return response.text
            if kind == "started":
                self._engine_started = True
                return response.started
            if kind == "completed":
                self._ended = True
                await self._finish()
                return response.completed
            # Neither: a kind of event that a later contract has.
        raise StopAsyncIteration

    async def _finish(self) -> None:
        # The call ends before its caller sees Completed: a caller that leaves the loop there cancels nothing that the
        # server still does. The answer is whole, so that a call which fails now takes nothing from it.
        with suppress(grpc.aio.AioRpcError):
            while await self._call.read() is not grpc.aio.EOF:
                pass


class GenerationClient:
    """Calls llm_service.

    ::

        async with GenerationClient("10.0.0.1:50051,10.0.0.2:50051") as client:
            spec = GenerationSpec(messages=[Message(role=ROLE_USER, content="What is the capital of France?")])
            response = await client.generate(spec, timeout=60)
            print(response.text, response.usage.completion_tokens)

    Make it in the event loop that will use it, and after any fork. One client serves many calls at once and all
    replicas: it has one connection to each, and calls take turns among those that serve.
    """

    def __init__(self, targets: str, *, tls: TlsFiles | None = None, server_name: str = "") -> None:
        """Connect lazily to ``host:port``, or to several with commas between; see ``channel.target_uri``.

        tls: both sides prove who they are. The next call uses files that have changed; calls in flight keep their
        connections. server_name: the server's certificate must bear it instead of the host in ``targets``; several
        targets need it.

        Raises ValueError, which says how to write targets, if it cannot read them; CertificatesError, which is one, if
        the files cannot be used.
        """
        self._targets = targets
        self._server_name = server_name
        self._certificates = None if tls is None else Certificates(tls)
        self._former: dict[asyncio.Task[None], grpc.aio.Channel] = {}
        self._open(None if self._certificates is None else self._certificates.pem)

    def _open(self, pem: Pem | None) -> None:
        self._channel = open_channel(self._targets, pem, self._server_name)
        # The asynchronous type of the stub exists only for type checkers.
        self._stub = cast("GenerationServiceAsyncStub", GenerationServiceStub(self._channel))

    def _current(self) -> "GenerationServiceAsyncStub":
        if self._certificates is not None and (pem := self._certificates.renewed()) is not None:
            # gRPC reads certificates once a channel. Closing waits for the calls that the former one has.
            closing = asyncio.create_task(self._channel.close(_LONGEST_CALL_SECONDS))
            self._former[closing] = self._channel
            closing.add_done_callback(self._former.pop)
            self._open(pem)
        return self._stub

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel what still runs and close the connections."""
        await self._channel.close()
        for closing, channel in tuple(self._former.items()):
            await channel.close()
            await closing

    async def generate(self, spec: GenerationSpec, *, timeout: float = GENERATION_SECONDS) -> GenerateResponse:
        """A whole answer.

        timeout: after so many seconds the call fails with DeadlineExceededError and the model stops. To get what was
        written until then instead, set spec.time_limit to a little less. Cancelling the task stops the model, too.

        Raises a GenerationError; ``errors`` says which, and what to do. The client never repeats a generation.
        """
        request = GenerateRequest(spec=spec)
        _check_size(request)
        try:
            return await self._current().Generate(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise error_from(error) from error

    def stream(self, spec: GenerationSpec, *, timeout: float = GENERATION_SECONDS) -> GenerationStream:
        """An answer while it is being written. The call begins here.

        timeout and errors are those of ``generate``. Reading raises the errors, except for a request that is too large
        to send: this call raises it.
        """
        # An event costs about 50 us of CPU time in grpc.aio; what GenerationStream adds to that is below 0.1 us.
        request = GenerateStreamRequest(spec=spec)
        _check_size(request)
        return GenerationStream(self._current().GenerateStream(request, timeout=timeout))

    async def list_models(self, *, timeout: float = LIST_MODELS_SECONDS) -> list[Model]:
        """The models that can be asked, in the model server's order; may be empty while none is loaded.

        Repeats itself up to 3 times while llm_service is UNAVAILABLE. Raises a GenerationError.
        """
        try:
            response = await self._current().ListModels(ListModelsRequest(), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise error_from(error) from error
        return list(response.models)


def _check_size(request: GenerateRequest | GenerateStreamRequest) -> None:
    # The server would answer RESOURCE_EXHAUSTED, which reads as an overload that waiting can cure.
    if (size := request.ByteSize()) > MAX_REQUEST_BYTES:
        raise InvalidRequestError(
            f"the request has {size} bytes, more than the {MAX_REQUEST_BYTES} that a server takes",
            code=StatusCode.INVALID_ARGUMENT,
            reason=errors_pb2.ERROR_REASON_INVALID_FIELD,
            field_violations=(FieldViolation("spec", "too large; shorten messages or answer_prefix"),),
        )
