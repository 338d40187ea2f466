"""The order of the batches as a function of seed, epoch and rank, with no hidden state."""

import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from torch.utils.data import DataLoader, Dataset, Sampler
from typing_extensions import override

JOB_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

Batch = tuple[int, np.ndarray]


class EpochSampler(Sampler[Batch]):
    """Yield whole batches as (epoch, rows), so that a worker process knows the epoch as well.

    While training, every rank gets equally many rows (the order wraps around where it must); the
    ranks together see the batches that one process with `world_size` times the batch size would.
    Without a seed each row is given to exactly one rank, once, in the same order at every epoch;
    fewer rows than ranks are given to all: a rank without any would leave the others waiting for
    it, and what all count equally often changes no mean.

    Args:
        rows: Rows to visit.
        batch_size: Rows of a batch on one rank.
        seed: Seed of the permutations; None for validation, test and prediction.
        chances: Chance of each row at each of as many draws as there are rows, with replacement;
            None visits every row once. Only while training.
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
        chances: np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
        begin: tuple[int, int] = (0, 0),
    ) -> None:
        self.rows = rows
        self.batch_size = batch_size
        assert chances is None or seed is not None, "only training rows are drawn"
        self.seed = seed
        self.chances = chances
        self.rank = rank
        self.world_size = world_size
        self.begin = begin
        self.epoch = begin[0]  # workers fetch before Lightning says it

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self._own_rows(self.rows)) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        epoch, order = 0, self.rows
        if self.seed is not None:
            epoch = self.epoch
            generator = np.random.default_rng((self.seed, epoch))
            if self.chances is None:
                order = generator.permutation(order)
            else:
                order = generator.choice(order, size=len(order), p=self.chances)
        own = self._own_rows(order)
        num_done = self.begin[1] if self.epoch == self.begin[0] else 0
        for start in range(num_done * self.batch_size, len(own), self.batch_size):
            yield epoch, own[start : start + self.batch_size]

    def _own_rows(self, order: np.ndarray) -> np.ndarray:
        if self.seed is not None:
            order = np.resize(order, -(-len(order) // self.world_size) * self.world_size)
        elif len(order) < self.world_size:
            return order
        return order[self.rank :: self.world_size]


def batch_loader(
    dataset: Dataset,
    rows: np.ndarray,
    batch_size: int,
    trainer: Trainer | None,
    *,
    num_workers: int = 0,
    seed: int | None = None,
    chances: np.ndarray | None = None,
) -> DataLoader:
    """Load batches in `EpochSampler`'s order, with this process's share of the rows.

    Args:
        dataset: Takes (epoch, rows) and returns a batch.
        rows: Rows to visit.
        batch_size: Rows of a batch on one device.
        trainer: Knows the rank and the number of processes; None is one process.
        num_workers: Worker processes.
        seed: Seed of the permutations; None for validation, test and prediction.
        chances: Chance of each row at each draw while training; None visits every row once.
    """
    rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
    sampler = EpochSampler(
        rows,
        batch_size,
        seed=seed,
        chances=chances,
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

    They must serve until the training has saved; signals wait while they are born.
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
