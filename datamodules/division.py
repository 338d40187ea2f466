"""Divide patients into parts of given shares: even in patients, in scans and in classes.

Many divisions are drawn, most of them stratified by the set of classes that a patient has; the best
of them are improved by exchanging single patients.
"""

import numpy as np

NUM_DRAWS, NUM_DRAWN_PATIENTS = 64, 8_000  # of large cohorts fewer draws: each is even already
NUM_IMPROVED, NUM_IMPROVED_PATIENTS = 8, 150
MAX_CANDIDATES = 100  # for an exchange
LARGE = 0.1  # distance of a share from the wanted one
MIN_GAIN = 1e-5  # of an exchange: less than half a percent of a share
DECIMALS = 9  # of a cost, so that every machine finds the same one lowest


def divide(
    counts: np.ndarray, shares: np.ndarray, missing: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Choose a part for every patient.

    A class that is missing in a part costs more than any unevenness. Then the distances count
    between the share that a part has and the one it should have: of all patients, of all scans,
    and, together a quarter as much, of each class's patients and scans. Small distances
    are squared, large ones are not, so that one patient with most scans does not decide where the
    others go (pseudo-Huber).

    Args:
        counts: Scans of each patient in each class, (P, K).
        shares: Share that each part should have, (S,); the sum is 1.
        missing: Cost of a class that is missing in a part, (S,), above 4.
        generator: Where the random numbers come from.

    Returns:
        Part of each patient, (P,).
    """
    cost = _Cost(counts, shares, missing)
    draws = _draw(counts, shares, generator)
    costs = cost(cost.totals(draws)).sum(1).round(DECIMALS)
    num_improved = int(np.clip(NUM_IMPROVED_PATIENTS // len(counts), 1, NUM_IMPROVED))
    best = costs.argsort(kind="stable")[:num_improved]
    improved = np.stack([_improve(draws[place], cost, generator) for place in best])
    return improved[cost(cost.totals(improved)).sum(1).round(DECIMALS).argmin()]


class _Cost:
    """What each part costs, as a function of the shares that it has.

    Args:
        counts: Scans of each patient in each class, (P, K).
        shares: Share that each part should have, (S,).
        missing: Cost of a class that is missing in a part, (S,).
    """

    def __init__(self, counts: np.ndarray, shares: np.ndarray, missing: np.ndarray) -> None:
        scans, present = counts.sum(1, keepdims=True), counts > 0
        measures = np.hstack([np.ones_like(scans), scans, counts, present])
        self.weights = measures / measures.sum(0)  # of a patient in each measure, (P, M)
        self.shares = shares
        self.missing = missing
        self.num_classes = counts.shape[1]
        self.importance = np.array([4, 4, *[1 / self.num_classes] * 2 * self.num_classes]) / 4

    def totals(self, divisions: np.ndarray) -> np.ndarray:
        """Shares that the parts of divisions, (C, P), have of each measure, (C, S, M)."""
        parts = np.arange(len(self.shares))
        return (divisions[:, None] == parts[:, None]) @ self.weights

    def __call__(self, totals: np.ndarray, parts: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Compute what parts cost, (…, S), that have the shares `totals`, (…, S, M)."""
        distances = (totals - self.shares[parts, None]) / LARGE
        uneven = (np.sqrt(1 + distances**2) - 1) @ self.importance * 2 * LARGE**2
        absent = (totals[..., -self.num_classes :] < 1e-9).sum(-1)
        return uneven + self.missing[parts] * absent


def _draw(counts: np.ndarray, shares: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw divisions, (C, P), by systematic sampling along the patients in order of their classes.

    The first ones have the wanted number of patients, also in every set of classes, but for one,
    and spread patients with many scans evenly. The later, the more is left to chance.
    """
    num_draws = int(np.clip(NUM_DRAWN_PATIENTS // len(counts), 8, NUM_DRAWS))
    shape = num_draws, len(counts)
    _, stratum = np.unique(counts > 0, axis=0, return_inverse=True)
    strata = generator.random((num_draws, stratum.max() + 1)).argsort(1)[:, stratum.ravel()]
    spread = np.geomspace(1e-6, 10, num_draws)[:, None]
    size = np.log(counts.sum(1)) + spread * generator.random(shape)
    order = np.lexsort((size, strata), axis=1)
    place = np.arange(shape[1]) * shares[0] + generator.random((num_draws, 1))
    slots = np.searchsorted(shares.cumsum()[:-1], place % 1, side="right")
    draws = np.empty(shape, dtype=np.int64)
    np.put_along_axis(draws, order, slots, axis=1)
    by_chance = generator.random(shape) < np.linspace(-1, 1, num_draws)[:, None]
    return np.where(by_chance, generator.integers(len(shares), size=shape), draws)


def _improve(division: np.ndarray, cost: _Cost, generator: np.random.Generator) -> np.ndarray:
    """Let two patients change places, or move one, for as long as that pays."""
    division, totals = division.copy(), cost.totals(division[None])[0]  # (S, M)
    parts = np.arange(len(totals))
    while True:
        patients = _candidates(division, cost.weights, generator)
        part = np.append(division[patients], parts)  # with nobody in each part
        weights = np.vstack([cost.weights[patients], np.zeros_like(totals)])
        change = weights - weights[:, None]  # of p's part if q comes for p, (R, R, M)
        then = cost((totals[part][:, None] + change).swapaxes(0, 1), part).T
        gain = cost(totals)[part][:, None] - then
        gain = np.where(part[:, None] != part, gain + gain.T, 0).round(DECIMALS)
        p, q = np.unravel_index(gain.argmax(), gain.shape)
        if gain[p, q] < MIN_GAIN:
            return division
        totals[part[p]] += change[p, q]
        totals[part[q]] -= change[p, q]
        for one, other in ((p, q), (q, p)):
            if one < len(patients):
                division[patients[one]] = part[other]


def _candidates(
    division: np.ndarray, weights: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Choose one patient of each kind in each part, the weightiest kinds first."""
    shuffled = generator.permutation(len(division))
    kinds = np.column_stack([division, weights])[shuffled]
    first = np.unique(kinds, axis=0, return_index=True)[1]
    weightiest = (-weights[shuffled[first]].sum(1)).round(DECIMALS).argsort(kind="stable")
    return shuffled[first[weightiest[:MAX_CANDIDATES]]]
