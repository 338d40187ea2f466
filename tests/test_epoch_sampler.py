import os
import signal

import numpy as np
import pytest
import torch

from datamodules.epoch_sampler import JOB_SIGNALS, EpochSampler, batch_loader


def _batches(num_rows, batch_size, epoch=0, **settings):
    sampler = EpochSampler(np.arange(num_rows) + 100, batch_size, **settings)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    return batches


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("num_rows", [1, 2, 7, 17])
def test_every_row_is_predicted_by_one_rank(num_rows, world_size):
    rows = [
        row
        for rank in range(world_size)
        for _, batch in _batches(num_rows, 3, rank=rank, world_size=world_size)
        for row in batch
    ]
    times = world_size if num_rows < world_size else 1  # too few for the ranks are given to all
    assert sorted(rows) == sorted([*range(100, 100 + num_rows)] * times)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_training_that_goes_on_gets_the_rest_of_its_epoch_and_whole_ones_after_it(world_size):
    whole = EpochSampler(np.arange(20), 3, seed=1, rank=world_size - 1, world_size=world_size)
    rest = EpochSampler(
        np.arange(20), 3, seed=1, rank=world_size - 1, world_size=world_size, begin=(4, 2)
    )
    whole.set_epoch(4)
    expected = [rows.tolist() for _, rows in whole][2:]
    assert [rows.tolist() for _, rows in rest] == expected, "workers ask before the epoch is set"
    for epoch, num_done in ((4, 2), (5, 0)):
        for sampler in (whole, rest):
            sampler.set_epoch(epoch)
        expected = [rows.tolist() for _, rows in whole][num_done:]
        assert [rows.tolist() for _, rows in rest] == expected
        assert len(rest) == len(whole)


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("num_rows", [1, 7, 17])
def test_training_ranks_take_equally_many_steps(num_rows, world_size):
    shapes = {
        tuple(
            len(batch)
            for _, batch in _batches(num_rows, 3, seed=0, rank=rank, world_size=world_size)
        )
        for rank in range(world_size)
    }
    assert len(shapes) == 1


def test_two_ranks_together_see_the_batches_of_one_process():
    one = _batches(24, 8, seed=5, epoch=3)
    two = [_batches(24, 4, seed=5, epoch=3, rank=rank, world_size=2) for rank in (0, 1)]
    for (_, whole), (_, even), (_, odd) in zip(one, *two, strict=True):
        assert set(whole) == set(even) | set(odd)


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(**settings):
        return np.concatenate([batch for _, batch in _batches(30, 4, **settings)]).tolist()

    assert order(seed=1, epoch=2) == order(seed=1, epoch=2)
    assert order(seed=1, epoch=2) != order(seed=1, epoch=3)
    assert order(seed=1, epoch=2) != order(seed=2, epoch=2)


def test_batches_know_their_epoch_but_validation_is_always_the_same():
    assert {epoch for epoch, _ in _batches(5, 2, seed=0, epoch=7)} == {7}
    assert {epoch for epoch, _ in _batches(5, 2, epoch=7)} == {0}


def test_rows_are_drawn_by_their_chances():
    chances = np.array([0.1, 0.1, 0.1, 0.1, 0.6])
    drawn = np.concatenate(
        [
            batch
            for epoch in range(2000)
            for _, batch in _batches(5, 2, seed=0, chances=chances, epoch=epoch)
        ]
    )
    assert len(drawn) == 5 * 2000
    shares = np.bincount(drawn - 100) / len(drawn)
    np.testing.assert_allclose(shares, chances, atol=0.02)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_draws_are_a_function_of_seed_and_epoch_and_shared_among_ranks(world_size):
    settings = {"seed": 4, "chances": np.full(12, 1 / 12)}
    one = _batches(12, 6, epoch=2, **settings)
    ranks = [
        _batches(12, 6 // world_size, epoch=2, rank=rank, world_size=world_size, **settings)
        for rank in range(world_size)
    ]
    for (_, whole), *parts in zip(one, *ranks, strict=True):
        assert sorted(whole) == sorted(row for _, part in parts for row in part)
    assert [batch.tolist() for _, batch in one] != [
        batch.tolist() for _, batch in _batches(12, 6, epoch=3, **settings)
    ]


class _Rows(torch.utils.data.Dataset):
    def __getitem__(self, index):
        for number in JOB_SIGNALS:
            os.kill(os.getpid(), number)
        return torch.from_numpy(index[1])


@pytest.mark.parametrize("number", JOB_SIGNALS)
def test_workers_outlive_a_signal_to_the_job_even_while_they_start(number, monkeypatch):
    training = os.getpid()

    def signalled_early(num_threads):
        if os.getpid() != training:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(torch, "set_num_threads", signalled_early)  # before worker_init_fn
    loader = batch_loader(_Rows(), np.arange(6), 2, None, num_workers=2)
    assert torch.cat(list(loader)).tolist() == [0, 1, 2, 3, 4, 5]
    assert not set(JOB_SIGNALS) & signal.pthread_sigmask(signal.SIG_BLOCK, [])
