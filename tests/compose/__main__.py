"""``python -m tests.compose``, or ``make compose-test``: the containers from build to down, as users have them.

Needs a Docker engine with compose 2.26 or later, and 6 GB of memory. Prints a table; exit status 1 if a step fails.
"""

import asyncio
import random
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import orjson
from askmesh_client import GenerationClient

from tests.chaos.crowd import Crowd
from tests.compose.stack import ROOT, SERVICES, Stack

_QUESTIONS = 100
_AT_ONCE = 24
_ANSWERED = {"completed", "incomplete"}
_MIGRATION = '''"""A step of the release to come."""

from alembic import op

revision, down_revision = "9999", "{head}"


def upgrade() -> None:
    op.execute("ALTER TABLE questions ADD COLUMN of_the_next_release text")
'''


class Run:
    """The steps in order; each prints a row of the table."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.number = 0
        self.key = ""

    def step(self, name: str, do: Callable[[], str]) -> None:
        began = time.monotonic()
        result = do()
        print(f"| {name:<34} | {result:<76} | {time.monotonic() - began:5.1f} s |", flush=True)

    def play(self) -> None:
        print(f"| {'step':<34} | {'seen':<76} | {'took':>7} |\n| --- | --- | ---: |", flush=True)
        stack = self.stack
        self.step("images of others", self.images)
        self.step("docker compose config", self.config)
        self.step("docker compose build", self.build)
        self.step("docker compose up --wait", self.up)
        self.step("secrets", self.secrets)
        self.step("a first key", self.make_key)
        self.step("ask through nginx", self.ask)
        self.step("errors through nginx", self.errors)
        self.step("gRPC through nginx", lambda: asyncio.run(self.grpc()))
        stack.note_claims()
        self.step("scale to 3, 3 and 2", self.scale)
        self.step("questions over all replicas", self.spread)
        for service in SERVICES:
            self.step(f"kill -9 of one {service}", partial(self.kill, service))
        self.step("rolling upgrade, with a migration", self.upgrade)
        self.step("stop of one of each", self.stop)
        self.step("docker compose down", self.down)

    def images(self) -> str:
        said = self.stack.run("docker", "run", "--rm", "--entrypoint", "sh", "nginx:1.28", "-c", "nginx -v 2>&1")
        version = re.search(r"nginx/([0-9.]+)", said)
        assert version, said
        if tuple(map(int, version[1].split("."))) >= (1, 27, 3):
            return f"nginx {version[1]}"
        self.stack.run("docker", "build", "--tag", "nginx:1.28", str(ROOT / "tests/compose/stand_ins/nginx"))
        return f"nginx {version[1]} is too old to be official: Debian's next one stands in"

    def config(self) -> str:
        for model in ("cpu", "gpu"):
            self.stack.compose("config", "--quiet", MODEL_PROFILE=model)
        return "clean, with either model"

    def build(self) -> str:
        self.stack.compose("build")
        sizes = {
            name.removesuffix("_service"): int(self.stack.inspect(f"askmesh/{name}:{self.stack.tag}", "{{.Size}}"))
            for name in (*SERVICES, "model_cpu")
        }
        return "MB: " + ", ".join(f"{name} {size // 10**6}" for name, size in sizes.items())

    def up(self) -> str:
        self.stack.compose("up", "--detach", "--wait", "--wait-timeout", "300")
        give_up_at = time.monotonic() + 60
        while (ready := orjson.loads(self._get("/readyz"))) != {"status": "ready", "degraded": []}:
            assert time.monotonic() < give_up_at, ready  # api_service tries the broker again each second
            time.sleep(0.2)
        return "ready, nothing degraded"

    def secrets(self) -> str:
        stack = self.stack
        password = stack.compose("exec", "--no-TTY", "db", "cat", "/run/secrets/password").strip()
        assert re.fullmatch("[0-9a-f]{48}", password), "not as generated"
        assert password not in stack.compose("config")
        for service in (*SERVICES, "db", "rabbitmq", "redis", "nginx"):
            assert password not in stack.inspect(stack.containers(service)[0], "{{json .Config}}")
        urls = stack.compose("exec", "--no-TTY", "api_service", "sh", "-c", "ls /run/secrets").split()
        listed = stack.compose("exec", "--no-TTY", "llm_service", "sh", "-c", "ls /run/secrets 2>/dev/null || true")
        assert listed == "", listed
        return f"generated, in no environment; api_service reads {len(urls)}, llm_service none"

    def make_key(self) -> str:
        """As docs/compose.md says."""
        refused = _refusal_of(Request(f"{self.stack.url}/api/questions"))
        assert refused == "401 unauthenticated", refused
        made = self.stack.compose("run", "--rm", "--no-TTY", "operations", "keys", "create", "--tenant", "me")
        self.key = made.strip()
        assert re.fullmatch("askmesh_[0-9A-Za-z]{49}", self.key), "no key"
        assert orjson.loads(self._get("/api/questions")) == {"questions": []}
        return f"without one: {refused}; with {self.key[:14]}…: an empty list"

    def ask(self) -> str:
        question = {"question_text": "What is the capital of France?"}
        reply = orjson.loads(self._get("/api/ask", question))
        give_up_at = time.monotonic() + 120
        while (answer := orjson.loads(self._get(f"/api/answer/{reply['question_id']}")))["status"] not in _ANSWERED:
            assert time.monotonic() < give_up_at, answer
            time.sleep(0.2)
        assert "Paris" in answer["answer_text"], answer
        return str(answer["answer_text"])

    def errors(self) -> str:
        seen = []
        for path, body in (("/nothing", None), ("/api/ask", b"{"), ("/api/ask", b"x" * 70_000)):
            request = self._request(path, body)
            seen.append(_refusal_of(request))
        assert seen == ["404 path_not_found", "400 invalid_json", "413 body_too_large"], seen
        return ", ".join(seen)

    async def grpc(self) -> str:
        async with GenerationClient(f"127.0.0.1:{self.stack.grpc_port}") as client:
            return f"models: {', '.join(model.id for model in await client.list_models())}"

    def scale(self) -> str:
        self.stack.scale(api_service=3, worker_service=3, llm_service=2)
        counts = {service: len(self.stack.containers(service)) for service in SERVICES}
        assert counts == {"api_service": 3, "worker_service": 3, "llm_service": 2}, counts
        # A worker looks for further llm_services when its connection has reached its age of 10 s. One that has asked
        # nothing yet has no connection, and looks with its first call.
        give_up_at = time.monotonic() + 60
        while any(len(found) == 1 for found in self.stack.llm_services_by_worker()):
            assert time.monotonic() < give_up_at, "a worker has not found the second llm_service"
            time.sleep(0.2)
        return ", ".join(f"{name} {count}" for name, count in counts.items())

    def spread(self) -> str:
        before = self.stack.requests_by_replica(), self.stack.claims_by_worker(), self.stack.kilobytes_by_llm()
        self._load(lambda: None)
        requests = self.stack.requests_by_replica() - before[0]
        claims = self.stack.claims_by_worker() - before[1]
        bytes_ = [amount - before[2][name] for name, amount in self.stack.kilobytes_by_llm().items()]
        assert len(requests) == 3, requests
        assert len(claims) == 3, claims
        assert len(bytes_) == 2, bytes_
        assert min(bytes_) * 4 > max(bytes_), bytes_
        shares = [" ".join(map(str, sorted(counts.values()))) for counts in (requests, claims)]
        return f"requests {shares[0]}; claims {shares[1]}; kB to llm_service {' '.join(map(str, sorted(bytes_)))}"

    def kill(self, service: str) -> str:
        def strike() -> None:
            self.stack.kill(self.stack.containers(service)[0])

        return self._load(strike)

    def upgrade(self) -> str:
        stack, old = self.stack, self.stack.tag
        new = f"{old}-next"
        head = stack.sql("SELECT version_num FROM alembic_version")
        with TemporaryDirectory() as folder:
            Path(folder, "v9999_next.py").write_text(_MIGRATION.format(head=head))
            for service in SERVICES:
                steps = "/venv/lib/python3.12/site-packages/schema/migrations/versions/"
                copy = "" if service == "llm_service" else f"COPY v9999_next.py {steps}\n"
                Path(folder, "Dockerfile").write_text(f"FROM askmesh/{service}:{old}\nLABEL release=next\n{copy}")
                stack.run("docker", "build", "--tag", f"askmesh/{service}:{new}", folder)
        seen = self._load(lambda: stack.run("deploy/compose/upgrade.sh", IMAGE_TAG=new))
        stack.tag = new
        images = {stack.inspect(one, "{{.Config.Image}}") for service in SERVICES for one in stack.containers(service)}
        assert images == {f"askmesh/{service}:{new}" for service in SERVICES}, images
        revision = stack.sql("SELECT version_num FROM alembic_version")
        assert revision == "9999", revision
        counts = [len(stack.containers(service)) for service in SERVICES]
        assert counts == [3, 3, 2], counts
        return seen

    def stop(self) -> str:
        took = []
        for service in SERVICES:
            container = self.stack.containers(service)[0]
            began = time.monotonic()
            self.stack.run("docker", "stop", "--time", "40", container)
            status = self.stack.inspect(container, "{{.State.ExitCode}}")
            assert status == "0", f"{service} exited with {status}"
            took.append(f"{service} {time.monotonic() - began:.1f} s")
        return "exit status 0: " + ", ".join(took)

    def down(self) -> str:
        self.stack.down()
        left = self.stack.left()
        assert left == [], left
        return "nothing is left"

    def _load(self, strike: Callable[[], object]) -> str:
        """Questions from many users at a time; meanwhile strike. No question and no request may fail."""
        texts = [f"Repeat this number: {self.number + place}" for place in range(_QUESTIONS)]
        self.number += _QUESTIONS
        crowd = Crowd(lambda: self.stack.url, texts, _AT_ONCE, 0.5, random.Random(1), self.key)

        async def ask() -> None:
            asking = asyncio.create_task(crowd.ask_all())
            await crowd.until_accepted(_QUESTIONS // 3)
            await asyncio.to_thread(strike)
            await asyncio.wait_for(asking, 600)
            again = await crowd.read_all()
            for question in crowd.questions:
                assert question.final is not None, question
                assert question.final["status"] in _ANSWERED, question.final
                assert question.id is not None
                assert again[question.id] == question.final, (again[question.id], question.final)

        asyncio.run(ask())
        assert not crowd.surprises, crowd.surprises
        assert not crowd.retries, crowd.retries
        return f"{len(crowd.questions)} questions, all answered; 0 requests failed"

    def _get(self, path: str, body: object = None) -> bytes:
        data = None if body is None else orjson.dumps(body)
        with urlopen(self._request(path, data), timeout=30) as reply:
            content: bytes = reply.read()
        return content

    def _request(self, path: str, data: bytes | None) -> Request:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        return Request(self.stack.url + path, data=data, headers=headers)


def _refusal_of(request: Request) -> str:
    try:
        urlopen(request, timeout=30).close()
    except HTTPError as error:
        if error.headers.get_content_type() == "application/problem+json":
            return f"{error.code} {orjson.loads(error.read())['code']}"
        return f"{error.code} {error.headers.get_content_type()}"
    return "200"


def main() -> int:
    """Play, and leave nothing behind."""
    run = Run(Stack("test"))
    try:
        run.play()
    except (AssertionError, TimeoutError) as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        print(run.stack.compose("ps", "--all"), file=sys.stderr)
        print(run.stack.compose("logs", "--tail", "5"), file=sys.stderr)
        return 1
    finally:
        run.stack.down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
