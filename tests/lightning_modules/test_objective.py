import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss
from torchvision.transforms.v2 import CutMix

from lightning_modules.classifier import Classifier
from lightning_modules.objective import Objective, auc_margin_loss, cut_mix, mix_up

LABEL = torch.tensor([0, 1, 2, 1, 0, 0])


@pytest.fixture
def logits():
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(0)) * 3


def _one_hot(label=LABEL, num_classes=3):
    return F.one_hot(label, num_classes).float()


def test_the_default_is_plain_binary_cross_entropy_to_the_last_bit(logits):
    both = []
    for loss in (
        lambda logits: Objective(3)(logits, LABEL),
        lambda logits: F.binary_cross_entropy_with_logits(logits, _one_hot()),
    ):
        leaf = logits.clone().requires_grad_()
        value = loss(leaf)
        value.backward()
        both.append((value, leaf.grad))
    assert torch.equal(both[0][0], both[1][0])
    assert torch.equal(both[0][1], both[1][1])


def test_a_label_and_its_one_hot_target_have_the_same_loss(logits):
    objective = Objective(3, loss="focal", label_smoothing=0.1)
    assert torch.equal(objective(logits, LABEL), objective(logits, _one_hot()))


def test_a_default_classifier_adds_nothing_to_its_checkpoint():
    model = Classifier(2, (8, 8, 8), filters=2)
    assert {name.split(".")[0] for name in model.state_dict()} == {"encoder", "head"}


def test_focal_loss_without_its_exponent_is_cross_entropy(logits):
    focal = Objective(3, loss="focal", focal_gamma=0)
    assert torch.equal(focal(logits, LABEL), Objective(3)(logits, LABEL))


@pytest.mark.parametrize("gamma", [0.5, 1, 2, 5])
def test_focal_loss_is_that_of_torchvision(logits, gamma):
    expected = sigmoid_focal_loss(logits, _one_hot(), alpha=-1, gamma=gamma, reduction="mean")
    torch.testing.assert_close(
        Objective(3, loss="focal", focal_gamma=gamma)(logits, LABEL), expected
    )


@pytest.mark.parametrize("gamma", [0.5, 2])
def test_focal_loss_has_a_finite_slope_where_an_output_is_certain(gamma):
    logits = torch.tensor([[-60.0, 60.0], [60.0, -60.0]], requires_grad=True)
    Objective(2, loss="focal", focal_gamma=gamma)(logits, torch.tensor([1, 1])).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", ["bce", "focal"])
def test_balanced_weights_equal_a_training_set_with_the_rare_scans_repeated(logits, loss):
    weighted = Objective(3, loss=loss, class_weights="balanced")
    weighted.balance([3, 2, 1])
    repeated = [row for row, label in enumerate(LABEL.tolist()) for _ in range((2, 3, 6)[label])]
    expected = Objective(3, loss=loss)(logits[repeated], LABEL[repeated])
    torch.testing.assert_close(weighted(logits, LABEL), expected)


def test_balanced_weights_travel_in_the_checkpoint(logits):
    source, target = (Objective(3, class_weights="balanced") for _ in range(2))
    source.balance([3, 2, 1])
    target.load_state_dict(source.state_dict())
    assert torch.equal(source(logits, LABEL), target(logits, LABEL))
    assert not torch.equal(source(logits, LABEL), Objective(3)(logits, LABEL))


def test_a_class_without_training_scans_cannot_be_weighted():
    with pytest.raises(ValueError, match="Class number 1 has no training scan"):
        Objective(3, class_weights="balanced").balance([4, 0, 2])


def test_smoothed_labels_lie_between_the_truth_and_ignorance():
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    expected = 0.0
    for logit, target in zip(logits[0], (0.1, 0.8, 0.1), strict=True):
        prob = logit.sigmoid()
        expected -= (target * prob.log() + (1 - target) * (1 - prob).log()) / 3
    smoothed = Objective(3, label_smoothing=0.3)(logits, torch.tensor([1]))
    torch.testing.assert_close(smoothed, expected)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"focal_gamma": -1.0}, r"focal_gamma is -1\.0; set it to 0 or more"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1\.0; set it to at least 0, below 1"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1"),
    ],
)
def test_settings_out_of_range_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        Classifier(2, (8, 8, 8), filters=2, **settings)


