import os
import signal
from collections import Counter

import numpy as np
import pytest
import torch

from datamodules.batches.epoch_sampler import JOB_SIGNALS, EpochSampler, batch_loader


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
        for _, batch, _ in _batches(num_rows, 3, rank=rank, world_size=world_size)
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
    expected = [rows.tolist() for _, rows, _ in whole][2:]
    assert [rows.tolist() for _, rows, _ in rest] == expected, "workers ask before the epoch is set"
    for epoch, num_done in ((4, 2), (5, 0)):
        for sampler in (whole, rest):
            sampler.set_epoch(epoch)
        expected = [rows.tolist() for _, rows, _ in whole][num_done:]
        assert [rows.tolist() for _, rows, _ in rest] == expected
        assert len(rest) == len(whole)


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("num_rows", [1, 7, 17])
def test_training_ranks_take_equally_many_steps(num_rows, world_size):
    shapes = {
        tuple(
            len(batch)
            for _, batch, _ in _batches(num_rows, 3, seed=0, rank=rank, world_size=world_size)
        )
        for rank in range(world_size)
    }
    assert len(shapes) == 1


def test_two_ranks_together_see_the_batches_of_one_process():
    one = _batches(24, 8, seed=5, epoch=3)
    two = [_batches(24, 4, seed=5, epoch=3, rank=rank, world_size=2) for rank in (0, 1)]
    for (_, whole, _), (_, even, _), (_, odd, _) in zip(one, *two, strict=True):
        assert set(whole) == set(even) | set(odd)


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(**settings):
        return np.concatenate([batch for _, batch, _ in _batches(30, 4, **settings)]).tolist()

    assert order(seed=1, epoch=2) == order(seed=1, epoch=2)
    assert order(seed=1, epoch=2) != order(seed=1, epoch=3)
    assert order(seed=1, epoch=2) != order(seed=2, epoch=2)


def test_batches_know_their_epoch_but_validation_is_always_the_same():
    assert {epoch for epoch, _, _ in _batches(5, 2, seed=0, epoch=7)} == {7}
    assert {epoch for epoch, _, _ in _batches(5, 2, epoch=7)} == {0}


@pytest.mark.parametrize("sizes", [(17, 3), (1, 9), (5, 5, 5), (40, 7, 2, 1)])
def test_classes_and_the_rows_of_each_are_served_equally_often(sizes):
    classes = np.repeat(np.arange(len(sizes)), sizes)
    most = np.zeros(len(sizes))
    for epoch in range(60):
        batches = _batches(len(classes), 4, seed=0, classes=classes, epoch=epoch)
        times = np.bincount(
            np.concatenate([batch.rows for batch in batches]) - 100, minlength=len(classes)
        )
        assert times.sum() == len(classes)
        of_class = np.array([times[classes == k].sum() for k in range(len(sizes))])
        assert of_class.max() - of_class.min() <= 1
        most += of_class == of_class.max()
        for k, size in enumerate(sizes):
            assert np.ptp(times[classes == k]) <= (of_class[k] % size > 0)
    assert most.min() > 0, "the rest does not always go to the same class"


def test_a_frequent_class_changes_its_scans_from_epoch_to_epoch():
    classes = np.repeat([0, 1], (30, 2))
    served = np.zeros(32)
    for epoch in range(100):
        for _, rows, _ in _batches(32, 8, seed=0, classes=classes, epoch=epoch):
            served[rows - 100] += 1
    assert served[:30] == pytest.approx(100 * 16 / 30, abs=25)  # five standard deviations


@pytest.mark.parametrize("classes", [None, np.repeat([0, 1], (9, 3))])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_turns_count_how_often_a_row_was_served_before_by_all_ranks(classes, world_size):
    ranks = [
        _batches(12, 2, seed=4, classes=classes, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    seen = Counter()
    for batches in zip(*ranks, strict=True):
        for place in range(len(batches[0].rows)):
            for batch in batches:
                row = batch.rows[place]
                assert batch.turns[place] == seen[row]
                seen[row] += 1
    assert max(seen.values()) > 1 or (classes is None and 12 % world_size == 0)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_balanced_batches_are_a_function_of_seed_and_epoch_and_shared_among_ranks(world_size):
    settings = {"seed": 4, "classes": np.repeat([0, 1, 2], (8, 3, 1))}
    one = _batches(12, 6, epoch=2, **settings)
    ranks = [
        _batches(12, 6 // world_size, epoch=2, rank=rank, world_size=world_size, **settings)
        for rank in range(world_size)
    ]
    for whole, *parts in zip(one, *ranks, strict=True):
        pairs = [set(zip(batch.rows, batch.turns, strict=True)) for batch in parts]
        assert set(zip(whole.rows, whole.turns, strict=True)) == set().union(*pairs)
    again = EpochSampler(np.arange(12) + 100, 6, begin=(2, 1), **settings)
    (rest,) = again
    np.testing.assert_array_equal(rest.rows, one[1].rows)
    np.testing.assert_array_equal(rest.turns, one[1].turns)
    assert [batch.rows.tolist() for batch in one] != [
        batch.rows.tolist() for batch in _batches(12, 6, epoch=3, **settings)
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
