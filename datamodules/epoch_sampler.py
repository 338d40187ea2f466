"""The order of the batches as a function of seed, epoch and rank, with no hidden state."""

from collections.abc import Iterator

import numpy as np
import torch
from lightning import Trainer
from torch.utils.data import DataLoader, Dataset, Sampler

Batch = tuple[int, np.ndarray]


class EpochSampler(Sampler[Batch]):
    """Yield whole batches as (epoch, rows), so that a worker process knows the epoch as well.

    While training, every rank gets equally many rows (the order wraps around where it must); the
    ranks together see the batches that one process with `world_size` times the batch size would.
    Without a seed each row is given to exactly one rank, once, in the same order at every epoch.

    Args:
        rows: Rows to visit.
        batch_size: Rows of a batch on one rank.
        seed: Seed of the permutations; None for validation, test and prediction.
        chances: Chance of each row at each of as many draws as there are rows, with replacement;
            None visits every row once. Only while training.
        rank: This process.
        world_size: Number of processes.
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
    ) -> None:
        self.rows = rows
        self.batch_size = batch_size
        assert chances is None or seed is not None, "only training rows are drawn"
        self.seed = seed
        self.chances = chances
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

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
        for start in range(0, len(own), self.batch_size):
            yield epoch, own[start : start + self.batch_size]

    def _own_rows(self, order: np.ndarray) -> np.ndarray:
        if self.seed is not None:
            order = np.resize(order, -(-len(order) // self.world_size) * self.world_size)
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
        rows, batch_size, seed=seed, chances=chances, rank=rank, world_size=world_size
    )
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available() and not getattr(dataset, "on_device", False),
    )
