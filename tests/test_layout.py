"""What holds for the layout of the code as a whole, beside the import rules."""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = (
    "api_service",
    "embedded",
    "fleet",
    "foundation",
    "live",
    "llm_service",
    "models",
    "operations",
    "owners",
    "questions",
    "schema",
    "worker_service",
    "protos/python/askmesh_client",
    "benchmarks",
)
MOST_LINES = 400


def sources() -> list[Path]:
    return sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))


def test_every_file_is_short_enough_to_be_read_at_once() -> None:
    lengths = {str(file.relative_to(ROOT)): file.read_text().count("\n") for file in sources()}
    assert {file: lines for file, lines in lengths.items() if lines > MOST_LINES} == {}


def test_no_two_packages_have_the_same_name() -> None:
    places = defaultdict(list)
    for file in sources():
        if file.name == "__init__.py":
            places[file.parent.name].append(str(file.parent.relative_to(ROOT)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_no_two_public_classes_have_the_same_name() -> None:
    places = defaultdict(list)
    for file in sources():
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not re.fullmatch(r"_.*|Settings", node.name):
                places[node.name].append(str(file.relative_to(ROOT)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_architecture_md_names_every_room() -> None:
    told = (ROOT / "docs" / "architecture.md").read_text()
    top = {file.relative_to(ROOT).parts[0] for file in sources()}
    assert [room for room in sorted(top) if f"`{room}/`" not in told] == []
