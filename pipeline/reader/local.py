"""What readers of one machine share: files below one folder, each made once and then mapped."""

import contextlib
import fcntl
import getpass
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.errors import UserError

_UNUSED_SECONDS = 14 * 86_400
"""What no reader opened for so long is deleted."""


def default_folder() -> Path:
    """The folder of this user's readers, below the system's folder for temporary files."""
    return Path(tempfile.gettempdir()) / f"t2v-latents-{getpass.getuser()}"


class LocalFolder:
    """Entries by key, each a folder of files that never change. Safe for many processes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entry(self, key: str, make: Callable[[Path], None]) -> Path:
        """The folder of ``key``; where there is none, ``make`` fills it, in one process only.

        Raises ``UserError`` where the folder cannot be written.
        """
        target = self.path / key
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not target.is_dir():
                with self._lock(key):
                    if not target.is_dir():
                        self._prune()
                        self._fill(target, make)
            os.utime(target)
        except OSError as error:
            raise UserError(
                f"{self.path}: {error}; make room there, or name another folder (local_dir)"
            ) from error
        return target

    def _fill(self, target: Path, make: Callable[[Path], None]) -> None:
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=self.path))
        try:
            make(temporary)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _prune(self) -> None:
        limit = time.time() - _UNUSED_SECONDS
        for path in self.path.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process deletes it too
                if path.stat().st_mtime < limit:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextlib.contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        with (self.path / f".lock-{key[:2]}").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
