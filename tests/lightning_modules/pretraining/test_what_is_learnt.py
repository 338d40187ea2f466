"""Each method's loss falls and its features serve a linear probe; with shuffled targets neither."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lightning_modules.encoder import Encoder
from lightning_modules.pretraining.autoencoder import Autoencoder
from lightning_modules.pretraining.contrastive import Contrastive
from lightning_modules.pretraining.hybrid import Hybrid
from lightning_modules.pretraining.lesions import MILD, Lesions
from lightning_modules.pretraining.masked import Masked

HEAD, PATCH = 26, 12
NUM_LABELLED = 80
NETWORK = {"depth": 2, "filters": 8}

pytestmark = pytest.mark.slow


def _smooth(generator, size, sigma):
    field = ndimage.gaussian_filter(generator.normal(size=(size,) * 3), sigma, mode="wrap")
    return field / field.std()


def _heads(num, seed):
    """Volumes that share an anatomy, each with some of its own."""
    shared = _smooth(np.random.default_rng(99), HEAD, 2)
    generator = np.random.default_rng(seed)
    own = (_smooth(generator, HEAD, 2) for _ in range(num))
    return [0.9 * shared + 0.45 * each + 0.25 * generator.normal(size=each.shape) for each in own]


def _places(heads, num, seed, scanners):
    """Patches, and whether they are of the right side; scanners change their intensities."""
    generator = np.random.default_rng(seed)
    patches = []
    for number in range(num):
        start = generator.integers(0, HEAD - PATCH + 1, 3)
        start[0] = generator.integers(0, 4) + (HEAD - PATCH - 3) * (number % 2)
        patch = heads[generator.integers(len(heads))]
        for axis, begin in enumerate(start):
            patch = patch.take(range(begin, begin + PATCH), axis)
        if scanners:
            patch = np.sign(patch) * np.abs(patch) ** np.exp(generator.uniform(-0.4, 0.4))
            patch = patch * generator.uniform(0.5, 1.5) + generator.uniform(-0.7, 0.7)
        patches.append(patch)
    return torch.tensor(np.array(patches)[:, None]).float()


def _tissue(num, seed, cubes):
    """Patches of smooth tissue; every second one with a darker or brighter cube, if asked for."""
    generator = np.random.default_rng(seed)
    patches = []
    for number in range(num):
        tissue = np.clip(0.5 + 0.18 * _smooth(generator, PATCH, 3), 0.2, 1)
        if cubes and number % 2:
            width, height, depth = generator.integers(1, PATCH - 5, 3)
            cube = tissue[width : width + 4, height : height + 4, depth : depth + 4]
            cube += generator.choice([-0.25, 0.25])
        noise = 0.05 * generator.normal(size=tissue.shape)
        patches.append(tissue * generator.uniform(0.7, 1) + noise)
    patches = torch.tensor(np.array(patches)[:, None]).float()
    return (patches - patches.mean()) / patches.std()


@pytest.fixture(scope="module")
def cohorts():
    """Patches to learn from, and patches of other people to probe with; classes take turns."""
    places = _places(_heads(12, 0), 400, 5, False), _places(_heads(12, 1), 480, 1, True)
    return {"places": places, "lesions": (_tissue(400, 0, False), _tissue(480, 1, True))}


def _probe(encoder, patches):
    """AUROC of a linear probe that is fitted on the first patches, on the others."""
    label = np.arange(len(patches)) % 2
    encoder.eval()
    with torch.no_grad():
        maps = encoder(patches).flatten(2)
    features = torch.cat([maps.mean(2), maps.amax(2)], 1).numpy()
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=2000))
    probe.fit(features[:NUM_LABELLED], label[:NUM_LABELLED])
    prob = probe.predict_proba(features[NUM_LABELLED:])[:, 1]
    return roc_auc_score(label[NUM_LABELLED:], prob)


def _train(model, patches, num_steps):
    """Train, and return the loss of the first and of the last ten steps."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(num_steps):
        batch = patches[torch.randperm(len(patches))[:32]]
        loss = torch.stack([*model.losses(batch).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.mean(losses[:10]), np.mean(losses[-10:])


def _shuffle_targets(model, monkeypatch):
    """Give each patch the target, or the other view, of another one."""

    def replace(name, shuffle):
        if hasattr(model, name):
            right = getattr(model, name)
            monkeypatch.setattr(model, name, lambda volume: shuffle(right(volume)))

    replace("damage", lambda seen: seen.roll(1, 0))
    replace("crops", lambda pair: [pair[0], pair[1].roll(1, 0)])
    replace("task", lambda made: (made[0], made[1].roll(1, 0)))


@pytest.mark.parametrize(
    ("method", "settings", "num_steps", "task"),
    [
        (Autoencoder, {}, 80, "places"),
        (Masked, {}, 100, "places"),
        (Contrastive, {"intensity": MILD}, 80, "places"),
        (Hybrid, {"intensity": MILD, "hidden_share": 0.3}, 140, "places"),
        (Lesions, {}, 100, "lesions"),
    ],
)
def test_a_method_learns_what_a_probe_can_use_and_with_shuffled_targets_it_does_not(
    method, settings, num_steps, task, cohorts, monkeypatch
):
    learnt_from, probed = cohorts[task]
    untrained = []
    for seed in range(5):
        torch.manual_seed(seed)
        untrained.append(_probe(Encoder(**NETWORK, norm="batch"), probed))
    found = {}
    for shuffled in (False, True):
        torch.manual_seed(0)
        model = method(**NETWORK, **settings)
        if shuffled:
            _shuffle_targets(model, monkeypatch)
        first, last = _train(model, learnt_from, num_steps)
        found[shuffled] = last / first, _probe(model.encoder, probed) - np.mean(untrained)
    (fall, gain), (shuffled_fall, shuffled_gain) = found[False], found[True]
    assert fall < 0.9
    assert fall < shuffled_fall - 0.05
    assert gain > 0.03
    assert shuffled_gain < gain / 2
