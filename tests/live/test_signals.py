"""Signals through a real Redis that comes and goes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from embedded.valkey import Valkey
from foundation.redis import MeshRedis
from live.answer_stream import FINAL_CHANNEL
from live.signals import ENDED_CHANNEL, Subscriber, publish_ended
from tests.servers import redis_at


class Notes:
    """A listener that notes what it is told."""

    def __init__(self) -> None:
        self.noted: asyncio.Queue[tuple[str, str | bytes]] = asyncio.Queue()

    def listening(self, channel: str) -> None:
        self.noted.put_nowait(("listening", channel))

    def heard(self, channel: str, data: bytes) -> None:
        self.noted.put_nowait((channel, data))

    def lost(self, error: BaseException) -> None:
        del error
        self.noted.put_nowait(("lost", ""))

    async def next(self) -> tuple[str, str | bytes]:
        return await asyncio.wait_for(self.noted.get(), 20)

    async def until(self, note: tuple[str, str | bytes]) -> None:
        while await self.next() != note:
            pass


@asynccontextmanager
async def listening(valkey: Valkey, *channels: str) -> AsyncIterator[tuple[MeshRedis, Subscriber, Notes]]:
    redis = redis_at(valkey.url())
    notes = Notes()
    subscriber = Subscriber(redis, notes, *channels)
    task = asyncio.create_task(subscriber.run())
    try:
        yield redis, subscriber, notes
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await redis.aclose()


async def test_channels_come_and_go_on_one_connection(valkey: Valkey) -> None:
    async with listening(valkey, "a") as (redis, subscriber, notes):
        assert await notes.next() == ("listening", "a")
        subscriber.add("b", "c")
        assert {await notes.next(), await notes.next()} == {("listening", "b"), ("listening", "c")}
        await redis.publish(redis.name("b"), b"1")
        assert await notes.next() == ("b", b"1")
        subscriber.remove("b", "c")
        subscriber.add("c")
        while await redis.publish(redis.name("b"), b"2"):
            await asyncio.sleep(0.01)
        assert len(await redis.client_list(_type="pubsub")) == 1
        await redis.publish(redis.name("c"), b"3")
        await notes.until(("c", b"3"))


async def test_channels_that_are_added_while_others_are_subscribed_to_are_not_forgotten(valkey: Valkey) -> None:
    async with listening(valkey, "a") as (_, subscriber, notes):
        assert await notes.next() == ("listening", "a")
        channels = {f"many {number}" for number in range(50)}
        for channel in channels:
            subscriber.add(channel)
            await asyncio.sleep(0)
        assert {channel for _, channel in [await notes.next() for _ in channels]} == channels


@pytest.mark.valkey
async def test_a_lost_server_is_told_and_listened_to_again(tmp_path: Path) -> None:
    valkey = Valkey(tmp_path)
    with valkey:
        async with listening(valkey, "a") as (redis, _, notes):
            assert await notes.next() == ("listening", "a")
            valkey.kill()
            await notes.until(("lost", ""))
            valkey.start()
            await notes.until(("listening", "a"))
            await redis.publish(redis.name("a"), b"1")
            await notes.until(("a", b"1"))


async def test_an_ended_answer_is_told_to_its_worker_and_to_who_waits(valkey: Valkey) -> None:
    async with listening(valkey, ENDED_CHANNEL, FINAL_CHANNEL) as (redis, _, notes):
        assert {(await notes.next())[0], (await notes.next())[0]} == {"listening"}
        await publish_ended(redis, [7])
        assert {await notes.next(), await notes.next()} == {(ENDED_CHANNEL, b"7"), (FINAL_CHANNEL, b"7")}
