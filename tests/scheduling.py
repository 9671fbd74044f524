"""Which tests go to which process, and when, where several share a run: ``pytest -n 3``."""

from typing import Final

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

# Its tests share one mesh and one browser.
_PAGE: Final = "tests/api_service/page/"
# The first half of its tests uses one server, the second another one.
_BROKERS: Final = "tests/worker_service/test_brokers.py"
# Take over a minute each. If one of them came last, the other processes would have nothing to do meanwhile.
_LONG: Final = (_PAGE, _BROKERS, "tests/worker_service/test_worker.py")


class ByServers(LoadScopeScheduling):  # type: ignore[misc] # which has no types
    """Gives a process the tests of a module together, because they share what they start."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(_PAGE):
            return _PAGE
        module, _, test = nodeid.partition("::")
        return f"{module} {'[rabbitmq' in test}" if module == _BROKERS else module


def longest_first(items: list[pytest.Item]) -> None:
    """Sort: the longest modules, then all others that need something; what takes milliseconds fills up the end."""
    items.sort(key=lambda item: (not item.nodeid.startswith(_LONG), item.get_closest_marker("unit") is not None))
