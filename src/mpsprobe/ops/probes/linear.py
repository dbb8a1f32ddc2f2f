"""Probes of linear layers, matrix products and attention."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention as attend

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


_HALVES = (torch.float16, torch.bfloat16)


@probe("sdpa-decode-long-keys", "One query over 1024 or more grouped keys is right in half precision")
def _long_keys(lab: Lab) -> None:
    for dtype in _HALVES:
        query = lab.normal(1, 32, 1, 128, dtype=dtype)
        key, value = (lab.normal(1, 2, 2048, 128, dtype=dtype) for _ in range(2))
        lab.agree(partial(attend, enable_gqa=True), query, key, value)


@probe("sdpa-causal-half", "Causal attention in half precision sees no future key")
def _causal(lab: Lab) -> None:
    for dtype in _HALVES:
        query, key, value = (lab.normal(1, 4, 64, 64, dtype=dtype) for _ in range(3))
        lab.agree(partial(attend, is_causal=True), query, key, value)


@probe("sdpa-value-width", "Attention keeps the value's width where it differs from the query's")
def _value_width(lab: Lab) -> None:
    lab.agree(attend, lab.normal(1, 1, 16, 32), lab.normal(1, 1, 16, 32), lab.normal(1, 1, 16, 24))


@probe("sdpa-transposed-query", "Attention of few queries is right for a transposed query")
def _transposed_query(lab: Lab) -> None:
    tensors = (lab.normal(1, 5, 4, 64), lab.normal(1, 9, 4, 64), lab.normal(1, 9, 4, 64))
    lab.agree(lambda q, k, v: attend(*(x.transpose(1, 2) for x in (q, k, v))), *tensors)


@probe("sdpa-batched-strided", "Attention of one query is right for batches of transposed keys")
def _batched(lab: Lab) -> None:
    tensors = (lab.normal(2, 4, 1, 64), lab.normal(2, 9, 4, 64), lab.normal(2, 9, 4, 64))
    lab.agree(lambda q, k, v: attend(q, k.transpose(1, 2), v.transpose(1, 2)), *tensors)


@probe("sdpa-permuted-short", "Short permuted sequences of head width 64 are attended rightly")
def _permuted(lab: Lab) -> None:
    tensors = [lab.normal(84, 3, 3, 64) for _ in range(3)]
    lab.agree(lambda q, k, v: attend(*(x.permute(0, 2, 1, 3) for x in (q, k, v))), *tensors)


@probe("sdpa-broadcast-mask", "A mask that is broadcast over heads is applied rightly")
def _broadcast_mask(lab: Lab) -> None:
    tensors = [lab.normal(2, 4, 8, 64) for _ in range(3)]
    lab.agree(attend, *tensors, lab.normal(2, 1, 8, 8))


@probe("sdpa-two-scales", "A second call with another scale uses that scale")
def _two_scales(lab: Lab) -> None:
    tensors = [lab.normal(1, 2, 4, 8) for _ in range(3)]
    for scale in (0.5, 2.0):
        lab.agree(partial(attend, scale=scale), *tensors)


@probe("sdpa-grouped-mask", "Grouped keys with a mask are attended without an abort")
def _grouped_mask(lab: Lab) -> None:
    query, mask = lab.normal(2, 4, 3, 8), lab.normal(3, 3)
    key, value = (lab.normal(2, 2, 3, 8) for _ in range(2))
    lab.agree(lambda q, k, v, m: attend(q, k, v, attn_mask=m, enable_gqa=True), query, key, value, mask)


@probe("sdpa-masked-row", "A row that a mask hides entirely is treated as on the CPU")
def _masked_row(lab: Lab) -> None:
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    mask[0, 0, 1] = False
    tensors = [lab.normal(2, 4, 4, 16) for _ in range(3)]
    lab.agree(attend, *tensors, mask)


@probe("sdpa-nan-passes", "NaN in the query reaches the result")
def _nan(lab: Lab) -> None:
    query = lab.normal(1, 1, 4, 64)
    query[0, 0, 0, 0] = float("nan")
    found = lab.run(attend, query, lab.normal(1, 1, 16, 64), lab.normal(1, 1, 16, 64))
    if not bool(found[0, 0, 0].isnan().all()):
        raise FaultShown("the first row of the result holds numbers")


@probe("sdpa-large-scores", "Scores beyond 65504 do not make float16 attention NaN")
def _large_scores(lab: Lab) -> None:
    query, key, value = (lab.normal(1, 4, 64, 64, dtype=torch.float16) for _ in range(3))
    lab.agree(partial(attend, scale=1.0), query * 64, key * 64, value)
