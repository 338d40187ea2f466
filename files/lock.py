"""A file that one process holds at a time; the system takes it back from one that is killed."""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def sole_holder(path: Path) -> Iterator[None]:
    """Hold a file while the block runs, and delete it then.

    Args:
        path: The file, which tells whoever comes too late who holds it. Its folder must exist.

    Raises:
        BlockingIOError: If another process holds it; the text says which, "process 7 on node1".
    """
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BlockingIOError(file.read() or "another process") from None
        except OSError:  # a file system without locks: nobody is kept out
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()
