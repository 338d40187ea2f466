"""Cross-validations drawn many times from known distributions, all trials at once."""

import numpy as np
from scipy.stats import norm

from evaluation.uncertainty import MEASURES, Repeat

SPREADS = {"patient": 0.7, "scan": 0.15, "repeat": 0.15}  # variances of a score


def draw_trials(
    sizes,
    aurocs,
    num_trials=2000,
    num_repeats=1,
    per_patient=1,
    shared=0.5,
    mixed=False,
    seed=0,
):
    """Draw models whose scores are normal with one variance, and half the lead as threshold.

    Args:
        sizes: Patients with the positive and with the negative class.
        aurocs: True AUROC of each model.
        num_trials: Trials of the same design.
        num_repeats: Repeats; they share the patients' and scans' luck.
        per_patient: Scans per patient.
        shared: Correlation of two models' scores of one class.
        mixed: Whether the last scan of a patient has the other class.
        seed: Seed.

    Returns:
        For each model its repeats and its true MEASURES.
    """
    generator = np.random.default_rng(seed)
    num_patients = sum(sizes)
    true = np.repeat(np.repeat([1, 0], sizes)[:, None], per_patient, axis=1)
    if mixed:
        true[:, -1] = 1 - true[:, -1]
    patient = np.repeat(np.arange(num_patients), per_patient)

    def luck():
        parts = {"patient": (1, num_patients, 1), "scan": (1, num_patients, per_patient)}
        parts["repeat"] = (num_repeats, num_patients, per_patient)
        total = sum(
            np.sqrt(SPREADS[name]) * generator.normal(size=(num_trials, *shape))
            for name, shape in parts.items()
        )
        return total.reshape(num_trials, num_repeats, -1)

    common, found = luck(), []
    for auroc in aurocs:
        lead = np.sqrt(2) * norm.ppf(auroc)
        score = np.sqrt(shared) * common + np.sqrt(1 - shared) * luck()
        score += lead * (true.ravel() - 0.5)
        prob = norm.cdf(score)
        probs = np.stack([1 - prob, prob], axis=-1)
        repeats = [
            Repeat(num_patients, patient, true.ravel(), (score[:, r] > 0).astype(int), probs[:, r])
            for r in range(num_repeats)
        ]
        truth = dict.fromkeys(MEASURES, norm.cdf(lead / 2)) | {"auroc": auroc}
        found.append((repeats, truth))
    return found


def draw_classes(sizes, num_trials=2000, num_repeats=1, lead=1.0, seed=0):
    """Draw one model of several classes, a scan per patient; the true class's logit leads."""
    generator = np.random.default_rng(seed)
    num_patients, num_classes = sum(sizes), len(sizes)
    true = np.repeat(np.arange(num_classes), sizes)
    luck = np.sqrt(0.7) * generator.normal(size=(num_trials, num_patients, num_classes))
    repeats = []
    for _ in range(num_repeats):
        own = np.sqrt(0.3) * generator.normal(size=luck.shape)
        logits = lead * np.eye(num_classes)[true] + luck + own
        patient = np.arange(num_patients)
        repeats.append(
            Repeat(num_patients, patient, true, logits.argmax(axis=-1), norm.cdf(logits))
        )
    return repeats


def covered(limits, truth):
    """Compute the share of trials whose interval holds the truth."""
    low, high = limits
    return float(((low <= truth) & (truth <= high)).mean())
