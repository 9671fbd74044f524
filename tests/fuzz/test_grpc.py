"""llm_service takes whatever can be sent by gRPC, and serves on."""

import asyncio
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import pytest
from askmesh.llm.v1 import generation_service_pb2
from askmesh_client.channel import SERVICE
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from tests.fakes.model_server import FakeModelServer, expected_answer
from tests.fuzz.report import Report
from tests.fuzz.strategies import encodings, messages, metadata, nearly_valid_specs, valid_specs
from tests.llm_service.conftest import Client, ask, service_over

Code = grpc.StatusCode
Metadata = Sequence[tuple[str, str | bytes]]

_DEADLINE: Final = 20.0
# Cases of a kind: in `make test`, and in each round of `make fuzz`.
_QUICK, _ROUND = 40, 300
_INSIDES: Final = re.compile(rf"Traceback|File \"|\.py\b|site-packages|{re.escape(str(Path(__file__).parents[2]))}")


class Method(NamedTuple):
    """``streams``: it answers with several messages."""

    name: str
    request: type[Message]
    streams: bool = False


GENERATE = Method("Generate", generation_service_pb2.GenerateRequest)
GENERATE_STREAM = Method("GenerateStream", generation_service_pb2.GenerateStreamRequest, streams=True)
LIST_MODELS = Method("ListModels", generation_service_pb2.ListModelsRequest)
METHODS = (GENERATE, GENERATE_STREAM, LIST_MODELS)

# What a message may be refused with, as the contract says.
_REFUSED: Final = {Code.OK, Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.DEADLINE_EXCEEDED}


class Fuzzer:
    """Sends case after case from a thread of its own, while the loop of the test serves."""

    def __init__(self, client: Client, report: Report) -> None:
        self._loop = asyncio.get_running_loop()
        self._channel = client.channel
        self._report = report

    def send(
        self,
        kind: str,
        method: Method,
        content: bytes,
        allowed: set[grpc.StatusCode],
        *,
        path: str | None = None,
        sent_metadata: Metadata = (),
        leave_after: int | None = None,
    ) -> None:
        """A call that may end with these statuses. ``leave_after``: it is cancelled after so many messages, or ms."""
        path = path or f"/{SERVICE}/{method.name}"
        call = self._call(path, method, content, sent_metadata, leave_after)
        code, details = asyncio.run_coroutine_threadsafe(call, self._loop).result(2 * _DEADLINE)
        operation = f"{method.name}: {kind}"
        self._report.count(operation, code.name)
        # A deadline of the client's means that the server had nothing to say in time.
        hangs = code is Code.DEADLINE_EXCEEDED and details == "Deadline Exceeded"
        if hangs or _INSIDES.search(details) or code not in allowed:
            self._report.fail(operation)
            raise AssertionError(f"{path}: {code.name} {details!r} for {content!r} with {sent_metadata!r}")

    async def _call(
        self, path: str, method: Method, content: bytes, sent: Metadata, leave_after: int | None
    ) -> tuple[grpc.StatusCode, str]:
        start: Any = (self._channel.unary_stream if method.streams else self._channel.unary_unary)(path)
        call = start(content, timeout=_DEADLINE, metadata=tuple(sent))
        if leave_after is None:
            await self._read(call, method)
        else:
            if method.streams:
                await self._read(call, method, leave_after)
            else:
                await asyncio.sleep(leave_after / 1_000)
            call.cancel()
        return await call.code(), await call.details() or ""

    @staticmethod
    async def _read(call: Any, method: Method, most: int | None = None) -> None:
        try:
            if not method.streams:
                await call
                return
            while most != 0 and await call.read() is not grpc.aio.EOF:
                most = None if most is None else most - 1
        except grpc.aio.AioRpcError:
            pass


