"""GenerationClient against a real server whose answers the tests write."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import NoReturn

import pytest
from askmesh.llm.v1 import errors_pb2
from askmesh.llm.v1.generation_pb2 import ROLE_USER, GenerationSpec, Message
from askmesh.llm.v1.generation_service_pb2 import (
    Completed,
    GenerateRequest,
    GenerateResponse,
    GenerateStreamRequest,
    GenerateStreamResponse,
    ListModelsResponse,
    Started,
    TextDelta,
)
from askmesh_client import (
    DeadlineExceededError,
    GenerationCancelledError,
    GenerationClient,
    GenerationError,
    GenerationInterruptedError,
    GenerationStream,
    InvalidRequestError,
    ServerDefectError,
    TransientError,
    UnavailableError,
)
from askmesh_client.channel import MAX_REQUEST_BYTES
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message as AnyMessage
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc import StatusCode

from tests.askmesh_client.replica import COMPLETED, STARTED, Context, Replica, Stream, text

SPEC = GenerationSpec(request_id="r-1", messages=[Message(role=ROLE_USER, content="What is the capital of France?")])
LATER_EVENT = GenerateStreamResponse.FromString(b"\x7a\x00")  # the oneof's field 15, which this contract has not


async def fail(context: Context, code: StatusCode, *details: AnyMessage, message: str = "it failed") -> NoReturn:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    status = status_pb2.Status(code=code.value[0], message=message, details=packed)
    await context.abort(code, message, (("grpc-status-details-bin", status.SerializeToString()),))
    raise AssertionError


def info(reason: str, **metadata: str) -> AnyMessage:
    detail: AnyMessage = error_details_pb2.ErrorInfo(reason=reason, domain="llm.askmesh", metadata=metadata)
    return detail


def events(*responses: GenerateStreamResponse, then: StatusCode | None = None) -> Stream:
    async def stream(request: GenerateStreamRequest, context: Context) -> AsyncIterator[GenerateStreamResponse]:
        for response in responses:
            yield response
        if then is not None:
            await fail(context, then)

    return stream


async def test_generate_returns_the_whole_answer(replica: Replica, client: GenerationClient) -> None:
    async def answer(request: GenerateRequest, context: Context) -> GenerateResponse:
        return GenerateResponse(request_id=request.spec.request_id, text="Paris — Париж 🗼")

    replica.on_generate = answer
    response = await client.generate(SPEC)
    assert (response.request_id, response.text) == ("r-1", "Paris — Париж 🗼")


async def test_generate_raises_what_the_status_says(replica: Replica, client: GenerationClient) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="spec.messages", description="must not be empty")

    async def refuse(request: GenerateRequest, context: Context) -> NoReturn:
        await fail(
            context,
            StatusCode.INVALID_ARGUMENT,
            info("INVALID_FIELD", request_id="r-1"),
            error_details_pb2.BadRequest(field_violations=[violation] * 256),
            error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000)),
            message="Поле",
        )

    replica.on_generate = refuse
    with pytest.raises(InvalidRequestError) as raised:
        await client.generate(SPEC)
    error = raised.value
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert error.reason == errors_pb2.ERROR_REASON_INVALID_FIELD
    assert error.message == "Поле"
    assert error.retry_after == 1.5
    assert error.field_violations == (("spec.messages", "must not be empty"),) * 256
    assert error.request_id == "r-1"
    assert not error.engine_started


async def test_a_failed_generation_is_never_repeated(replica: Replica, client: GenerationClient) -> None:
    async def drain(request: GenerateRequest, context: Context) -> NoReturn:
        await fail(context, StatusCode.UNAVAILABLE, info("DRAINING"))

    replica.on_generate = drain
    replica.on_stream = events(then=StatusCode.UNAVAILABLE)
    with pytest.raises(UnavailableError):
        await client.generate(SPEC)
    with pytest.raises(UnavailableError):
        await anext(client.stream(SPEC))
    assert replica.calls == 2


async def test_list_models_is_repeated_while_unavailable(replica: Replica, client: GenerationClient) -> None:
    async def third_time_lucky(context: Context) -> ListModelsResponse:
        if replica.calls < 3:
            await fail(context, StatusCode.UNAVAILABLE)
        return await replica.models(context)

    replica.on_list_models = third_time_lucky
    models = await client.list_models(timeout=60)
    assert [(model.id, model.is_default) for model in models] == [("only", True)]
    assert replica.calls == 3


async def test_list_models_raises_typed_errors(replica: Replica, client: GenerationClient) -> None:
    async def broken(context: Context) -> NoReturn:
        await fail(context, StatusCode.INTERNAL, info("DEFECT"))

    replica.on_list_models = broken
    with pytest.raises(ServerDefectError, match="INTERNAL, DEFECT: it failed"):
        await client.list_models()


async def test_stream_yields_the_events_and_skips_unknown_ones(replica: Replica, client: GenerationClient) -> None:
    replica.on_stream = events(STARTED, LATER_EVENT, text(1, "Par"), text(2, "is"), LATER_EVENT, COMPLETED)
    async with client.stream(SPEC) as stream:
        received = [event async for event in stream]
        assert [event async for event in stream] == [], "an ended stream stays ended"
    assert [type(event) for event in received] == [Started, TextDelta, TextDelta, Completed]
    assert [(e.sequence, e.text) for e in received if isinstance(e, TextDelta)] == [(1, "Par"), (2, "is")]


async def test_what_happens_after_completed_takes_nothing_from_the_answer(
    replica: Replica, client: GenerationClient
) -> None:
    replica.on_stream = events(STARTED, COMPLETED, text(1, "late"), then=StatusCode.UNAVAILABLE)
    assert [type(event) async for event in client.stream(SPEC)] == [Started, Completed]


async def test_leaving_at_completed_cancels_nothing(replica: Replica, client: GenerationClient) -> None:
    ends: list[str] = []

    async def stream(request: GenerateStreamRequest, context: Context) -> AsyncIterator[GenerateStreamResponse]:
        yield COMPLETED
        try:
            for _ in range(10):
                await asyncio.sleep(0)
            ends.append("in order")
        except asyncio.CancelledError:
            ends.append("cancelled")

    replica.on_stream = stream
    async with client.stream(SPEC) as events:
        async for event in events:
            assert isinstance(event, Completed)
            break
    assert ends == ["in order"]


@pytest.mark.parametrize("started", [True, False])
async def test_stream_without_completed_is_a_defect(started: bool, replica: Replica, client: GenerationClient) -> None:
    replica.on_stream = events(STARTED, text(1, "Par")) if started else events()
    with pytest.raises(ServerDefectError, match="without Completed") as raised:
        [event async for event in client.stream(SPEC)]
    assert raised.value.code is StatusCode.OK
    assert raised.value.engine_started is started


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (StatusCode.UNAVAILABLE, GenerationInterruptedError),
        (StatusCode.CANCELLED, GenerationCancelledError),
        (StatusCode.INTERNAL, ServerDefectError),
    ],
)
async def test_a_status_may_follow_text(
    code: StatusCode, kind: type[GenerationError], replica: Replica, client: GenerationClient
) -> None:
    replica.on_stream = events(STARTED, text(1, "Par"), then=code)
    stream = client.stream(SPEC)
    assert isinstance(await anext(stream), Started)
    assert isinstance(await anext(stream), TextDelta)
    with pytest.raises(kind) as raised:
        await anext(stream)
    assert type(raised.value) is kind
    assert raised.value.engine_started
    assert [event async for event in stream] == [], "an ended stream stays ended"


async def test_a_server_that_stops_interrupts_the_stream(replica: Replica, client: GenerationClient) -> None:
    async with client.stream(SPEC) as stream:
        assert isinstance(await anext(stream), Started)
        await replica.stop()
        with pytest.raises(TransientError) as raised:
            [event async for event in stream]
    assert raised.value.engine_started


async def leave_the_block(client: GenerationClient) -> GenerationStream:
    async with client.stream(SPEC) as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                break
    return stream


async def break_a_bare_loop(client: GenerationClient) -> None:
    async for event in client.stream(SPEC):
        if isinstance(event, TextDelta):
            break
    gc.collect()  # CPython needs none


async def fail_inside_the_block(client: GenerationClient) -> GenerationStream:
    with suppress(ZeroDivisionError):
        async with client.stream(SPEC) as stream:
            async for event in stream:
                # Before the text the server may not wait yet, and would end without setting what the test looks at.
                if isinstance(event, TextDelta):
                    raise ZeroDivisionError
    return stream


async def cancel_the_reading_task(client: GenerationClient) -> None:
    reading = asyncio.Event()

    async def read() -> None:
        async for event in client.stream(SPEC):
            if isinstance(event, TextDelta):
                reading.set()

    task = asyncio.create_task(read())
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def close_the_client(client: GenerationClient) -> GenerationStream:
    stream = client.stream(SPEC)
    assert isinstance(await anext(stream), Started)
    await client.close()
    return stream


@pytest.mark.parametrize(
    "leave",
    [leave_the_block, break_a_bare_loop, fail_inside_the_block, cancel_the_reading_task, close_the_client],
)
async def test_leaving_a_stream_stops_the_server(
    leave: Callable[[GenerationClient], Awaitable[object]], replica: Replica, client: GenerationClient
) -> None:
    held = await leave(client)  # so that the garbage collector does not do what leaving must
    async with asyncio.timeout(30):
        await replica.cancelled.wait()
    del held


async def test_a_cancelled_stream_has_ended(replica: Replica, client: GenerationClient) -> None:
    stream = client.stream(SPEC)
    assert isinstance(await anext(stream), Started)
    stream.cancel()
    assert [event async for event in stream] == []


async def test_cancelling_generate_stops_the_server(replica: Replica, client: GenerationClient) -> None:
    task = asyncio.create_task(client.generate(SPEC))
    async with asyncio.timeout(30):
        await replica.called.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await replica.cancelled.wait()


async def test_the_deadline_ends_generate_on_both_sides(replica: Replica, client: GenerationClient) -> None:
    with pytest.raises(DeadlineExceededError):
        await client.generate(SPEC, timeout=0.5)
    if replica.calls:  # else the deadline passed on the way
        async with asyncio.timeout(30):
            await replica.cancelled.wait()


async def test_the_deadline_ends_a_stream_that_has_begun(replica: Replica, client: GenerationClient) -> None:
    await client.list_models(timeout=60)  # connecting is no part of the 3 s
    stream = client.stream(SPEC, timeout=3)
    assert isinstance(await anext(stream), Started)
    with pytest.raises(DeadlineExceededError) as raised:
        [event async for event in stream]
    assert raised.value.engine_started
    async with asyncio.timeout(30):
        await replica.cancelled.wait()


async def test_a_request_that_is_too_large_is_not_sent(replica: Replica, client: GenerationClient) -> None:
    spec = GenerationSpec(messages=[Message(role=ROLE_USER, content="x" * MAX_REQUEST_BYTES)])
    with pytest.raises(InvalidRequestError, match="more than"):
        await client.generate(spec)
    with pytest.raises(InvalidRequestError, match="more than"):
        client.stream(spec)
    assert replica.calls == 0


async def test_the_largest_request_and_a_long_answer_pass(replica: Replica, client: GenerationClient) -> None:
    async def echo(request: GenerateRequest, context: Context) -> GenerateResponse:
        return GenerateResponse(text=request.spec.messages[0].content * 5)

    replica.on_generate = echo
    longest = "🗼" * 1_000_000
    spec = GenerationSpec(messages=[Message(role=ROLE_USER, content=longest)], answer_prefix=longest)
    assert (await client.generate(spec)).text == longest * 5
