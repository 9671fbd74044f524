import os
from pathlib import Path

import pytest

from embedded.errors import EmbeddedError
from embedded.lock import exclusive


def test_a_second_holder_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    refusal = pytest.raises(EmbeddedError, match=f"as process {os.getpid()}: stop it, or set")
    with exclusive(data_dir), refusal, exclusive(data_dir):
        pass


def test_the_lock_ends_with_its_holder(tmp_path: Path) -> None:
    with exclusive(tmp_path):
        pass
    with exclusive(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_only_the_owner_can_look_into_a_new_data_folder(tmp_path: Path) -> None:
    with exclusive(tmp_path / "data"):
        assert (tmp_path / "data").stat().st_mode & 0o077 == 0
