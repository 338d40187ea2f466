"""The limit on open files: no fault of the file that happens to meet it."""

import errno

LIMITS = (errno.EMFILE, errno.ENFILE)  # of the process, of the machine


def refuse_too_many(error: BaseException) -> None:
    """Raise the error again if it is that limit, so that nobody takes it for a damaged file."""
    if isinstance(error, OSError) and error.errno in LIMITS:
        raise error
