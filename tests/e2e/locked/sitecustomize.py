"""Python imports this at its start where PYTHONPATH names its folder: a service then finds only what its lock installs.

So it is in a container; in the environment of the tests, what one service forgot another one's lock brings.
"""

import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

_ROOT = Path(__file__).parents[3]
_OURS = {"askmesh", "askmesh-client"}
# As their images have it.
_LOCKS = {name: name for name in ("api_service", "worker_service", "llm_service")} | {
    "schema.migrations": "api_service"
}


def _standard(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _foreign_to(service: str) -> set[str]:
    lock = (_ROOT / service / "requirements.txt").read_text()
    installed = {_standard(name) for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)} | _OURS
    return {
        module
        for module, distributions in packages_distributions().items()
        if not installed & {_standard(name) for name in distributions}
    }


class _LockFinder(PathFinder):
    foreign: set[str]

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in cls.foreign:
            return None
        return super().find_spec(fullname, path, target)


if service := _LOCKS.get(sys.orig_argv[-1]):
    _LockFinder.foreign = _foreign_to(service)
    sys.meta_path[sys.meta_path.index(PathFinder)] = _LockFinder
