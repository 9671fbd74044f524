from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded.errors import EmbeddedError
from embedded.runtime_folder import RuntimeFolder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RuntimeFolder]:
    folder = RuntimeFolder(tmp_path)
    yield folder
    folder.remove()


def test_a_deep_folder_has_a_short_path(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a folder with a long name"] * 20)
    # macOS allows 103 bytes, Linux 107.
    assert len(str(RuntimeFolder(deep).path / "sockets" / ".s.PGSQL.5432.lock")) < 103


def test_each_data_folder_has_its_own_always_the_same(tmp_path: Path) -> None:
    assert RuntimeFolder(tmp_path / "a").path == RuntimeFolder(tmp_path / "b" / ".." / "a").path
    assert RuntimeFolder(tmp_path / "a").path != RuntimeFolder(tmp_path / "b").path


def test_nobody_else_can_look_into_it(folder: RuntimeFolder) -> None:
    folder.create()
    assert folder.path.stat().st_mode & 0o777 == 0o700


def test_what_a_killed_process_left_is_removed(folder: RuntimeFolder) -> None:
    folder.create()
    (folder.path / "left").touch()
    folder.create()
    assert list(folder.path.iterdir()) == []


def test_a_link_in_its_place_is_refused_and_not_followed(folder: RuntimeFolder, tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    folder.path.symlink_to(tmp_path)
    try:
        with pytest.raises(EmbeddedError, match="is not askmesh's own: remove it"):
            folder.create()
        assert (tmp_path / "precious").exists()
    finally:
        folder.path.unlink()
