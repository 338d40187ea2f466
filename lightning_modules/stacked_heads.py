"""Heads of one shape side by side: one batched step trains all of them, each as if it were alone.

The loss is the sum of the heads' losses and AdamW works weight by weight, so that no head's
gradient or step depends on another head.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.objective import Objective

# Axes: H = heads; B = batch, padded to the largest; F = features; K = classes.


@dataclass(frozen=True)
class StackedBatch:
    """A batch for each head; what is beyond a head's own scans is padding.

    Args:
        features: Outputs of the encoder, (H, B, F).
        labels: Class indices, (H, B).
        sizes: Scans of each head, at least one, (H,).
        seeds: Seed of each head's dropout, (H,); empty where there is none.
    """

    features: Float[Tensor, "h b f"]
    labels: Int[Tensor, "h b"]
    sizes: Int[Tensor, " h"]
    seeds: Sequence[int] = ()

    @property
    def share(self) -> Float[Tensor, "h b"]:
        """Share of each scan in its head's mean; 0 is padding."""
        places = torch.arange(self.labels.shape[1], device=self.labels.device)
        return (places < self.sizes[:, None]) / self.sizes[:, None]


@dataclass(frozen=True)
class Scores:
    """What the heads make of the scans of a batch.

    Args:
        prob: One output per class, (H, B, K).
        loss: Mean over each head's scans, (H,).
        accuracy: Of each head, (H,).
        balanced_accuracy: Mean over the classes that are present or predicted, (H,).
    """

    prob: Float[Tensor, "h b k"]
    loss: Float[Tensor, " h"]
    accuracy: Float[Tensor, " h"]
    balanced_accuracy: Float[Tensor, " h"]


class StackedHeads(nn.Module):
    """Chains of linear layers, ReLU and dropout; their weights have the heads as first axis.

    Args:
        heads: Chains of the same layers, (H,); their weights are where training starts.
    """

    def __init__(self, heads: Sequence[nn.Sequential]) -> None:
        super().__init__()
        layers = zip(*heads, strict=True)
        self.layers = nn.ModuleList(
            _StackedLinear(alike) if isinstance(alike[0], nn.Linear) else alike[0]
            for alike in layers
            if not isinstance(alike[0], nn.Flatten)
        )

    def forward(
        self, features: Float[Tensor, "h b f"], dropout: "StackedBatch | None" = None
    ) -> Float[Tensor, "h b k"]:
        """Compute the logits of every head on its own scans.

        Args:
            features: Outputs of the encoder.
            dropout: The batch, whose sizes and seeds decide what is dropped; None drops nothing.
        """
        generators = (
            [torch.Generator().manual_seed(seed) for seed in dropout.seeds] if dropout else []
        )
        for layer in self.layers:
            if isinstance(layer, nn.Dropout):
                if dropout is not None and layer.p:
                    features = features * _kept(features, dropout.sizes, generators, layer.p)
            else:
                features = layer(features)
        return features

    def train_epoch(
        self,
        batches: Iterable[StackedBatch],
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        schedule: Any,
        after_step: Callable[[], None] = lambda: None,
    ) -> Float[Tensor, " h"]:
        """Make one step on each batch; return each head's mean loss over its scans."""
        total, num_scans = torch.tensor(0.0), torch.tensor(0)
        for batch in batches:
            optimizer.zero_grad()
            loss = mean_loss(objective, self(batch.features, batch), batch)  # (H,)
            loss.sum().backward()
            optimizer.step()
            schedule.step()
            after_step()
            total = total + loss.detach() * batch.sizes
            num_scans = num_scans + batch.sizes
        return total / num_scans

    @torch.no_grad()
    def evaluate(self, batch: StackedBatch, objective: Objective) -> Scores:
        """Score every head on its own scans."""
        logits = self(batch.features)
        right, recall = _accuracies(logits, batch)
        return Scores(logits.sigmoid(), mean_loss(objective, logits, batch), right, recall)


def mean_loss(
    objective: Objective, logits: Float[Tensor, "h b k"], batch: StackedBatch
) -> Float[Tensor, " h"]:
    """Compute the mean loss of each head over its scans and outputs."""
    target = F.one_hot(batch.labels, logits.shape[-1])
    return (objective.each(logits, target).mean(2) * batch.share).sum(1)


def stacked_objective(objectives: Sequence[Objective]) -> Objective:
    """Join objectives that differ in nothing but their class weights into one for a stack."""
    joined = objectives[0]
    if joined.weights is not None:
        weights = [each.weights for each in objectives if each.weights is not None]
        joined.weights = torch.stack(weights)[:, None]  # (H, 1, K)
    return joined


class _StackedLinear(nn.Module):
    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, features: Tensor) -> Tensor:
        return torch.baddbmm(self.bias[:, None], features, self.weight.transpose(1, 2))


def _kept(
    features: Tensor, sizes: Tensor, generators: Sequence[torch.Generator], p: float
) -> Tensor:
    """What dropout multiplies with: for each head what nn.Dropout would draw for it alone."""
    kept = torch.zeros(features.shape)
    for row, size, generator in zip(kept, sizes.tolist(), generators, strict=True):
        row[:size] = torch.empty(size, row.shape[1]).bernoulli_(1 - p, generator=generator)
    return kept.div_(1 - p).to(features.device)


def _accuracies(logits: Tensor, batch: StackedBatch) -> tuple[Tensor, Tensor]:
    num_classes = logits.shape[-1]
    real = (batch.share > 0)[..., None]
    truth = F.one_hot(batch.labels, num_classes) * real  # (H, B, K)
    guess = F.one_hot(logits.argmax(2), num_classes) * real
    hits, members = (truth * guess).sum(1), truth.sum(1)  # (H, K)
    recall = hits / members.clamp(min=1)
    seen = (members + guess.sum(1)) > 0
    return hits.sum(1) / batch.sizes, (recall * seen).sum(1) / seen.sum(1)