def cases_of(fuzzer: Fuzzer) -> dict[str, tuple[st.SearchStrategy[Any], Callable[..., None]]]:
    """By their kind: what is drawn, and how it is sent."""
    of_spec = st.sampled_from([GENERATE, GENERATE_STREAM])

    def valid(method: Method, spec: Message) -> None:
        fuzzer.send("within the limits", method, method.request(spec=spec).SerializeToString(), {Code.OK})

    def any_message(drawn: tuple[Method, Message]) -> None:
        method, message = drawn
        fuzzer.send("any message", method, message.SerializeToString(), _REFUSED)

    def nearly_valid(method: Method, spec: Message) -> None:
        fuzzer.send("one field is anything", method, method.request(spec=spec).SerializeToString(), _REFUSED)

    def any_bytes(drawn: tuple[Method, bytes]) -> None:
        method, content = drawn
        fuzzer.send("bytes", method, content, _REFUSED)

    def any_metadata(method: Method, spec: Message, sent: Metadata) -> None:
        content = method.request(spec=spec).SerializeToString()
        fuzzer.send("metadata", method, content, {Code.OK}, sent_metadata=sent)

    def cancelled(method: Method, spec: Message, leave_after: int) -> None:
        content = method.request(spec=spec).SerializeToString()
        fuzzer.send("cancelled", method, content, {Code.OK, Code.CANCELLED}, leave_after=leave_after)

    def unknown_method(path: str, content: bytes) -> None:
        fuzzer.send("no such method", Method("other names", Message), content, {Code.UNIMPLEMENTED}, path=path)

    def with_method(
        drawing: Callable[[Method], st.SearchStrategy[Any]],
    ) -> st.SearchStrategy[tuple[Method, Any]]:
        return st.sampled_from(METHODS).flatmap(lambda method: st.tuples(st.just(method), drawing(method)))

    names = st.from_regex(r"/[A-Za-z0-9._~%-]{0,40}(/[A-Za-z0-9._~%-]{0,40}){0,2}", fullmatch=True)
    return {
        "valid": (st.tuples(of_spec, valid_specs()), valid),
        "nearly valid": (st.tuples(of_spec, nearly_valid_specs()), nearly_valid),
        "any message": (st.tuples(with_method(lambda method: messages(method.request.DESCRIPTOR))), any_message),
        "bytes": (st.tuples(with_method(lambda method: encodings(method.request.DESCRIPTOR))), any_bytes),
        "metadata": (st.tuples(of_spec, valid_specs(), metadata()), any_metadata),
        "cancelled": (st.tuples(of_spec, valid_specs(), st.integers(0, 12)), cancelled),
        "methods": (
            st.tuples(names | st.sampled_from([f"/{SERVICE}/", f"/{SERVICE}/generate"]), st.binary(max_size=50)),
            unknown_method,
        ),
    }


@pytest.mark.loopback
async def test_whatever_comes_by_grpc_is_answered_as_the_contract_says(
    seed: int, seconds: int | None, report: Report
) -> None:
    async with FakeModelServer() as fake, service_over(fake.url) as (_, client):
        cases = cases_of(Fuzzer(client, report))
        end = asyncio.get_running_loop().time() + (seconds or 0)
        round_seed = seed
        while True:
            for drawn, send in cases.values():
                await asyncio.to_thread(_play, drawn, send, round_seed, _QUICK if seconds is None else _ROUND)
            await _serves(client)
            round_seed += 1
            if asyncio.get_running_loop().time() >= end:
                break


def _play(drawn: st.SearchStrategy[Any], send: Callable[..., None], seed: int, examples: int) -> None:
    @seeded(seed)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(drawn)
    def play(arguments: tuple[Any, ...]) -> None:
        send(*arguments)

    play()


async def _serves(client: Client) -> None:
    health = await health_pb2_grpc.HealthStub(client.channel).Check(health_pb2.HealthCheckRequest(service=SERVICE))
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert (await client.generate(ask("hello"))).text == expected_answer("hello")
