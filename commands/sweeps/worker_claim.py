"""Which worker does what, when several share a folder: advice that nothing rests on.

Whoever works in a folder keeps a small file there and touches it while it lives. A worker that
died leaves a stale file, which the next one takes over. Should two work in one folder all the same
(the clocks of two machines are minutes apart, a machine slept), both write the same files whole,
and the one that lost its claim ends.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from files.whole_file import is_gone, write_whole

CLAIM_NAME = "worker.json"
BEAT_S = 20.0
FRESH_S = 120.0


class ClaimLostError(Exception):
    """Another worker has taken the folder over."""


class Claim:
    """A worker's claim on a folder.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / CLAIM_NAME
        self.text = json.dumps({"host": platform.node(), "pid": os.getpid(), "at": time.time_ns()})

    def take(self) -> bool:
        """Claim the folder unless another worker has it; answer whether it is ours."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.path.open("x") as file:  # one of two that come at once gets a FileExistsError
                file.write(self.text)
        except FileExistsError:
            if is_fresh(self.path):
                return False
            write_whole(self.text, self.path)
        return self.is_ours()

    def is_ours(self) -> bool:
        """Whether no other worker has taken it over."""
        try:
            return self.path.read_text() == self.text
        except FileNotFoundError:
            return False

    def beat(self, stop: threading.Event) -> None:
        """Touch the file now and then until told to stop, or another worker has it."""
        while not stop.wait(BEAT_S) and self.is_ours():
            os.utime(self.path)


def is_fresh(path: Path) -> bool:
    """Whether a claim's worker is alive, as far as can be told from here."""
    try:
        age = time.time() - path.stat().st_mtime
        worker = json.loads(path.read_text() or "{}")
    except FileNotFoundError:
        return False
    if worker.get("host") == platform.node() and is_gone(worker["pid"]):
        return False
    return age < FRESH_S


@contextmanager
def claimed(folder: Path) -> Iterator[Claim | None]:
    """Hold a folder as long as the block takes; None where another worker has it."""
    claim = Claim(folder)
    if not claim.take():
        yield None
        return
    stop = threading.Event()
    heart = threading.Thread(target=claim.beat, args=(stop,), daemon=True)
    heart.start()
    try:
        yield claim
    finally:
        stop.set()
        heart.join()
        if claim.is_ours():
            claim.path.unlink(missing_ok=True)


class StopIfClaimLost(Callback):
    """End a training in whose folder another worker goes on.

    Args:
        claim: The claim under which it began.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim = claim

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before the checkpoints of this epoch are written."""
        if not self.claim.is_ours():
            raise ClaimLostError(str(self.claim.path.parent))
