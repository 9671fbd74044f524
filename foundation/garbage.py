"""CPython's search for garbage cycles, set up for a service."""

import gc
from typing import Final

_NEW_OBJECTS: Final = 20_000


def settle() -> None:
    """Call it once, when a process has loaded what it needs.

    What is there by then, some 300,000 objects, stays for good: no search looks at it again. And a search comes after
    20,000 new objects instead of 700.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, 10, 10)
