"""Checkpoints that are whole or not there, whatever file system they are on."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from typing_extensions import override

from files.whole_file import whole_file

BEST_NAME = "best.ckpt"
LAST_NAME = "last.ckpt"
PREVIOUS_NAME = "previous.ckpt"  # the one before last.ckpt


class WholeCheckpoints(TorchCheckpointIO):
    """Write next to the final name, force it to the disk, rename; keep the last.ckpt before.

    Lightning writes into the temporary folder of the machine and moves the file from there, which
    is a copy where that is another file system.

    Args:
        facts: What is written into every checkpoint.
    """

    def __init__(self, facts: dict[str, Any] | None = None) -> None:
        self.facts = facts or {}

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        content = io.BytesIO()  # torch hides the cause when a disk is full
        torch.save(checkpoint | self.facts, content)
        path = Path(path)
        if path.name not in (BEST_NAME, LAST_NAME):  # a ModelCheckpoint's, in a folder of its own
            path.parent.mkdir(parents=True, exist_ok=True)
        keep = path.with_name(PREVIOUS_NAME) if path.name == LAST_NAME else None
        with whole_file(path, keep=keep) as unfinished:
            unfinished.write_bytes(content.getbuffer())