def test_mix_up_with_alpha_0_is_the_batch_itself_and_draws_nothing():
    volume, target = torch.rand(6, 1, 4, 4, 4), _one_hot()
    before = torch.get_rng_state()
    assert all(
        same is given
        for same, given in zip(mix_up(volume, target, alpha=0.0), (volume, target), strict=True)
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_mix_up_blends_volumes_and_targets_alike():
    target = torch.eye(6)  # every scan is a class of its own: its target tells what was blended
    volume = torch.rand(6, 1, 4, 4, 4)
    torch.manual_seed(0)
    mixed, shares = mix_up(volume, target, alpha=1.0)
    torch.testing.assert_close(shares.sum(1), torch.ones(6))
    assert not torch.equal(shares, target)
    torch.testing.assert_close(mixed, torch.einsum("bs,scwhd->bcwhd", shares, volume))


def test_mix_up_leaves_a_scan_the_contrasts_that_it_has():
    volume = torch.rand(6, 2, 2, 2, 2)
    volume[:3, 0] = volume[3:, 1] = torch.nan
    mixed, _ = mix_up(volume, _one_hot(), alpha=0.4)
    assert torch.equal(mixed.isnan(), volume.isnan())


def test_mix_up_is_a_function_of_torchs_seed():
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(mix_up(torch.arange(6.0).reshape(6, 1, 1, 1, 1), torch.eye(6), alpha=0.4)[1])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.slow
def test_the_shares_of_mix_up_follow_the_beta_distribution():
    torch.manual_seed(0)
    shares = []
    for _ in range(2000):
        blended = mix_up(torch.zeros(2, 1, 1, 1, 1), torch.eye(2), alpha=0.5)[1]
        shares.append(blended[0, 0].item())  # 1 where a scan is its own partner
    share = torch.tensor(shares)
    alone = share == 1
    assert alone.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert share[~alone].mean().item() == pytest.approx(0.5, abs=0.04)
    assert share[~alone].var().item() == pytest.approx(1 / 8, abs=0.01)  # 1 / (4 (2 alpha + 1))


def test_a_negative_mix_up_is_refused():
    with pytest.raises(ValueError, match=r"mixup is -0\.2; set it to 0 or more"):
        mix_up(torch.rand(2, 1, 4, 4, 4), torch.eye(2), alpha=-0.2)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_classifier_trains_on_the_mixed_batch(monkeypatch, num_classes):
    model = Classifier(
        num_classes,
        (8, 8, 8),
        depth=1,
        filters=2,
        loss="focal",
        class_weights="balanced",
        label_smoothing=0.1,
        mixup=0.4,
    )
    model.loss.balance([5, 3, 2][:num_classes])
    monkeypatch.setattr(model, "log", lambda *_, **__: None)
    volume, label = torch.rand(4, 1, 8, 8, 8), torch.tensor([0, 1, num_classes - 1, 0])
    torch.manual_seed(3)
    loss = model.training_step({"volume": volume, "label": label, "row": torch.arange(4)}, 0)
    torch.manual_seed(3)
    mixed, target = mix_up(volume, F.one_hot(label, num_classes), alpha=0.4)
    torch.testing.assert_close(loss, model.loss(model(mixed), target))


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_of_pictures_is_that_of_torchvision(seed, monkeypatch):
    picture, label = torch.randn(4, 2, 9, 14), torch.tensor([0, 2, 1, 0])
    monkeypatch.setattr(torch, "randperm", lambda n: torch.arange(n).roll(1))
    torch.manual_seed(seed)
    expected, shares = CutMix(alpha=0.7, num_classes=3)(picture, label)
    torch.manual_seed(seed)
    volume = picture.transpose(2, 3)[..., None]  # the width is drawn first
    mixed, target = cut_mix(volume, _one_hot(label), alpha=0.7)
    torch.testing.assert_close(mixed[..., 0].transpose(2, 3), expected)
    torch.testing.assert_close(target, shares)


def test_cutmix_moves_a_box_of_voxels_and_its_share_of_the_label():
    torch.manual_seed(2)
    numbers = torch.arange(5.0)
    volume = numbers[:, None, None, None, None].expand(5, 2, 6, 8, 7).clone()
    volume[3, 1] = torch.nan  # lacks a contrast
    mixed, covariates, target = cut_mix(volume, numbers[:, None], torch.eye(5), alpha=1.0)
    for row in range(5):
        shares = torch.stack([(mixed[row, 0] == n).float().mean() for n in numbers])
        torch.testing.assert_close(target[row], shares)
        assert covariates[row].item() == pytest.approx(float(shares @ numbers))
        assert mixed[row, 1].isnan().all() == (row == 3)
        assert not (row != 3 and mixed[row, 1].isnan().any())
    assert (target > 0).sum(1).max() == 2
    assert cut_mix(volume, alpha=0)[0] is volume
    with pytest.raises(ValueError, match="cutmix is -1"):
        cut_mix(volume, alpha=-1)
    with pytest.raises(ValueError, match="mixup or cutmix"):
        Classifier(2, (8, 8, 8), mixup=0.2, cutmix=0.2)


@pytest.mark.parametrize("margin", [1.0, 0.3])
def test_the_auc_margin_loss_and_its_gradient_are_those_of_the_written_formula(logits, margin):
    leaf = logits.double().requires_grad_()
    loss = Objective(3, loss="auc_margin", auc_margin=margin)(leaf, LABEL)
    loss.backward()
    other = logits.double().requires_grad_()
    parts = []
    for k in range(3):
        own = [other[n, k].sigmoid() for n in range(6) if LABEL[n] == k]
        rest = [other[n, k].sigmoid() for n in range(6) if LABEL[n] != k]
        a, b = sum(own) / len(own), sum(rest) / len(rest)
        parts.append(sum((p - a) ** 2 for p in own) / len(own))
        parts.append(sum((p - b) ** 2 for p in rest) / len(rest))
        parts.append(torch.relu(margin - a + b) ** 2)
    expected = sum(parts) / 3
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(leaf.grad, other.grad)
    if margin == 1.0:  # then it is the squared error of all pairs
        prob = logits.double().sigmoid()
        pairs = [
            torch.stack(
                [(1 - p + q) ** 2 for p in prob[k == LABEL, k] for q in prob[k != LABEL, k]]
            )
            for k in range(3)
        ]
        torch.testing.assert_close(loss.detach(), torch.stack([p.mean() for p in pairs]).mean())


def test_a_batch_of_one_class_has_no_auc_margin_loss_but_gradients_of_0(logits):
    leaf = logits.clone().requires_grad_()
    loss = Objective(3, loss="auc_margin")(leaf, torch.ones(6, dtype=torch.int64))
    loss.backward()
    assert loss == 0
    assert torch.equal(leaf.grad, torch.zeros_like(logits))
    two = torch.tensor([0, 0, 1, 1, 1, 0])  # the third class is in no scan
    leaf = logits.clone().requires_grad_()
    Objective(3, loss="auc_margin")(leaf, two).backward()
    assert leaf.grad[:, :2].all()
    assert not leaf.grad[:, 2].any()
    pair = auc_margin_loss(logits[:, :2], _one_hot(two)[:, :2])
    torch.testing.assert_close(Objective(3, loss="auc_margin")(logits, two), pair)


@pytest.mark.parametrize(
    "settings", [{"class_weights": "balanced"}, {"label_smoothing": 0.1}, {"auc_margin": 1.5}]
)
def test_what_does_not_go_with_the_auc_margin_loss_is_refused(settings):
    with pytest.raises(ValueError, match="auc_margin"):
        Objective(2, loss="auc_margin", **settings)
