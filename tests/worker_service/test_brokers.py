"""The worker and its broker: hints are consumed, and go on being consumed, whatever happens to the broker."""

import asyncio
import signal
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.settings import BrokerSettings
from live.hints import Hints, celery_app
from tests.worker_service.amqp_proxy import CONSUME, amqp_proxy
from tests.worker_service.asking import ask, states
from tests.worker_service.brokers import QUEUE, Broker, Rabbit, RedisBroker, run_broker
from tests.worker_service.conftest import StartWorker
from tests.worker_service.fake_llm_service import FakeLlmService
from tests.worker_service.processes import WorkerProcess
from tests.worker_service.waiting import eventually

_LOST = "the broker does not answer"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(
    scope="module",
    params=[pytest.param("valkey", marks=pytest.mark.valkey), pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)],
)
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that already has the queue.

    RabbitMQ 3.10 that is killed in the first second of a quorum queue's life starts again with a queue that hangs.
    """
    with run_broker(request.param, tmp_path_factory.mktemp("broker")) as broker:
        app = celery_app("tests", BrokerSettings(broker_url=SecretStr(broker.url)))
        with app.connection_for_write() as connection:
            app.conf.task_queues[0].bind(connection.default_channel).declare()
        yield broker


@pytest.fixture
def hints(broker: Broker) -> Iterator[Hints]:
    broker.forget_unfinished()
    hints = Hints(celery_app("tests", BrokerSettings(broker_url=SecretStr(broker.url))))
    yield hints
    hints.close()


async def send(hints: Hints, count: int) -> None:
    """Send hints, and wait until the broker has them."""

    def sent() -> bool:
        if not hints.reachable and not hints._pending:  # what it could not send is lost
            hints.wake(count)
        return hints.reachable and not hints._pending

    hints.wake(count)
    await eventually(sent, "the hints are sent", seconds=60)


async def all_consumed(hints: Hints, broker: Broker, count: int) -> None:
    """Send hints, and wait until a worker has taken and acknowledged all of them."""
    await send(hints, count)
    await eventually(lambda: broker.unfinished() == 0, "the hints are consumed", seconds=60)


async def held_up(engine: AsyncEngine, llm: FakeLlmService, hints: Hints, worker: WorkerProcess) -> None:
    """Let the worker begin eight answers, which stop in the middle until ``llm.flowing`` is set."""
    await worker.ready()
    llm.flowing.clear()
    for number in range(8):
        await ask(engine, f"held {number}")
    hints.wake(8)
    await eventually(lambda: llm.running == 8, "the questions are being answered")


async def completed(engine: AsyncEngine, count: int) -> None:
    async def done() -> bool:
        return (await states(engine))["completed"] == count

    await eventually(done, "all are answered")


async def _close_connections(broker: Broker, worker: WorkerProcess) -> None:
    """Close the worker's connection once it consumes, and wait until it has noticed."""
    await eventually(lambda: broker.consumers() == 1, "the worker consumes", seconds=60)
    before = worker.log_text().count(_LOST)
    broker.close_connections()
    await eventually(lambda: worker.log_text().count(_LOST) > before, "the worker notices", seconds=60)


async def test_consuming_goes_on_after_the_broker_has_closed_the_connection(
    engine: AsyncEngine, llm: FakeLlmService, broker: Broker, hints: Hints, start_worker: StartWorker
) -> None:
    worker = start_worker(ASKMESH_BROKER_URL=broker.url)
    await held_up(engine, llm, hints, worker)

    for times in range(3):
        await _close_connections(broker, worker)
        if times:
            await all_consumed(hints, broker, 20)
    llm.flowing.set()

    await completed(engine, 8)
    assert llm.asked.total() == 8
    await all_consumed(hints, broker, 20)
    assert "Couldn't ack" not in worker.log_text()


@pytest.mark.parametrize("broker", ["valkey"], indirect=True)
async def test_consuming_goes_on_after_connections_were_closed_in_the_middle_of_reconnecting(
    engine: AsyncEngine, llm: FakeLlmService, broker: Broker, hints: Hints, start_worker: StartWorker
) -> None:
    """Hints that the worker was putting back stay in Celery's "unacked" for an hour then, which does no harm."""
    assert isinstance(broker, RedisBroker)
    worker = start_worker(ASKMESH_BROKER_URL=broker.url)
    await held_up(engine, llm, hints, worker)

    await _close_connections(broker, worker)
    for _ in range(300):
        broker.close_connections()
    llm.flowing.set()

    await completed(engine, 8)
    await send(hints, 20)
    await eventually(lambda: broker.waiting() == 0, "the hints are consumed", seconds=60)


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
async def test_consuming_goes_on_after_connections_were_cut_at_each_step_of_reconnecting(
    engine: AsyncEngine, llm: FakeLlmService, broker: Broker, hints: Hints, start_worker: StartWorker
) -> None:
    assert isinstance(broker, Rabbit)
    async with amqp_proxy(broker.server.port) as proxy:
        worker = start_worker(ASKMESH_BROKER_URL=broker.server.url_at(proxy.port))
        await held_up(engine, llm, hints, worker)
        await eventually(lambda: CONSUME in proxy.said, "it consumes")
        steps = list(dict.fromkeys(proxy.said[: proxy.said.index(CONSUME) + 1]))
        for step in steps:
            proxy.cut_at = step
            proxy.cut()
            await eventually(lambda: proxy.cut_at is None, f"the worker connects again up to {step}", seconds=60)
            await eventually(lambda: CONSUME in proxy.said, f"it consumes after it was cut at {step}", seconds=60)
        llm.flowing.set()

        await completed(engine, 8)
        assert llm.asked.total() == 8
        await all_consumed(hints, broker, 20)
        assert "Couldn't ack" not in worker.log_text()


