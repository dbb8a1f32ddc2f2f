"""Probes of views (strides, slices and offsets that a kernel may overlook), values, bounds, reductions and sampling."""

from __future__ import annotations

from typing import Any

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


@probe("clamp-small-bound", "clamp uses its own bound after a call with one that is nearly equal")
def _clamp(lab: Lab) -> None:
    lab.run(lambda x: x.clamp(min=0.0), torch.zeros(1))
    found = lab.run(lambda x: x.clamp(min=1e-7), torch.zeros(1))
    if float(found) == 0.0:
        raise FaultShown("clamp(min=1e-7) of 0 is 0")


@probe("clamp-min-int", "clamp_min of integers by a float keeps larger values")
def _clamp_min(lab: Lab) -> None:
    found = lab.run(lambda x: x.clamp_min(1.0), torch.tensor([1, 2, 3]))
    lab.equal(found.double(), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))


@probe("tril-infinity", "tril and triu put 0 beside infinities")
def _tril(lab: Lab) -> None:
    infinite = torch.full((3, 3), float("-inf"))
    for call in (lambda x: x.tril(-1), lambda x: x.triu(1)):
        found = lab.run(call, infinite)
        if bool(found.isnan().any()):
            raise FaultShown(f"{int(found.isnan().sum())} of 9 elements are NaN")


@probe("irfft-roundtrip", "irfft gives back what rfft took")
def _irfft(lab: Lab) -> None:
    for length in (5, 64):
        x = lab.normal(length)
        found = lab.run(lambda x: torch.fft.irfft(torch.fft.rfft(x), n=x.shape[0]), x)
        lab.equal(found, x.double())


@probe("interpolate-single", "Linear interpolation with align_corners takes an input of length 1")
def _interpolate(lab: Lab) -> None:
    lab.agree(lambda x: functional.interpolate(x, 4, mode="linear", align_corners=True), lab.normal(3, 1, 1))


@probe("avg-pool-ceil", "avg_pool2d with ceil_mode divides by what the window covers")
def _avg_pool(lab: Lab) -> None:
    lab.agree(lambda x: functional.avg_pool2d(x, 2, ceil_mode=True), lab.normal(1, 1, 5, 5))


@probe("max-pool-ceil", "max_pool2d with ceil_mode takes a stride larger than its kernel")
def _max_pool(lab: Lab) -> None:
    lab.agree(lambda x: functional.max_pool2d(x, 1, 2, ceil_mode=True), lab.normal(1, 1, 4, 6))


@probe("adaptive-max-pool", "adaptive_max_pool2d is right where sizes do not divide")
def _adaptive(lab: Lab) -> None:
    lab.agree(lambda x: functional.adaptive_max_pool2d(x, 3), lab.normal(1, 1, 5, 5))
    lab.agree(lambda x: functional.adaptive_max_pool2d(x, 4), lab.normal(1, 1, 2, 2))


@probe("upsample-conv1d", "Conv1d directly after Upsample is right")
def _upsample(lab: Lab) -> None:
    def call(x: Tensor, w: Tensor) -> Tensor:
        return functional.conv1d(functional.interpolate(x, scale_factor=2.0), w)

    lab.agree(call, lab.normal(2, 3, 10), lab.normal(4, 3, 3))


@probe("sum-rank-5", "sum over an inner dimension of a five-dimensional tensor is right")
def _sum(lab: Lab) -> None:
    lab.agree(lambda x: x.sum(-3), torch.ones(1, 2, 1, 1, 1))


@probe("mask-select-2d", "Boolean indexing of a two-dimensional tensor takes the masked elements")
def _mask(lab: Lab) -> None:
    mask = lab.normal(2, 7) > 0
    found = lab.run(lambda x: x[mask.to(x.device)], torch.arange(14).reshape(2, 7))
    lab.equal(found.double(), torch.arange(14).reshape(2, 7)[mask].double())


@probe("fill-single-elements", "Writing single elements one after the other keeps each value")
def _fill(lab: Lab) -> None:
    def call(x: Tensor) -> Tensor:
        x = x.clone()
        x[1] = 1
        x[2] = 3
        return x

    lab.agree(call, torch.zeros(3))


@probe("unique-large", "unique of integers above 2**24 has right inverse indices")
def _unique(lab: Lab) -> None:
    values = torch.arange(64).repeat(2) + (1 << 25)
    found = lab.run(lambda x: torch.ops.aten._unique2(x, True, True)[1], values)
    lab.equal(found.double(), torch.ops.aten._unique2(values, True, True)[1].double())


@probe("all-empty", "all() over an empty dimension is true")
def _all(lab: Lab) -> None:
    found = lab.run(lambda x: x.all(1), torch.ones(4, 0, dtype=torch.bool))
    if not bool(found.all()):
        raise FaultShown(f"{found.tolist()}")


@probe("categorical-varies", "A batch of categorical distributions is sampled anew every time")
def _categorical(lab: Lab) -> None:
    logits = torch.zeros(1, 4, 100)
    distributions: Any = torch.distributions
    drawn = [lab.run(lambda x: distributions.Categorical(logits=x).sample(), logits) for _ in range(4)]
    if all(torch.equal(drawn[0], other) for other in drawn):
        raise FaultShown(f"four draws of four out of a hundred are all {drawn[0].flatten().tolist()}")


@probe("multinomial-range", "multinomial draws no index of probability zero")
def _multinomial(lab: Lab) -> None:
    chances = torch.tensor([[0.0, 0.0, 0.3, 0.0, 0.7, 0.0]])
    for _ in range(16):
        found = lab.run(lambda x: torch.multinomial(x, 1), chances)
        if int(found) not in (2, 4):
            raise FaultShown(f"index {int(found)} of six, whose probability is zero")


@probe("generator-state", "A generator's state can be restored")
def _generator(lab: Lab) -> None:
    generator = torch.Generator(device=lab.device).manual_seed(0)
    state = generator.get_state()
    first = torch.randn(8, device=lab.device, generator=generator).cpu()
    generator.set_state(state)
    if not torch.equal(first, torch.randn(8, device=lab.device, generator=generator).cpu()):
        raise FaultShown("the same state gives other numbers")
