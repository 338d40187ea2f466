"""What the training scans of a fold were like, for warnings about new scans."""

import numpy as np
import torch
from lightning import LightningModule

from commands.bundles.ensemble import scaled_model, volume_batches
from commands.bundles.reference import Reference, describe, read_facts
from datamodules.scans import ScanDataModule


def training_reference(
    model: LightningModule, data: ScanDataModule, device: torch.device
) -> Reference:
    """Describe the training scans of a fold, with the other scans as what may be expected.

    Args:
        model: The fold's network with its best weights.
        data: The fold's data.
        device: Where the network runs.
    """
    assert data.intensity is not None
    assert data.coding is not None
    fold = scaled_model(model, data.intensity, data.coding).to(device)
    volumes, rows = data.cohort.volumes, data.rows
    features, held_out = (
        np.concatenate(
            [fold.features(batch).cpu().numpy() for batch in volume_batches(volumes, part, device)]
        )
        for part in (rows["train"], np.union1d(rows["val"], rows["test"]))
    )
    facts = read_facts(volumes)
    return describe([facts[row] for row in rows["train"]], features, held_out)
