"""Memory of a dtype that no kernel of the release knows: moved as it is, and refused as soon as a kernel touches it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mpsprobe.device.virtual.session import emulate, predict
from mpsprobe.knowledge import dtypes
from mpsprobe.run import TensorMeta

pytestmark = pytest.mark.own_process

FLOAT8 = torch.float8_e4m3fn
#: copy_cast_mps (operations/Copy.mm up to 2.12) asks getMPSDataType for both sides; ComfyUI issues 13200, 14310, 9263.
NO_SUPPORT = "Trying to convert {} to the MPS backend but it does not have support for that dtype."


def _held(dtype: torch.dtype) -> torch.Tensor:
    return torch.ones(4, 6).to(dtype).to("mps")


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.float8_e4m3fn, "Float8_e4m3fn"),
        (torch.float8_e5m2, "Float8_e5m2"),
        (torch.complex128, "ComplexDouble"),
    ],
)
@pytest.mark.parametrize(
    ("release", "error", "text"),
    [
        ("2.8", TypeError, NO_SUPPORT),
        ("2.12", TypeError, NO_SUPPORT),
        ("2.13", RuntimeError, "Undefined type {}"),
    ],
)
def test_a_cast_asks_for_both_dtypes(
    dtype: torch.dtype, name: str, release: str, error: type[Exception], text: str
) -> None:
    with emulate(release):
        for attempt in (
            lambda: _held(dtype).to(torch.float32),
            lambda: torch.ones(2, device="mps").to(dtype),
            lambda: _held(dtype).to("cpu", torch.float32),
        ):
            with pytest.raises(error) as caught:
                attempt()
            assert str(caught.value) == text.format(name)


def test_memory_moves_as_it_is() -> None:
    with emulate("2.8"):
        held = _held(FLOAT8)
        assert held.t().cpu().float().sum() == 24
        assert held.clone().view(torch.uint8).view(FLOAT8)[1:].dtype is FLOAT8
        assert torch.zeros(3, dtype=FLOAT8, device="mps").cpu().float().tolist() == [0, 0, 0]
        assert torch.ones(2, dtype=torch.float64).to("mps", torch.float32).tolist() == [1, 1]


def test_gathering_a_view_asks_for_the_dtype() -> None:
    with emulate("2.8"), pytest.raises(RuntimeError, match=r"^Undefined type Float8_e4m3fn$"):
        _held(FLOAT8).t().contiguous()


def test_a_view_can_make_float64_and_nothing_can_use_it() -> None:
    with emulate("2.8"):
        wide = torch.zeros(4, device="mps").view(torch.float64)
        assert wide.cpu().tolist() == [0, 0]
        for attempt in (lambda: wide.to(torch.float32), wide.sum, lambda: wide.cpu().to("mps")):
            with pytest.raises(TypeError, match="MPS framework doesn't support float64"):
                attempt()


@pytest.mark.parametrize(
    "use", [torch.sum, torch.exp, lambda x: torch.mm(x, x.t()), lambda x: torch.cat([x, x])]
)
def test_every_kernel_refuses_it_as_an_operand(use: Callable[[torch.Tensor], object]) -> None:
    with emulate("2.10"), pytest.raises((TypeError, RuntimeError), match="Float8_e4m3fn"):
        use(_held(FLOAT8))


def test_an_element_is_read_where_the_dispatch_has_its_dtype() -> None:
    with emulate("2.10"):
        assert torch.ones(1, dtype=torch.complex128).to("mps").item() == 1
        with pytest.raises(NotImplementedError, match=r"_local_scalar_dense_mps.*Float8_e4m3fn"):
            _held(FLOAT8)[0, 0].item()
    with emulate("2.15"):
        assert _held(FLOAT8)[0, 0].item() == 1


def test_prediction_finds_a_cast_without_values() -> None:
    with predict("2.8") as session:
        weight = torch.empty(4096, 4096, dtype=FLOAT8, device="mps")
        torch.nn.functional.linear(torch.empty(2, 4096, device="mps"), weight.to(torch.float32))
    assert [(one.kind, one.op) for one in session.findings] == [("dtype", "aten::copy_")]
    with predict("2.15") as session:
        torch.empty(4096, 4096, dtype=FLOAT8, device="mps").to(torch.float32)
    assert not session.findings


def test_a_collected_refusal_lets_the_run_go_on() -> None:
    with emulate("2.8", on_fail="collect") as session:
        total = _held(FLOAT8).sum()
        assert total.item() == 24
    assert [one.kind for one in session.findings] == ["dtype"]


def _meta(dtype: str, device: str) -> TensorMeta:
    return TensorMeta(dtype, (2,), (1,), device)


@pytest.mark.parametrize(
    ("source", "target", "refused"),
    [
        (_meta("float8_e4m3fn", "mps:0"), _meta("float16", "mps:0"), True),
        (_meta("float8_e4m3fn", "mps:0"), _meta("float16", "cpu"), True),
        (_meta("float8_e4m3fn", "cpu"), _meta("float16", "mps:0"), False),
        (_meta("float8_e4m3fn", "cpu"), _meta("float8_e4m3fn", "mps:0"), False),
        (_meta("float32", "mps:0"), _meta("float64", "cpu"), True),
        (_meta("float64", "cpu"), _meta("float32", "mps:0"), False),
        (_meta("float64", "cpu"), _meta("float64", "mps:0"), True),
    ],
)
def test_knowledge_judges_a_recorded_copy_alike(
    source: TensorMeta, target: TensorMeta, refused: bool
) -> None:
    found = dtypes.check_tensors("aten::copy_", [target, source], [target], "2.10")
    assert (found is not None) is refused


# pytorch issue 176879 (2.10), pull request 178624; functions histogramdd_int of the metallibs from 2.13 on
@pytest.mark.parametrize(
    ("release", "runs"), [("2.10", False), ("2.11", False), ("2.13", True), ("2.15", True)]
)
def test_histogram_of_integers_by_release(release: str, runs: bool) -> None:
    with emulate(release):
        x = torch.tensor([0, 1, 2, 1, 0], dtype=torch.int32, device="mps")
        if runs:
            assert torch.histc(x, bins=3, min=0, max=2).tolist() == [2, 2, 1]
            return
        with pytest.raises(NotImplementedError) as caught:
            torch.histc(x, bins=3, min=0, max=2)
        assert str(caught.value) == "\"histogram_mps\" not implemented for 'Int'"
    found = dtypes.check("aten::histc", ["int32"], release)
    assert found is not None
    assert found.message == "\"histogram_mps\" not implemented for 'Int'"


# functions abs_dense_ushort_ushort, digamma_dense_... are in no metallib; OpInfo of 2.11 expects the former to fail
@pytest.mark.parametrize(
    ("release", "op"),
    [("2.9", torch.abs), ("2.11", torch.special.i1e), ("2.11", torch.maximum)],
)
def test_unsigned_integers_without_a_metal_function(release: str, op: Callable[..., torch.Tensor]) -> None:
    with emulate(release):
        x = torch.ones(3, dtype=torch.uint16).to("mps")
        arguments = (x, x) if op is torch.maximum else (x,)
        with pytest.raises(RuntimeError, match="Failed to create function state object for"):
            op(*arguments)


def test_nonzero_of_complex_falls_back_with_a_warning() -> None:
    # TORCH_WARN_ONCE of operations/Indexing.mm; PyTorch's tests expect it to pass
    with emulate("2.11"), pytest.warns(UserWarning, match="nonzero op is not supported for complex"):
        assert torch.nonzero(torch.tensor([0, 1j], device="mps")).tolist() == [[1]]


def test_resize_to_the_same_size_keeps_strides() -> None:
    with emulate():
        storage = torch.zeros(6, device="mps")
        torch.ones(3, out=storage[::2])
        assert storage.tolist() == [1, 0, 1, 0, 1, 0]
