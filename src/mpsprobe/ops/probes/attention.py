"""Probes of scaled dot product attention."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention as attend

from mpsprobe.ops.probes.registry import FaultShown, Lab, probe

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


@probe("sdpa-partial-block", "One query over keys that are no multiple of 32 is right")
def _partial_block(lab: Lab) -> None:
    query = lab.normal(1, 8, 1, 64, dtype=torch.float16)
    key, value = (lab.normal(1, 8, 39, 64, dtype=torch.float16) for _ in range(2))
    lab.agree(attend, query, key, value)


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
