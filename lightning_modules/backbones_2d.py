"""2D networks of timm by name, with the weights they learned on ImageNet."""

import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.parts.branches import SEPARATOR, Branches, Fuse, one_for_each
from lightning_modules.parts.lora import with_updates

logger = logging.getLogger(__name__)
SOURCES = ("hf-hub:", "local-dir:")  # of models that are not timm's own


def build_backbone_2d(
    name: str, image_size: int | None, fuse: Fuse = "concat", *, pretrained: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    """Build a timm model without its last layer, or several next to each other.

    Args:
        name: Name of the model; hf-hub:OWNER/NAME or local-dir:FOLDER describe one of timm's.
            Several names have a + between them.
        image_size: Height and width of the images; only models of one fixed size need to know.
        fuse: How the features of several come together.
        pretrained: Whether to download the weights of a single one.

    Returns:
        The model, (B, C, H', W') to (B, F), and timm's data configuration of its weights:
        input_size (C, H', W'), mean, std; of several those of the first.

    Raises:
        ValueError: If timm has no such model.
    """
    import timm  # takes seconds, and few runs need it

    if SEPARATOR in name and not name.startswith(SOURCES):
        return _branches(name.split(SEPARATOR), image_size, fuse)
    if name.startswith(SOURCES):
        fixed = _source_settings(name).get("fixed_input_size", False)
    elif not timm.is_model(name):
        similar = timm.list_models(f"*{name}*")[:5] or timm.list_models("resnet*")[:5]
        raise ValueError(f"timm has no backbone {name!r}; similar ones: {', '.join(similar)}.")
    else:
        fixed = (timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()).fixed_input_size
    size: dict[str, Any] = {"img_size": image_size} if image_size and fixed else {}
    model = timm.create_model(name, pretrained=pretrained, num_classes=0, **size)
    model = model.to(memory_format=torch.channels_last)  # EfficientNet on a CPU: 2.3 times as fast
    return model, timm.data.resolve_model_data_config(model)


def _branches(
    names: list[str], image_size: int | None, fuse: Fuse
) -> tuple[nn.Module, dict[str, Any]]:
    first, config = build_backbone_2d(names[0], image_size)
    size = image_size or config["input_size"][1]
    built = [(first, config), *(build_backbone_2d(name, size) for name in names[1:])]
    mean, std = (
        torch.tensor([each[key] for _, each in built]) for key in ("mean", "std")
    )  # (N, C); the images come with the first one's
    scales = torch.stack([std[0] / std, (mean[0] - mean) / std])
    networks = [network for network, _ in built]
    shape = (config["input_size"][0], size, size)
    num_features = [count_features(network, shape) for network in networks]
    return Branches(networks, num_features, fuse, scales), config


@torch.no_grad()
def count_features(encoder: nn.Module, image_shape: tuple[int, ...]) -> int:
    """Features of one image; timm's `num_features` does not hold for every model."""
    num_features = encoder.eval()(torch.zeros(1, *image_shape)).shape[1]
    encoder.train()
    return num_features


def load_weights_2d(
    encoder: nn.Module,
    backbone: str,
    weights: str | Sequence[str],
    image_size: int | None = None,
) -> None:
    """Load ImageNet weights into a backbone, whole or not at all.

    Args:
        encoder: What `build_backbone_2d` built.
        backbone: Its name.
        weights: 'imagenet', 'none', or a .safetensors or .pth file; for several next to each
            other one word, or one for each.
        image_size: What `build_backbone_2d` was given.

    Raises:
        ValueError: If they cannot be obtained, or do not fit.
    """
    import timm

    if isinstance(encoder, Branches):
        names = backbone.split(SEPARATOR)
        each = one_for_each(names, weights)
        for network, name, its in zip(encoder.networks, names, each, strict=True):
            load_weights_2d(network, name, its, image_size)
        return
    if weights == "none":
        return
    (weights,) = one_for_each([backbone], weights)
    wanted = encoder.state_dict()
    if weights == "imagenet":
        if not backbone.startswith(SOURCES) and not timm.is_model_pretrained(backbone):
            raise ValueError(
                f"timm has no ImageNet weights for {backbone}. Choose a backbone that has, give a "
                "file, or set --model.weights=none to train without."
            )
        try:
            found = build_backbone_2d(backbone, image_size, pretrained=True)[0].state_dict()
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"The ImageNet weights of {backbone} could not be obtained "
                f"({type(error).__name__}). On a machine with a network, download "
                f"model.safetensors of {_hub_name(backbone)} from the "
                "Hugging Face Hub and set "
                "--model.weights=FILE; --model.weights=none trains without them."
            ) from error
    else:
        if not Path(weights).is_file():
            raise ValueError(
                f"There is no weights file {weights!r}. Give a .safetensors or .pth file of "
                f"{backbone}, 'imagenet' to download one, or 'none' to train without."
            )
        try:
            found = timm.models.load_state_dict(weights, use_ema=False, weights_only=True)
        except Exception as error:
            raise ValueError(f"Weights {weights} cannot be read: corrupt or not safe.") from error
        if not _fits(with_updates(found, wanted), wanted):
            found = _converted(found, encoder)
    found = with_updates(found, wanted)
    for name, weight in wanted.items():
        if name not in found or found[name].shape != weight.shape:
            there = tuple(found[name].shape) if name in found else "absent"
            raise ValueError(
                f"Weight {name!r} of {backbone} is {tuple(weight.shape)}, but {there} in "
                f"{weights}. Give weights of this very backbone and image_size."
            )
    encoder.load_state_dict({name: found[name] for name in wanted})
    logger.info("Loaded %d weights of %s from %s", len(wanted), backbone, weights)


def _fits(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return all(
        name in found and found[name].shape == weight.shape for name, weight in wanted.items()
    )


def _converted(found: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """Rename and resample as timm does: names of DINOv2's authors, positions of another size."""
    convert = getattr(sys.modules[type(encoder).__module__], "checkpoint_filter_fn", None)
    with suppress(Exception):  # the weights of another network, which are refused by name
        return convert(found, encoder) if convert else found
    return found


def _source_settings(name: str) -> dict[str, Any]:
    import timm

    source, _, place = name.partition(":")
    kind = "path" if source == "local-dir" else "hf"
    try:
        return getattr(timm.models._hub, f"load_model_config_from_{kind}")(place)[0]
    except Exception as error:
        raise ValueError(
            f"Backbone {name!r} could not be obtained ({type(error).__name__}): its config.json is "
            "needed wherever the model is built. Check the name and the network, or give timm's "
            "own name of the network and --model.weights=FILE."
        ) from error


def _hub_name(backbone: str) -> str:
    import timm

    config = timm.get_pretrained_cfg(backbone)
    return config.hf_hub_id if config and config.hf_hub_id else f"timm/{backbone}"
