"""The order of the batches as a function of seed, epoch and rank, with no hidden state."""

import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import Trainer
from torch.utils.data import DataLoader, Dataset, Sampler
from typing_extensions import override

JOB_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Batch(NamedTuple):
    """What a dataset is asked for, so that a worker process knows the epoch as well.

    epoch: the epoch; rows: rows of the batch, (B,); turns: how many times each of them was served
    before in this epoch, (B,).
    """

    epoch: int
    rows: np.ndarray
    turns: np.ndarray


class EpochSampler(Sampler[Batch]):
    """Yield whole batches.

    While training, every rank gets equally many rows (the order wraps around where it must); the
    ranks together see the batches that one process with `world_size` times the batch size would.
    Without a seed each row is given to exactly one rank, once, in the same order at every epoch;
    fewer rows than ranks are given to all: a rank without any would leave the others waiting for
    it, and what all count equally often changes no mean.

    Args:
        rows: Rows to visit.
        batch_size: Rows of a batch on one rank.
        seed: Seed of the permutations; None for validation, test and prediction.
        classes: Class of each row: all classes are served equally often, in all as many rows as
            there are, and each class's rows equally often but for one time; which ones change with
            the epoch. None visits every row once. Only while training.
        rank: This process.
        world_size: Number of processes.
        begin: An epoch, and how many of its batches are done already.
    """

    def __init__(
        self,
        rows: np.ndarray,
        batch_size: int,
        *,
        seed: int | None = None,
        classes: np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
        begin: tuple[int, int] = (0, 0),
    ) -> None:
        self.rows = rows
        self.batch_size = batch_size
        assert classes is None or seed is not None, "only training rows are drawn"
        self.seed = seed
        self.classes = classes
        self.rank = rank
        self.world_size = world_size
        self.begin = begin
        self.epoch = begin[0]  # workers fetch before Lightning says it

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self._wrapped(self.rows)[self._share]) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        epoch, order = 0, self.rows
        if self.seed is not None:
            epoch = self.epoch
            generator = np.random.default_rng((self.seed, epoch))
            if self.classes is not None:
                order = _balanced(order, self.classes, generator)
            order = generator.permutation(order)
        order = self._wrapped(order)
        rows, turns = order[self._share], _turns(order)[self._share]
        num_done = self.begin[1] if self.epoch == self.begin[0] else 0
        for start in range(num_done * self.batch_size, len(rows), self.batch_size):
            end = start + self.batch_size
            yield Batch(epoch, rows[start:end], turns[start:end])

    def _wrapped(self, order: np.ndarray) -> np.ndarray:
        """What all ranks together are given."""
        if self.seed is None:
            return order
        return np.resize(order, -(-len(order) // self.world_size) * self.world_size)

    @property
    def _share(self) -> slice:
        """Which part of it this rank is given."""
        if self.seed is None and len(self.rows) < self.world_size:
            return slice(None)
        return slice(self.rank, None, self.world_size)


def _balanced(rows: np.ndarray, classes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """As many rows as there are, of each class equally many, and of a class equally often each."""
    names = generator.permutation(np.unique(classes))
    shares = [len(part) for part in np.array_split(rows, len(names))]
    members = [generator.permutation(rows[classes == name]) for name in names]
    return np.concatenate([np.resize(*each) for each in zip(members, shares, strict=True)])


def _turns(order: np.ndarray) -> np.ndarray:
    """How many times each entry has come before."""
    sorting = order.argsort(kind="stable")
    first = np.r_[True, np.diff(order[sorting]) != 0]
    turns = np.empty(len(order), dtype=np.int64)
    places = np.arange(len(order))
    turns[sorting] = places - np.maximum.accumulate(np.where(first, places, 0))
    return turns


def batch_loader(
    dataset: Dataset,
    rows: np.ndarray,
    batch_size: int,
    trainer: Trainer | None,
    *,
    num_workers: int = 0,
    seed: int | None = None,
    classes: np.ndarray | None = None,
) -> DataLoader:
    """Load batches in `EpochSampler`'s order, with this process's share of the rows.

    Args:
        dataset: Takes a `Batch` of rows and returns a batch.
        rows: Rows to visit.
        batch_size: Rows of a batch on one device.
        trainer: Knows the rank and the number of processes; None is one process.
        num_workers: Worker processes.
        seed: Seed of the permutations; None for validation, test and prediction.
        classes: Class of each row, to serve all equally often while training; None visits every
            row once.
    """
    rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
    sampler = EpochSampler(
        rows,
        batch_size,
        seed=seed,
        classes=classes,
        rank=rank,
        world_size=world_size,
        begin=_place(trainer) if trainer and seed is not None else (0, 0),
    )
    return _Loader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available() and not getattr(dataset, "on_device", False),
        worker_init_fn=_leave_signals_to_the_training,
    )


def _place(trainer: Trainer) -> tuple[int, int]:
    """The epoch in which a training goes on, and how many of its batches are done."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return epochs.processed, batches.processed if epochs.started > epochs.processed else 0


class _Loader(DataLoader):
    """Its workers outlive a signal to all processes of a job, from their first moment on.

    They must serve until the training has saved; signals wait while they start.
    """

    @override
    def __iter__(self) -> Any:
        if self.num_workers == 0:
            return super().__iter__()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_signals_to_the_training(worker: int) -> None:
    for number in JOB_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, JOB_SIGNALS)
