"""docker-compose.yml as a project of its own: its containers, what they did, and how they are ended."""

import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import orjson

from embedded.ports import free_port

ROOT = Path(__file__).parents[2]
SERVICES = ("api_service", "worker_service", "llm_service")
_GRPC_PORT = 50051
_ESTABLISHED = "01"
_SQL = """
CREATE TABLE compose_claims (worker text);
CREATE FUNCTION compose_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO compose_claims SELECT name FROM workers WHERE id = NEW.holder; RETURN NULL; END $$;
CREATE TRIGGER compose_note AFTER UPDATE OF holder ON answers FOR EACH ROW
    WHEN (NEW.holder IS NOT NULL AND NEW.holder IS DISTINCT FROM OLD.holder) EXECUTE FUNCTION compose_note();
"""


class Stack:
    """Runs commands in the project's root. A failing command raises with what it printed."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.port = free_port()
        self.grpc_port = free_port()
        self.settings = {
            "COMPOSE_PROJECT_NAME": "askmesh-test",
            "ASKMESH_PORT": str(self.port),
            "ASKMESH_GRPC_PORT": str(self.grpc_port),
            # Short answers: it is the mesh that is tested, and the model runs on a core of the same machine.
            "ASKMESH_MAX_OUTPUT_TOKENS": "8",
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def compose(self, *arguments: str, **settings: str) -> str:
        return self.run("docker", "compose", *arguments, **settings)

    def run(self, *command: str, **settings: str) -> str:
        environment: Mapping[str, str] = os.environ | self.settings | {"IMAGE_TAG": self.tag} | settings
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def scale(self, **replicas: int) -> None:
        counts = [word for service, count in replicas.items() for word in ("--scale", f"{service}={count}")]
        self.compose("up", "--detach", "--no-recreate", "--wait", "--wait-timeout", "300", *counts)

    def containers(self, service: str) -> list[str]:
        """Ids of those that run, in full length."""
        return self.compose("ps", "--quiet", "--no-trunc", service).split()

    def inspect(self, container: str, template: str) -> str:
        return self.run("docker", "inspect", "--format", template, container).strip()

    def kill(self, container: str) -> None:
        """As kill -9 does it: the engine starts the container again. Raises TimeoutError if it is not healthy again."""
        began = self.inspect(container, "{{.State.StartedAt}}")
        try:
            os.kill(int(self.inspect(container, "{{.State.Pid}}")), signal.SIGKILL)
        except (PermissionError, ProcessLookupError):  # an engine in a virtual machine, or of somebody else
            self.run("docker", "kill", container)
            self.run("docker", "start", container)
        give_up_at = time.monotonic() + 300
        while (
            self.inspect(container, "{{.State.StartedAt}}") == began
            or self.inspect(container, "{{.State.Health.Status}}") != "healthy"
        ):
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"{container} is not healthy again")
            time.sleep(0.5)

    def sql(self, statement: str) -> str:
        psql = ("psql", "--username=askmesh", "--no-align", "--tuples-only", "--quiet", "--command")
        return self.compose("exec", "--no-TTY", "db", *psql, statement).strip()

    def note_claims(self) -> None:
        """Have PostgreSQL note from now on which worker claims what."""
        self.sql(_SQL)

    def requests_by_replica(self) -> Counter[str]:
        """What nginx sent to each address of api_service, health checks included."""
        lines = self.compose("logs", "--no-log-prefix", "nginx").splitlines()
        found = (re.search(r'"path":"(?:/api/[^"]*)".*"upstream":"([^"]+)"', line) for line in lines)
        return Counter(match[1].split(",")[-1].strip() for match in found if match)

    def claims_by_worker(self) -> Counter[str]:
        rows = self.sql("SELECT worker, count(*) FROM compose_claims GROUP BY worker").splitlines()
        return Counter({row.split("|")[0]: int(row.split("|")[1]) for row in rows})

    def kilobytes_by_llm(self) -> dict[str, int]:
        """What each llm_service has received, in kB: it counts no calls."""
        received = {}
        for container in self.containers("llm_service"):
            table = self.run("docker", "exec", container, "cat", "/proc/net/dev")
            received[container[:12]] = sum(int(row[1]) for row in map(str.split, table.splitlines()) if "eth" in row[0])
        return {name: amount // 1000 for name, amount in received.items()}

    def llm_services_by_worker(self) -> list[set[str]]:
        """To the addresses of which llm_services each worker is connected; none, for one that has not asked yet."""
        read = ("sh", "-c", "cat /proc/net/tcp*")
        return [
            peers(self.run("docker", "exec", container, *read), _GRPC_PORT)
            for container in self.containers("worker_service")
        ]

    def down(self) -> None:
        """Remove all that belongs to this project, its images too; what they were built of stays as build cache."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "60")
        images = self.run("docker", "images", "--quiet", "--filter", "reference=askmesh/*:test*").split()
        if images:
            self.run("docker", "image", "rm", "--force", *sorted(set(images)))

    def left(self) -> list[str]:
        """Containers and volumes of this project."""
        label = ("--filter", "label=com.docker.compose.project=askmesh-test", "--quiet")
        return self.run("docker", "ps", "--all", *label).split() + self.run("docker", "volume", "ls", *label).split()

    def state(self, service: str) -> list[dict[str, object]]:
        lines = self.compose("ps", "--all", "--format", "json", service).splitlines()
        return [orjson.loads(line) for line in lines]


def peers(sockets: str, port: int) -> set[str]:
    """IPv4 addresses, in the hexadecimal form of /proc/net/tcp, that connections to this port lead to."""
    found = set()
    for line in sockets.splitlines():
        _, _, remote, state, *_ = line.split()
        # In tcp6 an IPv4 address is the end of a longer one.
        if state == _ESTABLISHED and remote.endswith(f":{port:04X}"):
            found.add(remote.partition(":")[0][-8:])
    return found
