"""PostgreSQL from its wheel, as the tests of the services run it."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import psutil
import pytest

from embedded import postgresql as postgresql_module
from embedded.errors import EmbeddedError
from embedded.postgresql import PostgreSQL

pytestmark = pytest.mark.postgresql


def process_of(server: PostgreSQL) -> psutil.Process:
    return psutil.Process(server.pid)


@contextmanager
def closed_umask() -> Iterator[None]:
    """As careful administrators set it for root."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


async def fetch(server: PostgreSQL, statement: str) -> object:
    connection = await asyncpg.connect(server.url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_it_is_durable_sorts_by_code_point_and_is_out_of_reach_by_network(tmp_path: Path) -> None:
    with PostgreSQL(tmp_path / "data") as server:
        assert await fetch(server, "SHOW fsync") == "on"
        assert await fetch(server, "SHOW listen_addresses") == ""
        assert await fetch(server, "SHOW server_encoding") == "UTF8"
        assert (
            await fetch(server, "SELECT upper('ответ') || (SELECT max(t) FROM unnest('{Z,a,я}'::text[]) t)") == "ОТВЕТя"
        )
        assert process_of(server).net_connections("inet") == []


async def test_settings_come_before_its_own(tmp_path: Path) -> None:
    with PostgreSQL(tmp_path / "data", settings={"max_connections": "30"}) as server:
        assert await fetch(server, "SHOW max_connections") == "30"


async def test_data_outlive_a_kill_and_a_deep_folder_is_no_obstacle(tmp_path: Path) -> None:
    data_dir = tmp_path.joinpath(*["a folder with a long name"] * 10, "data")
    with PostgreSQL(data_dir) as server:
        await fetch(server, "CREATE TABLE kept AS SELECT 42 AS number")
        postmaster = process_of(server)
        backends = postmaster.children()
        server.kill()
        psutil.wait_procs(backends, timeout=60)
    with PostgreSQL(data_dir) as server:
        assert await fetch(server, "SELECT number FROM kept") == 42


async def test_the_lock_of_a_dead_server_whose_number_another_process_got_is_removed(tmp_path: Path) -> None:
    with PostgreSQL(tmp_path / "data") as server:
        lock = (tmp_path / "data" / "postmaster.pid").read_text()
    _, rest = lock.split("\n", 1)
    (tmp_path / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n{rest}")
    with server:
        assert await fetch(server, "SELECT 1") == 1


async def test_a_killed_server_that_nobody_has_reaped_does_not_stop_the_next_start(tmp_path: Path) -> None:
    killed = PostgreSQL(tmp_path / "data")
    killed.start()
    family = process_of(killed).children(recursive=True)
    os.kill(killed.pid, signal.SIGKILL)
    psutil.wait_procs(family, timeout=30)
    assert process_of(killed).status() == psutil.STATUS_ZOMBIE
    with PostgreSQL(tmp_path / "data") as server:
        assert await fetch(server, "SELECT 1") == 1
    killed.stop()


def test_nothing_is_left_of_a_first_start_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql_module, "DATABASE", '"')
    with pytest.raises(EmbeddedError, match=r"^PostgreSQL's postgres failed: "), PostgreSQL(tmp_path / "data"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused by PostgreSQL")
def test_started_by_root_it_runs_as_a_user_of_its_own_and_opens_no_folder_to_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with PostgreSQL(tmp_path / "data") as server:
        assert process_of(server).username() == "askmesh"
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="needs root on Linux")
async def test_a_virtual_environment_closed_to_that_user_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_module, "_can_execute", lambda *_: False)
    with closed_umask(), PostgreSQL(tmp_path / "data") as server:
        assert process_of(server).exe().startswith(str(server._runtime.path))
        assert await fetch(server, "SELECT 1") == 1
    assert not server._runtime.path.exists()
