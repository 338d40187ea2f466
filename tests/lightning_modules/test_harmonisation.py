"""ComBat, against the equations of Johnson et al. 2007 written out one feature at a time."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from lightning_modules.harmonisation import fit_sites

NUM_SCANS = {"A": 14, "B": 9, "C": 6}


def _cohort(width=12, effect=2.0, seed=0):
    """Features that sites shift and stretch, and classes shift; sites differ in their classes."""
    generator = np.random.default_rng(seed)
    sites = np.repeat(list(NUM_SCANS), list(NUM_SCANS.values()))
    labels = np.array([n % (2 + (site == "B")) == 0 for n, site in enumerate(sites)]).astype(int)
    features = generator.normal(10, 1, (len(sites), width))
    features[:, : width // 2] += effect * labels[:, None]
    for site in NUM_SCANS:
        at = sites == site
        features[at] = features[at] * generator.uniform(0.5, 2, width) + generator.normal(
            0, 4, width
        )
    return features, sites, labels


def _slowly(features, sites, labels):
    """Location and scale of each site and feature, by loops; section 3.2 of the paper."""
    names, (num, width) = list(NUM_SCANS), features.shape
    z, alpha, sigma = np.empty_like(features), np.empty(width), np.empty(width)
    for g in range(width):
        rows = [
            [*(site == name for name in names), label]
            for site, label in zip(sites, labels, strict=True)
        ]
        beta = np.linalg.pinv(np.array(rows, float)) @ features[:, g]
        alpha[g] = sum((sites == n).sum() * b for n, b in zip(names, beta, strict=False)) / num
        fitted = np.array(rows, float) @ beta
        sigma[g] = np.sqrt(((features[:, g] - fitted) ** 2).sum() / num)
        z[:, g] = (features[:, g] - alpha[g] - labels * beta[-1]) / sigma[g]
    gammas, deltas = {}, {}
    for name in names:
        own = z[sites == name]
        n = len(own)
        gamma_hat, delta_hat = own.mean(0), own.var(0, ddof=1)
        gamma_bar, tau = gamma_hat.mean(), gamma_hat.var(ddof=1)
        v, s = delta_hat.mean(), delta_hat.var(ddof=1)
        lam, theta = (v**2 + 2 * s) / s, (v**3 + v * s) / s
        gamma, delta = gamma_hat.copy(), delta_hat.copy()
        for g in range(width):
            for _ in range(500):
                gamma[g] = (n * tau * gamma_hat[g] + delta[g] * gamma_bar) / (n * tau + delta[g])
                squares = sum((x - gamma[g]) ** 2 for x in own[:, g])
                delta[g] = (theta + squares / 2) / (n / 2 + lam - 1)
        gammas[name], deltas[name] = gamma, delta
    return alpha, sigma, gammas, deltas


def test_shifts_and_scales_are_those_of_the_papers_equations():
    features, sites, labels = _cohort()
    found = fit_sites(features, sites.tolist(), labels)
    alpha, sigma, gammas, deltas = _slowly(features, sites, labels)
    np.testing.assert_allclose(found.centre, alpha)
    for site in NUM_SCANS:
        np.testing.assert_allclose(found.shifts[site], sigma * gammas[site], atol=1e-3)
        np.testing.assert_allclose(found.divisors[site], np.sqrt(deltas[site]), rtol=1e-3)


@pytest.mark.slow
def test_afterwards_the_site_cannot_be_told_and_the_class_can():
    features, sites, labels = _cohort(seed=1)
    after = fit_sites(features, sites.tolist(), labels).apply(features, sites.tolist())
    model = LogisticRegression(max_iter=5000)
    assert cross_val_score(model, features, sites, cv=5).mean() > 0.9
    assert cross_val_score(model, after, sites, cv=5).mean() < 14 / 29 + 0.1
    assert cross_val_score(model, after, labels, cv=5).mean() > 0.85


def test_a_scan_is_harmonised_without_its_class_and_an_unknown_site_is_left_alone():
    features, sites, labels = _cohort()
    few = np.append(sites, ["D", "D"])
    more = np.vstack([features, features[:2]])
    scales = fit_sites(more, few.tolist(), np.append(labels, [0, 1]))
    assert set(scales.shifts) == set(NUM_SCANS)
    one = scales.apply(features[:1], ["B"])
    np.testing.assert_array_equal(scales.apply(features[:2], ["B", "A"])[:1], one)
    np.testing.assert_array_equal(scales.apply(features[:1], ["D"]), features[:1])
    constant = features.copy()
    constant[:, 3] = 5.0
    kept = fit_sites(constant, sites.tolist(), labels).apply(constant, sites.tolist())
    np.testing.assert_array_equal(kept[:, 3], constant[:, 3])


def test_sites_that_cannot_be_compared_are_refused():
    features, sites, labels = _cohort()
    with pytest.raises(ValueError, match=r"two sites with at least 3 .* this fold has 1"):
        fit_sites(features, ["A"] * len(sites), labels)
    with pytest.raises(ValueError, match="cannot tell sites and classes apart"):
        fit_sites(features, sites.tolist(), (sites == "A").astype(int))
