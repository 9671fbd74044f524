"""Model servers whose list of models is empty, odd, old or not there."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from tests.fakes.model_server import FakeModelServer, Options, expected_answer
from tests.llm_service.conftest import Failure, ask, failure_of, service_over

pytestmark = pytest.mark.loopback

NOTHING: Sequence[object] = (
    {"object": "list", "data": []},
    {"object": "list", "data": None},
    {"object": "list"},
    {},
    [],
    {"data": [None, 7, "", {}, {"id": None}, {"id": ""}, {"id": 7}, {"object": "model"}]},
    {"models": []},
)
ODD: Sequence[tuple[int, object]] = (
    (200, "models"),
    (200, None),
    (200, 7),
    (200, {"data": "first"}),
    (200, {"data": {"id": "first"}}),
    (200, {"error": "warming up"}),
    (200, {"error": {"message": "starting", "code": 503}}),
    (404, {"detail": "Not Found"}),
    (405, {"detail": "Method Not Allowed"}),
    (501, None),
    (400, {"error": {"message": "no", "type": "invalid_request_error"}}),
    (422, {"detail": "no"}),
    (301, None),
    (500, {"error": "no"}),
)


async def refused(url: str, **settings: Any) -> list[Failure]:
    """How a question and the list fail of an llm_service over this server."""
    async with service_over(url, **settings) as (_, client):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.models()
        failure = (await client.stream(ask("q"))).failure
        assert failure is not None
        return [failure_of(caught.value), failure]


@pytest.mark.parametrize("listing", [*((200, body) for body in NOTHING), *ODD])
async def test_a_server_without_a_model_is_an_outage(listing: tuple[int, object]) -> None:
    async with FakeModelServer(Options(listing=listing)) as fake:
        for failure in await refused(fake.url):
            assert failure.reason == "MODEL_SERVER_UNAVAILABLE"
            assert failure.retry_seconds > 0
        assert fake.counts.requests == 0


@pytest.mark.parametrize("name", ["", "first"])
@pytest.mark.parametrize("listing", [(200, NOTHING[0]), (200, NOTHING[1]), (503, None)])
async def test_a_router_whose_engine_comes_is_used(listing: tuple[int, object], name: str) -> None:
    async with (
        FakeModelServer(Options(models=("first",), listing=listing)) as fake,
        service_over(fake.url) as (_, client),
    ):
        failure = (await client.stream(ask("q", model=name))).failure
        assert failure is not None
        assert failure.reason == "MODEL_SERVER_UNAVAILABLE", "that nothing is listed says nothing about a name"
        fake.options = Options(models=("first",))
        # Asked for again a second after the list before it.
        while (answer := await client.stream(ask("q", model=name))).completed is None:
            assert answer.failure is not None
            assert answer.failure.reason == "MODEL_SERVER_UNAVAILABLE"
            await asyncio.sleep(0.05)
        assert answer.text == expected_answer("q")


@pytest.mark.parametrize(
    "body",
    [
        {"object": "list", "data": [{"id": "first"}]},
        {"data": [None, {"id": 7}, {"id": "first", "object": "model", "meta": [], "max_model_len": "4096"}, {}]},
        [{"id": "first"}],
        ["first"],
        {"data": ["first", "second"]},
        {"models": [{"name": "first", "model": "first"}]},
        {"data": [{"name": "first"}]},
        {"data": [{"id": "first", "owned_by": None, "max_model_len": None}, {"id": "first"}]},
        {"data": [{"id": "first", "max_model_len": True}], "error": None},
    ],
)
async def test_entries_that_can_be_asked_are_used(body: object) -> None:
    options = Options(models=("first",), listing=(200, body))
    async with FakeModelServer(options) as fake, service_over(fake.url) as (_, client):
        assert (await client.models()).models[0].id == "first"
        answer = await client.stream(ask("q"))
        assert answer.started is not None
        assert answer.started.model == "first"


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_server_without_a_list_is_asked_for_the_model_that_settings_name(status: int) -> None:
    options = Options(models=("first",), listing=(status, {"detail": "no"}))
    async with FakeModelServer(options) as fake:
        async with service_over(fake.url, default_model="first") as (_, client):
            assert [(model.id, model.is_default) for model in (await client.models()).models] == [("first", True)]
            assert (await client.generate(ask("q"))).model == "first"
            assert (await client.generate(ask("q", model="first"))).model == "first"
            failure = (await client.stream(ask("q", model="other"))).failure
            assert failure is not None
            assert failure.reason == "MODEL_NOT_FOUND"
        fake.options = Options(models=("second",), listing=options.listing)
        async with service_over(fake.url, default_model="first") as (_, client):
            failure = (await client.stream(ask("q"))).failure
            assert failure is not None
            assert failure.reason == "MODEL_SERVER_UNAVAILABLE"


async def test_a_list_that_settings_give_is_not_asked_for() -> None:
    options = Options(models=("first", "second"), listing=(403, None))
    async with FakeModelServer(options) as fake:
        async with service_over(fake.url, model_names=" first, second ,,") as (_, client):
            assert [model.id for model in (await client.models()).models] == ["first", "second"]
            assert (await client.generate(ask("q"))).model == "first"
            assert (await client.generate(ask("q", model="second"))).model == "second"
            failure = (await client.stream(ask("q", model="third"))).failure
            assert failure is not None
            assert failure.reason == "MODEL_NOT_FOUND"
        assert fake.counts.lookups == 0


@pytest.mark.parametrize(
    ("listed", "asked"),
    [("llama3.2:latest", "llama3.2"), ("models/gemini-2.5-flash", "gemini-2.5-flash"), ("hf.co/x/y:Q4_K_M",) * 2],
)
async def test_a_model_has_the_name_that_its_users_know(listed: str, asked: str) -> None:
    async with FakeModelServer(Options(models=("other", listed))) as fake:
        async with service_over(fake.url) as (_, client):
            assert (await client.generate(ask("q", model=asked))).model == listed
        async with service_over(fake.url, default_model=asked) as (_, client):
            assert (await client.generate(ask("q"))).model == listed
            assert [model.is_default for model in (await client.models()).models] == [False, True]


async def test_a_model_that_is_listed_and_not_served_is_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    listing = (200, {"data": [{"id": "first"}]})
    async with FakeModelServer(Options(models=(), listing=listing)) as fake, service_over(fake.url) as (_, client):
        for spec in (ask("q"), ask("q", model="first")) * 3:
            failure = (await client.stream(spec)).failure
            assert failure is not None
            assert failure.reason == "MODEL_SERVER_UNAVAILABLE"
        fake.options = Options(models=("first",))
        assert (await client.stream(ask("q"))).text == expected_answer("q")
    assert len(caplog.records) == 2, "a line when it begins and one when it ends"
