"""A stand-in for llm_service that tests control: it keeps the contract, and answers without any model."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from askmesh.llm.v1 import errors_pb2
from askmesh.llm.v1 import generation_pb2 as pb
from askmesh.llm.v1 import generation_service_pb2 as service_pb
from askmesh.llm.v1.generation_service_pb2_grpc import (
    GenerationServiceServicer,
    add_GenerationServiceServicer_to_server,
)
from askmesh_client.channel import SERVICE
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_health.v1.health import aio as health_aio  # type: ignore[import-untyped]

Context = grpc.aio.ServicerContext[service_pb.GenerateStreamRequest, service_pb.GenerateStreamResponse]
Script = Callable[[str, Context], Awaitable[None]]


class FakeLlmService(GenerationServiceServicer):
    """Answers "Answer to <question>", one word an event, goes on from a prefix, and counts what it was asked."""

    def __init__(self) -> None:
        self.address = ""
        self.model, self.revision = "fake-model", ""
        """What answers where a request names no model."""
        self.specs: list[pb.GenerationSpec] = []
        self.asked: Counter[str] = Counter()
        self.aborted: Counter[str] = Counter()
        self.running = 0
        self.most_running = 0
        self.flowing = asyncio.Event()
        """While it is not set, every answer stops after its first word."""
        self.flowing.set()
        self.pause_before_last: asyncio.Event | None = None
        """Each answer waits for it before its last word."""
        self.before: Script | None = None
        """Called for each call before Started."""
        self.after: Script | None = None
        """Called for each call after the first word."""
        self.flood: str | None = None
        """Each answer goes on with this, for ever, after its first word."""
        self.usage: pb.Usage | None = None
        """What each answer took; counted where it is not set."""
        self.fail_at_the_end: Script | None = None
        """Called for each call before the last word."""

    async def GenerateStream(  # noqa: N802 - the contract's name
        self, request: service_pb.GenerateStreamRequest, context: Context
    ) -> AsyncIterator[service_pb.GenerateStreamResponse]:
        question = request.spec.messages[-1].content
        self.specs.append(request.spec)
        self.asked[question] += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if self.before:
                await self.before(question, context)
            started = service_pb.Started(
                request_id=request.spec.request_id, model=request.spec.model or self.model, revision=self.revision
            )
            yield service_pb.GenerateStreamResponse(started=started)
            answer, prefix = answer_to(question), request.spec.answer_prefix
            if not answer.startswith(prefix):
                await context.abort(grpc.StatusCode.INTERNAL, "the prefix is not the beginning of this answer")
            words = re.findall(r"\s*\S+", answer[len(prefix) :])
            for sequence, text in enumerate(words, start=1):
                if sequence == len(words) and self.pause_before_last:
                    await self.pause_before_last.wait()
                if sequence == len(words) and self.fail_at_the_end:
                    await self.fail_at_the_end(question, context)
                yield service_pb.GenerateStreamResponse(text=service_pb.TextDelta(sequence=sequence, text=text))
                if sequence == 1:
                    if self.after:
                        await self.after(question, context)
                    await self.flowing.wait()
                    while self.flood is not None:
                        yield service_pb.GenerateStreamResponse(text=service_pb.TextDelta(sequence=2, text=self.flood))
            yield service_pb.GenerateStreamResponse(
                completed=service_pb.Completed(
                    finish_reason=pb.FINISH_REASON_STOP,
                    usage=self.usage or pb.Usage(prompt_tokens=len(question.split()), completion_tokens=len(words)),
                )
            )
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted[question] += 1
            raise
        finally:
            self.running -= 1

    async def Generate(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise AssertionError("a worker only streams")

    async def ListModels(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise AssertionError("a worker does not list models")

    @asynccontextmanager
    async def serve(self, address: str = "127.0.0.1:0") -> AsyncIterator[None]:
        """Listen; ``address`` is where."""
        server = grpc.aio.server()
        # Without one gRPC would print an error into each test.
        health = health_aio.HealthServicer()
        await health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        add_GenerationServiceServicer_to_server(self, server)
        port = server.add_insecure_port(address)
        self.address = f"127.0.0.1:{port}"
        await server.start()
        try:
            yield
        finally:
            await server.stop(0)


def answer_to(question: str) -> str:
    return f"Answer to {question}"


async def refuse(
    context: Context,
    code: grpc.StatusCode,
    reason: errors_pb2.ErrorReason.ValueType,
    *,
    engine_started: bool = False,
) -> None:
    """End the call with an error, as the contract says."""
    info = error_details_pb2.ErrorInfo(
        domain="llm.askmesh", reason=errors_pb2.ErrorReason.Name(reason).removeprefix("ERROR_REASON_")
    )
    if engine_started:
        info.metadata["engine_started"] = "true"
    detail = AnyMessage()
    detail.Pack(info)
    status = status_pb2.Status(code=code.value[0], message="as the test wants it", details=[detail])
    await context.abort(code, status.message, (("grpc-status-details-bin", status.SerializeToString()),))
