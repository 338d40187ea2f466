"""1 to 17 patients on 1 to 4 ranks: everyone is predicted once, and every figure stays."""

import json
import multiprocessing
from datetime import timedelta

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch.utils.data import Dataset

from callbacks.confidence_ranking import _merge_ranks
from datamodules.batches.epoch_sampler import batch_loader
from lightning_modules.classifier import Classifier
from lightning_modules.imagenet_baseline import ImageNetBaseline
from lightning_modules.pretraining.autoencoder import Autoencoder

SHAPE = (8, 8, 8)
PATIENTS = range(1, 18)


class _Place(Trainer):
    """A trainer that knows its rank and nothing else."""

    def __init__(self, rank, world_size):
        self.place = rank, world_size

    global_rank = property(lambda self: self.place[0])
    world_size = property(lambda self: self.place[1])


class _Scans(Dataset):
    def __init__(self):
        self.volume = torch.from_numpy(np.random.default_rng(0).random((17, 1, *SHAPE), np.float32))
        self.label = torch.arange(17) % 3 % 2

    def __getitem__(self, index):
        _, rows, _ = index
        return {
            "volume": self.volume[rows],
            "label": self.label[rows],
            "row": torch.from_numpy(rows),
        }


def _models():
    torch.manual_seed(0)
    kind = {"num_classes": 2, "spatial_shape": SHAPE}
    settings = {"backbone": "mobilenetv3_small_050", "weights": "none", "num_slices": 2}
    return {
        "classifier": Classifier(**kind, depth=1, filters=4, nodes=8),
        "baseline": ImageNetBaseline(**kind, **settings, image_size=32),
        "autoencoder": Autoencoder(depth=1, filters=4),
    }


@torch.no_grad()
def _figures(rank, world_size):
    """Validate and predict as a trainer does, for every number of patients."""
    scans, found = _Scans(), {}
    place = _Place(rank, world_size)
    for name, model in _models().items():
        logged = {}
        model.eval().log = lambda key, value, logged=logged, **_: logged.update({key: value})
        for num_patients in PATIENTS:
            outputs = {}
            for batch in batch_loader(scans, np.arange(num_patients), 2, place):
                model.validation_step(batch, 0)
                if name != "autoencoder":
                    predicted = model.predict_step(batch, 0)
                    outputs.update(
                        zip(predicted["row"].tolist(), predicted["prob"].tolist(), strict=True)
                    )
            metrics = {key: float(metric.compute()) for key, metric in logged.items()}
            for metric in logged.values():
                metric.reset()
            merged = _merge_ranks(outputs)
            found[f"{name} {num_patients}"] = [metrics, sorted(merged.items())]
    return found


def _rank(rank, world_size, folder):
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store{world_size}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=60),
    )
    found = _figures(rank, world_size)
    (folder / f"{world_size}_{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_every_patient_is_predicted_once_and_metrics_are_those_of_one_process(tmp_path, world_size):
    alone = json.loads(json.dumps(_figures(0, 1)))
    context = multiprocessing.get_context("fork")  # spawning would import everything again
    ranks = [
        context.Process(target=_rank, args=(rank, world_size, tmp_path))
        for rank in range(world_size)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
        assert rank.exitcode == 0
    for number in range(world_size):
        together = json.loads((tmp_path / f"{world_size}_{number}.json").read_text())
        assert together.keys() == alone.keys()
        for case, (metrics, outputs) in alone.items():
            assert together[case][0] == pytest.approx(metrics, abs=1e-6), case
            assert [row for row, _ in together[case][1]] == [row for row, _ in outputs]
            probs = [prob for _, prob in outputs]
            np.testing.assert_allclose(
                [prob for _, prob in together[case][1]], probs, atol=1e-6, err_msg=case
            )
            if probs:
                assert len(probs) == int(case.split()[1])
