"""Telling whoever started this process that it is ready, as systemd does (sd_notify(3), NOTIFY_SOCKET)."""

import os
import socket


def notify_ready() -> None:
    """Send READY=1 to the datagram socket that NOTIFY_SOCKET names; does nothing where it is not set."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract name space
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        notifier.sendto(b"READY=1", address)
