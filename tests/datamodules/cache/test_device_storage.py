from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules.augmentation import Augmentation
from datamodules.cache.device_storage import copy_to, device_storage
from datamodules.patches import PatchDataModule
from datamodules.preprocessing import Preprocessing
from datamodules.scans import ScanDataModule
from datamodules.splits import Splits

SETTINGS = {
    "preprocessing": Preprocessing(spatial_shape=(12, 11, 10)),
    "batch_size": 4,
}
AUGMENTATIONS = [
    Augmentation(num_versions=2),
    Augmentation(mode="fresh", flip_axes=(0,), log_gamma=0.2),
    Augmentation(mode="none"),
]


def _served(module, device="cpu"):
    """The first training batch as a model gets it, and whether it was made where it is used."""
    loader = module.train_dataloader()
    batch = next(iter(loader))
    made_there = batch["volume"].device.type == device and loader.dataset.on_device
    batch = module.transfer_batch_to_device(batch, torch.device(device), 0)
    return module.on_after_batch_transfer(batch, 0)["volume"], made_there


def _modules(write_cohort, tmp_path, trainer=None):
    scans = [(ScanDataModule, {"augmentation": each}) for each in AUGMENTATIONS]
    for kind, settings in [*scans, (PatchDataModule, {"patch_shape": (5, 4, 3)})]:
        if kind is ScanDataModule:
            settings |= {"splits": Splits(num_folds=3, num_repeats=1)}
        settings |= {"cache_dir": str(tmp_path / "cache"), **SETTINGS}
        module = kind(str(write_cohort(9)), **settings)
        module.trainer = trainer
        module.setup("fit")
        module.trainer = None
        yield module


@pytest.mark.slow
def test_a_cohort_in_memory_serves_what_the_one_on_disk_does(write_cohort, tmp_path, monkeypatch):
    on_disk = [_served(module) for module in _modules(write_cohort, tmp_path)]
    for name in ("scans", "patches"):  # as if the CPU were a GPU
        monkeypatch.setattr(
            f"datamodules.{name}.device_storage", lambda stored, device, _: copy_to(stored, device)
        )
    in_memory = [_served(module) for module in _modules(write_cohort, tmp_path)]
    for (expected, _), (volume, made_there) in zip(on_disk, in_memory, strict=True):
        assert made_there
        assert torch.equal(volume, expected)
    assert not any(made_there for _, made_there in on_disk)


def test_a_cohort_stays_on_disk_where_it_does_not_fit_or_workers_share_it(monkeypatch):
    stored = np.zeros((10, 1, 2, 2, 2), dtype=np.float16)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (2 * stored.nbytes, 0))
    copy = torch.zeros(1)
    monkeypatch.setattr("datamodules.cache.device_storage.copy_to", lambda *_: copy)
    gpu = torch.device("cuda:0")
    assert device_storage(stored, gpu, num_workers=0) is stored
    assert device_storage(stored[:7], gpu, num_workers=0) is copy
    assert device_storage(stored[:7], gpu, num_workers=2).base is stored
    assert device_storage(stored[:7], torch.device("cpu"), num_workers=0).base is stored


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_serves_what_the_cpu_does(write_cohort, tmp_path):
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cuda:0")),
        max_epochs=1,
        global_rank=0,
        world_size=1,
    )
    expected = [_served(module)[0] for module in _modules(write_cohort, tmp_path)]
    there = [_served(module, "cuda") for module in _modules(write_cohort, tmp_path, trainer)]
    for volume, (other, made_there) in zip(expected, there, strict=True):
        assert made_there
        torch.testing.assert_close(other.cpu(), volume, atol=1e-4, rtol=0)
