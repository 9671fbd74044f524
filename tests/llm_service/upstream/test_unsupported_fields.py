"""Model servers that do not take a field which llm_service sends by itself."""

import asyncio
import logging
from typing import Any

import pytest

from tests.fakes.model_server import FakeModelServer, Options, expected_answer
from tests.llm_service.conftest import ask, service_over

pytestmark = pytest.mark.loopback


@pytest.mark.parametrize(
    ("unknown", "stream_options"),
    [
        (("stream_options",), None),
        (("continuous_usage_stats",), {"include_usage": True}),
        (("continuous_usage_stats", "include_usage"), None),
        (("stream_options", "max_tokens"), None),
    ],
)
async def test_it_is_asked_again_without_what_it_does_not_know_and_that_is_remembered(
    unknown: tuple[str, ...], stream_options: dict[str, Any] | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    options = Options(unknown_fields=unknown)
    async with FakeModelServer(options) as fake, service_over(fake.url) as (_, client):
        first = await client.stream(ask("SECRET", max_output_tokens=50))
        assert first.text == expected_answer("SECRET")
        assert fake.bodies[-1].get("stream_options") == stream_options
        assert ("max_tokens" in fake.bodies[-1]) is ("max_tokens" not in unknown)
        assert fake.counts.completed == 1, "generated once"
        requests = fake.counts.requests
        for question in ("second", "third"):
            assert (await client.stream(ask(question, max_output_tokens=50))).text == expected_answer(question)
        assert fake.counts.requests == requests + 2, "it is not asked with them again"
    logged = [record.getMessage() for record in caplog.records]
    assert len(logged) == 1
    assert "SECRET" not in logged[0]


async def test_a_refusal_after_the_200_is_one_too() -> None:
    options = Options(unknown_fields=("stream_options", "max_tokens"), refuses_late=True)
    async with FakeModelServer(options) as fake, service_over(fake.url) as (_, client):
        for question in ("first", "second"):
            answer = await client.stream(ask(question, max_output_tokens=50))
            assert answer.text == expected_answer(question)
        assert fake.counts.completed == 2
        assert fake.counts.requests <= 4


async def test_the_limit_has_another_name_where_it_is_not_known() -> None:
    options = Options(unknown_fields=("max_tokens",), owned_by="openai")
    async with FakeModelServer(options) as fake, service_over(fake.url) as (_, client):
        answer = await client.stream(ask("q [[tokens=30]]", max_output_tokens=5))
        assert answer.text == expected_answer("q [[tokens=5]]")
        assert fake.bodies[-1]["max_completion_tokens"] == 5
        assert fake.counts.requests == 2


async def test_settings_say_it_without_a_question() -> None:
    options = Options(unknown_fields=("max_tokens", "stream_options"))
    settings = {"model_stream_options": "no", "model_limit_field": "max_completion_tokens"}
    async with FakeModelServer(options) as fake, service_over(fake.url, **settings) as (_, client):
        answer = await client.stream(ask("q [[tokens=30]]", max_output_tokens=5))
        assert answer.text == expected_answer("q [[tokens=5]]")
        assert fake.counts.requests == 1


async def test_a_name_that_settings_say_is_not_changed() -> None:
    options = Options(unknown_fields=("max_tokens",))
    async with FakeModelServer(options) as fake, service_over(fake.url, model_limit_field="max_tokens") as (_, client):
        failure = (await client.stream(ask("q", max_output_tokens=5))).failure
        assert failure is not None
        assert failure.reason == "REQUEST_REFUSED"
        assert fake.counts.requests == 1


async def test_what_stays_refused_is_asked_once_more_and_nothing_is_remembered() -> None:
    options = Options(unknown_fields=("stream_options", "temperature"))
    async with FakeModelServer(options) as fake, service_over(fake.url) as (_, client):
        spec = ask("q")
        spec.sampling.temperature = 0.5
        failure = (await client.stream(spec)).failure
        assert failure is not None
        assert failure.reason == "REQUEST_REFUSED"
        assert fake.counts.requests == 2
        fake.options = Options()
        assert (await client.stream(ask("q"))).deltas[0].HasField("usage")


@pytest.mark.parametrize("unknown", ["continue_final_message", "add_generation_prompt"])
async def test_a_server_that_cannot_be_told_to_continue_cannot_continue(unknown: str) -> None:
    options = Options(unknown_fields=(unknown,), owned_by="somebody")
    async with FakeModelServer(options) as fake, service_over(fake.url, model_continues="yes") as (_, client):
        failure = (await client.stream(ask("q", answer_prefix="The"))).failure
        assert failure is not None
        assert failure.reason == "CANNOT_CONTINUE"
        assert fake.counts.completed == 0
        assert (await client.stream(ask("q"))).text == expected_answer("q")


async def test_many_calls_at_once_each_find_out_and_all_are_answered() -> None:
    options = Options(unknown_fields=("stream_options",))
    async with FakeModelServer(options) as fake, service_over(fake.url) as (_, client):
        answers = await asyncio.gather(*(client.stream(ask(f"q{number}")) for number in range(20)))
        assert [answer.text for answer in answers] == [expected_answer(f"q{number}") for number in range(20)]
        assert fake.counts.completed == 20
