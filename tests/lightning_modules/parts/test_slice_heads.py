import pytest
import torch
from lightning import LightningModule
from torch import nn

from lightning_modules.deployment import FoldModel, onnx_difference, write_onnx
from lightning_modules.parts.slice_heads import build_slice_head, sinusoids

F, NODES, LENGTH = 5, 8, 4


def _head(name, seed=0):
    torch.manual_seed(seed)
    return build_slice_head(name, F, NODES, LENGTH).eval()


@pytest.mark.parametrize(("name", "by_hand"), [("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_recurrent_heads_end_with_torchs_last_states_of_both_ways(name, by_hand):
    head = _head(name)
    cell = by_hand(F, NODES, batch_first=True, bidirectional=True)
    cell.load_state_dict(head.reader.cell.state_dict())
    features = torch.randn(3, LENGTH, F)
    last = cell(features)[1]
    last = last[0] if name == "lstm" else last  # (2, N, nodes)
    torch.testing.assert_close(head(features), torch.cat([*last], 1)[:, None])


def test_the_transformer_is_torchs_layers_over_slices_with_positions():
    head = _head("transformer")
    layer = nn.TransformerEncoderLayer(NODES, 4, 2 * NODES, batch_first=True, norm_first=True)
    layers = nn.TransformerEncoder(layer, 2, nn.LayerNorm(NODES), enable_nested_tensor=False)
    layers.load_state_dict(head.reader.layers.state_dict())
    features = torch.randn(3, LENGTH, F)
    tokens = head.reader.project(features) + sinusoids(LENGTH, NODES)
    torch.testing.assert_close(head(features), layers.eval()(tokens).mean(1, keepdim=True))


def test_positions_are_sines_and_cosines_of_slower_waves():
    found = sinusoids(7, 6)
    for place in range(7):
        for pair in range(3):
            angle = torch.tensor(place / 10_000 ** (2 * pair / 6))
            torch.testing.assert_close(found[place, 2 * pair], angle.sin())
            torch.testing.assert_close(found[place, 2 * pair + 1], angle.cos())


@pytest.mark.parametrize("name", ["lstm", "gru", "transformer"])
def test_each_sequence_is_read_by_itself_and_its_order_counts(name):
    head, features = _head(name), torch.randn(2, 3 * LENGTH, F)  # of three planes
    found = head(features)
    assert found.shape == (2, 3, head.num_outputs)
    for number in range(3):
        alone = features[:, number * LENGTH : (number + 1) * LENGTH]
        torch.testing.assert_close(found[:, number], head(alone)[:, 0])
        assert not torch.allclose(head(alone.flip(1)), head(alone), atol=1e-3)


def test_mean_vote_and_attention_have_the_same_layers_drawn_alike():
    """Older checkpoints, and what is drawn after the head, depend on it."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(F, 64), nn.Tanh(), nn.Linear(64, 1, bias=False))
    for name in ("mean", "vote", "attention"):
        head, features = _head(name), torch.randn(2, LENGTH, F)
        assert head.state_dict().keys() == plain.state_dict().keys()
        for key, weight in plain.state_dict().items():
            assert torch.equal(head.state_dict()[key], weight)
        expected = features
        if name == "attention":
            expected = (plain(features).softmax(1) * features).sum(1, keepdim=True)
        torch.testing.assert_close(head(features), expected)
        assert {each.requires_grad for each in head.parameters()} == {name == "attention"}


def test_a_width_that_the_heads_cannot_share_is_refused():
    with pytest.raises(ValueError, match="sequence_nodes is 6; a transformer needs a multiple"):
        build_slice_head("transformer", F, 6, LENGTH)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mean", "lstm", "gru", "transformer"])
def test_only_heads_that_read_in_order_learn_what_the_order_tells(name):
    """Both classes have the same slices, of one class they come in reverse."""
    torch.manual_seed(0)
    ramp = torch.linspace(-1, 1, LENGTH)[:, None] * torch.randn(F)  # (S, F)
    features = torch.stack([ramp, ramp.flip(0)] * 32) + 0.3 * torch.randn(64, LENGTH, F)
    label = torch.arange(64) % 2
    head = build_slice_head(name, F, NODES, LENGTH)
    last = nn.Linear(head.num_outputs, 1)
    weights = [*head.parameters(), *last.parameters()]
    optimizer = torch.optim.Adam(weights, lr=0.01)
    for step in range(151):
        seen = features[32:] if step == 150 else features[:32]
        logit = last(head(seen)).mean((1, 2))
        target = label[32:] if step == 150 else label[:32]
        loss = nn.functional.binary_cross_entropy_with_logits(logit, target.float())
        if step < 150:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    accuracy = ((logit > 0).long() == label[32:]).float().mean()
    assert accuracy > 0.9 if name != "mean" else accuracy < 0.75


class _Rows(LightningModule):
    """A head on the voxels of slices."""

    def __init__(self, name):
        super().__init__()
        self.head = _head(name)
        self.last = nn.Linear(self.head.num_outputs, 2)

    def forward(self, volume):
        return self.last(self.head(volume[:, 0].flatten(2))).mean(1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_onnx_graphs_predict_the_same(name, tmp_path):
    fold = FoldModel(_Rows(name), mean=0.0, divisor=1.0)
    write_onnx(fold, (2 * LENGTH, F, 1), tmp_path / "fold.onnx")
    volume = torch.rand(3, 1, 2 * LENGTH, F, 1)
    assert onnx_difference(fold, tmp_path / "fold.onnx", volume) < 1e-5
