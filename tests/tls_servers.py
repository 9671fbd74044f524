"""Servers with TLS, for tests of the URLs that ask for it."""

import asyncio
import os
import pwd
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from embedded.ports import free_port

HOST = "localhost"
OTHER_HOST = "127.0.0.2"
"""Where PostgreSQL listens, too; the certificates of ``make_run`` do not bear it."""


def debians_postgresql() -> Path:
    """The programs of a PostgreSQL with TLS; the wheel's has none. Skips the test where there is none."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    pytest.skip("no PostgreSQL with TLS is installed; on Debian: apt-get install postgresql")


@contextmanager
def postgresql_with_tls(certificates: Path) -> Iterator[int]:
    """The port of a server on localhost that lets nobody in without TLS. Database, user: askmesh; password: askmesh."""
    programs = debians_postgresql()
    user = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="askmesh-postgresql-") as scratch:
        data = Path(scratch) / "data"
        for file in ("certificate.pem", "key.pem", "authority.pem"):
            shutil.copy(certificates / file, scratch)
            (Path(scratch) / file).chmod(0o600)
        (Path(scratch) / "password").write_text("askmesh\n")
        for path in (Path(scratch), *Path(scratch).iterdir()):
            os.chown(path, user.pw_uid, user.pw_gid)
        identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
        subprocess.run(
            [
                *(programs / "initdb", "-D", data, "-U", "askmesh", "--auth=scram-sha-256", "--no-sync", "--no-locale"),
                *("--encoding=UTF8", f"--pwfile={scratch}/password"),
            ],
            check=True,
            capture_output=True,
            **identity,  # type: ignore[call-overload]
        )
        (data / "pg_hba.conf").write_text("hostssl all all all scram-sha-256\n")
        settings = {
            "listen_addresses": f"127.0.0.1,{OTHER_HOST}",
            "port": str(port),
            "unix_socket_directories": "",
            "fsync": "off",
        }
        settings |= {"ssl": "on"} | {
            f"ssl_{name}_file": f"{scratch}/{file}"
            for name, file in (("cert", "certificate.pem"), ("key", "key.pem"), ("ca", "authority.pem"))
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, *options],
            stderr=subprocess.DEVNULL,
            **identity,  # type: ignore[call-overload]
        )
        try:
            give_up_at = time.monotonic() + 30
            ask = [str(programs / "pg_isready"), "--quiet", f"--host={HOST}", f"--port={port}"]
            while subprocess.run(ask, check=False).returncode not in (0, 1):
                assert server.poll() is None, "PostgreSQL did not start"
                assert time.monotonic() < give_up_at
                time.sleep(0.05)
            yield port
        finally:
            server.send_signal(3)  # at once
            server.wait(30)


@asynccontextmanager
async def tls_in_front_of(socket_path: str, certificates: Path) -> AsyncIterator[int]:
    """The port of TLS on localhost in front of a server's Unix socket, as of a Valkey that was built without TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "certificate.pem", certificates / "key.pem")
    held: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(socket_path)
        for source, sink in ((reader, inner_writer), (inner_reader, writer)):
            held.add(asyncio.create_task(pump(source, sink)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the loop's next turn
