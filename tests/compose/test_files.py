import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from foundation.settings import GROUPS, PREFIX, EmbeddedSettings, Group, SecretSettings, described
from tests.compose.stack import ROOT, SERVICES

COMPOSE = "docker compose version"
needs_compose = pytest.mark.skipif(
    shutil.which("docker") is None or subprocess.run(COMPOSE.split(), capture_output=True, check=False).returncode != 0,
    reason="docker compose is not installed",
)
PROGRAM = ROOT / "deploy" / "compose" / "make-secrets.sh"


class Loader(yaml.SafeLoader):
    """Which knows compose's own tags."""


def overridden(loader: Loader, node: yaml.SequenceNode) -> list[Any]:
    return list(loader.construct_sequence(node))


Loader.add_constructor("!override", overridden)


def yaml_of(file: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load((ROOT / file).read_text(), Loader)
    return found


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml_of("docker-compose.yml")["services"]
    return found


@needs_compose
@pytest.mark.parametrize("model", ["cpu", "gpu"])
def test_docker_compose_config_is_clean(model: str) -> None:
    done = subprocess.run(
        ["docker", "compose", "config", "--quiet"],
        cwd=ROOT,
        env=os.environ | {"MODEL_PROFILE": model},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


OF_MAKE_RUN = {PREFIX + name.upper() for name in EmbeddedSettings.model_fields}
OF_A_SUPERVISOR = {"ASKMESH_API_LISTEN_FD"}
PROGRAMS = {
    "api_service": "api_service",
    "worker_service": "worker_service",
    "llm_service": "llm_service",
    "migrations": "schema/migrations",
    "operations": "operations",
}
"""Where the program of each container of ours is."""


def groups_read_by(program: str) -> list[type[Group]]:
    """Those that its source names, and what `load` itself reads."""
    source = "".join(file.read_text() for file in (ROOT / program).rglob("*.py"))
    named = set(re.findall(r"\b\w+Settings\b", source)) | {SecretSettings.__name__}
    return [group for group in GROUPS if group.__name__ in named]


def test_every_setting_reaches_a_container() -> None:
    reached = {name for service in SERVICES for name in services()[service]["environment"]}
    assert reached == {name for name, _ in described()} - OF_MAKE_RUN - OF_A_SUPERVISOR


@pytest.mark.parametrize("container", PROGRAMS)
def test_each_container_is_given_what_its_program_reads(container: str) -> None:
    given = services()[container]["environment"].keys()
    groups = groups_read_by(PROGRAMS[container])
    assert groups
    reads = {PREFIX + name.upper() for group in groups for name in group.model_fields}
    assert reads - OF_MAKE_RUN - OF_A_SUPERVISOR - given == set()
    # No secret reaches a container whose program does not read it.
    secret = {name for name, field in described() if "SecretStr" in repr(field.annotation)}
    assert {"ASKMESH_DATABASE_URL", "ASKMESH_MODEL_API_KEY"} <= secret
    assert given & secret <= reads


def published(file: str, service: str) -> list[str]:
    return [str(port) for port in yaml_of(file)["services"][service].get("ports", ())]


def test_only_nginx_publishes_ports_and_grpc_only_on_this_machine() -> None:
    publishing = {name for name, service in services().items() if "ports" in service}
    assert publishing == {"nginx"}
    for file in ("docker-compose.yml", "deploy/compose/tls.yml"):
        for port in published(file, "nginx"):
            grpc = port.endswith(":50051")
            assert port.startswith("127.0.0.1:" if grpc else "${PUBLISH_ADDRESS:-127.0.0.1}:"), file


def test_grpc_is_published_by_a_file_of_its_own_which_asks_for_certificates() -> None:
    others = {file.name: yaml_of(f"deploy/compose/{file.name}") for file in (ROOT / "deploy/compose").glob("*.yml")}
    assert {name for name, content in others.items() if "ports" in str(content)} == {"tls.yml", "grpc-public.yml"}
    nginx = others["grpc-public.yml"]["services"]["nginx"]
    (port,) = nginx["ports"]
    # Neither the address nor the authority has a default, and the port is one that nginx opens for this alone.
    assert port.startswith("${GRPC_PUBLISH_ADDRESS:?")
    assert port.endswith(":50443")
    assert any(volume.startswith("${GRPC_CALLERS_FOLDER:?") for volume in nginx["volumes"])
    assert nginx["environment"] == {"NGINX_GRPC": "public"}
    assert services()["nginx"]["environment"]["NGINX_GRPC"] == "local"
    listening = {
        file.name: re.findall(r"^ *listen (\d+)", file.read_text(), re.MULTILINE)
        for file in (ROOT / "nginx/askmesh").glob("*.conf")
    }
    assert {name for name, listens in listening.items() if "50443" in listens} == {"grpc_public.conf"}
    assert "ssl_verify_client on;" in (ROOT / "nginx/askmesh/grpc_public.conf").read_text()
    assert re.findall(r"^[^#\n]+", (ROOT / "nginx/askmesh/grpc_local.conf").read_text(), re.MULTILINE) == []


def test_nginx_has_memory_for_the_clients_that_it_takes() -> None:
    configuration = (ROOT / "nginx/nginx.conf").read_text()

    def directive(name: str) -> int:
        (value,) = re.findall(rf"^ *{name} (\d+);", configuration, re.MULTILINE)
        return int(value)

    limits = services()["nginx"]["deploy"]["resources"]["limits"]
    workers, connections = directive("worker_processes"), directive("worker_connections")
    assert workers <= 2 * float(limits["cpus"])
    # Workers, the master, docker's init and a health check.
    assert workers + 4 <= limits["pids"]
    # Seen with 1,000 streams: 46 kB each with TLS. Beside them one address may fill a body in each of its connections.
    clients = workers * connections // 2
    environment = services()["nginx"]["environment"]
    bodies = int(default(environment["NGINX_CONNECTIONS_PER_ADDRESS"])) * int(
        default(environment["ASKMESH_MAX_BODY_BYTES"])
    )
    assert workers * 8_000_000 + clients * 46_000 + bodies <= int(limits["memory"].removesuffix("M")) * 2**20
    assert directive("worker_rlimit_nofile") >= connections


def default(variable: str) -> str:
    """Of ${NAME:-default}."""
    found = re.fullmatch(r"\$\{\w+:-(.*)\}", variable)
    assert found, variable
    return found[1]


def test_the_way_out_is_open_to_nobody_without_a_file_that_opens_it() -> None:
    networks = yaml_of("docker-compose.yml")["networks"]
    inside = {name for name, network in networks.items() if network == {"internal": True}}
    assert inside == {"edge", "grpc", "stores"}
    for service in ("api_service", "worker_service", "migrations", "operations"):
        assert set(services()[service]["networks"]) <= inside, service
    opened = {
        file: {name: service["networks"] for name, service in yaml_of(f"deploy/compose/{file}")["services"].items()}
        for file in ("issuer.yml", "outside-stores.yml")
    }
    assert opened == {
        "issuer.yml": {"api_service": ["issuer"]},
        "outside-stores.yml": {
            name: ["outside_stores"] for name in ("api_service", "worker_service", "migrations", "operations")
        },
    }


class Docker:
    """A program of this name which says what the test tells it to, and notes what it was asked."""

    def __init__(self, folder: Path, running: dict[str, int]) -> None:
        self._folder = folder
        self._asked = folder / "asked"
        for service, count in running.items():
            (folder / service).write_text("".join(f"{service}-{number}\n" for number in range(count)))
        program = folder / "docker"
        program.write_text(
            f'#!/bin/sh\necho "$*" >>{self._asked}\n'
            f'case $* in "compose ps --quiet "*) for last; do :; done; cat {folder}/$last 2>/dev/null;; esac\n'
        )
        program.chmod(0o755)

    def upgrade(self) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self._folder}:/usr/local/bin:/usr/bin:/bin"}
        script = ["sh", str(ROOT / "deploy/compose/upgrade.sh")]
        return subprocess.run(script, env=environment, capture_output=True, text=True, check=False)

    def asked(self, word: str) -> list[str]:
        return [line for line in self._asked.read_text().splitlines() if word in line]


@pytest.mark.processes
def test_an_upgrade_says_which_service_has_no_replica_and_upgrades_the_others(tmp_path: Path) -> None:
    docker = Docker(tmp_path, {"llm_service": 2, "worker_service": 0, "api_service": 1})
    done = docker.upgrade()
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["llm_service: 2 replicas of dev", "api_service: 1 replicas of dev"]
    assert done.stderr.startswith("worker_service: no replica runs, so none is replaced")
    assert [line.partition("--scale ")[2] for line in docker.asked("--scale")] == [
        "llm_service=4 llm_service",
        "api_service=2 api_service",
    ]
    assert len(docker.asked("stop --time")) == 3


def test_every_service_that_stays_has_a_health_check_limits_and_bounded_logs() -> None:
    for name, service in services().items():
        if name == "vllm_service":
            continue  # deploy/compose/model-*.yml, below
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert {"cpus", "memory", "pids"} == service["deploy"]["resources"]["limits"].keys(), name
        if name not in ("migrations", "operations", "secrets"):
            assert "healthcheck" in service, name
            assert service["restart"] == "unless-stopped", name


@pytest.mark.parametrize("model", ["cpu", "gpu"])
def test_both_models_have_a_health_check_and_limits(model: str) -> None:
    file = ROOT / "deploy" / "compose" / f"model-{model}.yml"
    service = yaml.safe_load(file.read_text())["services"]["vllm_service"]
    assert "healthcheck" in service
    assert {"cpus", "memory"} <= service["deploy"]["resources"]["limits"].keys()


def secrets(folder: Path, **given: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", **given}
    return subprocess.run(["sh", PROGRAM, folder], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.processes
def test_passwords_are_made_once_and_differ(tmp_path: Path) -> None:
    assert secrets(tmp_path).returncode == 0
    made = {file.name: file.read_text() for file in (tmp_path / "passwords").iterdir()}
    assert made.keys() == {"db", "rabbitmq", "redis"}
    assert len(set(made.values())) == 3
    assert {len(password) for password in made.values()} == {48}
    assert (tmp_path / "passwords").stat().st_mode & 0o077 == 0
    url = (tmp_path / "worker_service" / "askmesh_database_url").read_text()
    assert url == f"postgresql://askmesh:{made['db']}@db:5432/askmesh\n"
    assert secrets(tmp_path).returncode == 0
    assert {file.name: file.read_text() for file in (tmp_path / "passwords").iterdir()} == made


@pytest.mark.processes
def test_each_container_finds_only_its_own(tmp_path: Path) -> None:
    secrets(tmp_path)
    found = {folder.name: {file.name for file in folder.iterdir()} for folder in tmp_path.iterdir()}
    urls = {"askmesh_database_url", "askmesh_redis_url", "askmesh_broker_url"}
    assert found == {
        "passwords": {"db", "rabbitmq", "redis"},
        "db": {"password"},
        "rabbitmq": {"password"},
        "redis": {"password", "redis.conf"},
        "migrations": {"askmesh_database_url"},
        "operations": {"askmesh_database_url"},
        "api_service": urls,
        "worker_service": urls,
    }


@pytest.mark.processes
def test_a_given_password_is_taken(tmp_path: Path) -> None:
    secrets(tmp_path)
    assert secrets(tmp_path, REDIS_PASSWORD="of-mine_1~2.3").returncode == 0
    assert (tmp_path / "redis" / "redis.conf").read_text() == "requirepass of-mine_1~2.3\n"


@pytest.mark.processes
@pytest.mark.parametrize("password", ["a b", "a@b", 'a"b', "a/b", "a\nb", "$(id)"])
def test_a_password_that_would_have_to_be_quoted_is_refused(tmp_path: Path, password: str) -> None:
    done = secrets(tmp_path, POSTGRES_PASSWORD=password)
    assert done.returncode == 1
    assert "letters, digits" in done.stderr
    assert not (tmp_path / "db").exists()


@needs_compose
def test_the_other_files_fit_the_first_one(tmp_path: Path) -> None:
    others = ("tls.yml", "grpc-tls.yml", "grpc-public.yml", "issuer.yml", "outside-stores.yml")
    files = ("docker-compose.yml", *(f"deploy/compose/{other}" for other in others))
    done = subprocess.run(
        ["docker", "compose", *(word for file in files for word in ("-f", file)), "config"],
        cwd=ROOT,
        env=os.environ
        | {
            "TLS_FOLDER": str(tmp_path),
            "GRPC_TLS_FOLDER": str(tmp_path),
            "GRPC_CALLERS_FOLDER": str(tmp_path / "callers"),
            "GRPC_PUBLISH_ADDRESS": "0.0.0.0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    merged = yaml.safe_load(done.stdout)["services"]
    assert merged["nginx"]["environment"]["NGINX_PUBLIC"] == "tls"
    assert {port["target"]: (port["host_ip"], port["published"]) for port in merged["nginx"]["ports"]} == {
        8443: ("127.0.0.1", "443"),
        8080: ("127.0.0.1", "80"),
        50051: ("127.0.0.1", "50051"),
        50443: ("0.0.0.0", "50443"),
    }
    assert merged["api_service"]["networks"].keys() == {"edge", "grpc", "stores", "issuer", "outside_stores"}
    assert merged["worker_service"]["networks"].keys() == {"grpc", "stores", "outside_stores"}
    for service in SERVICES:
        mounted = {volume["target"]: volume["source"] for volume in merged[service]["volumes"]}
        assert mounted["/run/grpc"] == f"{tmp_path}/{service}"
        assert merged[service]["environment"]["ASKMESH_GRPC_KEY_FILE"] == "/run/grpc/key.pem"
    assert merged["llm_service"]["environment"]["ASKMESH_LLM_PLAIN_TEXT"] == "false"
