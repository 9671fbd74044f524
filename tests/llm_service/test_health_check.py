import pytest

from embedded.ports import free_port
from tests.llm_service.processes import running, service_process

pytestmark = pytest.mark.integration


async def test_it_succeeds_only_while_the_service_takes_calls() -> None:
    async with (
        service_process("http://127.0.0.1:1/v1") as service,
        running("llm_service.health_check", llm_port=str(service.port)) as check,
    ):
        assert await check.wait() == 0
    async with running("llm_service.health_check", llm_port=str(free_port())) as check:
        _, said = await check.communicate()
        assert check.returncode == 1
        assert said == b"UNAVAILABLE\n"
