import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.functional.classification import multiclass_accuracy

from lightning_modules.finetuning import Finetuning, configure_finetuning
from lightning_modules.objective import Objective
from lightning_modules.stacked_heads import StackedBatch, StackedHeads, stacked_objective

WIDTH, BATCH_SIZE, NUM_EPOCHS = 12, 4, 5
SIZES = (11, 9, 10)  # three batches each; the last has 3, 1 and 2 scans


def _head(seed, nodes, dropout):
    torch.manual_seed(seed)
    hidden = [nn.Linear(WIDTH, nodes), nn.ReLU(), nn.Dropout(dropout)] if nodes else []
    last = nn.Linear(nodes or WIDTH, 2)
    return nn.Sequential(nn.Flatten(), nn.Dropout(dropout), *hidden, last)


def _scans(seed, size):
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=size)
    features = generator.normal(size=(size, WIDTH)) + labels[:, None]
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


def _order(head, epoch):
    return torch.from_numpy(np.random.default_rng((head, epoch)).permutation(SIZES[head]))


def _dropout_seed(head, epoch, step):
    return 100 * head + 10 * epoch + step


def _batches(epoch):
    """Batches for all heads, padded with what must not count."""
    for step, start in enumerate(range(0, max(SIZES), BATCH_SIZE)):
        features = torch.full((len(SIZES), BATCH_SIZE, WIDTH), 50.0)
        labels = torch.ones(len(SIZES), BATCH_SIZE, dtype=torch.long)
        sizes = []
        for head, size in enumerate(SIZES):
            rows = _order(head, epoch)[start : start + BATCH_SIZE]
            scans, truth = _scans(head, size)
            features[head, : len(rows)], labels[head, : len(rows)] = scans[rows], truth[rows]
            sizes.append(len(rows))
        seeds = [_dropout_seed(head, epoch, step) for head in range(len(SIZES))]
        yield StackedBatch(features, labels, torch.tensor(sizes), seeds)


def _schedule(parameters, fused=None):
    made = configure_finetuning(
        parameters,
        nn.Identity(),
        Finetuning(schedule="cosine", warmup_epochs=0.5),
        lr=0.01,
        encoder_lr_factor=1.0,
        weight_decay=0.1,
        max_epochs=NUM_EPOCHS,
        num_steps=NUM_EPOCHS * 3,
        fused=fused,
    )
    return made["optimizer"], made["lr_scheduler"]["scheduler"]


def _objective(head, **settings):
    objective = Objective(2, **settings)
    if objective.weights is not None:
        objective.balance([3 + head, 8])
    return objective


def _train_alone(head, model, objective):
    """Train one head with torch's own layers, dropout and optimizer; its loss at each epoch."""
    optimizer, schedule = _schedule(model.parameters())
    scans, truth = _scans(head, SIZES[head])
    losses = []
    for epoch in range(NUM_EPOCHS):
        total = 0.0
        for step, rows in enumerate(_order(head, epoch).split(BATCH_SIZE)):
            torch.manual_seed(_dropout_seed(head, epoch, step))
            optimizer.zero_grad()
            loss = objective(model(scans[rows]), truth[rows])
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        losses.append(total / SIZES[head])
    return losses


@pytest.mark.parametrize(
    ("nodes", "dropout", "settings"),
    [
        (0, 0.0, {}),
        (8, 0.3, {"class_weights": "balanced"}),
        (8, 0.0, {"loss": "focal", "label_smoothing": 0.1}),
    ],
)
def test_heads_in_a_stack_end_as_heads_that_are_trained_alone(nodes, dropout, settings):
    stacked = StackedHeads([_head(head, nodes, dropout) for head in range(3)])
    objective = stacked_objective([_objective(head, **settings) for head in range(3)])
    optimizer, schedule = _schedule(stacked.parameters(), fused=True)
    losses = [
        stacked.train_epoch(_batches(epoch), objective, optimizer, schedule).tolist()
        for epoch in range(NUM_EPOCHS)
    ]
    held_out = torch.stack([_scans(100 + head, 7)[0] for head in range(3)])
    logits = stacked(held_out)
    for head in range(3):
        alone = _head(head, nodes, dropout)
        expected = _train_alone(head, alone, _objective(head, **settings))
        np.testing.assert_allclose([epoch[head] for epoch in losses], expected, rtol=1e-5)
        torch.testing.assert_close(logits[head], alone.eval()(held_out[head]), rtol=0, atol=1e-5)
    assert expected[-1] < expected[0]


def test_one_heads_scans_change_nothing_for_another_head():
    changed = []
    for noise in (0.0, 1.0):
        stacked = StackedHeads([_head(head, 8, 0.3) for head in range(3)])
        optimizer, schedule = _schedule(stacked.parameters(), fused=True)
        for batch in _batches(0):
            batch.features[1] += noise
            stacked.train_epoch([batch], Objective(2), optimizer, schedule)
        changed.append([weight.detach().clone() for weight in stacked.parameters()])
    for before, after in zip(*changed, strict=True):
        assert torch.equal(before[[0, 2]], after[[0, 2]])
        assert not torch.equal(before[1], after[1])


def test_scores_are_those_of_each_heads_own_scans():
    stacked = StackedHeads([_head(head, 8, 0.3) for head in range(3)])
    objective = Objective(2)
    for batch in _batches(0):
        scores = stacked.evaluate(batch, objective)
        for head, size in enumerate(batch.sizes.tolist()):
            model = _head(head, 8, 0.3).eval()
            logits, truth = model(batch.features[head, :size]), batch.labels[head, :size]
            assert scores.loss[head].item() == pytest.approx(objective(logits, truth).item())
            torch.testing.assert_close(scores.prob[head, :size], logits.sigmoid())
            for average, found in (("micro", scores.accuracy), ("macro", scores.balanced_accuracy)):
                expected = multiclass_accuracy(logits, truth, 2, average=average)
                assert found[head].item() == pytest.approx(expected.item())
