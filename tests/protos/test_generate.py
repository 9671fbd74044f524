"""The check of the contract notices what it should. Needs the generator's environment, as `make protos` does."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.protos.contract import PROTOS

GENERATOR = PROTOS.parent / ".venv-protos" / "bin" / "python"
SERVICE = "askmesh/llm/v1/generation_service.proto"

pytestmark = pytest.mark.skipif(not GENERATOR.exists(), reason="the generator's environment is not installed")


@pytest.fixture
def protos(processes: None, tmp_path: Path) -> Path:
    return shutil.copytree(PROTOS, tmp_path / "protos", ignore=shutil.ignore_patterns("__pycache__"))


def generate(protos: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([GENERATOR, protos / "generate.py", *options], capture_output=True, text=True, check=False)


def replace(path: Path, old: str, new: str) -> None:
    source = path.read_text(encoding="utf-8")
    assert old in source
    path.write_text(source.replace(old, new), encoding="utf-8")


def test_changed_missing_and_stale_stubs_are_named_and_repaired(protos: Path) -> None:
    stubs = protos / "python/askmesh/llm/v1"
    (stubs / "errors_pb2.py").write_text("changed = 1\n", encoding="utf-8")
    (stubs / "generation_pb2.pyi").unlink()
    (stubs / "stale_pb2.py").touch()

    done = generate(protos, "--check")
    assert done.returncode == 1
    named = {line.strip() for line in done.stdout.splitlines() if line.startswith("  ")}
    folder = "protos/python/askmesh/llm/v1"
    assert named == {f"{folder}/{name}" for name in ("errors_pb2.py", "generation_pb2.pyi", "stale_pb2.py")}

    assert generate(protos).returncode == 0
    assert generate(protos, "--check").returncode == 0
    assert not (stubs / "stale_pb2.py").exists()


def test_a_breaking_change_is_refused_until_it_is_undone(protos: Path) -> None:
    replace(protos / SERVICE, "uint64 sequence = 1;", "uint32 sequence = 1;")
    assert generate(protos).returncode == 0
    done = generate(protos, "--check")
    assert done.returncode == 1
    assert "breaking changes: FAILED: askmesh/llm/v1/generation_service.proto" in done.stdout
    assert "stubs: ok" in done.stdout
    released = (protos / "released.binpb").read_bytes()
    assert generate(protos, "--release").returncode == 1
    assert (protos / "released.binpb").read_bytes() == released


def test_an_added_field_passes_and_becomes_part_of_the_next_release(protos: Path) -> None:
    empty, filled = "message ListModelsRequest {}", "message ListModelsRequest {\n  // More.\n  string more = 99;\n}"
    replace(protos / SERVICE, empty, filled)
    assert generate(protos).returncode == 0
    assert generate(protos, "--release").returncode == 0
    replace(protos / SERVICE, filled, empty)
    assert generate(protos).returncode == 0
    assert 'field "99" with name "more"' in generate(protos, "--check").stdout


def test_a_field_without_a_comment_is_refused(protos: Path) -> None:
    replace(protos / SERVICE, "  // In the model server's order. May be empty while none is loaded.\n", "")
    done = generate(protos, "--check")
    assert done.returncode == 1
    assert "lint: FAILED" in done.stdout


def test_a_broken_proto_is_reported_in_its_own_words(protos: Path) -> None:
    replace(protos / SERVICE, "message ListModelsRequest {}", "message ListModelsRequest {")
    stubs = protos / "python/askmesh/llm/v1/generation_service_pb2.py"
    before = stubs.read_bytes()
    done = generate(protos)
    assert done.returncode == 1
    assert f"FAILED: {SERVICE}" in done.stdout
    assert stubs.read_bytes() == before
