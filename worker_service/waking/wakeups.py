"""Takes wake-ups, by which a question that was just asked is claimed at once."""

import asyncio
from typing import Final

from foundation.reachability import Reachability
from foundation.redis import MeshRedis
from live.wakeups import next_wakeup
from worker_service.answering.text_publisher import REDIS_ERRORS
from worker_service.claiming.slots import Slots

_RETRY_SECONDS: Final = 1.0


async def take_wakeups(redis: MeshRedis, slots: Slots, reachability: Reachability) -> None:
    """Let slots look for work when they are woken, until the process begins to stop.

    Without a free slot it takes no wake-up, so that other workers do. ``redis``: made for calls that wait;
    ``reachability``: of it.
    """
    while await slots.until_free():
        try:
            count = await next_wakeup(redis)
        except REDIS_ERRORS as error:
            reachability.failed(error)
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            slots.start(count)
