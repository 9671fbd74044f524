import socket
from pathlib import Path

import pytest

from tests.compose.stack import peers

# As a worker's container has them: the one that listens, one that is closing, and those to PostgreSQL and to gRPC.
_IN_A_CONTAINER = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0B00007F:9D01 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 050012AC:9D02 020012AC:1538 01 00000000:00000000 00:00000000 00000000     0        0 2
   2: 050012AC:9D03 060012AC:C383 06 00000000:00000000 00:00000000 00000000     0        0 3
   3: 050012AC:9D04 070012AC:C383 01 00000000:00000000 00:00000000 00000000     0        0 4
  sl  local_address                         remote_address                        st tx_queue rx_queue
   0: 0000000000000000FFFF0000050012AC:9D05 0000000000000000FFFF0000080012AC:C383 01 00000000:00000000
   1: 0000000000000000FFFF0000050012AC:9D06 0000000000000000FFFF0000070012AC:C383 01 00000000:00000000
"""


def test_who_is_connected_to_a_port_is_read_from_either_table() -> None:
    assert peers(_IN_A_CONTAINER, 50051) == {"070012AC", "080012AC"}
    assert peers(_IN_A_CONTAINER, 5432) == {"020012AC"}
    assert peers(_IN_A_CONTAINER, 9999) == set()


@pytest.mark.loopback
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux has /proc/net/tcp")
def test_so_does_this_kernel_write_them() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as connected,
    ):
        (accepted, _) = listening.accept()
        with accepted:
            port = connected.getpeername()[1]
            assert peers(Path("/proc/net/tcp").read_text(), port) == {"0100007F"}
