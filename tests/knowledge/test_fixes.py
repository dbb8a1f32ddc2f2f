"""No fix of an advisory changes a result: the code that it gives is run on the CPU against the original."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch.nn import functional

from mpsprobe.knowledge import advisories

#: Advisory, code in its fix, the code that it replaces. Both see the names of `_names`; a statement gives `out`.
FIXES = [
    (
        "compile-rms-norm-zeros",
        "x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight",
        "functional.rms_norm(x, (4,), weight, eps)",
    ),
    ("abs-int-over-2-24", "torch.where(x < 0, -x, x)", "x.abs()"),
    ("copy-to-cpu-float64-unwritten", 'x.to("cpu").to(torch.float64)', "x.to('cpu', torch.float64)"),
    (
        "add-inplace-alpha-promotion-raises",
        "a.add_(b.to(a.dtype), alpha=alpha)",
        "a.clone().add_(b, alpha=alpha)",
    ),
    ("bitshift-scalar-left-wrong", "torch.ones_like(t) << t", "1 << t"),
    ("sdpa-rank-5-abort", "q.flatten(0, -4)", "q.reshape(-1, *q.shape[-3:])"),
    ("any-rank-5-abort", "x.flatten().any()", "x.any()"),
    ("clamp-min-int-by-float-zero", "t.clamp_min(1)", "t.clamp_min(1.0)"),
    ("cast-to-cpu-corrupts-source", "dst[i:j] = src.to(dst.dtype).cpu()", "dst[i:j].copy_(src)"),
    ("slice-to-cpu-cast-wrong", 'x.to("cpu").to(dtype)', "x.to('cpu', dtype)"),
    ("clamp-nan-to-bound", "torch.where(x.isnan(), x, x.clamp(lo, hi))", "x.clamp(lo, hi)"),
    ("mse-loss-vmap-raises", "(x - y).square().mean()", "functional.mse_loss(x, y)"),
    ("bitwise-bool-scalar-offset", "mask & flags[i].clone()", "mask & flags[i]"),
    ("fill-bool-view-shifted", "x[1:] = torch.ones_like(x[1:])", "x[1:].fill_(True)"),
    ("complex-abs-interleaved", "torch.sqrt(x.real ** 2 + x.imag ** 2)", "x.abs()"),
    (
        "complex-abs-overflow",
        "s = x.real.abs().maximum(x.imag.abs()).clamp_min(1e-30); (x / s).abs() * s",
        "x.abs()",
    ),
    ("conj-imag-not-negated", "x.conj().resolve_conj().imag", "x.conj().imag"),
    ("nextafter-bfloat16-noop", "torch.nextafter(a.cpu(), b.cpu()).to(a.device)", "torch.nextafter(a, b)"),
    (
        "nextafter-bfloat16-subnormal",
        "torch.nextafter(a.cpu(), b.cpu()).to(a.device)",
        "torch.nextafter(a, b)",
    ),
    (
        "remainder-int-over-2-24-wrong",
        "x - torch.div(x, y, rounding_mode='floor') * y",
        "x % y",
    ),
    ("rshift-uint8-wrong", "(x.to(torch.int32) >> n).to(torch.uint8)", "x >> n"),
    (
        "solve-triangular-over-3d-wrong",
        "torch.linalg.solve_triangular(A.flatten(0, -3), B.flatten(0, -3), upper=True).unflatten(0, B.shape[:-2])",
        "torch.linalg.solve_triangular(A, B, upper=True)",
    ),
    ("metal-pointwise-over-2e32-cut", "torch.cat([torch.exp(part) for part in x.chunk(8)])", "torch.exp(x)"),
    ("entr-bool-shader-m1-m2", "torch.special.entr(x.float())", "torch.special.entr(x)"),
    ("polygamma-order-zero-imprecise", "torch.polygamma(0, x.cpu()).to(x.device)", "torch.polygamma(0, x)"),
    ("mul-inplace-view-not-written", "torch.mul(view, factor, out=view)", "view.mul_(factor)"),
    ("erfc-upper-tail-zero", "torch.special.erfc(x.cpu()).to(x.device)", "torch.erfc(x)"),
    (
        "complex-exp-real-axis-nan",
        "torch.complex(x.real.exp(), torch.zeros_like(x.real))",
        "x.exp()",
    ),
    ("hfft-rank-5-abort", "torch.fft.hfft(x.movedim(0, -1)).movedim(-1, 0)", "torch.fft.hfft(x, dim=0)"),
    ("unique-large-int64-wrong", "x.cpu().unique(return_inverse=True)", "x.unique(return_inverse=True)"),
    ("mask-select-size-varies", "x[mask].numel() == mask.sum()", "torch.tensor(True)"),
    (
        "sort-rank-5-abort",
        "values, index = x.movedim(dim, -1).sort(-1)",
        "x.sort(dim).values.movedim(dim, -1), x.sort(dim).indices.movedim(dim, -1)",
    ),
    (
        "scatter-add-slice-ignored",
        "base[1] = base[1].clone().scatter_add(0, index, source)",
        "base[1].scatter_add_(0, index, source)",
    ),
    (
        "repeat-interleave-slice-segfault",
        "x.repeat_interleave(counts[1:].clone(), dim=0)",
        "x.repeat_interleave(counts[1:], dim=0)",
    ),
    ("masked-assignment-wrong-macos-14-4", "torch.where(mask, value, x)", "x.masked_fill(mask, value)"),
    (
        "linalg-solve-broadcast-wrong",
        "b.expand(*A.shape[:-1], k).contiguous()",
        "b.broadcast_to((*A.shape[:-1], k))",
    ),
    ("gemm-int-addr", "a[:, None] * b", "torch.outer(a, b)"),
    (
        "svd-batched-not-orthogonal",
        "[t.to(A.device) for t in torch.linalg.svd(A.cpu())]",
        "torch.linalg.svd(A)",
    ),
    ("qr-tall-quadratic", "[t.to(A.device) for t in torch.linalg.qr(A.cpu())]", "torch.linalg.qr(A)"),
    ("addcmul-zero-value-drops-nan", "a + value * b * c", "torch.addcmul(a, b, c, value=value)"),
    ("mm-out-slice-not-written-macos14", "buffer[1].copy_(torch.mm(a, b))", "buffer[1] = torch.mm(a, b)"),
    ("mm-out-strided-raises", "out.copy_(torch.mm(a, b))", "torch.mm(a, b)"),
    ("relu-nan-to-zero", "torch.where(x.isnan(), x, torch.relu(x))", "torch.relu(x)"),
    (
        "hardsigmoid-softshrink-nan-to-zero",
        "torch.where(x.isnan(), x, F.hardsigmoid(x))",
        "F.hardsigmoid(x)",
    ),
    ("clamp-tensor-out-raises", "out.copy_(torch.clamp(x, lo, hi))", "torch.clamp(x, lo, hi)"),
    (
        "bce-gradient-size-one-wrong",
        'F.binary_cross_entropy(p.flatten(), y.flatten(), reduction="none").view_as(p)',
        "F.binary_cross_entropy(p, y, reduction='none')",
    ),
    (
        "masked-scatter-flattens-source",
        "x.masked_scatter(mask, source.clone())",
        "x.masked_scatter(mask, source)",
    ),
    (
        "householder-product-race",
        "torch.linalg.householder_product(a.cpu(), tau.cpu()).to(a.device)",
        "torch.linalg.householder_product(a, tau)",
    ),
    (
        "linear-backward-channels-last-raises",
        "F.linear(x.flatten(0, -2), w, b).unflatten(0, x.shape[:-1])",
        "F.linear(x, w, b)",
    ),
    (
        "linear-backward-rank-5-abort-macos26",
        "F.linear(x.flatten(0, -2), w, b).unflatten(0, x.shape[:-1])",
        "F.linear(x, w, b)",
    ),
    ("mm-expanded-zero-rows", "x.expand(64, 1).contiguous() @ w", "x.expand(64, 1) @ w"),
    (
        "rms-norm-half-rounds-twice",
        "F.rms_norm(x.float(), shape, w.float(), eps).to(x.dtype)",
        "F.rms_norm(x, shape, w, eps)",
    ),
    ("amax-int64-zero", "x.flatten().max(dim=0).values", "x.amax()"),
    (
        "pad-rank-5-large-frames-wrong",
        "torch.cat([x.new_zeros(*x.shape[:2], n, *x.shape[3:]), x], dim=2)",
        "F.pad(x, (0, 0, 0, 0, n, 0))",
    ),
    (
        "pad3d-large-frames-wrong",
        'F.pad(x.cpu(), pad, mode="replicate").to(x.device)',
        "F.pad(x, pad, mode='replicate')",
    ),
    (
        "rms-norm-over-2e22-rows",
        "(x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps) * w.float()).to(x.dtype)",
        "F.rms_norm(x, (4,), w, eps)",
    ),
    (
        "unique-counts-garbage-small",
        "values, counts = x.cpu().unique(return_counts=True)",
        "x.unique(return_counts=True)",
    ),
    (
        "linear-complex-rank-5-abort-macos27",
        "F.linear(x.flatten(0, -2), w, b).unflatten(0, x.shape[:-1])",
        "F.linear(x, w, b)",
    ),
    ("compile-tanh-nan", "torch.tanh(x.clamp(-20, 20))", "torch.tanh(x)"),
    ("pad-int64-large-wrong", "torch.cat([x, x.new_full((n,), value)])", "F.pad(x, (0, n), value=value)"),
    ("cholesky-m4-wrong", "torch.linalg.cholesky(A.cpu())", "torch.linalg.cholesky(A)"),
    ("inverse-large-abort", "torch.linalg.inv(A.cpu()).to(A.device)", "torch.linalg.inv(A)"),
    ("linear-bias-dropped-macos26", "F.linear(x, w) + b", "F.linear(x, w, b)"),
    (
        "linear-bias-batch-over-65536",
        "F.linear(x.reshape(-1, k), w, b)",
        "F.linear(x, w, b).reshape(-1, 3)",
    ),
    ("linear-rank-5-abort", "F.linear(x.reshape(-1, k), w, b)", "F.linear(x, w, b).reshape(-1, 3)"),
    ("matmul-conj-ignored", "torch.conj_physical(b)", "torch.conj(b).clone()"),
    ("conj-matmul-ignored", "a @ b.conj().resolve_conj()", "a @ b.conj()"),
    (
        "grad-of-sum-zero-rows",
        "torch.autograd.grad(y, x, grad_outputs=torch.ones_like(y))",
        "torch.autograd.grad(y.sum(), x)",
    ),
    ("layer-norm-mixed-dtype-garbage", "layer(x.float()).to(x.dtype)", "layer.to(x.dtype)(x)"),
    ("rms-norm-mixed-dtype-garbage", "layer(x.float()).to(x.dtype)", "layer.to(x.dtype)(x)"),
    ("cumsum-rank-5-abort", "x.movedim(dim, -1).cumsum(-1).movedim(-1, dim)", "x.cumsum(dim)"),
    ("cumsum-bool-overflow", "x.to(torch.int64).cumsum(dim)", "x.cumsum(dim)"),
    ("var-varies-macos27", "(x - x.mean()).square().sum() / (x.numel() - 1)", "x.var()"),
    ("bincount-few-bins-slow", "(x[:, None] == torch.arange(n)).sum(0)", "torch.bincount(x, minlength=n)"),
    ("trailing-dims-reduction-slow", "x.flatten(-2).sum(-1)", "x.sum((-2, -1))"),
    ("sigmoid-int64-raises", "x.to(torch.float32).sigmoid()", "x.sigmoid()"),
    ("tril-inf-nan", 'torch.full(..., -inf).triu(1).to("mps")', None),
    ("exponential-zero-gumbel-nan", "x.exponential_().clamp_min_(torch.finfo(x.dtype).tiny)", None),
    ("rand-rank-5-repeats", 'torch.randn(count, device="mps").view(shape)', None),
    ("multinomial-zero-probability-drawn", "torch.multinomial(p.cpu(), 1)", None),
    ("std-complex-wrong", "torch.view_as_real(x)", None),
    ("lstm-packed-backward-abort", "0 * output.sum()", None),
    ("linear-transposed-bf16-abort-macos27", "G.T.contiguous()", "G.T"),
    (
        "avg-pool-rounding-negative",
        "F.avg_pool3d(x.unsqueeze(2), (1, k, k), (1, s, s)).squeeze(2)",
        "F.avg_pool2d(x, k, s)",
    ),
    ("addmm-small-alpha-cached", "torch.addmm(c, alpha * a, b)", "torch.addmm(c, a, b, alpha=alpha)"),
    ("random-small-bounds-cached", "x.uniform_(-1, 1).mul_(1e-7)", None),
    ("randint-over-2-31", "torch.randint(high, size)", None),
    ("roi-backward-overcounts", "roi_align(x.cpu(), [b.cpu() for b in boxes], size)", None),
    ("sum-small-ints-rounded", "x.sum(dtype=torch.int64)", "x.sum()"),
    ("prod-ints-rounded", "x.prod(dtype=torch.int64)", "x.prod()"),
    ("cumsum-int32-overflow", "x.cumsum(0, dtype=torch.int64)", "x.cumsum(0)"),
    (
        "scatter-add-int64-wraps",
        "x.cpu().scatter_add(0, index.cpu(), source.cpu()).to(x.device)",
        "x.scatter_add(0, index, source)",
    ),
    (
        "multinomial-replacement-memory",
        "torch.searchsorted(p.cumsum(-1), torch.rand(n, device=p.device) * p.sum())",
        None,
    ),
    ("multinomial-replacement-unchecked", "p.isfinite().all() and (p >= 0).all()", None),
    (
        "vector-norm-half-overflow",
        "torch.linalg.vector_norm(x, 2, -1, dtype=torch.float32).to(x.dtype)",
        "torch.linalg.vector_norm(x, 2, -1)",
    ),
    ("softmax-channels-last-shape-cached", "x.contiguous().softmax(1)", "x.softmax(1)"),
    (
        "log-softmax-half-large-vocabulary",
        "torch.log_softmax(x.float(), -1).to(x.dtype)",
        "torch.log_softmax(x, -1)",
    ),
    (
        "norm-infinity-nan-lost",
        "torch.where(x.isnan().any(-1), torch.nan, x.norm(inf, -1))",
        "x.norm(inf, -1)",
    ),
    ("median-nan-skipped", "torch.where(x.isnan().any(), torch.nan, x.median())", "x.median()"),
    ("cdist-concat-graph-slow", "(a[:, None] - b[None]).abs().sum(-1)", "torch.cdist(a, b, p=1)"),
    ("topk-int64-over-2-31", "torch.topk(x.cpu(), k)", "torch.topk(x, k)"),
    (
        "nan-to-num-infinite-replacement",
        "torch.where(x.isnan(), -inf, x.nan_to_num())",
        "x.nan_to_num(nan=-inf)",
    ),
    ("gamma-strides-ignored-before-2-10", "x.contiguous()", "x"),
    ("pad-small-value-cached", "F.pad(x - value, (1, 2)) + value", "F.pad(x, (1, 2), value=value)"),
    ("softplus-half-small-zero", "F.softplus(x.float()).to(x.dtype)", "F.softplus(x)"),
    ("log1p-expm1-small-zero", "torch.log1p(x.cpu()).to(x.device)", "torch.log1p(x)"),
    (
        "remainder-float-inexact",
        "torch.remainder(x.cpu(), y.cpu()).to(x.device)",
        "torch.remainder(x, y)",
    ),
    ("logaddexp-overflow", "torch.logsumexp(torch.stack((x, y)), 0)", "torch.logaddexp(x, y)"),
    ("logit-half-returns-float32", "x.logit().to(x.dtype)", "x.logit()"),
]

#: Calls that move, copy or test memory and compute nothing; an advisory whose fix has no others is not listed above.
_NO_VALUES = re.compile(
    r"\.(contiguous|clone|eval|half|detach|expand|numel|isnan|any|cpu|item|to|synchronize|empty_cache|is_available"
    r"|perf_counter|pin_memory|autocast|from_pretrained|enable_attention_slicing|squeeze|unsqueeze|chunk|sum)\([^()]*\)"
    r"|\w+\(\)|\((?:[^()=]*)\)(?=[ .,;])"
)


def _names(id_: str) -> dict[str, Any]:
    """Return the tensors that the code of a fix names."""
    torch.manual_seed(0)
    names: dict[str, Any] = {
        "torch": torch,
        "functional": functional,
        "F": functional,
        "inf": float("inf"),
        "eps": 1e-6,
        "lo": -0.5,
        "hi": 0.5,
        "dim": 0,
        "d": 1,
        "i": 1,
        "j": 4,
        "n": 3,
        "k": 4,
        "dtype": torch.float16,
        "value": 7.0,
        "x": torch.randn(3, 4),
        "weight": torch.randn(4),
        "w": torch.randn(3, 4),
        "b": torch.randn(3),
        "t": torch.arange(4),
        "y": torch.randn(3, 4),
        "mask": torch.rand(3, 4) > 0.5,
        "flags": torch.tensor([True, False, True]),
        "G": torch.randn(3, 4),
        "a": torch.randn(4),
        "A": torch.randn(2, 4, 4),
        "dst": torch.zeros(8, dtype=torch.float16),
        "src": torch.randn(3),
        "base": torch.zeros(2, 4),
        "index": torch.tensor([0, 2, 2]),
        "source": torch.randn(3),
        "counts": torch.tensor([9, 1, 2, 0]),
        "layer": torch.nn.LayerNorm(4),
    }
    own: dict[str, dict[str, Any]] = {
        "add-inplace-alpha-promotion-raises": {"a": torch.randn(4).half(), "b": torch.randn(4), "alpha": 0.5},
        "sdpa-rank-5-abort": {"q": torch.randn(2, 3, 4, 5, 6)},
        "clamp-nan-to-bound": {"x": torch.tensor([float("nan"), -2.0, 0.1, 3.0])},
        "fill-bool-view-shifted": {"x": torch.zeros(6, dtype=torch.bool)},
        "complex-abs-interleaved": {"x": torch.randn(8, dtype=torch.complex64)},
        "complex-abs-overflow": {"x": torch.tensor([3 + 4j, 1e-20 + 2e-20j, 1e25 - 1e25j, 0j])},
        "conj-imag-not-negated": {"x": torch.randn(8, dtype=torch.complex64)},
        "nextafter-bfloat16-noop": {"b": torch.randn(4)},
        "nextafter-bfloat16-subnormal": {"b": torch.randn(4)},
        "remainder-int-over-2-24-wrong": {"x": torch.tensor([42309891, -42309891]), "y": 31},
        "rshift-uint8-wrong": {"x": torch.tensor([255, 16, 3], dtype=torch.uint8)},
        "solve-triangular-over-3d-wrong": {
            "A": torch.eye(4) + torch.rand(2, 3, 4, 4).triu(1),
            "B": torch.randn(2, 3, 4, 2),
        },
        "entr-bool-shader-m1-m2": {"x": torch.tensor([True, False])},
        "mul-inplace-view-not-written": {"view": torch.randn(6, 4)[:3], "factor": torch.randn(3, 1)},
        "complex-exp-real-axis-nan": {"x": torch.complex(torch.randn(4), torch.zeros(4))},
        "hfft-rank-5-abort": {"x": torch.randn(3, 2, 2, 2, 2, dtype=torch.complex64)},
        "addcmul-zero-value-drops-nan": {
            "a": torch.tensor([1.0, 2.0, 3.0]),
            "b": torch.tensor([4.0, float("nan"), float("inf")]),
            "c": torch.tensor([5.0, 6.0, 7.0]),
            "value": 0.0,
        },
        "mm-out-slice-not-written-macos14": {
            "a": torch.randn(3, 4),
            "b": torch.randn(4, 5),
            "buffer": torch.zeros(2, 3, 5),
        },
        "mm-out-strided-raises": {
            "a": torch.randn(3, 4),
            "b": torch.randn(4, 5),
            "out": torch.zeros(5, 3).T,
        },
        "relu-nan-to-zero": {"x": torch.tensor([float("nan"), -2.0, 0.0, 3.0])},
        "hardsigmoid-softshrink-nan-to-zero": {"x": torch.tensor([float("nan"), -4.0, 0.1, 4.0])},
        "clamp-tensor-out-raises": {
            "out": torch.zeros(4, 3).T,
            "lo": torch.tensor(-0.5),
            "hi": torch.tensor(0.5),
        },
        "bce-gradient-size-one-wrong": {"p": torch.rand(3, 1, 4), "y": torch.rand(3, 1, 4)},
        "masked-scatter-flattens-source": {"source": torch.randn(12, 2)[:, 0]},
        "householder-product-race": {"a": torch.randn(4, 3), "tau": torch.rand(3)},
        "linear-backward-channels-last-raises": {"x": torch.randn(2, 4, 3, 5).permute(0, 2, 3, 1)},
        "linear-backward-rank-5-abort-macos26": {"x": torch.randn(2, 2, 2, 2, 4)},
        "mm-expanded-zero-rows": {"x": torch.randn(1, 1), "w": torch.randn(1, 5)},
        "rms-norm-half-rounds-twice": {
            "x": torch.randn(3, 4).half(),
            "w": torch.randn(4).half(),
            "shape": (4,),
        },
        "amax-int64-zero": {"x": torch.arange(12).view(3, 4) * 2**40},
        "pad-rank-5-large-frames-wrong": {"x": torch.randn(2, 3, 4, 5, 6)},
        "pad3d-large-frames-wrong": {"x": torch.randn(2, 3, 4, 5, 6), "pad": (1, 0, 2, 1, 1, 2)},
        "rms-norm-over-2e22-rows": {"x": torch.randn(3, 4).half(), "w": torch.randn(4).half()},
        "unique-counts-garbage-small": {"x": torch.tensor([5, 1, 5, 2])},
        "linear-complex-rank-5-abort-macos27": {
            "x": torch.randn(2, 2, 2, 2, 4, dtype=torch.complex64),
            "w": torch.randn(3, 4, dtype=torch.complex64),
            "b": torch.randn(3, dtype=torch.complex64),
        },
        "compile-tanh-nan": {"x": torch.tensor([-1e4, -21.0, -0.3, 0.0, 8.0, 19.0, 45.0])},
        "pad-int64-large-wrong": {"x": torch.arange(4), "value": 2**40 + 1},
        "cholesky-m4-wrong": {"A": torch.eye(4) * 3 + 0.5},
        "unique-large-int64-wrong": {"x": torch.tensor([5, 1, 5, 2**40])},
        "sort-rank-5-abort": {"x": torch.randn(3, 2, 2, 2, 2)},
        "cumsum-rank-5-abort": {"x": torch.randn(3, 2, 2, 2, 2)},
        "linalg-solve-broadcast-wrong": {"b": torch.randn(4, 2), "k": 2},
        "gemm-int-addr": {"a": torch.arange(3), "b": torch.arange(5)},
        "qr-tall-quadratic": {"A": torch.randn(9, 2)},
        "matmul-conj-ignored": {"b": torch.randn(3, dtype=torch.complex64)},
        "conj-matmul-ignored": {
            "a": torch.randn(2, 2, dtype=torch.complex64),
            "b": torch.randn(2, 2, dtype=torch.complex64),
        },
        "layer-norm-mixed-dtype-garbage": {"x": torch.randn(3, 4).bfloat16()},
        "rms-norm-mixed-dtype-garbage": {
            "x": torch.randn(3, 4).bfloat16(),
            "layer": getattr(torch.nn, "RMSNorm", torch.nn.LayerNorm)(4),  # RMSNorm came with torch 2.4
        },
        "cumsum-bool-overflow": {"x": torch.ones(300, dtype=torch.bool)},
        "bincount-few-bins-slow": {"x": torch.tensor([0, 2, 2, 1])},
        "sigmoid-int64-raises": {"x": torch.arange(-2, 3)},
        "masked-assignment-wrong-macos-14-4": {"x": torch.randn(3, 4)},
        "logaddexp-overflow": {
            "x": torch.tensor([200.0, -300.0, 1.0]),
            "y": torch.tensor([201.0, -301.0, 2.0]),
        },
        "logit-half-returns-float32": {"x": torch.tensor([0.25, 0.5, 0.75]).half()},
        "softplus-half-small-zero": {"x": torch.linspace(-9, 9, 19).bfloat16()},
        "log1p-expm1-small-zero": {"x": torch.tensor([1e-9, 1e-3, 2.0])},
        "nan-to-num-infinite-replacement": {"x": torch.tensor([1.0, float("nan"), float("inf"), -2.0])},
        "pad-small-value-cached": {"value": 1e-8},
        "vector-norm-half-overflow": {"x": torch.randn(3, 64).half() * 100},
        "softmax-channels-last-shape-cached": {
            "x": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
        },
        "log-softmax-half-large-vocabulary": {"x": torch.randn(3, 8).half()},
        "norm-infinity-nan-lost": {"x": torch.tensor([[1.0, -3.0], [float("nan"), 2.0]])},
        "median-nan-skipped": {"x": torch.tensor([1.0, float("nan"), 2.0])},
        "cdist-concat-graph-slow": {"a": torch.randn(5, 4), "b": torch.randn(3, 4)},
        "topk-int64-over-2-31": {"x": torch.tensor([2**40, 5, 2**33, -(2**50)]), "k": 2},
        "sum-small-ints-rounded": {"x": torch.tensor([2**30, 2**30, 2**30 + 1], dtype=torch.int32)},
        "prod-ints-rounded": {"x": torch.tensor([2**20, 2**13, 3], dtype=torch.int32)},
        "cumsum-int32-overflow": {"x": torch.tensor([2**30, 2**30, 2**30 + 1], dtype=torch.int32)},
        "scatter-add-int64-wraps": {"x": torch.full((4,), 2**40), "source": torch.tensor([1, 2, 2**33])},
        "avg-pool-rounding-negative": {"x": torch.randn(2, 3, 9, 11), "k": 3, "s": 2},
        "addmm-small-alpha-cached": {
            "a": torch.randn(3, 4),
            "b": torch.randn(4, 5),
            "c": torch.randn(3, 5),
            "alpha": 2e-7,
        },
    }
    names |= own.get(id_, {})
    if id_ == "grad-of-sum-zero-rows":
        names["x"] = torch.randn(3, 4, requires_grad=True)
        names["y"] = (names["x"].sin() @ names["w"].T).squeeze(-1)
    return names


def _run(code: str, id_: str) -> Any:
    """Return the value of an expression, or of the name that a statement assigns or changes."""
    names = _names(id_)
    *statements, last = code.split("; ")
    for statement in statements:
        exec(statement, names)  # the code of our own data files
    target = re.match(r"(\w+)(?:\[[^=]*\])? = |(\w+)\[[^=]*\]\.\w+_\(|(\w+), (\w+) = ", last)
    if target is None:
        return eval(last, names)
    exec(last, names)
    if target[3]:
        return names[target[3]], names[target[4]]
    return names[target[1] or target[2]]


def _tensors(value: Any) -> list[torch.Tensor]:
    return (
        [torch.as_tensor(one) for one in value]
        if isinstance(value, (tuple, list))
        else [torch.as_tensor(value)]
    )


@pytest.mark.parametrize(("id_", "code", "original"), FIXES, ids=[fix[0] for fix in FIXES])
def test_code_of_a_fix_computes_what_it_replaces(id_: str, code: str, original: str | None) -> None:
    assert code in advisories.by_id(id_).fix
    if original is None:  # random numbers, or a part of a sentence
        return
    fixed, right = _tensors(_run(code, id_)), _tensors(_run(original, id_))
    assert len(fixed) == len(right)
    for one, other in zip(fixed, right, strict=True):
        torch.testing.assert_close(one, other, check_dtype=False, equal_nan=True)


def test_every_fix_with_code_is_run() -> None:
    known = {fix[0] for fix in FIXES}
    left = {
        advisory.id: advisory.fix
        for advisory in advisories.load_all()
        if advisory.id not in known
        and re.search(r"\w\([^()]*\w[^()]*\)|\w [@/*] [\w(]", _NO_VALUES.sub("", advisory.fix))
    }
    assert not left
