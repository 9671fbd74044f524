import asyncio

import pytest

from llm_service.errors import LlmError, Reason
from llm_service.rpc.admission import Admission
from tests.llm_service.conftest import until


async def hold(admission: Admission, finish: asyncio.Event) -> str:
    try:
        async with admission.slot():
            await finish.wait()
    except LlmError as error:
        return error.reason.name
    return "finished"


async def test_the_limit_holds_and_a_slot_comes_back() -> None:
    admission, finish = Admission(2), asyncio.Event()
    holders = [asyncio.create_task(hold(admission, finish)) for _ in range(2)]
    await until(lambda: admission.held == 2)
    with pytest.raises(LlmError) as caught:
        async with admission.slot():
            pass
    assert caught.value.reason is Reason.TOO_MANY_GENERATIONS
    finish.set()
    assert await asyncio.gather(*holders) == ["finished", "finished"]
    async with admission.slot():
        assert admission.held == 1


async def test_draining_waits_for_what_is_in_flight() -> None:
    admission, finish = Admission(2), asyncio.Event()
    holder = asyncio.create_task(hold(admission, finish))
    await until(lambda: admission.held)
    draining = asyncio.create_task(admission.drain(3600))
    await asyncio.sleep(0)
    with pytest.raises(LlmError) as caught:
        async with admission.slot():
            pass
    assert caught.value.reason is Reason.DRAINING
    assert not draining.done()
    finish.set()
    await draining
    assert await holder == "finished"


async def test_draining_ends_what_does_not_end() -> None:
    admission = Admission(3)
    holders = [asyncio.create_task(hold(admission, asyncio.Event())) for _ in range(3)]
    await until(lambda: admission.held == 3)
    await admission.drain(0)
    assert await asyncio.gather(*holders) == ["DRAINING"] * 3
    assert admission.held == 0


async def test_a_timeout_of_the_generations_own_is_not_draining() -> None:
    admission = Admission(1)
    with pytest.raises(TimeoutError):
        async with admission.slot():
            raise TimeoutError
