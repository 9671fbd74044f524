"""Every way in which the model server fails, as the caller sees it."""

import asyncio
import logging

import grpc
import pytest
from askmesh.llm.v1.generation_pb2 import FINISH_REASON_STOP, GenerationSpec
from google.protobuf.duration_pb2 import Duration

from foundation.logs import TRACE
from llm_service.upstream.catalogue import ModelCatalogue
from tests.fakes.model_server import FakeModelServer, Options, expected_answer
from tests.llm_service.conftest import Client, Failure, ask, failure_of, service_over, until

pytestmark = pytest.mark.loopback

DETAILS: dict[str, dict[str, set[str]]] = {
    "INVALID_ARGUMENT": {"CONTEXT_TOO_LONG": {"BadRequest"}, "REQUEST_REFUSED": set()},
    "NOT_FOUND": {"MODEL_NOT_FOUND": set()},
    "RESOURCE_EXHAUSTED": {
        "TOO_MANY_GENERATIONS": {"QuotaFailure", "RetryInfo"},
        "MODEL_SERVER_OVERLOADED": {"RetryInfo"},
    },
    "UNAVAILABLE": {"MODEL_SERVER_UNAVAILABLE": {"RetryInfo"}, "GENERATION_INTERRUPTED": {"RetryInfo"}},
    "PERMISSION_DENIED": {"MODEL_SERVER_DENIED": set()},
    "INTERNAL": {"MODEL_SERVER_INVALID": set()},
    "DEADLINE_EXCEEDED": {"TIME_LIMIT": set()},
}


def check(failure: Failure | None, status: str, reason: str, *, started: bool, request_id: str = "mine") -> Failure:
    assert failure is not None
    assert (failure.code.name, failure.reason) == (status, reason)
    assert failure.metadata == {"request_id": request_id} | ({"engine_started": "true"} if started else {})
    assert failure.details.keys() == DETAILS[status][reason]
    return failure


