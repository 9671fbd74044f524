"""One supervisor for each data folder: the lock lasts as long as its process, however that ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedded.errors import EmbeddedError


@contextmanager
def exclusive(data_dir: Path) -> Iterator[None]:
    """Make the folder if need be, and lock it. Raises EmbeddedError with the process that holds the lock already."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise EmbeddedError(f"ASKMESH_DATA_DIR: {data_dir} is not a folder: name another place") from None
    with (data_dir / "lock").open("a+") as lock:  # children do not inherit it: one that is left over holds no lock
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise EmbeddedError(
                f"askmesh already runs on {data_dir} as process {lock.read().strip()}:"
                " stop it, or set ASKMESH_DATA_DIR, ASKMESH_PORT and ASKMESH_GRPC_PORT for a second one"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
