"""What processes tell each other through Redis: that text was written, that an answer is final or no longer wanted.

A lost signal costs time only: whoever waits for one also looks from time to time.
"""

import asyncio
import logging
from collections.abc import Collection, Coroutine
from typing import Final, Protocol

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from questions.answer_stream import bury_texts, close_texts

logger = logging.getLogger(__name__)

ENDED_CHANNEL: Final = "askmesh:ended"
"""Carries the id of each answer that nobody waits for any more, for the worker that generates it."""

_RETRY_SECONDS: Final = 1.0
# After so much silence a ping is sent, and after as much again the connection counts as dead.
_SILENCE_SECONDS: Final = 5.0


async def publish_ended(redis: Redis, answer_ids: Collection[int]) -> None:
    """Say that these answers were cancelled or have expired: to their workers, and to those who wait for the end."""
    try:
        async with redis.pipeline(transaction=False) as pipeline:
            for answer_id in answer_ids:
                pipeline.publish(ENDED_CHANNEL, str(answer_id))
            await pipeline.execute()
        await close_texts(redis, answer_ids)
    except (RedisError, OSError):
        logger.warning("Redis did not take a signal: workers will notice at their next heartbeat")


async def publish_erased(redis: Redis, answer_ids: Collection[int]) -> None:
    """As ``publish_ended``, for answers that are no more, of which Redis shall keep nothing."""
    await publish_ended(redis, answer_ids)
    try:
        await bury_texts(redis, answer_ids)
    except (RedisError, OSError):
        logger.warning("Redis did not bury a dropped text: if a worker still writes it, it stays for two days")


class Listener(Protocol):
    """Who a Subscriber tells. None of it may block or raise."""

    def listening(self, channel: str) -> None:
        """From now on nothing on this channel is missed; what came before may have been.

        Comes again after each lost connection.
        """

    def heard(self, channel: str, data: bytes) -> None:
        """A message."""

    def lost(self, error: BaseException) -> None:
        """Redis does not answer; comes again with each attempt, a second apart."""


class Subscriber:
    """The one connection by which a process listens, to channels of which some come and go all the time."""

    def __init__(self, redis: Redis, listener: Listener, *channels: str) -> None:
        self._redis = redis
        self._listener = listener
        self._wanted = set(channels)
        self._changed = asyncio.Event()

    def add(self, *channels: str) -> None:
        """Listen to these as well; the listener is told when it has begun."""
        self._wanted.update(channels)
        self._changed.set()

    def remove(self, *channels: str) -> None:
        """Listen to these no more; messages that are on their way may still come."""
        self._wanted.difference_update(channels)
        self._changed.set()

    async def run(self) -> None:
        """Listen for ever. A lost connection is made anew."""
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await pubsub.ping()  # connects, so that there is something to hear from
                    await _first_of(self._follow(pubsub), self._hear(pubsub))
            except (RedisError, OSError) as error:
                self._listener.lost(error)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _follow(self, pubsub: PubSub) -> None:
        listened: set[str] = set()
        while True:
            self._changed.clear()
            wanted = set(self._wanted)  # which can change while a command is sent
            if added := wanted - listened:
                await pubsub.subscribe(*added)
            if removed := listened - wanted:
                await pubsub.unsubscribe(*removed)
            listened = wanted
            await self._changed.wait()

    async def _hear(self, pubsub: PubSub) -> None:
        silent = False
        while True:
            message = await pubsub.get_message(timeout=_SILENCE_SECONDS)
            if message is None:
                if silent:
                    raise RedisTimeoutError
                silent = True
                await pubsub.ping()
                continue
            silent = False
            match message["type"]:
                case "message":
                    self._listener.heard(message["channel"].decode(), message["data"])
                case "subscribe":
                    self._listener.listening(message["channel"].decode())


async def _first_of(*parts: Coroutine[None, None, None]) -> None:
    """Run all until one ends, which it does by raising."""
    tasks = {asyncio.create_task(part) for part in parts}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        running = {task for task in tasks if not task.done()}
        while running:
            for task in running:
                task.cancel()
            # Again and again: asyncio.wait_for, of which redis-py is fond, can swallow a cancellation in Python 3.11.
            _, running = await asyncio.wait(running, timeout=0.1)
        for task in tasks:
            if not task.cancelled():
                task.exception()
