import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_modules.classifier import Classifier
from lightning_modules.parts.attention_3d import build_attention

MAPS, SHAPE = 8, (3, 4, 2)


def _maps_and(name):
    torch.manual_seed(0)
    return torch.randn(2, MAPS, *SHAPE), build_attention(name, MAPS, SHAPE)


def test_self_attention_is_a_softmax_over_all_voxels_added_to_the_maps():
    maps, layer = _maps_and("self")
    assert torch.equal(layer(maps), maps)  # at the start
    nn.init.normal_(layer.heads.out_proj.weight)
    tokens = layer.norm(maps.flatten(2).transpose(1, 2))
    joint = F.linear(tokens, layer.heads.in_proj_weight, layer.heads.in_proj_bias)
    heads = [part.unflatten(2, (4, -1)).transpose(1, 2) for part in joint.chunk(3, 2)]
    seen = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    found = layer.heads.out_proj(seen).transpose(1, 2).reshape(maps.shape)
    torch.testing.assert_close(layer(maps), maps + found)


def test_cbam_weighs_maps_and_then_places():
    maps, layer = _maps_and("cbam")
    first, _, second = layer.channels
    expected = torch.empty_like(maps)
    for scan in range(2):
        pooled = [maps[scan].mean((1, 2, 3)), maps[scan].amax((1, 2, 3))]
        weight = sum(second(first(each).relu()) for each in pooled).sigmoid()
        weighed = maps[scan] * weight[:, None, None, None]
        seen = torch.stack([weighed.mean(0), weighed.amax(0)])[None]
        expected[scan] = weighed * F.conv3d(seen, layer.places.weight, padding=3)[0].sigmoid()
    torch.testing.assert_close(layer(maps), expected)


@pytest.mark.slow
def test_squeeze_and_excitation_weighs_maps_by_their_means():
    maps, layer = _maps_and("se")  # MONAI's
    weights = list(layer.parameters())
    hidden = F.linear(maps.mean((2, 3, 4)), *weights[:2]).relu()
    weight = F.linear(hidden, *weights[2:]).sigmoid()
    torch.testing.assert_close(layer(maps), maps * weight[..., None, None, None])


def test_attention_stands_between_encoder_and_readout_and_none_draws_nothing():
    torch.manual_seed(0)
    plain = Classifier(2, (8, 8, 8), filters=4, depth=2, nodes=4)
    torch.manual_seed(0)
    model = Classifier(2, (8, 8, 8), filters=4, depth=2, nodes=4, attention="self")
    names = {name for name in model.state_dict() if name.startswith("attention.")}
    assert model.state_dict().keys() - names == plain.state_dict().keys()
    for name, weight in plain.state_dict().items():
        if name.startswith("encoder."):
            assert torch.equal(model.state_dict()[name], weight)
    volume = torch.rand(2, 1, 8, 8, 8)
    assert torch.equal(model.eval().features(volume), plain.eval().features(volume))
    nn.init.normal_(model.attention.heads.out_proj.weight)
    assert not torch.allclose(model.features(volume), plain.features(volume))


def test_attention_that_cannot_be_is_one_line():
    for settings, words in (
        ({"attention": "self", "filters": 6}, "set filters to a multiple of 4"),
        ({"attention": "self", "pool": 1, "spatial_shape": (20, 20, 20)}, "at most 4096 voxels"),
        ({"attention": "se", "backbone": "resnet10"}, "attention is se, which needs the maps of"),
    ):
        with pytest.raises(ValueError, match=words):
            Classifier(**({"num_classes": 2, "spatial_shape": (8, 8, 8)} | settings))
