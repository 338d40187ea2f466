import pytest
import torch

from lightning_modules.backbones import build_backbone
from lightning_modules.classifier import Classifier

pytestmark = pytest.mark.slow  # networks of other people are large

SHAPE = (32, 32, 32)
ENCODERS = {"swin": 768, "segresnet": 128, "mednext-s": 512, "unetr": 768}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_are_backbones_whose_every_weight_learns(name):
    torch.manual_seed(0)
    shape = (16, 16, 16) if name in ("swin", "unetr") else SHAPE
    model = Classifier(2, shape, backbone=name)
    volume = torch.rand(2, 1, *shape)
    features = model.features(volume)
    assert features.shape == (2, ENCODERS[name])
    model.loss(model.head(features), torch.tensor([0, 1])).backward()
    assert [path for path, weight in model.named_parameters() if weight.grad is None] == []
    assert model.has_class_maps == (name in ("segresnet", "mednext-s"))


def _keep_input(layer, given):
    layer.seen = given[0]


@pytest.mark.parametrize("name", ["segresnet", "mednext-s"])
def test_features_are_the_means_of_the_maps_that_the_decoder_would_see(name):
    from monai.networks.nets import SegResNet
    from monai.networks.nets.mednext import create_mednext

    whole = SegResNet(3, init_filters=16) if name == "segresnet" else create_mednext("S")
    backbone = build_backbone(name, SHAPE).eval()
    state = whole.eval().state_dict()
    wanted = backbone.network.state_dict().keys()
    backbone.network.load_state_dict({key: state[key] for key in wanted})
    decoder = (whole.up_samples if name == "segresnet" else whole.up_blocks)[0]
    decoder.register_forward_pre_hook(_keep_input)
    volume = torch.rand(1, 1, *SHAPE)
    with torch.no_grad():
        whole(volume)
        torch.testing.assert_close(backbone(volume), decoder.seen.mean((2, 3, 4)))


def test_swin_is_the_encoder_of_swin_unetr():
    from monai.networks.nets import SwinUNETR

    swin = SwinUNETR(1, 2, feature_size=48).swinViT.eval()
    backbone = build_backbone("swin", (16, 16, 16)).eval()
    backbone.network.load_state_dict(swin.state_dict())
    volume = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(backbone(volume), swin(volume)[-1].mean((2, 3, 4)))


@pytest.mark.parametrize("name", ["mednext-b", "mednext-m", "mednext-l"])
def test_larger_mednexts_have_the_weights_of_monais(name):
    from monai.networks.nets.mednext import create_mednext

    with torch.device("meta"):
        found = build_backbone(name, SHAPE).network.state_dict()
        whole = create_mednext(name[-1]).state_dict()
    decoder = ("up_blocks", "dec_stages", "out_0")
    expected = {key: each.shape for key, each in whole.items() if not key.startswith(decoder)}
    assert {key: each.shape for key, each in found.items()} == expected


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("mednext-s", (8, 8, 8), r"shrinks volumes of \(8, 8, 8\) voxels to nothing"),
        ("mednext-x", (16, 16, 16), "'mednext-x' is none of swin, segresnet, unetr, mednext-s"),
        ("unetr", (16, 37, 16), "cannot cut an axis of 37 voxels"),
    ],
)
def test_an_encoder_that_cannot_be_is_explained(name, shape, words):
    with pytest.raises(ValueError, match=words) as error:
        build_backbone(name, shape)
    assert "\n" not in str(error.value)
