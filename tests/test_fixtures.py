"""A fixture means the same wherever it can be asked for."""

import ast
from collections import defaultdict
from pathlib import Path

FOLDER = Path(__file__).parent


def fixtures(module: Path) -> set[str]:
    return {
        function.name
        for function in ast.parse(module.read_text()).body
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        and any("fixture" in ast.unparse(decorator).partition("(")[0] for decorator in function.decorator_list)
    }


def test_no_module_or_folder_gives_the_name_of_a_shared_fixture_to_another_one() -> None:
    seen: dict[Path, set[str]] = defaultdict(set)
    for conftest in FOLDER.rglob("conftest.py"):
        seen[conftest.parent] = fixtures(conftest)
    doubles = []
    for module in FOLDER.rglob("*.py"):
        above = [module.parent, *module.parent.parents] if module.name != "conftest.py" else module.parent.parents
        shared = set().union(*(seen[folder] for folder in above if folder in seen))
        doubles += [f"{module.relative_to(FOLDER)}: {name}" for name in sorted(fixtures(module) & shared)]
    assert doubles == []