async def test_answers_go_on_without_the_broker_and_consuming_when_it_is_back(
    engine: AsyncEngine, llm: FakeLlmService, broker: Broker, hints: Hints, start_worker: StartWorker
) -> None:
    worker = start_worker(ASKMESH_BROKER_URL=broker.url)
    await held_up(engine, llm, hints, worker)

    broker.kill()
    await ask(engine, "asked without a broker")
    await eventually(lambda: llm.running == 9, "a question is taken up without a broker")
    broker.start()
    llm.flowing.set()

    await completed(engine, 9)
    assert llm.asked.total() == 9
    for _ in range(2):
        await all_consumed(hints, broker, 20)
    assert "Couldn't ack" not in worker.log_text()


async def test_a_worker_starts_and_stops_without_a_broker(
    engine: AsyncEngine, llm: FakeLlmService, broker: Broker, hints: Hints, start_worker: StartWorker
) -> None:
    broker.stop()
    waiting = start_worker(ASKMESH_BROKER_URL=broker.url)
    await ask(engine, "asked without a broker")
    await completed(engine, 1)
    await waiting.ready()
    stopped = start_worker(ASKMESH_BROKER_URL=broker.url)
    await eventually(lambda: _LOST in stopped.log_text(), "it tries to connect")
    stopped.send(signal.SIGTERM)
    assert await stopped.ended() == 0

    broker.start()
    await eventually(lambda: "the broker answers again" in waiting.log_text(), "it is told", seconds=60)
    await all_consumed(hints, broker, 20)
    told = [line for line in waiting.log_text().splitlines() if "the broker" in line]
    assert len(told) == 2, told
    assert "answers again" in told[1]


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
@pytest.mark.parametrize(
    ("refusal", "remedy"),
    [
        ("a classic queue", "delete_queue"),
        ("may not configure", "set_permissions"),
        ("may not read", "set_permissions"),
        ("wrong password", "set_permissions"),
        ("no such virtual host", "virtual host"),
    ],
)
async def test_a_broker_that_refuses_is_told_once_and_done_without(
    engine: AsyncEngine, llm: FakeLlmService, broker: Broker, start_worker: StartWorker, refusal: str, remedy: str
) -> None:
    assert isinstance(broker, Rabbit)
    url = broker.url
    if refusal == "a classic queue":
        broker.server.replace_by_classic(QUEUE)
    elif refusal == "wrong password":
        url = url.replace("guest:guest", "guest:wrong")
    elif refusal == "no such virtual host":
        url = f"{url.removesuffix('/')}nowhere"
    else:
        broker.server.permit(configure="" if refusal == "may not configure" else ".*", read="")
    try:
        worker = start_worker(ASKMESH_BROKER_URL=url)
        await worker.ready()
        hints = Hints(celery_app("tests", BrokerSettings(broker_url=SecretStr(url))))
        for number in range(5):
            await ask(engine, f"asked {number}")
            hints.wake()
            await completed(engine, number + 1)
        assert not hints.reachable or refusal == "may not read"
        hints.close()
        (told,) = [line for line in worker.log_text().splitlines() if "broker" in line]
        assert remedy in told
        assert "Traceback" not in worker.log_text()
        assert "RestartFreqExceeded" not in worker.log_text()
        worker.send(signal.SIGTERM)
        assert await worker.ended() == 0
    finally:
        await asyncio.to_thread(broker.server.permit, configure=".*", read=".*")
        broker.server.delete(QUEUE)


async def test_a_worker_that_is_stopped_leaves_hints_to_others(
    engine: AsyncEngine, llm: FakeLlmService, broker: Broker, hints: Hints, start_worker: StartWorker
) -> None:
    first = start_worker(ASKMESH_BROKER_URL=broker.url)
    await first.ready()
    first.send(signal.SIGTERM)
    assert await first.ended() == 0

    hints.wake(80)
    await eventually(lambda: broker.unfinished() == 5, "the hints wait")  # each wakes 16 slots
    second = start_worker(ASKMESH_BROKER_URL=broker.url)
    await second.ready()

    await eventually(lambda: broker.unfinished() == 0, "the hints are consumed")


async def test_answers_and_a_stop_do_not_wait_for_a_broker_that_hangs(
    engine: AsyncEngine, llm: FakeLlmService, broker: Broker, start_worker: StartWorker
) -> None:
    worker = start_worker(ASKMESH_BROKER_URL=broker.url)
    await worker.ready()
    broker.freeze()
    try:
        await ask(engine, "asked while the broker hangs")
        await completed(engine, 1)
        worker.send(signal.SIGTERM)
        assert await worker.ended() == 0
    finally:
        broker.thaw()


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
async def test_rabbitmq_holds_one_quorum_queue_and_gives_out_few_hints_at_a_time(
    engine: AsyncEngine, broker: Broker, start_worker: StartWorker
) -> None:
    assert isinstance(broker, Rabbit)
    start_worker(ASKMESH_BROKER_URL=broker.url, ASKMESH_WORKER_SLOTS="8")
    await eventually(lambda: broker.consumers() == 1, "the worker consumes", seconds=60)

    assert broker.server.queues() == {QUEUE: "quorum"}
    assert broker.server.prefetches() == ["4"]  # each for up to 16 slots; one waits where no slot is free
