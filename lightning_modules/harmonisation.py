"""ComBat: features of several sites on one scale, by empirical Bayes (Johnson et al. 2007)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

FEW_SCANS = 3  # of a site: fewer tell no variance
CONVERGED = 1e-4  # relative change of the estimates
MOST_ROUNDS = 1000


@dataclass(frozen=True)
class SiteScales:
    """What is subtracted from the features of a site, and by what they are divided.

    Args:
        centre: Mean of each feature over the training scans, sites weighted by their scans, (F,).
        shifts: What a site adds to each feature, by its name, (F,).
        divisors: By how much a site stretches each feature, likewise.
    """

    centre: np.ndarray
    shifts: dict[str, np.ndarray]
    divisors: dict[str, np.ndarray]

    def apply(
        self, features: Float[np.ndarray, "n f"], sites: Sequence[str]
    ) -> Float[np.ndarray, "n f"]:
        """Harmonise scans; what a class adds is not asked for. Unknown sites stay as they are."""
        rows = features.astype(np.float64)
        for row, site in zip(rows, sites, strict=True):
            if site in self.shifts:
                row[:] = (row - self.centre - self.shifts[site]) / self.divisors[site] + self.centre
        return rows.astype(features.dtype)


def fit_sites(
    features: Float[np.ndarray, "n f"], sites: Sequence[str], labels: Shaped[np.ndarray, " n"]
) -> SiteScales:
    """Estimate what each site does to the features of the training scans.

    Location and scale of each site are shrunk towards those of its other features (Johnson et al.
    2007, doi 10.1093/biostatistics/kxj037, section 3.2). The classes are part of the linear model,
    so that sites which differ in them are not made alike in what the classes do.

    Args:
        features: Of the training scans.
        sites: Their sites; one with fewer than 3 scans is left out.
        labels: Class indices, or numbers that are predicted.

    Raises:
        ValueError: If fewer than two sites have enough scans, or sites and classes cannot be told
            apart.
    """
    named = np.asarray(sites, dtype=object)
    known = sorted(site for site in set(sites) if (named == site).sum() >= FEW_SCANS)
    if len(known) < 2:
        raise ValueError(
            f"--harmonise=site needs two sites with at least {FEW_SCANS} training scans each; this "
            f"fold has {len(known)}. Fill the column site, or drop the option."
        )
    used = np.isin(named, known)
    values, named = features[used].astype(np.float64), named[used]
    at = np.stack([named == site for site in known], axis=1).astype(float)  # (N, S)
    truth = labels[used]
    effects = [truth] if truth.dtype.kind == "f" else [truth == k for k in np.unique(truth)[1:]]
    design = np.column_stack([at, *effects]).astype(float)
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError(
            "--harmonise=site cannot tell sites and classes apart in this fold: each class is at "
            "sites of its own. Drop the option."
        )
    weights = np.linalg.lstsq(design, values, rcond=None)[0]
    centre = at.mean(0) @ weights[: len(known)]
    spread = (values - design @ weights).std(0)
    varies = spread > 0
    spread = np.where(varies, spread, 1.0)
    rest = values - centre - design[:, len(known) :] @ weights[len(known) :]
    z = (rest / spread)[:, varies]
    shifts, divisors = {}, {}
    for site in known:
        shift, divisor = np.zeros(len(centre)), np.ones(len(centre))
        found, scale = _shrunk(z[named == site])
        shift[varies], divisor[varies] = found * spread[varies], np.sqrt(scale)
        shifts[site], divisors[site] = shift, divisor
    return SiteScales(centre, shifts, divisors)


def _shrunk(z: Float[np.ndarray, "n f"]) -> tuple[np.ndarray, np.ndarray]:
    """Posterior location and variance of a site's standardised features, (F,) each."""
    n, mean, variance = len(z), z.mean(0), z.var(0, ddof=1)
    if len(mean) < 2 or not variance.var() > 0:
        return mean, variance  # nothing to shrink towards
    prior, width = mean.mean(), mean.var(ddof=1)
    average, moment = variance.mean(), variance.var(ddof=1)
    shape = (2 * moment + average**2) / moment
    rate = (average * moment + average**3) / moment
    location, scale = mean, variance
    for _ in range(MOST_ROUNDS):
        before = location, scale
        location = (n * width * mean + scale * prior) / (n * width + scale)
        squares = ((z - location) ** 2).sum(0)
        scale = (rate + squares / 2) / (n / 2 + shape - 1)
        changes = [
            np.abs(new - old) / np.maximum(np.abs(old), 1e-12)
            for new, old in zip((location, scale), before, strict=True)
        ]
        if max(change.max() for change in changes) < CONVERGED:
            break
    return location, scale
