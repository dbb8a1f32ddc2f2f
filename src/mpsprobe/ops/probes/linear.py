"""Probes of linear layers and matrix products."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from mpsprobe.ops.probes.registry import FaultShown, Lab, probe


@probe("linear-noncontiguous", "F.linear is right for inputs and weights that are not contiguous")
def _noncontiguous(lab: Lab) -> None:
    lab.agree(lambda x, w: functional.linear(x, w.t()), lab.normal(4, 16), lab.normal(16, 12))
    lab.agree(lambda x, w: functional.linear(x.t(), w), lab.normal(16, 4), lab.normal(12, 16))


@probe("linear-expanded", "F.linear takes an expanded input")
def _expanded(lab: Lab) -> None:
    weight, bias = lab.normal(8, 16), lab.normal(8)
    lab.agree(lambda x, w, b: functional.linear(x.expand(3, 5, 16), w, b), lab.normal(1, 5, 16), weight, bias)


@probe("linear-bias-vector", "F.linear adds the bias for inputs whose last but one dimension is 1")
def _bias_of_vectors(lab: Lab) -> None:
    lab.agree(functional.linear, lab.normal(80, 1, 2), lab.normal(192, 2), lab.normal(192))


@probe("linear-no-features", "F.linear with no input features gives the bias")
def _no_features(lab: Lab) -> None:
    lab.agree(functional.linear, lab.normal(3, 4, 0), lab.normal(5, 0), lab.normal(5))


@probe(
    "linear-bias-long-batch", "F.linear with bias is right beyond 65536 in the third dimension from the end"
)
def _bias_of_long_batch(lab: Lab) -> None:
    lab.agree(functional.linear, lab.normal(65537, 2, 4), lab.normal(8, 4), lab.normal(8))


@probe("linear-transposed-bf16", "F.linear takes a bfloat16 weight that is a transposed view")
def _transposed_half(lab: Lab) -> None:
    x, w = lab.normal(2, 256, 512, dtype=torch.bfloat16), lab.normal(512, 512, dtype=torch.bfloat16)
    lab.agree(lambda x, w: functional.linear(x, w.t()), x, w)


@probe("linear-half-repeats", "Half-precision F.linear gives the same result every time")
def _half_repeats(lab: Lab) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        x, w = lab.normal(2, 13, 1024, dtype=dtype), lab.normal(1024, 1024, dtype=dtype)
        lab.agree(functional.linear, x, w)
        results = [lab.run(functional.linear, x, w) for _ in range(8)]
        if not all(torch.equal(results[0], other) for other in results):
            raise FaultShown(f"eight calls in {str(dtype).removeprefix('torch.')} differ")


@probe("linear-decode-speed", "F.linear takes [B, 1, K] as fast as [B, K] in half precision")
def _decode_speed(lab: Lab) -> None:
    x = lab.normal(4, 1, 4096, dtype=torch.bfloat16).to(lab.device)
    w = lab.normal(4096, 4096, dtype=torch.bfloat16).to(lab.device)
    deep = _seconds(lab, lambda: functional.linear(x, w))
    flat = _seconds(lab, lambda: functional.linear(x.squeeze(1), w))
    if deep > 2 * flat:
        raise FaultShown(f"{deep * 1e3:.3g} ms instead of {flat * 1e3:.3g} ms")


@probe("mm-long-reduction", "Products that reduce over 32768 or more are right")
def _long_reduction(lab: Lab) -> None:
    lab.agree(torch.mm, lab.normal(16, 32800), lab.normal(32800, 16))


@probe("bmm-long-reduction", "Batched products that reduce over 32768 or more are right")
def _long_batched_reduction(lab: Lab) -> None:
    lab.agree(torch.bmm, lab.normal(2, 16, 32800), lab.normal(2, 32800, 16))


@probe("linalg-solve-broadcast", "linalg.solve solves every matrix of a batch for one right-hand side")
def _solve(lab: Lab) -> None:
    matrices = lab.normal(2, 3, 3) + 4 * torch.eye(3)
    lab.agree(torch.linalg.solve, matrices, lab.normal(3, 1))


def _seconds(lab: Lab, call: Callable[[], object]) -> float:
    """Return the median time of a warm call, synchronised."""
    taken = []
    for _ in range(30):
        began = time.perf_counter()
        call()
        lab.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[5:])
