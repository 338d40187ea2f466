import numpy as np
import pytest
import torch

from datamodules.batches.epoch_sampler import Batch
from datamodules.preprocessing import Preprocessing
from datamodules.scans import ScanDataModule
from datamodules.splits import Splits
from lightning_modules.classifier import Classifier


@pytest.fixture
def fold(write_cohort, run_verb, tmp_path):
    """Return a function that trains fold 0 and answers its kept model and its data."""

    def train(*arguments):
        table = write_cohort(12)
        assert run_verb("finetune", table, "run", "--fold=0", *arguments) == 0
        checkpoint = tmp_path / "run/repeat0_fold0/best.ckpt"
        data = ScanDataModule(
            str(table),
            preprocessing=Preprocessing(spatial_shape=(12, 12, 12)),
            splits=Splits(path=str(tmp_path / "run")),
            cache_dir=str(tmp_path / "cache"),
        )
        data.setup("fit")
        return Classifier.load_from_checkpoint(checkpoint, weights_only=True), data

    return train


@pytest.mark.slow
def test_kept_norms_are_measured_on_the_training_scans_as_they_are(fold):
    model, data = fold("--model.norm=batch", "--trainer.limit_train_batches=1")
    rows = data.rows["train"]
    plain = data.plain[Batch(0, rows, np.zeros_like(rows))]["volume"]
    with torch.no_grad():
        convolution, pooling, norm, _ = model.encoder[0]
        maxima = pooling(convolution(data.intensity.scale(plain)))  # (B, F, W', H', D')
    torch.testing.assert_close(norm.running_mean, maxima.mean((0, 2, 3, 4)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, maxima.var((0, 2, 3, 4)), atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_norms_of_a_frozen_encoder_keep_their_statistics(fold):
    model, _ = fold("--model.norm=batch", "--model.freeze_encoder=true")
    assert torch.equal(model.encoder[0][2].running_mean, torch.zeros(4))
    assert torch.equal(model.encoder[0][2].running_var, torch.ones(4))
