"""What processes tell each other through Redis: that text was written, that an answer is final or no longer wanted.

A lost signal costs time only: whoever waits for one also looks from time to time.
"""

import asyncio
import secrets
from collections.abc import Collection, Coroutine
from typing import Final, Protocol

from redis.asyncio.client import PubSub
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from foundation.redis import MeshRedis
from live.answer_stream import bury_texts, close_texts
from live.text_scripts import LuaScript

ENDED_CHANNEL: Final = "ended"
"""Carries the id of each answer that nobody waits for any more, for the worker that generates it."""

_RETRY_SECONDS: Final = 1.0
# Between two echoes. One that is not heard in the same time says that the connection is dead, or leads elsewhere.
_ECHO_SECONDS: Final = 5.0
_PROBE_SECONDS: Final = 60
# A replica publishes, but does not write.
_ECHO: Final = LuaScript(f"""
redis.call('SET', KEYS[1], '', 'EX', {_PROBE_SECONDS})
redis.call('PUBLISH', KEYS[2], '')
""")


async def publish_ended(redis: MeshRedis, answer_ids: Collection[int]) -> None:
    """Say that these answers ended without their workers: to those, and to all who wait for the end.

    Without Redis workers notice at their next heartbeat.
    """
    try:
        channel = redis.name(ENDED_CHANNEL)
        async with redis.pipeline(transaction=False) as pipeline:
            for answer_id in answer_ids:
                pipeline.publish(channel, str(answer_id))
            await pipeline.execute()
        await close_texts(redis, answer_ids)
    except (RedisError, OSError) as error:
        redis.mesh.note(error)


async def publish_erased(redis: MeshRedis, answer_ids: Collection[int]) -> None:
    """As ``publish_ended``, for answers that are no more, of which Redis shall keep nothing.

    Without Redis what a worker still writes of them stays until the sweeper finds it.
    """
    await publish_ended(redis, answer_ids)
    try:
        await bury_texts(redis, answer_ids)
    except (RedisError, OSError) as error:
        redis.mesh.note(error)


class Listener(Protocol):
    """Who a Subscriber tells. None of it may block. Channels are named without the mesh."""

    def listening(self, channel: str) -> None:
        """From now on nothing on this channel is missed; what came before may have been.

        Comes again after each lost connection.
        """

    def heard(self, channel: str, data: bytes) -> None:
        """A message. What it raises says that the message cannot be read: it is skipped and counted."""

    def lost(self, error: BaseException) -> None:
        """Redis does not answer; comes again with each attempt, a second apart."""


class Subscriber:
    """The one connection by which a process listens, to channels of which some come and go all the time.

    Every few seconds it writes and publishes an echo by another connection and waits to hear it. So it finds in 10 s
    that Redis does not serve, or that its connection leads to a server to which nobody else speaks any more; and the
    process knows by it whether Redis is back.
    """

    def __init__(self, redis: MeshRedis, listener: Listener, *channels: str) -> None:
        self._redis = redis
        self._listener = listener
        self._echo_channel = f"echo:{secrets.token_hex(8)}"
        self._wanted = {self._echo_channel, *channels}
        self._changed = asyncio.Event()
        self._echoed = asyncio.Event()

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
                prefix = self._redis.name("")
                self._echoed.clear()
                async with self._redis.pubsub() as pubsub:
                    await pubsub.ping()  # connects, so that there is something to hear from
                    await _first_of(self._follow(pubsub, prefix), self._hear(pubsub, prefix), self._echo())
            except (RedisError, OSError) as error:
                self._redis.mesh.note(error)
                self._listener.lost(error)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _follow(self, pubsub: PubSub, prefix: str) -> None:
        listened: set[str] = set()
        while True:
            self._changed.clear()
            wanted = set(self._wanted)  # which can change while a command is sent
            if added := wanted - listened:
                await pubsub.subscribe(*(prefix + channel for channel in added))
            if removed := listened - wanted:
                await pubsub.unsubscribe(*(prefix + channel for channel in removed))
            listened = wanted
            await self._changed.wait()

    async def _hear(self, pubsub: PubSub, prefix: str) -> None:
        while True:
            message = await pubsub.get_message(timeout=_ECHO_SECONDS)
            if message is None:
                continue
            if (kind := message["type"]) in {"message", "subscribe"}:
                self._tell(kind, message["channel"].decode().removeprefix(prefix), message["data"])

    def _tell(self, kind: str, channel: str, data: bytes) -> None:
        if channel == self._echo_channel:
            self._echoed.set()
        elif kind == "subscribe":
            self._listener.listening(channel)
        else:
            try:
                self._listener.heard(channel, data)
            except Exception as error:  # noqa: BLE001 - whatever it holds, the next message may be fine
                self._redis.mesh.unreadable.skip(f"a message on {channel.partition(':')[0]}", error)

    async def _echo(self) -> None:
        await self._until_echoed()  # as soon as it is subscribed to
        while True:
            await _ECHO.run(self._redis, [self._redis.name("probe"), self._redis.name(self._echo_channel)], ())
            await self._until_echoed()
            self._redis.mesh.outage.succeeded()
            await self._pause()

    async def _pause(self) -> None:
        """Pause until the next echo is due, which it is soon where somebody has seen Redis fail."""
        due_at = asyncio.get_running_loop().time() + _ECHO_SECONDS
        while asyncio.get_running_loop().time() < due_at and self._redis.mesh.outage.reachable:  # noqa: ASYNC110
            await asyncio.sleep(_RETRY_SECONDS)

    async def _until_echoed(self) -> None:
        try:
            async with asyncio.timeout(_ECHO_SECONDS):
                await self._echoed.wait()
        except TimeoutError:
            raise RedisTimeoutError("what was published is not heard") from None
        self._echoed.clear()


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
