"""A short, private folder for a server's Unix sockets.

A socket's path may have 107 bytes (103 on macOS), which a deep clone exceeds, so sockets do not lie beside the data.
"""

import hashlib
import os
import shutil
import stat
from pathlib import Path

from embedded.errors import EmbeddedError

# Not tempfile.gettempdir(): TMPDIR can be as deep as the clone.
_PARENT = Path("/tmp")  # noqa: S108


class RuntimeFolder:
    """The folder that belongs to one data folder, the same at every start. Only its owner can list it or write to it.

    ``path`` is known before the folder is made.
    """

    def __init__(self, data_dir: Path) -> None:
        digest = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:12]
        self.path = _PARENT / f"askmesh-{os.geteuid()}-{digest}"

    def create(self, *, passable: bool = False) -> None:
        """Make it anew, without what a killed process left in it. ``passable`` lets other users reach paths they know.

        Raises EmbeddedError where somebody else holds the name.
        """
        self.remove()
        try:
            self.path.mkdir(mode=0o700)
        except FileExistsError:
            raise EmbeddedError(f"{self.path} is not askmesh's own: remove it") from None
        if passable:
            self.path.chmod(0o711)  # whatever the umask

    def remove(self) -> None:
        """Remove it with all it holds, where it is ours."""
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            shutil.rmtree(self.path)
