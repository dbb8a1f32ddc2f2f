"""Checks of arguments: each text in the releases whose wheels hold it, and not in the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mpsprobe.device.virtual.observer import OpFlag, Quiet
from mpsprobe.device.virtual.session import emulate

pytestmark = pytest.mark.own_process


def _ones(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(*shape, dtype=dtype, device="mps")


def _complex(*shape: int) -> torch.Tensor:
    return _ones(*shape, dtype=torch.complex64)


def _fused_step_with_a_scale() -> None:
    options: dict[str, Any] = {"weight_decay": 0.0, "momentum": 0.0, "lr": 0.1, "dampening": 0.0}
    options |= {"nesterov": False, "maximize": False, "is_first_step": True}
    torch._fused_sgd_([_ones(2)], [_ones(2)], [], **options, grad_scale=_ones(1), found_inf=_ones(1))


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
    # test_gelu_simple, test_mse_loss_unsupported_types, test_repeat_interleave of PyTorch 2.6's test/test_mps.py
    (
        "2.6",
        "GELU is only implemented for floating types",
        lambda: F.gelu(_ones(2, dtype=torch.int32)),
        None,
    ),
    (
        "2.6",
        "mse_loss_out_mps: only defined for floating types",
        lambda: F.mse_loss(_ones(2, dtype=torch.int64), _ones(2, dtype=torch.int64)),
        None,
    ),
    (
        "2.6",
        "\"repeat_interleave_mps\" not implemented for 'Float'",
        lambda: torch.repeat_interleave(_ones(2)),
        None,
    ),
    (
        "2.6",
        "index_add(): Expected non int64 dtype for source.",
        lambda: _ones(2, dtype=torch.int64).index_add(0, *[_ones(2, dtype=torch.int64)] * 2),
        "2.15",
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
        "repeat(): Not supported for complex yet!",
        lambda: _ones(2, dtype=torch.complex64).repeat(2),
        "2.12",
    ),
    (
        "2.13",
        "linalg.lu_factor(): MPS doesn't support complex types.",
        lambda: torch.linalg.det(torch.eye(2, dtype=torch.complex64, device="mps")),
        "2.15",
    ),
    (
        "2.13",
        "linalg.lu_factor(): MPS only supports floats.",
        lambda: torch.linalg.solve(*[torch.eye(2, dtype=torch.complex64, device="mps")] * 2),
        "2.15",
    ),
    (
        "2.13",
        "cholesky_inverse: MPS only supports float type!",
        lambda: torch.cholesky_inverse(torch.eye(2, dtype=torch.complex64, device="mps")),
        None,
    ),
    (
        "2.10",
        "log_softmax for bool is not supported for MPS",
        lambda: torch.ops.aten._log_softmax(_ones(2, dtype=torch.bool), 0, False),
        None,
    ),
    (
        "2.9",
        "argmax(): does not support bool input",
        lambda: _ones(2, dtype=torch.bool).argmax(),
        None,
    ),
    (
        "2.12",
        "index_reduce for MPS does not support torch.long dtype",
        lambda: _ones(2, dtype=torch.int64).index_reduce(
            0, torch.zeros(1, dtype=torch.int64, device="mps"), _ones(1, dtype=torch.int64), "prod"
        ),
        None,
    ),
    (
        "2.6",
        "MPS device does not support mm for non-float inputs",
        lambda: torch.mv(_ones(2, 2, dtype=torch.int64), _ones(2, dtype=torch.int64)),
        "2.7",
    ),
    (
        "2.11",
        "cumulative ops are not yet supported for complex",
        lambda: torch.cumulative_trapezoid(_ones(3, dtype=torch.complex64)),
        "2.12",
    ),
    (
        "2.7",
        "Unsupported data type for accumulate case: Float16",
        lambda: _ones(3, dtype=torch.float16).index_put_(
            (torch.zeros(2, dtype=torch.int64, device="mps"),), _ones(2, dtype=torch.float16), accumulate=True
        ),
        "2.8",
    ),
    (
        "2.12",
        "not supported for torch.int64",
        lambda: _ones(3, dtype=torch.int64).scatter_reduce(
            0, torch.zeros(2, dtype=torch.int64, device="mps"), _ones(2, dtype=torch.int64), "amax"
        ),
        "2.13",
    ),
    (
        "2.14",
        "linalg.lu_factor(): MPS doesn't support complex types.",
        lambda: torch.linalg.lu_factor(torch.eye(2, dtype=torch.complex64, device="mps")),
        "2.15",
    ),
    (
        "2.6",
        "scatter(): Yet not supported for complex",
        lambda: _ones(3, dtype=torch.complex64).scatter_add(0, _ones(2, dtype=torch.int64), _complex(2)),
        "2.12",
    ),
    (
        "2.11",
        "scatter(): Yet not supported for complex",
        lambda: _complex(3).scatter_reduce(0, _ones(2, dtype=torch.int64), _complex(2), "sum"),
        "2.12",
    ),
    ("2.7", "nansum does not support complex inputs", lambda: _complex(2).nansum(), None),
    ("2.8", "nansum on MPS does not support complex inputs", lambda: _complex(2).nansum(), None),
    (
        "2.11",
        "index_fill_(): Complex types are yet not supported",
        lambda: _complex(3).index_fill(0, _ones(1, dtype=torch.int64), 2),
        "2.12",
    ),
    ("2.14", "unique is not supported on MPS for dtype ComplexFloat", lambda: _complex(2).unique(), None),
    ("2.14", "\"cummax\" not implemented for 'ComplexFloat'", lambda: _complex(2).cummax(0), None),
    ("2.14", "\"cummin\" not implemented for 'ComplexFloat'", lambda: _complex(2).cummin(0), None),
    ("2.15", "aminmax not implemented for ComplexFloat", lambda: _complex(2).aminmax(), None),
    (
        "2.15",
        "linalg.solve_triangular(): MPS only supports float32 and complex64, got Half",
        lambda: torch.linalg.solve_triangular(*[_ones(2, 2, dtype=torch.float16)] * 2, upper=True),
        None,
    ),
    (
        "2.15",
        "logspace is not implemented for integral dtypes on MPS",
        lambda: torch.logspace(0, 3, 4, dtype=torch.int64, device="mps"),
        None,
    ),
    (
        "2.11",
        "MPS doesn't know how to do exponent_i64",
        lambda: F.silu(_ones(2, dtype=torch.int64)),
        None,
    ),
    (
        "2.13",
        "MPS doesn't know how to do square_i64",
        lambda: F.smooth_l1_loss(_ones(2, dtype=torch.int64), _ones(2, dtype=torch.int64)),
        None,
    ),
    (
        "2.7",
        "linalg.lu_factor(): MPS doesn't support complex types.",
        lambda: torch.linalg.solve(_complex(1, 1), _complex(1, 1)),
        None,
    ),
    (
        "2.14",
        "linalg.lu_factor(): MPS doesn't support complex types.",
        lambda: torch.linalg.solve(_complex(1, 1), _complex(1, 1)),
        "2.15",
    ),
    # linalg.cross and bicubic interpolate of uint8 in the expected failures of PyTorch 2.6's test/test_mps.py
    (
        "2.11",
        "Failed to create function state object for: cross_",
        lambda: torch.linalg.cross(_complex(2, 3), _complex(2, 3)),
        "2.12",
    ),
    (
        "2.6",
        "norm ops are not supported for complex yet",
        lambda: torch.renorm(_complex(2, 2), 2, 0, 1.0),
        None,
    ),
    (
        "2.15",
        "Failed to create function state object for: renorm_",
        lambda: torch.renorm(_complex(2, 2), 2, 0, 1.0),
        None,
    ),
    (
        "2.6",
        "Failed to create function state object for: upsample_bicubic2d_uchar",
        lambda: F.interpolate(_ones(1, 3, 4, 4, dtype=torch.uint8), (2, 2), mode="bicubic"),
        None,
    ),
    # the samples of add, addmm and lerp in complex numbers, which PyTorch 2.6 expects to fail
    (
        "2.6",
        "value cannot be converted to type double without overflow",
        lambda: torch.addmm(_complex(2, 2), _complex(2, 2), _complex(2, 2), alpha=1j),
        "2.7",
    ),
    (
        "2.6",
        "value cannot be converted to type double without overflow",
        lambda: torch.lerp(_complex(2), _complex(2), 0.5 + 1j),
        "2.7",
    ),
    # "3-D warps by nearest neighbours": check_grid_sampler and the switch of grid_sampler_3d_mps_impl
    (
        "2.12",
        "grid_sampler_3d: Unsupported Nearest interpolation",
        lambda: F.grid_sample(
            _ones(1, 1, 2, 2, 2), _ones(1, 2, 2, 2, 3), mode="nearest", align_corners=False
        ),
        "2.13",
    ),
    (
        "2.7",
        "grad_scale and found_inf are not supported on MPS",
        _fused_step_with_a_scale,
        "2.8",
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


def test_nonzero_of_complex_falls_back_with_a_warning() -> None:
    # aten/src/ATen/native/mps/operations/Indexing.mm warns and computes on the CPU, up to 2.11
    with emulate("2.11", "15.5", fallback=False):
        values = _ones(2, dtype=torch.complex64)
        with pytest.warns(UserWarning, match="MPS: nonzero op is not supported for complex datatypes"):
            assert values.nonzero().cpu().tolist() == [[0], [1]]


@pytest.mark.filterwarnings("ignore:index_reduce")  # it is in beta
def test_an_index_does_not_count_as_what_is_indexed() -> None:
    with emulate("2.13"):
        index = torch.zeros(1, dtype=torch.int64, device="mps")
        assert _ones(2).index_reduce(0, index, _ones(1) * 3, "prod").cpu().tolist() == [3, 1]


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


def test_a_kernel_that_leaves_it_to_the_cpu_on_an_older_macos() -> None:
    # operations/GridSampler.mm, until 2.8
    def sample() -> torch.Tensor:
        return F.grid_sample(_ones(1, 1, 2, 2), torch.zeros(1, 1, 1, 2, device="mps"), align_corners=False)

    with emulate("2.8", "13.1", fallback=False) as session:
        with pytest.warns(
            UserWarning, match="grid_sampler_2d op is supported natively starting from macOS 13.2"
        ):
            assert sample().item() == 1
        assert [one.kind for one in session.findings] == ["fallback"]
    with emulate("2.8", "13.2", fallback=False) as session:
        sample()
        assert session.findings == []


def _attend(q: torch.Tensor) -> torch.Tensor:
    q = q.to("mps")
    return F.scaled_dot_product_attention(q, q, q, dropout_p=0.5)


def test_attention_with_dropout() -> None:
    q = torch.ones(1, 1, 2, 8)
    # the type is that of public reports: transformers 5 with a frozen backbone, nn.TransformerEncoderLayer
    with (
        emulate("2.13"),
        torch.no_grad(),
        pytest.raises(NotImplementedError, match="MPS does not support dropout"),
    ):
        _attend(q)
    with emulate("2.8"), torch.no_grad():  # decomposes there instead
        _attend(q)


def test_attention_before_there_was_a_fused_op() -> None:
    # _scaled_dot_product_attention_math_for_mps is registered from 2.5 on; before it, attention is made of other ops
    q = torch.randn(1, 2, 3, 8)
    plain = F.scaled_dot_product_attention(q, q, q)
    for release, fused in (("2.4", False), ("2.5", True)):
        seen = _Names()
        with emulate(release, observer=seen), torch.no_grad():
            result = _attend_plainly(q.to("mps")).cpu()
        torch.testing.assert_close(result, plain)
        assert ("_scaled_dot_product_attention_math_for_mps" in seen.names) is fused


def _attend_plainly(q: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, q, q)


class _Names(Quiet):
    def __init__(self) -> None:
        self.names: set[str] = set()

    def op(self, func: Any, args: Any, kwargs: Any, result: Any, flags: int) -> None:
        assert not flags & OpFlag.FOREIGN
        self.names.add(func._schema.name.removeprefix("aten::"))


def test_dtypes_of_results_that_are_not_the_cpus() -> None:
    with emulate():
        # operations/SummaryOps.mm: the dtype of the weights where it is one of three, int32 otherwise; the CPU: float64
        x = torch.tensor([0, 1, 1, 3], device="mps")
        counts = {
            dtype: torch.bincount(x, torch.tensor([1, 2, 3, 4], dtype=dtype, device="mps"))
            for dtype in (torch.float32, torch.float16, torch.int32, torch.int8)
        }
        kept = {torch.int8: torch.int32}
        for dtype, counted in counts.items():
            assert counted.dtype is kept.get(dtype, dtype)
            assert counted.cpu().tolist() == [1, 5, 0, 4]
        # operations/Distributions.mm checks the range of floating-point tensors only
        assert torch.randint(0, 100, (50,), device="mps", dtype=torch.bool).any()
        assert torch.randint(0, 1000, (50,), device="mps", dtype=torch.uint8).dtype is torch.uint8


def test_sixteen_dimensions() -> None:
    with emulate():
        torch.empty([1] * 16, device="mps")
        with pytest.raises(RuntimeError, match=r"MPS supports tensors with dimensions <= 16, but got 17\."):
            torch.empty([1] * 17, device="mps")


# TestErrorInputs of PyTorch 2.6's test/test_mps.py
def test_a_view_beyond_its_storage_is_refused() -> None:
    with emulate(), pytest.raises(RuntimeError, match="out of bounds for storage of size 64"):
        _ones(4, 4).as_strided((2, 2), (200, 200))


def test_a_dot_product_with_the_cpu_names_both_devices() -> None:
    text = "Expected all tensors to be on the same device. Found: mps:0, cpu"
    with emulate("2.6"), pytest.raises(RuntimeError, match=text):
        torch.dot(_ones(3), torch.ones(3, device="cpu"))


def test_a_copy_from_the_cpu_may_have_more_than_16_dimensions() -> None:
    with emulate("2.6") as session:
        assert torch.ones([1] * 20, device="cpu").to("mps").dim() == 20
        assert session.findings == []