@pytest.mark.parametrize("unary", [True, False], ids=["unary", "stream"])
@pytest.mark.parametrize(
    ("fault", "status", "reason", "started"),
    [
        ("400", "INVALID_ARGUMENT", "REQUEST_REFUSED", False),
        ("422", "INVALID_ARGUMENT", "REQUEST_REFUSED", False),
        ("context", "INVALID_ARGUMENT", "CONTEXT_TOO_LONG", False),
        ("401", "PERMISSION_DENIED", "MODEL_SERVER_DENIED", False),
        ("403", "PERMISSION_DENIED", "MODEL_SERVER_DENIED", False),
        ("402", "PERMISSION_DENIED", "MODEL_SERVER_DENIED", False),
        ("407", "PERMISSION_DENIED", "MODEL_SERVER_DENIED", False),
        ("404", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE", False),
        ("405", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE", False),
        ("408", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE", False),
        ("409", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE", False),
        ("424", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE", False),
        ("425", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE", False),
        ("499", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE", False),
        ("429", "RESOURCE_EXHAUSTED", "MODEL_SERVER_OVERLOADED", False),
        ("500", "UNAVAILABLE", "GENERATION_INTERRUPTED", True),
        ("502", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE", False),
        ("503", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE", False),
        ("504", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE", False),
        ("close", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE", False),
        ("524", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE", False),
        ("not-http", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE", False),
        ("garbage-body", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE", False),
        ("cut", "UNAVAILABLE", "GENERATION_INTERRUPTED", True),
        ("end", "UNAVAILABLE", "GENERATION_INTERRUPTED", True),
        ("error", "UNAVAILABLE", "GENERATION_INTERRUPTED", True),
        ("garbage", "INTERNAL", "MODEL_SERVER_INVALID", True),
        ("huge", "INTERNAL", "MODEL_SERVER_INVALID", True),
    ],
)
async def test_a_fault_has_its_status(
    client: Client, fake: FakeModelServer, fault: str, status: str, reason: str, started: bool, unary: bool
) -> None:
    spec = ask(f"q [[fault={fault} delay=0.001]]", request_id="mine")
    failure = await unary_failure(client, spec) if unary else (await client.stream(spec)).failure
    check(failure, status, reason, started=started)
    await until(lambda: fake.counts.in_flight == 0)
    assert fake.counts.requests == 1, "a generation is never sent twice"
    assert (await client.stream(ask("q"))).completed is not None, "the next one works"


async def unary_failure(client: Client, spec: GenerationSpec) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.generate(spec)
    return failure_of(caught.value)


async def test_text_before_a_break_has_been_sent(client: Client) -> None:
    answer = await client.stream(ask("q [[tokens=10 fault=cut at=4 delay=0.01]]", request_id="mine"))
    check(answer.failure, "UNAVAILABLE", "GENERATION_INTERRUPTED", started=True)
    assert answer.started is not None
    assert answer.text == expected_answer("q [[tokens=4]]")
    assert answer.deltas[-1].usage.completion_tokens == 4


async def test_a_refusal_inside_the_stream_is_a_refusal_while_nothing_is_written(client: Client) -> None:
    answer = await client.stream(ask("q [[fault=error code=400 at=0]]", request_id="mine"))
    check(answer.failure, "INVALID_ARGUMENT", "REQUEST_REFUSED", started=True)
    answer = await client.stream(ask("q [[fault=error code=400 at=3 delay=0.001]]", request_id="mine"))
    check(answer.failure, "UNAVAILABLE", "GENERATION_INTERRUPTED", started=True)


async def test_a_queue_that_is_found_full_after_the_200_is_no_attempt(client: Client) -> None:
    answer = await client.stream(ask("q [[fault=error code=503 at=0]]", request_id="mine"))
    assert answer.started is not None
    check(answer.failure, "RESOURCE_EXHAUSTED", "MODEL_SERVER_OVERLOADED", started=False)


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        (401, "PERMISSION_DENIED", "MODEL_SERVER_DENIED"),
        (429, "RESOURCE_EXHAUSTED", "MODEL_SERVER_OVERLOADED"),
        (502, "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE"),
        (504, "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE"),
    ],
)
async def test_an_outage_that_a_gateway_tells_after_the_200_is_no_attempt(
    client: Client, code: int, status: str, reason: str
) -> None:
    answer = await client.stream(ask(f"q [[fault=error code={code} at=0]]", request_id="mine"))
    assert answer.started is not None
    check(answer.failure, status, reason, started=False)


@pytest.mark.parametrize("at", [0, 3])
async def test_an_overload_is_no_attempt_whenever_it_is_told(client: Client, at: int) -> None:
    answer = await client.stream(ask(f"q [[fault=error code=429 at={at} delay=0.001]]", request_id="mine"))
    check(answer.failure, "RESOURCE_EXHAUSTED", "MODEL_SERVER_OVERLOADED", started=False)
    assert answer.text == (expected_answer("q [[tokens=3]]") if at else "")


@pytest.mark.parametrize("finish", ["abort", "error"])
async def test_an_engine_that_gives_up_has_interrupted(client: Client, finish: str) -> None:
    answer = await client.stream(ask(f"q [[finish={finish}]]", request_id="mine"))
    check(answer.failure, "UNAVAILABLE", "GENERATION_INTERRUPTED", started=True)


@pytest.mark.parametrize("how", ["finish=boredom", "fault=no-finish"])
async def test_a_text_is_whole_whatever_its_end_is_called(client: Client, how: str) -> None:
    answer = await client.stream(ask(f"q [[{how}]]"))
    assert answer.completed is not None
    assert answer.completed.finish_reason == FINISH_REASON_STOP
    assert answer.text == expected_answer("q")


async def test_a_stream_may_lack_its_last_line(client: Client) -> None:
    answer = await client.stream(ask("q [[fault=no-done]]"))
    assert answer.completed is not None
    assert answer.text == expected_answer("q")


@pytest.mark.parametrize(("fault", "reason"), [("429", "MODEL_SERVER_OVERLOADED"), ("503", "MODEL_SERVER_UNAVAILABLE")])
async def test_retry_after_is_passed_on(client: Client, fault: str, reason: str) -> None:
    answer = await client.stream(ask(f"q [[fault={fault} retry_after=17]]"))
    assert answer.failure is not None
    assert answer.failure.reason == reason
    assert answer.failure.retry_seconds == 17


async def test_a_context_that_is_too_short_names_the_messages_and_the_sizes(client: Client) -> None:
    failure = (await client.stream(ask("word " * 5000, max_output_tokens=7, request_id="mine"))).failure
    failure = check(failure, "INVALID_ARGUMENT", "CONTEXT_TOO_LONG", started=False)
    assert failure.fields == ["spec.messages"]
    assert "4096" in failure.message


@pytest.mark.parametrize("fault", ["hang-before", "hang"])
async def test_the_time_limit_before_any_text_is_an_error(client: Client, fake: FakeModelServer, fault: str) -> None:
    spec = ask(f"q [[fault={fault} at=0]]", time_limit=Duration(nanos=200_000_000), request_id="mine")
    answer = await client.stream(spec)
    check(answer.failure, "DEADLINE_EXCEEDED", "TIME_LIMIT", started=fault == "hang")
    await until(lambda: fake.counts.aborted == 1)


async def test_a_model_that_is_not_served_is_not_asked(client: Client, fake: FakeModelServer) -> None:
    failure = (await client.stream(ask("q", model="third", request_id="mine"))).failure
    check(failure, "NOT_FOUND", "MODEL_NOT_FOUND", started=False)
    assert fake.counts.requests == 0


async def test_a_model_that_was_taken_away_is_not_found_for_who_named_it() -> None:
    async with FakeModelServer(Options(models=("old",))) as server, service_over(server.url) as (_, client):
        assert (await client.generate(ask("q", model="old"))).model == "old"
        server.options = Options(models=("new",))
        failure = (await client.stream(ask("q", model="old", request_id="mine"))).failure
        check(failure, "NOT_FOUND", "MODEL_NOT_FOUND", started=False)
        assert (await client.generate(ask("q", model="new"))).model == "new"


async def test_a_model_that_took_anothers_place_answers_who_named_none() -> None:
    async with FakeModelServer(Options(models=("old",))) as server, service_over(server.url) as (_, client):
        assert (await client.generate(ask("q"))).model == "old"
        server.options = Options(models=("new",))
        answer = await client.stream(ask("q"))
        assert answer.started is not None
        assert answer.started.model == "new"
        assert answer.text == expected_answer("q")


async def test_another_model_does_not_continue_what_one_began() -> None:
    async with FakeModelServer(Options(models=("old",))) as server, service_over(server.url) as (_, client):
        assert (await client.stream(ask("q", answer_prefix="The"))).completed is not None
        server.options = Options(models=("new",))
        failure = (await client.stream(ask("q", answer_prefix="The"))).failure
        assert failure is not None
        assert failure.reason == "CANNOT_CONTINUE"


async def test_a_service_that_is_full_says_so(fake: FakeModelServer) -> None:
    async with service_over(fake.url, max_generations=2) as (_, client):
        calls = [client.open(ask("q [[first=3600]]")) for _ in range(2)]
        for call in calls:
            await call.read()
        failure = (await client.stream(ask("q", request_id="mine"))).failure
        failure = check(failure, "RESOURCE_EXHAUSTED", "TOO_MANY_GENERATIONS", started=False)
        assert failure.details["QuotaFailure"].violations[0].subject == "llm_service"
        assert failure.retry_seconds > 0
        assert len((await client.models()).models) == 2
        calls[0].cancel()
        await until(lambda: fake.counts.in_flight == 1)
        assert (await client.stream(ask("q"))).completed is not None
        calls[1].cancel()


async def test_a_model_server_that_comes_late_goes_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "llm_service")
    async with FakeModelServer() as placeholder:
        options = Options(port=int(placeholder.url.split(":")[2].split("/")[0]))
    async with service_over(placeholder.url) as (_, client):
        for _ in range(3):
            failure = (await client.stream(ask("q", request_id="mine"))).failure
            failure = check(failure, "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE", started=False)
            assert failure.retry_seconds > 0
        async with FakeModelServer(options):
            assert (await client.stream(ask("q"))).completed is not None
        failure = (await client.stream(ask("q", request_id="mine"))).failure
        check(failure, "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE", started=False)
        async with FakeModelServer(options):
            assert (await client.stream(ask("q"))).completed is not None
    told = [
        record.getMessage().split(":")[1]
        for record in caplog.records
        if record.name == "llm_service.upstream.outage_log"
    ]
    port = options.port
    assert told == [f"{port} cannot be used", f"{port} answers again"] * 2, "a line a change"


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("401", "PERMISSION_DENIED", "MODEL_SERVER_DENIED"),
        ("404", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE"),
        ("400", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE"),
        ("429", "RESOURCE_EXHAUSTED", "MODEL_SERVER_OVERLOADED"),
        ("500", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE"),
        ("503", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE"),
        ("close", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE"),
        ("not-http", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE"),
        ("garbage-body", "UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE"),
    ],
)
async def test_the_list_of_models_fails_as_the_contract_says(
    client: Client, fake: FakeModelServer, fault: str, status: str, reason: str
) -> None:
    fake.fail(fault, everywhere=True)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.models()
    failure = failure_of(caught.value)
    check(failure, status, reason, started=False, request_id=failure.metadata["request_id"])
    failure_of_call = (await client.stream(ask("q", request_id="mine"))).failure
    check(failure_of_call, status, reason, started=False)
    fake.fail("")
    assert (await client.stream(ask("q"))).completed is not None


async def test_many_calls_ask_for_the_list_once(client: Client, fake: FakeModelServer) -> None:
    answers = await asyncio.gather(*(client.stream(ask("q", answer_prefix="The")) for _ in range(50)))
    assert all(answer.completed for answer in answers)
    # The list, and three prompts that show whether an answer can be continued.
    assert fake.counts.lookups == 4


async def test_neither_question_nor_answer_is_logged(
    client: Client, fake: FakeModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for fault in ("400", "401", "500", "garbage", "cut", "error", "none"):
        await client.stream(ask(f"SECRETQUESTION [[fault={fault} delay=0.001]]", answer_prefix="SECRETPREFIX"))
    words = {"SECRETQUESTION", "SECRETPREFIX", *expected_answer("SECRETQUESTION").split()}
    logged = " ".join(record.getMessage() for record in caplog.records)
    assert fake.counts.requests == 7
    assert not [word for word in words if word in logged]


async def test_a_defect_is_told_and_logged_without_what_was_asked(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_: ModelCatalogue, name: str) -> None:
        raise RuntimeError(f"SECRET {name}")

    monkeypatch.setattr(ModelCatalogue, "resolve", broken)
    failure = (await client.stream(ask("q", request_id="mine"))).failure
    assert failure is not None
    assert (failure.code.name, failure.reason) == ("INTERNAL", "DEFECT")
    assert "SECRET" not in failure.message
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "RuntimeError" in record.getMessage()
    trace = getattr(record, TRACE)
    assert "test_failures.py" in trace
    assert "SECRET {name}" in trace, "the line of code"
    assert "SECRET first" not in record.getMessage() + trace, "and not its value"
