import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from foundation.settings import PREFIX, EmbeddedSettings, described
from tests.compose.stack import ROOT, SERVICES

COMPOSE = "docker compose version"
needs_compose = pytest.mark.skipif(
    shutil.which("docker") is None or subprocess.run(COMPOSE.split(), capture_output=True, check=False).returncode != 0,
    reason="docker compose is not installed",
)
PROGRAM = ROOT / "deploy" / "compose" / "make-secrets.sh"


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
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


def test_every_setting_reaches_a_container() -> None:
    of_make_run = {PREFIX + name.upper() for name in EmbeddedSettings.model_fields}
    passed_on_only_by_a_supervisor = {"ASKMESH_API_LISTEN_FD"}
    reached = {name for service in SERVICES for name in services()[service]["environment"]}
    assert reached == {name for name, _ in described()} - of_make_run - passed_on_only_by_a_supervisor


def test_only_nginx_publishes_ports_and_grpc_only_on_this_machine() -> None:
    publishing = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert publishing.keys() == {"nginx"}
    assert all(port.startswith(("127.0.0.1:", "${PUBLISH_ADDRESS:-127.0.0.1}:")) for port in publishing["nginx"])


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
        "api_service": urls,
        "worker_service": urls,
    }


def test_a_given_password_is_taken(tmp_path: Path) -> None:
    secrets(tmp_path)
    assert secrets(tmp_path, REDIS_PASSWORD="of-mine_1~2.3").returncode == 0
    assert (tmp_path / "redis" / "redis.conf").read_text() == "requirepass of-mine_1~2.3\n"


@pytest.mark.parametrize("password", ["a b", "a@b", 'a"b', "a/b", "a\nb", "$(id)"])
def test_a_password_that_would_have_to_be_quoted_is_refused(tmp_path: Path, password: str) -> None:
    done = secrets(tmp_path, POSTGRES_PASSWORD=password)
    assert done.returncode == 1
    assert "letters, digits" in done.stderr
    assert not (tmp_path / "db").exists()


@needs_compose
def test_the_files_for_tls_fit_the_first_one(tmp_path: Path) -> None:
    files = ("docker-compose.yml", "deploy/compose/tls.yml", "deploy/compose/grpc-tls.yml")
    done = subprocess.run(
        ["docker", "compose", *(word for file in files for word in ("-f", file)), "config"],
        cwd=ROOT,
        env=os.environ | {"TLS_FOLDER": str(tmp_path), "GRPC_TLS_FOLDER": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    merged = yaml.safe_load(done.stdout)["services"]
    assert merged["nginx"]["environment"]["NGINX_PUBLIC"] == "tls"
    assert {port["target"]: port["published"] for port in merged["nginx"]["ports"]} == {
        8443: "443",
        8080: "80",
        50051: "50051",
    }
    for service in SERVICES:
        mounted = {volume["target"]: volume["source"] for volume in merged[service]["volumes"]}
        assert mounted["/run/grpc"] == f"{tmp_path}/{service}"
        assert merged[service]["environment"]["ASKMESH_GRPC_KEY_FILE"] == "/run/grpc/key.pem"
    assert merged["llm_service"]["environment"]["ASKMESH_LLM_PLAIN_TEXT"] == "false"
