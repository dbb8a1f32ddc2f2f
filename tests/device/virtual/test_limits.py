"""Checks of arguments: each text in the releases whose wheels hold it, and not in the next."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mpsprobe.device.virtual.emulate import emulate


def _ones(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(*shape, dtype=dtype, device="mps")


CASES: list[tuple[str, str, Callable[[], object], str | None]] = [
    # release with the text, text, call, first release without it (None: still there)
    (
        "2.13",
        "MPS device does not support linear for non-float inputs",
        lambda: F.linear(*[_ones(2, 2, dtype=torch.int64)] * 2),
        None,
    ),
    (
        "2.6",
        "MPS device does not support mm for non-float inputs",
        lambda: _ones(2, 2, dtype=torch.int64) @ _ones(2, 2, dtype=torch.int64),
        "2.7",
    ),
    (
        "2.6",
        "MPS device does not support bmm for non-float inputs",
        lambda: _ones(1, 2, 2, dtype=torch.int64) @ _ones(1, 2, 2, dtype=torch.int64),
        "2.7",
    ),
    (
        "2.8",
        "MPS device does not support addmm for non-float input",
        lambda: torch.addmm(*[_ones(2, 2, dtype=torch.int64)] * 3),
        "2.9",
    ),
    (
        "2.7",
        "MPS does not support log1p op with int64 input",
        lambda: torch.log1p(_ones(2, dtype=torch.int64)),
        "2.8",
    ),
    (
        "2.7",
        "ConvTranspose 3D is not supported on MPS",
        lambda: F.conv_transpose3d(_ones(1, 1, 2, 2, 2), _ones(1, 1, 1, 1, 1)),
        "2.8",
    ),
    (
        "2.8",
        "ConvTranspose 3D with BF16 or FP16 types is not supported on MPS",
        lambda: F.conv_transpose3d(
            _ones(1, 1, 2, 2, 2, dtype=torch.float16), _ones(1, 1, 1, 1, 1, dtype=torch.float16)
        ),
        None,
    ),
    (
        "2.13",
        "LSTM with projections is not currently supported with MPS.",
        lambda: nn.LSTM(2, 4, proj_size=2, device="mps")(_ones(1, 1, 2)),
        None,
    ),
    (
        "2.9",
        "Adaptive pool MPS: input sizes must be divisible by output sizes. Non-divisible",
        lambda: F.adaptive_avg_pool2d(_ones(1, 1, 7, 7), 3),
        None,
    ),
    (
        "2.10",
        "MPS: Unsupported Border padding mode",
        lambda: F.grid_sample(
            _ones(1, 1, 2, 2), _ones(1, 2, 2, 2), padding_mode="border", align_corners=False
        ),
        "2.11",
    ),
    (
        "2.10",
        "MPS: Unsupported Bicubic interpolation",
        lambda: F.grid_sample(_ones(1, 1, 2, 2), _ones(1, 2, 2, 2), mode="bicubic", align_corners=False),
        "2.11",
    ),
    (
        "2.11",
        "MPS: nonzero op is not supported for complex datatypes.",
        lambda: _ones(2, dtype=torch.complex64).nonzero(),
        "2.12",
    ),
    (
        "2.11",
        "repeat(): Not supported for complex yet!",
        lambda: _ones(2, dtype=torch.complex64).repeat(2),
        "2.12",
    ),
    (
        "2.14",
        "linalg.lu_factor(): MPS doesn't support complex types.",
        lambda: torch.linalg.lu_factor(torch.eye(2, dtype=torch.complex64, device="mps")),
        "2.15",
    ),
]


@pytest.mark.parametrize(("release", "text", "call", "gone"), CASES, ids=[case[1][:40] for case in CASES])
def test_text_in_its_releases(release: str, text: str, call: Callable[[], object], gone: str | None) -> None:
    with emulate(release, "15.5", fallback=False):
        with pytest.raises((RuntimeError, NotImplementedError)) as caught:
            call()
        assert str(caught.value).startswith(text)
    if gone is not None:
        with emulate(gone, "15.5", fallback=True):
            call()


def test_channels_on_an_older_macos() -> None:
    # operations/Convolution.mm: checked below macOS 15.1 only
    weight = 1, (1 << 16) + 1
    with (
        emulate("2.8", "14.5"),
        pytest.raises(NotImplementedError, match="Output channels > 65536 not supported"),
    ):
        F.conv1d(_ones(1, 1, 1), _ones(weight[1], 1, 1))
    with emulate("2.8", "15.5"):
        F.conv1d(_ones(1, 1, 1), _ones(weight[1], 1, 1))


def _attend(q: torch.Tensor) -> torch.Tensor:
    q = q.to("mps")
    return F.scaled_dot_product_attention(q, q, q, dropout_p=0.5)


def test_attention_with_dropout() -> None:
    q = torch.ones(1, 1, 2, 8)
    with emulate("2.13"), torch.no_grad(), pytest.raises(RuntimeError, match="MPS does not support dropout"):
        _attend(q)
    with emulate("2.8"), torch.no_grad():  # decomposes there instead
        _attend(q)


def test_sixteen_dimensions() -> None:
    with emulate():
        torch.empty([1] * 16, device="mps")
        with pytest.raises(RuntimeError, match=r"MPS supports tensors with dimensions <= 16, but got 17\."):
            torch.empty([1] * 17, device="mps")
