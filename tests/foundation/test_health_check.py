import pytest
from askmesh_client.channel import SERVICE

from embedded.ports import free_port
from tests.llm_service.processes import running, service_process

pytestmark = pytest.mark.processes


async def test_it_succeeds_only_while_the_service_takes_calls() -> None:
    async with (
        service_process("http://127.0.0.1:1/v1") as service,
        running("foundation.health_check", f"127.0.0.1:{service.port}", SERVICE) as check,
    ):
        assert await check.wait() == 0
    async with running("foundation.health_check", f"127.0.0.1:{free_port()}", SERVICE) as check:
        _, said = await check.communicate()
        assert check.returncode == 1
        assert said == b"UNAVAILABLE\n"
