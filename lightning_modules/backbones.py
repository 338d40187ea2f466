"""3D networks of MONAI by name, in the place of the paper's encoder."""

import copy
import logging
import re
from collections.abc import Sequence, Set
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_modules.parts.branches import SEPARATOR, Branches, Fuse, one_for_each
from lightning_modules.parts.lora import with_updates
from lightning_modules.transfer import fill_encoder

logger = logging.getLogger(__name__)

ENCODERS = ("swin", "segresnet", "unetr", "mednext")  # parts of segmentation networks
NUM_OUTPUTS = 2  # of the classification layer, which is taken off
TABLES = ("state_dict", "model_state_dict")  # where files keep their weights
PREFIX = re.compile(r"(module|model|encoder|backbone|network)\.")  # of all names of a file


class Backbone(nn.Module):
    """A network without its classification layer: one row of pooled features for each scan.

    Args:
        network: Returns (B, F), alone or as the first of several things.
        num_features: F.
        is_flat: Whether the network takes pictures, (B, C, W, H).
    """

    def __init__(self, network: nn.Module, num_features: int, is_flat: bool = False) -> None:
        super().__init__()
        self.network = network
        self.num_features = num_features
        self.is_flat = is_flat

    def forward(self, volume: Float[Tensor, "b c w h d"]) -> Float[Tensor, "b f"]:
        """Compute the features of each scan.

        While training, a batch of one scan is treated as in prediction: BatchNorm has no statistics
        of a single scan whose maps have shrunk to one voxel, and takes the running ones.
        """
        modes = {part: part.training for part in self.network.modules()}
        if len(volume) == 1:
            self.network.eval()
        features = self.network(volume[..., 0] if self.is_flat else volume)
        for part, training in modes.items():
            part.training = training
        return features[0] if isinstance(features, tuple) else features


def build_backbone(
    name: str, spatial_shape: tuple[int, int, int], channels: int = 1, fuse: Fuse = "concat"
) -> Backbone:
    """Build a network of `monai.networks.nets` with random weights, without its last layer.

    Tried: resnet10, resnet18 and resnet50 (built like MedicalNet's, so that its weights fit),
    densenet121, efficientnet-b0 and -b4, seresnet50, and vit. resnet18-b is built as MONAI does by
    default; vit-tokens is a vit without class token, read at its first patch. Another network
    needs no code if it is made from `spatial_dims`, `in_channels` and `num_classes`, and ends with
    one linear layer. Of segmentation networks the encoder is taken: swin, segresnet, unetr, and
    mednext-s, -b, -m and -l.

    Args:
        name: Name of the network, in upper or lower case; several names have a + between them.
        spatial_shape: Voxels of a volume along R, A, S; 32 or more are enough for each network.
            With one voxel along S, a picture, the network is its 2D sibling. vit cuts each axis
            into patches of its greatest divisor up to 16.
        channels: Channels of a volume.
        fuse: How the features of several come together.

    Raises:
        ValueError: If there is no such network, it is no classifier, or it needs larger volumes.
    """
    if SEPARATOR in name:
        each = [build_backbone(part, spatial_shape, channels) for part in name.split(SEPARATOR)]
        num_features = [part.num_features for part in each]
        branches = Branches([part.network for part in each], num_features, fuse)
        return Backbone(branches, branches.num_features, each[0].is_flat)
    is_flat = spatial_shape[2] == 1
    shape = tuple(spatial_shape[:2]) if is_flat else tuple(spatial_shape)
    if name.lower().startswith(ENCODERS):
        from lightning_modules.parts.encoders_3d import build_encoder  # imports MONAI

        backbone = Backbone(*build_encoder(name.lower(), shape, channels), is_flat)
    else:
        backbone = Backbone(*_without_last_layer(name.lower(), shape, channels), is_flat)
    try:  # without weights or voxels, thus in no time
        copy.deepcopy(backbone).to("meta").eval()(
            torch.empty(1, channels, *spatial_shape, device="meta")
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"Backbone {name!r} shrinks volumes of {tuple(spatial_shape)} voxels to nothing. Set "
            "--data.preprocessing.spatial_shape to 32 or more along every axis, or use resnet18."
        ) from error
    return backbone


