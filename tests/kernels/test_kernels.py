from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from datamodules.batches.warp import voxel_map, warp
from kernels.compiled import compiled
from lightning_modules import encoder as encoders
from lightning_modules import pooled_convolution as passes
from lightning_modules.encoder import Encoder
from lightning_modules.pooled_convolution import can_pool_at_once, pooled_convolution

needs_compiler = pytest.mark.skipif(compiled("warp") is None, reason="there is no C compiler")
SERIAL = SimpleNamespace(runs_in_parallel=lambda: 0)


def _plain(volume, weight, bias, *, relu=True):
    maxima = F.max_pool3d(F.conv3d(volume, weight, bias, padding=1), 2, ceil_mode=True)
    return maxima.relu() if relu else maxima


def _inputs(inputs, outputs, shape, num_volumes=3):
    torch.manual_seed(0)
    volume = torch.randn(num_volumes, inputs, *shape, requires_grad=inputs > 1)
    weight = torch.randn(outputs, inputs, 3, 3, 3, requires_grad=True)
    return volume, weight, torch.randn(outputs, requires_grad=True)


@needs_compiler
@pytest.mark.parametrize("shape", [(8, 6, 4), (9, 7, 5), (2, 1, 3), (1, 1, 1)])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 16), (1, 8), (16, 16), (4, 24), (32, 8)])
@pytest.mark.parametrize("relu", [True, False])
def test_pooling_at_once_gives_torchs_maxima_and_gradients(inputs, outputs, shape, relu):
    tensors = _inputs(inputs, outputs, shape)
    maxima = pooled_convolution(*tensors, relu=relu)
    expected = _plain(*(each.double() for each in tensors), relu=relu).float()
    torch.testing.assert_close(maxima, expected, atol=2e-5, rtol=1e-5)
    upstream = torch.randn_like(maxima)
    learnt = [each for each in tensors if each.requires_grad]
    found = torch.autograd.grad(maxima, learnt, upstream)
    for one, other in zip(found, torch.autograd.grad(expected, learnt, upstream), strict=True):
        torch.testing.assert_close(one, other, atol=5e-5, rtol=1e-4)


@needs_compiler
def test_of_equal_outputs_the_first_counts_as_in_torch():
    volume, weight, bias = _inputs(4, 8, (5, 4, 3))
    nothing = torch.zeros_like(volume, requires_grad=True)
    assert bias.min() < 0 < bias.max()
    upstream = torch.randn(3, 8, 3, 2, 2)
    grads = [
        torch.autograd.grad(way(nothing, weight, bias), nothing, upstream)[0]
        for way in (pooled_convolution, _plain)
    ]
    torch.testing.assert_close(*grads)


@needs_compiler
@pytest.mark.parametrize("place", [(0, 0, 0), (3, 2, 1), (4, 4, 4)])
def test_what_is_not_a_number_is_seen_and_not_pooled_away(place):
    volume, weight, bias = _inputs(1, 8, (5, 5, 5))
    volume[(1, 0, *place)] = torch.nan
    found, expected = pooled_convolution(volume, weight, bias), _plain(volume, weight, bias)
    assert 0 < expected.isnan().sum() < expected.numel()
    torch.testing.assert_close(found, expected, equal_nan=True, atol=1e-5, rtol=1e-5)


@needs_compiler
@pytest.mark.parametrize("inputs", [1, 16])
def test_the_number_of_threads_changes_no_bit(inputs, monkeypatch):
    tensors = _inputs(inputs, 16, (8, 9, 7), num_volumes=37)
    results = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        maxima = pooled_convolution(*tensors)
        results.append([maxima, *torch.autograd.grad(maxima.square().sum(), tensors[1:])])
    for others in results[1:]:
        assert all(map(torch.equal, results[0], others))


@needs_compiler
def test_an_encoder_takes_the_pass_unless_maps_of_its_layers_are_drawn(monkeypatch):
    calls = []

    def spy(*tensors, relu):
        calls.append(tensors)
        return pooled_convolution(*tensors, relu=relu)

    monkeypatch.setattr(encoders, "pooled_convolution", spy)
    encoder, volume = Encoder(3, 8), torch.randn(2, 1, 12, 9, 10)
    training = encoder.train()(volume)
    with torch.no_grad():
        in_use = encoder.eval()(volume)
    frozen = encoder.eval()(volume)
    assert len(calls) == 9
    assert torch.equal(in_use, training)
    assert torch.equal(frozen, training)
    seen = []
    encoder[2][0].register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(encoder(volume), training, atol=1e-6, rtol=1e-5)
    assert len(calls) == 11  # the other two blocks
    assert seen


@pytest.mark.parametrize("norm", ["none", "instance", "batch", "group"])
def test_an_encoder_with_a_norm_gives_what_its_layers_give(norm):
    encoder, volume = Encoder(2, 8, norm=norm).train(), torch.randn(3, 1, 12, 9, 10)
    expected = volume
    for convolution, pooling, norm_layer, relu in encoder:
        expected = relu(norm_layer(pooling(convolution(expected))))
    torch.testing.assert_close(encoder(volume), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "case", ["filters", "pool", "autocast", "float64", "gradient", "compiler", "threads"]
)
def test_what_the_pass_cannot_do_is_left_to_torch(case, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("not meant for this")

    monkeypatch.setattr(encoders, "pooled_convolution", refuse)
    settings = {"filters": {"filters": 6}, "pool": {"pool": 3}}
    encoder = Encoder(**{"depth": 1, "filters": 8, **settings.get(case, {})})
    volume = torch.randn(2, 1, 6, 7, 5, requires_grad=case == "gradient")
    if case == "compiler":
        monkeypatch.setattr(passes, "compiled", lambda *_, **__: None)
    if case == "threads":
        monkeypatch.setattr(passes, "compiled", lambda *_, **__: SERIAL)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    if case == "float64":
        encoder, volume = encoder.double(), volume.double()
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        latent = encoder.train()(volume)
    latent.float().sum().backward()
    assert all(weight.grad is not None for weight in encoder.parameters())


@needs_compiler
def test_a_kernel_without_threads_serves_one_thread(monkeypatch):
    monkeypatch.setattr(passes, "compiled", lambda *_, **__: SERIAL)
    convolution, pooling = nn.Conv3d(1, 8, 3, padding=1), nn.MaxPool3d(2, ceil_mode=True)
    assert can_pool_at_once(torch.randn(1, 1, 4, 4, 4), convolution, pooling)


@needs_compiler
def test_the_environment_switches_the_loops_off_and_torch_gives_the_same(monkeypatch):
    torch.manual_seed(0)
    encoder, volume = Encoder(2, 8).train(), torch.rand(2, 1, 9, 8, 7)
    turned = np.array([5.0, -3.0, 8.0]), np.array([1.0, -0.5, 0.2]), np.zeros(3)
    voxel_maps = torch.from_numpy(voxel_map(1.1, *turned, np.ones(3), (9, 8, 7))).expand(2, 3, 4)
    in_c = encoder(volume), warp(volume, voxel_maps)
    monkeypatch.setenv("MCTL_KERNELS", "0")
    monkeypatch.setattr(encoders, "pooled_convolution", None)  # not to be called
    monkeypatch.setattr("kernels.compiled._compile", None)
    by_torch = encoder(volume), warp(volume, voxel_maps)
    for one, other in zip(in_c, by_torch, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    monkeypatch.setenv("MCTL_KERNELS", "1")
    with pytest.raises(TypeError):
        warp(volume, voxel_maps)
