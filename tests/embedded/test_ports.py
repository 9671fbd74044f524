import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from embedded.errors import EmbeddedError
from embedded.ports import consecutive, free_port, listen, port_of


@pytest.mark.loopback
def test_a_taken_port_names_the_setting_to_change() -> None:
    with listen(0, "ASKMESH_PORT") as listener:
        port = port_of(listener)
        with pytest.raises(EmbeddedError, match=f"^port {port} is in use: .* set ASKMESH_PORT to another port$"):
            listen(port, "ASKMESH_PORT")


@pytest.mark.loopback
def test_replicas_take_the_ports_after_the_first() -> None:
    for _ in range(20):  # the ports after a free one can be taken
        first = free_port()
        with suppress(EmbeddedError):
            assert consecutive(first, 3, "ASKMESH_GRPC_PORT") == [first, first + 1, first + 2]
            return
    pytest.fail("no three free ports in a row")


@pytest.mark.loopback
def test_port_0_gives_each_replica_a_free_port() -> None:
    ports = consecutive(0, 3, "ASKMESH_GRPC_PORT")
    assert len(set(ports)) == 3
    assert 0 not in ports


@pytest.mark.processes
def test_no_two_parties_get_the_same_free_port() -> None:
    # Each holds the ports that it got until all have got theirs.
    program = "from embedded.ports import free_port; print(*(free_port() for _ in range(50)), flush=True); input()"
    parties = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    try:
        given = [int(port) for party in parties if party.stdout for port in party.stdout.readline().split()]
    finally:
        for party in parties:
            party.communicate("")
    assert len(given) == len(set(given)) == 200


@pytest.mark.loopback
def test_a_connection_never_takes_a_free_port() -> None:
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    lowest = int(given.read_text().split()[0]) if given.exists() else 32_768
    assert all(free_port() < lowest for _ in range(20))


@pytest.mark.loopback
def test_a_port_that_somebody_listens_on_is_not_given() -> None:
    with listen(0, "") as listener:
        taken = port_of(listener)
        with pytest.raises(EmbeddedError, match=f"^no port from {taken} to {taken} is free$"):
            free_port(range(taken, taken + 1))


@pytest.mark.loopback
def test_a_taken_port_among_the_replicas_is_refused() -> None:
    with listen(0, "") as listener:
        last = port_of(listener)
        # Something else on this machine can have taken the first one.
        with pytest.raises(EmbeddedError, match=f"^port ({last - 1}|{last}) is in use: .* ASKMESH_GRPC_PORT"):
            consecutive(last - 1, 2, "ASKMESH_GRPC_PORT")


def test_ports_beyond_the_last_are_refused() -> None:
    with pytest.raises(EmbeddedError, match="set ASKMESH_GRPC_PORT to a lower one"):
        consecutive(65_535, 2, "ASKMESH_GRPC_PORT")