def load_weights(backbone: Backbone, weights_path: str | Path | Sequence[str]) -> None:
    """Fill a backbone from a file of other people's weights, such as MedicalNet's.

    Every weight but those of the classification layer must be in the file and have its shape; what
    else the file holds is logged and left. The file does not tell which patients it has seen:
    your validation and test patients may be among them.

    Args:
        backbone: The network to fill.
        weights_path: A .safetensors or PyTorch file; its weights may lie under "state_dict" or
            "model_state_dict", and all of their names may begin with the same of "module.",
            "model.", "encoder.", "backbone." and "network.", or several of these. Networks next to
            each other have a list of files.

    Raises:
        ValueError: If the file cannot be read, lacks a weight, or has one of another shape.
    """
    if isinstance(backbone.network, Branches):
        networks = list(backbone.network.networks)
        names = [type(network).__name__ for network in networks]
        given = weights_path if not isinstance(weights_path, Path) else str(weights_path)
        for network, path in zip(networks, one_for_each(names, given), strict=True):
            load_weights(Backbone(network, 0), path)
        return
    assert isinstance(weights_path, str | Path)
    weights = _read_weights(Path(weights_path))
    wanted = backbone.network.state_dict()
    found = with_updates(_without_prefix(weights, wanted.keys()), wanted)
    fill_encoder(backbone.network, found, weights_path)
    unused = sorted(found.keys() - wanted.keys())
    logger.info(
        "Loaded %d encoder weights from %s, whose patients are unknown; not used: %s",
        len(found) - len(unused),
        weights_path,
        ", ".join(unused) or "none",
    )


def _without_last_layer(name: str, shape: tuple[int, ...], channels: int) -> tuple[nn.Module, int]:
    network = _classification_network(name, shape, channels)
    linear = [
        (path, layer) for path, layer in network.named_modules() if isinstance(layer, nn.Linear)
    ]
    if not linear or linear[-1][1].out_features != NUM_OUTPUTS:
        raise ValueError(
            f"Backbone {name!r} does not end with a linear layer: choose a classifier."
        )
    path, layer = linear[-1]
    network.set_submodule(path, nn.Identity())
    return network, layer.in_features


def _classification_network(name: str, spatial_shape: tuple[int, ...], channels: int) -> nn.Module:
    from monai.networks import nets  # takes seconds, and few runs need it

    if name.startswith("efficientnet-"):
        return nets.EfficientNetBN(
            name,
            pretrained=False,
            spatial_dims=len(spatial_shape),
            in_channels=channels,
            num_classes=NUM_OUTPUTS,
        )
    if name in ("vit", "vit-tokens"):
        from lightning_modules.parts.encoders_3d import patch_size

        patch = [patch_size(size) for size in spatial_shape]
        vit = nets.ViT(
            channels,
            spatial_shape,
            patch,
            classification=True,
            num_classes=NUM_OUTPUTS,
            post_activation="",
            spatial_dims=len(spatial_shape),
        )
        for block in vit.blocks:
            block.norm_cross_attn = nn.Identity()  # never called: DDP would wait for its gradient
        if name == "vit-tokens":
            del vit.cls_token  # its place as the first token is the first patch's, as in BrainIAC
        return vit
    built_by_default = name.startswith("resnet") and name.endswith("-b")
    name = name.removesuffix("-b") if built_by_default else name
    factories = [each for key, each in vars(nets).items() if key.lower() == name and callable(each)]
    if not factories:
        raise ValueError(
            f"Backbone {name!r} is neither mctl nor a network of MONAI. Choose for instance "
            "resnet18, densenet121, efficientnet-b0 or vit."
        )
    settings: dict[str, object] = {"spatial_dims": len(spatial_shape)}
    family = name.rstrip("0123456789")
    if built_by_default:
        settings |= {"n_input_channels": channels, "num_classes": NUM_OUTPUTS}
    elif family == "resnet":
        depth = int(name.removeprefix(family))
        bias, shortcut = nets.get_medicalnet_pretrained_resnet_args(depth)
        settings |= {"bias_downsample": bias, "shortcut_type": shortcut}
        settings |= {"n_input_channels": channels, "num_classes": NUM_OUTPUTS}
    elif family == "densenet":
        settings |= {"in_channels": channels, "out_channels": NUM_OUTPUTS}
    else:
        settings |= {"in_channels": channels, "num_classes": NUM_OUTPUTS}
    try:
        return factories[0](**settings)
    except TypeError as error:
        raise ValueError(
            f"Backbone {name!r} is not made from {', '.join(settings)}: choose a classifier."
        ) from error


def _without_prefix(weights: dict[str, Tensor], wanted: Set[str]) -> dict[str, Tensor]:
    """Take off the prefix under which most of the wanted names are found."""
    prefixes = {""}
    for name in weights:
        end = 0
        while found := PREFIX.match(name, end):
            end = found.end()
            prefixes.add(name[:end])
    under = [
        {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}
        for prefix in sorted(prefixes)
    ]
    return max(under, key=lambda each: len(each.keys() & wanted))


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"Weights {path} do not exist.")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
        weights = next((content[key] for key in TABLES if key in content), content)
        return dict(weights.items())  # type: ignore[union-attr]
    except Exception as error:
        raise ValueError(
            f"Weights {path} cannot be read: no table of weights, or corrupt."
        ) from error
