"""`make run` as its user sees it: real servers, and stand-ins for the services."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import asyncpg
import psutil
import pytest

from embedded.ports import free_port, listen, port_of

STAND_INS = Path(__file__).with_name("stand_ins")
SERVICES = {"llm_service", "worker_service", "api_service"}
SERVERS = {"postgresql", "valkey", "model"}
# Servers that nobody needs, because their addresses are given: such a start takes 2 s.
ELSEWHERE = {
    "ASKMESH_MODEL_URL": "http://127.0.0.1:1/v1",
    "ASKMESH_REDIS_URL": "redis://127.0.0.1:1/0",
    "ASKMESH_BROKER_URL": "amqp://127.0.0.1:1",
}


class Run:
    """One start of the supervisor."""

    def __init__(self, data_dir: Path, output: Path, settings: dict[str, str]) -> None:
        self.data_dir = data_dir
        self._output = output
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ASKMESH_")}
        own = {"ASKMESH_PORT": "0", "ASKMESH_GRPC_PORT": "0", "ASKMESH_DATA_DIR": str(data_dir)}
        with output.open("wb") as sink:
            self.process = subprocess.Popen(
                (sys.executable, "-m", "embedded"), cwd=STAND_INS, env=kept | own | settings, stdout=sink, stderr=sink
            )
        self._started: list[psutil.Process] = []

    @property
    def output(self) -> str:
        return self._output.read_text()

    def children(self) -> dict[str, psutil.Process]:
        """By name."""
        entries = json.loads((self.data_dir / "processes.json").read_text())
        return {entry["name"]: psutil.Process(entry["pid"]) for entry in entries}

    def wait_for(self, pattern: str) -> str:
        """Wait for a line that matches; return what did."""
        while not (found := re.search(pattern, self.output, re.MULTILINE)):
            assert self.process.poll() is None, self.output
            time.sleep(0.05)
        return found.group()

    def wait_until_ready(self) -> None:
        self.wait_for("^Try it:")
        self._started = psutil.Process(self.process.pid).children(recursive=True)

    def get(self) -> dict[str, str]:
        """What api_service answers: its environment."""
        address = self.wait_for(r"http://localhost:\d+")
        with urlopen(address, timeout=60) as response:
            return dict(line.split("=", 1) for line in response.read().decode().splitlines() if "=" in line)

    async def fetch(self, statement: str) -> object:
        connection = await asyncpg.connect(self.get()["ASKMESH_DATABASE_URL"])
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    def left(self) -> list[psutil.Process]:
        """What still runs of all that ran when it was ready."""
        _, alive = psutil.wait_procs(self._started, timeout=60)
        return alive


Starter = Callable[..., Run]


@pytest.fixture
def start(processes: None, tmp_path: Path) -> Iterator[Starter]:
    """Starts supervisors on the same data; the settings are keyword arguments without their prefix."""
    runs: list[Run] = []

    def start_one(**settings: str) -> Run:
        runs.append(Run(tmp_path / "data", tmp_path / f"output-{len(runs)}", settings))
        return runs[-1]

    yield start_one
    for run in runs:
        run.process.terminate()
    for run in runs:
        run.process.wait()


def refusal(run: Run) -> tuple[int, str]:
    status = run.process.wait()
    return status, run.output


def test_it_starts_everything_says_where_and_leaves_nothing(start: Starter) -> None:
    run = start()
    run.wait_until_ready()
    assert set(run.children()) == SERVERS | SERVICES
    assert all(re.search(rf"^{name} +ready after", run.output, re.MULTILINE) for name in SERVERS | SERVICES)
    assert re.search(r"^  llm_service +localhost:\d+ \(gRPC\)$", run.output, re.MULTILINE)
    assert "It asks nobody on this machine who they are, and serves nobody else." in run.output
    settings = run.get()
    sockets = [
        Path(settings[name].split("/tmp/")[1].split("/")[0]) for name in ("ASKMESH_DATABASE_URL", "ASKMESH_REDIS_URL")
    ]
    run.process.terminate()
    assert run.process.wait() == 0
    assert run.left() == []
    assert not any(folder.exists() for folder in sockets)
    assert not (run.data_dir / "processes.json").exists()


def test_servers_elsewhere_and_replicas(start: Starter) -> None:
    run = start(
        **ELSEWHERE | {"ASKMESH_BROKER_URL": "amqp://user:secret@127.0.0.1:1"},
        ASKMESH_LLM_REPLICAS="2",
        ASKMESH_WORKER_REPLICAS="2",
        ASKMESH_API_REPLICAS="2",
        ASKMESH_API_HOST="0.0.0.0",
        ASKMESH_REQUIRE_AUTH="true",
        ASKMESH_MAX_BODY_BYTES="2048",
        NOTIFY_SOCKET="/of/the/supervisor",
    )
    run.wait_until_ready()
    names = {f"{service}-{number}" for service in SERVICES for number in (1, 2)}
    assert set(run.children()) == names | {"postgresql"}
    assert {file.stem for file in (run.data_dir / "logs").glob("*-*.log")} == names
    assert "as ASKMESH_BROKER_URL says" in run.output
    assert "secret" not in run.output

    settings = run.get()
    assert settings["ASKMESH_MAX_BODY_BYTES"] == "2048"
    assert settings["ASKMESH_DRAIN_SECONDS"] == "5"
    assert settings["ASKMESH_REDIS_URL"] == ELSEWHERE["ASKMESH_REDIS_URL"]
    targets = settings["ASKMESH_LLM_TARGETS"].split(",")
    assert len(set(targets)) == 2
    assert all(target.replace("127.0.0.1", "localhost") in run.output for target in targets)
    assert settings.keys().isdisjoint({"ASKMESH_PORT", "ASKMESH_DATA_DIR", "ASKMESH_MODEL_URL", "NOTIFY_SOCKET"})


def test_a_service_that_dies_is_started_again_and_callers_only_wait(start: Starter) -> None:
    run = start(**ELSEWHERE)
    run.wait_until_ready()
    run.children()["api_service"].kill()
    run.wait_for("^api_service +was ended by SIGKILL: starting it again")
    assert "ASKMESH_API_LISTEN_FD" in run.get()
    run.wait_for("^api_service +ready again")


async def test_a_database_that_dies_is_started_again_with_its_data(start: Starter) -> None:
    run = start(**ELSEWHERE)
    run.wait_until_ready()
    await run.fetch("CREATE TABLE kept AS SELECT 42 AS number")
    run.children()["postgresql"].kill()
    run.wait_for("^postgresql +ready again")
    assert await run.fetch("SELECT number FROM kept") == 42


async def test_the_next_start_after_a_kill_has_the_data_and_no_second_copy_of_anything(start: Starter) -> None:
    run = start(**ELSEWHERE)
    run.wait_until_ready()
    await run.fetch("CREATE TABLE kept AS SELECT 42 AS number")
    run.process.kill()
    run.process.wait()
    again = start(**ELSEWHERE)
    again.wait_until_ready()
    assert run.left() == []
    assert await again.fetch("SELECT number FROM kept") == 42


def test_a_second_start_on_the_same_data_is_refused(start: Starter) -> None:
    run = start(**ELSEWHERE)
    run.wait_for("^postgresql +ready")
    status, output = refusal(start())
    assert status == 1
    assert re.fullmatch(
        rf"askmesh: askmesh already runs on .* as process {run.process.pid}: stop it, or set .*\n", output
    )
    assert run.process.poll() is None


@pytest.mark.parametrize("setting", ["ASKMESH_PORT", "ASKMESH_GRPC_PORT"])
def test_a_taken_port_is_refused(start: Starter, setting: str) -> None:
    with listen(0, "") as listener:
        port = port_of(listener)
        assert refusal(start(**{setting: str(port)})) == (
            1,
            f"askmesh: port {port} is in use: stop what uses it, or set {setting} to another port\n",
        )


def test_a_port_that_is_taken_while_it_starts_is_named_with_the_setting_to_change(start: Starter) -> None:
    port = free_port()
    run = start(**ELSEWHERE, ASKMESH_GRPC_PORT=str(port))
    while not (run.data_dir / "processes.json").exists():  # from then on it has seen that the port was free
        assert run.process.poll() is None, run.output
        time.sleep(0.01)
    with listen(port, ""):
        status, output = refusal(run)
    assert "postgresql         ready" in output
    last = f"askmesh: port {port} is in use: stop what uses it, or set ASKMESH_GRPC_PORT to another port"
    assert (status, output.splitlines()[-1]) == (1, last)


@pytest.mark.parametrize(
    ("setting", "value", "line"),
    [
        ("ASKMESH_PROT", "1", r"askmesh: unknown setting ASKMESH_PROT: .*\n"),
        ("ASKMESH_PORT", "high", r"askmesh: ASKMESH_PORT: .*\n"),
        ("ASKMESH_LEASE_SECONDS", "1", r"askmesh: ASKMESH_LEASE_SECONDS: .*\n"),
        (
            "ASKMESH_DATABASE_URL",
            "mysql://secret",
            r"askmesh: ASKMESH_DATABASE_URL: must be a URL .*\n",
        ),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_starts(start: Starter, setting: str, value: str, line: str) -> None:
    run = start(**{setting: value})
    status, output = refusal(run)
    assert status == 2
    assert re.fullmatch(line, output)
    assert "secret" not in output
    assert not (run.data_dir / "postgresql").exists()


def test_a_network_is_not_served_without_authentication(start: Starter) -> None:
    run = start(ASKMESH_API_HOST="0.0.0.0")
    status, output = refusal(run)
    assert status == 2
    assert output.startswith("askmesh: ASKMESH_API_HOST: on 0.0.0.0 anyone in the network could ask")
    assert "ASKMESH_REQUIRE_AUTH=true" in output
    assert not (run.data_dir / "postgresql").exists()


def test_a_stop_request_while_starting_is_heeded(start: Starter) -> None:
    run = start(**ELSEWHERE)
    run.wait_for("^postgresql +ready")
    children = list(run.children().values())
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait() == 0
    assert psutil.wait_procs(children, timeout=60)[1] == []
    assert "askmesh is ready" not in run.output


def test_a_database_that_is_away_is_waited_for_and_the_reason_is_said(start: Starter) -> None:
    run = start(**ELSEWHERE, ASKMESH_DATABASE_URL="postgresql://me@127.0.0.1:1/mesh")
    said = run.wait_for("^migrations .*")
    assert "waiting for PostgreSQL" in said
    assert "nobody listens there" in said
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait() == 0


def test_a_url_that_cannot_be_is_refused_before_anything_starts(start: Starter) -> None:
    run = start(**ELSEWHERE, ASKMESH_DATABASE_URL="postgresql://me:sesame@db/mesh?colour=red")
    status, said = refusal(run)
    assert status == 2
    assert "ASKMESH_DATABASE_URL: colour in its query" in said
    assert "sesame" not in said
