"""Probes of views: strides, slices and offsets that a kernel may overlook."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mpsprobe.ops.probes.registry import FaultShown, Lab, probe


@probe("view-offset-arithmetic", "Arithmetic on a reshaped slice begins where the slice does")
def _slice(lab: Lab) -> None:
    lab.agree(lambda x: x[1].reshape(2, 3) + 1, lab.normal(2, 6))


@probe("cpu-scalar-offset", "An element of a CPU tensor keeps its place in arithmetic with the GPU")
def _cpu_scalar(lab: Lab) -> None:
    table = torch.tensor([1.0, 10.0, 100.0])
    found = lab.run(lambda x: x * table[2], torch.ones(2, 2))
    lab.equal(found, torch.full((2, 2), 100.0, dtype=torch.float64))


@probe("layer-norm-slice", "layer_norm of a slice normalises that slice")
def _layer_norm_slice(lab: Lab) -> None:
    lab.agree(lambda x: functional.layer_norm(x[123:125], (4,)), lab.normal(128, 4))


@probe(
    "layer-norm-mixed-dtype", "layer_norm of a half-precision input takes float32 weights, or refuses them"
)
def _layer_norm_mixed(lab: Lab) -> None:
    x, weight, bias = lab.normal(4, 8, dtype=torch.float16), lab.normal(8), lab.normal(8)
    try:
        found = lab.run(lambda x, w, b: functional.layer_norm(x, (8,), w, b), x, weight, bias)
    except FaultShown:
        return  # an error is not garbage
    expected = functional.layer_norm(x.double(), (8,), weight.double(), bias.double())
    lab.equal(found.half(), expected)


@probe("conv2d-strided-weight", "conv2d reads a weight that is a slice of a larger one")
def _conv_weight(lab: Lab) -> None:
    weight = lab.normal(3, 16, 3, 3, 3)
    lab.agree(lambda x, w: functional.conv2d(x, w[:, :, 1]), lab.normal(2, 16, 8, 8), weight)


@probe("conv2d-channel-slice", "conv2d of a channel slice of a channels_last tensor reads those channels")
def _conv_channels(lab: Lab) -> None:
    def call(x: Tensor, w: Tensor) -> Tensor:
        return functional.conv2d(x.to(memory_format=torch.channels_last)[:, 1:4], w)

    lab.agree(call, lab.normal(1, 6, 8, 8), lab.normal(4, 3, 1, 1))


@probe("conv2d-chunk", "conv2d of a chunk is right for every element of the batch")
def _conv_chunk(lab: Lab) -> None:
    x, w = lab.normal(2, 64, 32, 32), lab.normal(32, 32, 3, 3)
    lab.agree(lambda x, w: functional.conv2d(x.chunk(2, 1)[1], w), x, w)


@probe("conv3d", "conv3d is right")
def _conv3d(lab: Lab) -> None:
    lab.agree(functional.conv3d, lab.normal(1, 16, 8, 8, 8), lab.normal(16, 16, 3, 3, 3))


@probe("conv3d-channels-last", "conv3d of a channels_last_3d input is right")
def _conv3d_channels_last(lab: Lab) -> None:
    def call(x: Tensor, w: Tensor) -> Tensor:
        return functional.conv3d(x.to(memory_format=torch.channels_last_3d), w)

    lab.agree(call, lab.normal(1, 16, 8, 8, 8), lab.normal(16, 16, 3, 3, 3))


@probe("addcdiv-transposed", "addcdiv_ of transposed tensors writes where it should")
def _addcdiv(lab: Lab) -> None:
    def call(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return x.clone().t().addcdiv_(y.t(), z.t())

    lab.agree(call, lab.normal(2, 3), lab.normal(2, 3), 2 + lab.normal(2, 3).abs())


@probe("scatter-strided", "scatter_ reads a transposed source element by element")
def _scatter(lab: Lab) -> None:
    places = torch.tensor([[0, 1], [1, 2], [2, 0]])

    def call(x: Tensor, source: Tensor) -> Tensor:
        return x.clone().scatter_(0, places.to(x.device), source.t())

    lab.agree(call, torch.zeros(3, 2), lab.normal(2, 3))


@probe("masked-fill-strided", "masked_fill_ of a permuted tensor changes only what is masked")
def _masked_fill(lab: Lab) -> None:
    mask = lab.normal(8, 1, 30) > 0

    def call(x: Tensor) -> Tensor:
        return x.clone().transpose(1, 2).masked_fill_(mask.to(x.device), 0.0)

    lab.agree(call, lab.normal(8, 30, 5))


@probe("index-add-transposed", "index_add_ changes a permuted tensor")
def _index_add(lab: Lab) -> None:
    places = torch.tensor([0, 1, 2, 3, 1, 2])

    def call(x: Tensor, source: Tensor) -> Tensor:
        return x.clone().permute(1, 2, 0).index_add_(0, places.to(x.device), source.permute(1, 2, 0))

    lab.agree(call, lab.normal(5, 4, 3), lab.normal(5, 6, 3))


@probe("random-strided", "In-place random fills reach a transposed tensor")
def _random(lab: Lab) -> None:
    found = lab.run(lambda x: x.t().normal_(), torch.zeros(64, 64))
    if not bool(found.any()):
        raise FaultShown("normal_() of a transposed tensor left all 4,096 elements at zero")
