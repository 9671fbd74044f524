import gc
from collections.abc import Iterator

import pytest

from foundation import garbage


@pytest.fixture
def _as_it_was() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()


@pytest.mark.usefixtures("_as_it_was")
def test_what_is_there_is_searched_no_more_and_new_objects_are() -> None:
    there = gc.get_objects()[0]
    garbage.settle()
    new: list[object] = []

    objects = {id(one) for one in gc.get_objects()}
    assert id(there) not in objects
    assert id(new) in objects
    assert gc.isenabled()
