"""Waiting for conditions instead of for time."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

Condition = Callable[[], bool | Awaitable[bool]]


async def eventually(condition: Condition, what: str, seconds: float = 30) -> None:
    """Wait until the condition holds; fail, saying what did not happen, if it takes longer than a generous time."""
    try:
        async with asyncio.timeout(seconds):
            while not await _holds(condition):
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"waited {seconds} s in vain: {what}") from None


async def _holds(condition: Condition) -> bool:
    result = condition()
    return await result if inspect.isawaitable(result) else result
