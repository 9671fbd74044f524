"""The former names of ``Reachability``, for worker_service until that uses the new ones."""

from collections.abc import Callable

from foundation.reachability import Reachability, explain

__all__ = ["Outage", "explain"]


class Outage(Reachability):
    """``Reachability`` by its former names."""

    def __init__(
        self,
        server: str,
        consequence: str,
        explain: Callable[[BaseException], str] = explain,
        *,
        settled_seconds: float = 0.0,
    ) -> None:
        lines = f"{server} does not answer (%s): {consequence}", f"{server} answers again"
        super().__init__(*lines, explain, settled_seconds=settled_seconds)
