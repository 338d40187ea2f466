"""Several predictions of a scan by one model: dropout left on, and augmented copies of the scan."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from commands.bundles.ensemble import BATCH_SIZE, Ensemble
from datamodules.augmentation import Augmentation, draw_seed
from datamodules.augmented_copies import load_copies
from datamodules.cache.device_storage import volume_tensor
from datamodules.cohort import Cohort
from lightning_modules.deployment import FoldModel


@dataclass(frozen=True)
class Samples:
    """How often a model predicts a scan.

    Args:
        mc_dropout: Predictions of each copy with dropout on (Gal and Ghahramani 2016); 0 is one
            without dropout.
        tta: Augmented copies of each scan, drawn as in training; 1 is the scan as it is.
    """

    mc_dropout: int = 0
    tta: int = 1

    def __post_init__(self) -> None:
        if self.mc_dropout < 0 or self.tta < 1:
            raise ValueError(
                f"--mc_dropout={self.mc_dropout} and --tta={self.tta} are numbers of predictions: "
                "give 0 or more."
            )

    def copies(self, ensemble: Ensemble, cohort: Cohort) -> np.ndarray:
        """Open the copies of every scan, (N, V, C, D, W, H); the first is the scan as it is.

        Raises:
            ValueError: If the run was trained without augmentation, or does not tell.
        """
        if self.tta < 2:
            return cohort.volumes.data[:, None]
        settings = ensemble.augmentation or {"mode": "none"}
        axes = tuple(settings.get("flip_axes", ()))  # JSON and YAML have lists
        augmentation = Augmentation(**settings | {"flip_axes": axes})
        if augmentation.mode == "none":
            raise ValueError(
                f"--tta={self.tta} needs the augmentation of the run, which was trained without "
                "one or does not tell. Leave tta out."
            )
        drawn = replace(augmentation, mode="copies", num_versions=self.tta)
        return load_copies(cohort.volumes, drawn, 0, cohort.cache_dir)

    @torch.no_grad()
    def predict(self, fold: FoldModel, cohort: Cohort, copies: np.ndarray, seed: int) -> np.ndarray:
        """Predict each scan several times, (S, N, K), the same whatever other scans there are.

        Args:
            fold: The model; all but its dropout stays as in prediction.
            cohort: The scans.
            copies: What `copies` returned.
            seed: Decides, with the scan, what is dropped.

        Raises:
            ValueError: If it has no dropout that could be left on.
        """
        if self.mc_dropout:
            for layer in dropout_layers(fold):
                layer.train()
        found = []
        for row, key in enumerate(cohort.volumes.keys):
            volume = volume_tensor(np.array(copies[row]))
            volume = volume.repeat_interleave(max(self.mc_dropout, 1), 0)
            known: list[Tensor] = []
            if cohort.covariates.columns:
                known = [torch.from_numpy(cohort.covariates.values[[row] * len(volume)])]
            inputs = zip(*(each.split(BATCH_SIZE) for each in (volume, *known)), strict=True)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(draw_seed(seed, int(key[:12], 16)))
                found.append(torch.cat([fold(*each) for each in inputs]))
        fold.eval()
        return torch.stack(found, 1).numpy()


def dropout_layers(model: nn.Module) -> list[nn.Module]:
    """List the layers that drop something.

    Raises:
        ValueError: If there is none.
    """
    layers: list[nn.Module] = [
        each for each in model.modules() if isinstance(each, _DropoutNd) and each.p > 0
    ]
    if not layers:
        raise ValueError(
            "--mc_dropout needs a run with dropout, such as --model.dropout=0.3. Leave it out."
        )
    return layers
