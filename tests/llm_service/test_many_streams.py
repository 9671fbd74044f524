"""1,000 streams at once in one llm_service process."""

import asyncio

import psutil

from tests.fakes.model_server import FakeModelServer, expected_answer
from tests.llm_service.conftest import ask, client_of, until
from tests.llm_service.processes import service_process

STREAMS = 1_000
# 107 MB when idle, mostly LangChain and gRPC, and 20 to 45 KB a stream: 126 to 150 MB were seen. More means that a
# stream has come to cost twice as much.
MEGABYTES = 200


async def test_a_thousand_streams_run_at_once_in_bounded_memory(fake: FakeModelServer) -> None:
    async with service_process(fake.url, max_generations=str(STREAMS)) as service, client_of(service.port) as client:
        questions = [f"q{index} [[tokens=12 hold=11]]" for index in range(STREAMS)]
        calls = [asyncio.create_task(client.stream(ask(question), timeout=110)) for question in questions]
        await until(lambda: fake.counts.tokens_written == STREAMS * 11)
        assert fake.counts.in_flight == STREAMS
        refused = (await client.stream(ask("one more"))).failure
        assert refused is not None
        assert refused.reason == "TOO_MANY_GENERATIONS"
        memory = psutil.Process(service.process.pid).memory_info().rss / 1e6
        fake.release()
        answers = await asyncio.gather(*calls)
    assert [answer.text for answer in answers] == [expected_answer(question) for question in questions]
    assert fake.counts.completed == STREAMS
    assert memory < MEGABYTES, f"{memory:.0f} MB"
