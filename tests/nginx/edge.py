"""The real nginx with the configuration of nginx/, in front of replicas that a test has started."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from embedded.ports import free_port

CONFIGURATION = Path(__file__).parents[2] / "nginx"
MAX_BODY_BYTES = 65_536


def version() -> tuple[int, ...] | None:
    """Of the nginx of this machine; None where there is none."""
    if shutil.which("nginx") is None:
        return None
    said = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
    found = re.search(r"nginx/([0-9.]+)", said)
    assert found, said
    return tuple(int(part) for part in found[1].split("."))


VERSION = version()


class Edge:
    """nginx for the length of a ``with`` block: ``url`` for REST, ``grpc`` for gRPC.

    What differs from a container is what depends on the machine: addresses, folders, and for an nginx older than
    Docker's, how HTTP/2 is switched on and that replicas have fixed addresses instead of a name.
    """

    def __init__(
        self,
        folder: Path,
        *,
        api: Sequence[int] = (),
        llm: Sequence[int] = (),
        certificates: Path | None = None,
        grpc_certificates: Path | None = None,
        grpc_callers: Path | None = None,
        **variables: str,
    ) -> None:
        """``api`` and ``llm``: ports of the replicas on 127.0.0.1. ``folder`` must be readable by everybody.

        ``certificates``: the folder of those for the public, which switches TLS on; ``grpc_certificates``: of those for
        llm_service; ``grpc_callers``: the folder of the authority that signs for callers, which publishes gRPC, by the
        certificate for the public. ``variables``: of the templates, as ``NGINX_HSTS``.
        """
        self._folder = folder
        self._ports = {"8080": free_port(), "50051": free_port()}
        if certificates:
            self._ports["8443"] = free_port()
        if grpc_callers:
            self._ports["50443"] = free_port()
        self._folders = {
            "/etc/nginx/tls": certificates,
            "/etc/nginx/grpc_callers": grpc_callers,
            "/etc/nginx/grpc": grpc_certificates,
        }
        self._variables = {
            "ASKMESH_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
            "NGINX_CONNECTIONS_PER_ADDRESS": "1000",
            "NGINX_KEYLESS_REQUESTS_PER_SECOND": "100",
            "NGINX_PUBLIC": "tls" if certificates else "plain",
            "NGINX_GRPC": "public" if grpc_callers else "local",
            "NGINX_LLM": "tls" if grpc_certificates else "plain",
            "NGINX_HSTS": "",
            "NGINX_HTTPS_PORT": str(self._ports.get("8443", 443)),
        } | variables
        self._write({"api_service": api or [1], "llm_service": llm or [1]})
        self.url = f"http://127.0.0.1:{self._ports['8080']}"
        self.port = self._ports["8080"]
        self.tls_port = self._ports.get("8443", 0)
        self.grpc = f"127.0.0.1:{self._ports['50051']}"
        self.grpc_public = f"localhost:{self._ports.get('50443', 0)}"

    def __enter__(self) -> Self:
        self.check()
        self.start()
        return self

    def start(self) -> None:
        """Return when it listens. It can be started again at the same ports after ``stop`` or ``kill``."""
        command = [*self._command, "-g", "daemon off;"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        give_up_at = time.monotonic() + 30
        while not all(_listens(port) for port in self._ports.values()):
            assert self._process.poll() is None, self._process.communicate()[1]
            assert time.monotonic() < give_up_at, "nginx does not listen"
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it as an operator does who does not wait: connections are cut."""
        self._process.terminate()
        self._wait()

    def kill(self) -> None:
        """End it, master and workers, without warning."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._wait()

    def _wait(self) -> None:
        """Until all of its processes have gone: a worker that is ending still takes connections, and answers none."""
        self._process.wait(30)
        give_up_at = time.monotonic() + 30
        while any(_listens(port) for port in self._ports.values()):
            assert time.monotonic() < give_up_at, "a process of nginx goes on listening"
            time.sleep(0.02)
        assert self._process.stderr is not None
        self._process.stderr.close()

    def check(self) -> None:
        """``nginx -t``."""
        checked = subprocess.run([*self._command, "-t"], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        assert "[warn]" not in checked.stderr, checked.stderr

    def log(self) -> str:
        """The access log."""
        return (self._folder / "access.log").read_text()

    @property
    def _command(self) -> list[str]:
        return ["nginx", "-p", str(self._folder), "-c", str(self._folder / "nginx.conf"), "-e", "stderr"]

    def _write(self, replicas: dict[str, Sequence[int]]) -> None:
        shutil.copytree(CONFIGURATION, self._folder, dirs_exist_ok=True)
        (self._folder / "conf.d").mkdir()
        for template in (CONFIGURATION / "templates").iterdir():
            made = re.sub(r"\$\{(\w+)\}", lambda found: self._variables[found[1]], template.read_text())
            (self._folder / "conf.d" / template.stem).write_text(made)
        for file in self._folder.rglob("*.conf"):
            file.write_text(self._adapted(file.read_text(), replicas))

    def _adapted(self, text: str, replicas: dict[str, Sequence[int]]) -> str:
        text = text.replace(" /tmp/", f" {self._folder}/")
        text = text.replace("/dev/stdout", str(self._folder / "access.log"))
        text = re.sub(r"resolver(_timeout)? .*;", "", text)
        for place, folder in self._folders.items():
            text = text.replace(f"{place}/", f"{folder}/")
        for service, ports in replicas.items():
            servers = "\n".join(rf"server 127.0.0.1:{port} \g<1>" for port in ports)
            text = re.sub(rf"server {service}:\d+ resolve (.*)", servers, text)
        assert VERSION is not None
        old = VERSION < (1, 25, 1)
        for port, own in self._ports.items():
            for tls in ("", " ssl"):
                http2 = " http2" if old and (tls or port == "50051") else ""
                text = text.replace(f"listen {port}{tls};", f"listen 127.0.0.1:{own}{tls}{http2};")
        return text.replace("http2 on;", "") if old else text


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
