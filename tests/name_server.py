"""A name server of the tests' own: one name whose addresses change, as Docker's does when replicas come and go."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

_HEADER = struct.Struct(">HHHHHH")
_TYPE_A = 1


class NameServer(asyncio.DatagramProtocol):
    """Answers every question for an IPv4 address with ``addresses``; they may be kept for no time."""

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses
        self.port = 0
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        number, *_ = _HEADER.unpack_from(data)
        end = data.index(0, _HEADER.size) + 5
        asked = data[_HEADER.size : end]
        addresses = self.addresses if struct.unpack(">H", asked[-4:-2])[0] == _TYPE_A else []
        answers = b"".join(
            struct.pack(">HHHIH", 0xC00C, _TYPE_A, 1, 0, 4) + IPv4Address(one).packed for one in addresses
        )
        self._transport.sendto(_HEADER.pack(number, 0x8580, 1, len(addresses), 0, 0) + asked + answers, address)


@asynccontextmanager
async def name_server(*addresses: str) -> AsyncIterator[NameServer]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: NameServer(list(addresses)), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        transport.close()
