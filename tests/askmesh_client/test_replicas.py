"""Several replicas behind one client, and replicas that come and go."""

import pytest
from askmesh_client import GenerationClient, UnavailableError

from tests.askmesh_client.replica import Replica, eventually, running

pytestmark = pytest.mark.loopback


async def answering(client: GenerationClient, calls: int) -> set[str]:
    return {(await client.list_models(timeout=60))[0].id for _ in range(calls)}


async def test_calls_take_turns_and_leave_a_replica_alone_that_does_not_serve() -> None:
    async with (
        running("a") as a,
        running("b") as b,
        GenerationClient(f"127.0.0.1:{a.port}, 127.0.0.1:{b.port}") as client,
    ):

        async def answers_from(*names: str) -> bool:
            return await answering(client, 20) == set(names)

        await eventually(lambda: answers_from("a", "b"))
        await b.serving(False)
        await eventually(lambda: answers_from("a"))
        await b.serving(True)
        await a.serving(False)
        await eventually(lambda: answers_from("b"))
        await a.serving(True)
        await eventually(lambda: answers_from("a", "b"))


async def test_no_replica_that_serves_is_unavailable_and_not_a_wait(replica: Replica, client: GenerationClient) -> None:
    await replica.serving(False)
    with pytest.raises(UnavailableError):
        await client.list_models(timeout=60)
    assert replica.calls == 0


async def test_a_replica_is_used_again_after_its_restart(replica: Replica, client: GenerationClient) -> None:
    assert await answering(client, 1) == {"only"}
    await replica.stop()
    with pytest.raises(UnavailableError):
        await client.list_models(timeout=60)
    await replica.start()

    async def serves() -> bool:
        try:
            return await answering(client, 1) == {"only"}
        except UnavailableError:
            return False

    await eventually(serves)


async def test_a_name_is_resolved() -> None:
    async with running("named") as replica, GenerationClient(f"localhost:{replica.port}") as client:
        assert await answering(client, 3) == {"named"}
