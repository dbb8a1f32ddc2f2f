"""What a Mac refuses is refused in PyTorch's words, for the release asked about, at the right line."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mpsprobe.device.virtual import support
from mpsprobe.device.virtual.observer import FindingGrade
from mpsprobe.device.virtual.session import Session, emulate
from mpsprobe.errors import UsageError, VirtualDeviceError

pytestmark = pytest.mark.own_process

#: Commits of the releases, `git rev-parse v2.x.0` in pytorch/pytorch.
COMMITS = {
    "2.6": "2236df1770800ffea5697b11b0bb0d910b2e59e1",
    "2.13": "cf30153c4c131c8164ee7798e5022d810682e2cb",
}


@pytest.mark.parametrize("release", ["2.6", "2.13"])
def test_missing_op_of_a_recent_release(release: str) -> None:
    # the text is PyTorch's (MPSFallback.mm), as issue reports show it
    expected = (
        "The operator 'aten::_linalg_eigh.eigenvalues' is not currently implemented for the MPS device. If you "
        "want this op to be considered for addition please comment on "
        "https://github.com/pytorch/pytorch/issues/141287 and mention use-case, that resulted in missing op as "
        f"well as commit hash {COMMITS[release]}. As a temporary fix, you can set the environment variable "
        "`PYTORCH_ENABLE_MPS_FALLBACK=1` to use the CPU as a fallback for this op. WARNING: this will be slower "
        "than running natively on MPS."
    )
    with emulate(release, fallback=False), pytest.raises(NotImplementedError) as caught:
        torch.linalg.eigh(torch.eye(3, device="mps"))
    assert str(caught.value) == expected


def test_missing_op_of_an_old_release() -> None:
    with emulate("2.4", fallback=False), pytest.raises(NotImplementedError, match="issues/77764") as caught:
        torch.linalg.eigh(torch.eye(3, device="mps"))
    assert "141287" not in str(caught.value)


def test_fallback_computes_on_the_cpu_and_warns_once() -> None:
    with emulate("2.13", fallback=True) as session:
        matrix = torch.diag(torch.tensor([1.0, 2.0], device="mps"))
        with pytest.warns(UserWarning, match="will fall back to run on the CPU") as seen:
            torch.linalg.eigh(matrix)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            values = torch.linalg.eigh(matrix).eigenvalues
        assert values.device.type == "mps"
        assert values.cpu().tolist() == [1, 2]
        assert len(seen) == 1
        assert seen[0].filename == __file__
        assert [finding.kind for finding in session.findings] == ["fallback"]


def test_registered_fallbacks_need_no_variable() -> None:
    with emulate("2.13", fallback=False), pytest.warns(UserWarning, match="aten::linalg_svd"):
        torch.linalg.svd(torch.eye(3, device="mps"))
    with emulate("2.14", fallback=False), warnings.catch_warnings():
        warnings.simplefilter("error")  # 2.14 has a kernel
        torch.linalg.svd(torch.eye(3, device="mps"))


def test_the_variable_counts_only_as_it_was_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    monkeypatch.setattr(support, "FALLBACK_AT_START", False)
    with emulate("2.13"), pytest.raises(NotImplementedError):
        torch.linalg.eigh(torch.eye(3, device="mps"))


def test_an_op_is_judged_by_the_release_asked_about() -> None:
    # aten::isin has a kernel since 2.4, aten::linalg_qr.out since 2.12 (the wheels' registrations)
    with emulate("2.11", fallback=False), pytest.raises(NotImplementedError, match=r"aten::linalg_qr\.out"):
        torch.linalg.qr(torch.eye(3, device="mps"))
    with emulate("2.12", fallback=False):
        torch.linalg.qr(torch.eye(3, device="mps"))


FLOAT64 = (
    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
    "Please use float32 instead."
)


def test_float64(mps: Session) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: torch.zeros(2, dtype=torch.float64, device="mps"),
        lambda: torch.ones(2, device="mps").double(),
        lambda: torch.ones(2, dtype=torch.float64).to("mps"),
        lambda: torch.tensor([1.0], dtype=torch.float64, device="mps"),
        lambda: nn.Linear(2, 2, dtype=torch.float64).to("mps"),
    ]
    for attempt in attempts:
        with pytest.raises(TypeError) as caught:
            attempt()
        assert str(caught.value) == FLOAT64


def test_complex128() -> None:
    # as issue 176981 shows for 2.10: moving works, multiplying and converting do not
    with emulate("2.10"):
        x = torch.randn(2, 2, dtype=torch.complex128).to("mps")
        assert x.dtype is torch.complex128
        with pytest.raises(RuntimeError) as caught:
            x * x
        assert str(caught.value) == "Undefined type ComplexDouble"
        with pytest.raises(
            TypeError, match="Trying to convert ComplexDouble to the MPS backend but it does not"
        ):
            torch.randn(2, 2, device="mps").to(torch.complex128)


def test_memory_takes_a_dtype_that_no_kernel_computes_with() -> None:
    with emulate("2.10"):
        x = torch.ones(2, 2, dtype=torch.complex128).to("mps")
        assert x.clone().mT.cpu().dtype is torch.complex128
        with pytest.raises(TypeError, match="Trying to convert ComplexDouble to the MPS backend"):
            x.sum()


@pytest.mark.parametrize(("release", "runs"), [("2.14", False), ("2.15", True)])
def test_float8_came_with_2_15(release: str, runs: bool) -> None:
    # pytorch pull request 194074
    with emulate(release):
        x = torch.ones(2, device="mps")
        if runs:
            assert x.to(torch.float8_e4m3fn).float().cpu().tolist() == [1, 1]
            return
        with pytest.raises(RuntimeError, match=r"^Undefined type Float8_e4m3fn$"):
            x.to(torch.float8_e4m3fn)


def test_dtypes_by_release_and_system() -> None:
    with emulate("2.8", "13.7"), pytest.raises(TypeError, match="BFloat16 is only supported on MacOS 14"):
        torch.zeros(2, dtype=torch.bfloat16, device="mps")
    with emulate("2.8", "15.0"):
        torch.zeros(2, dtype=torch.bfloat16, device="mps")
        with pytest.raises(TypeError, match="Trying to convert UInt16 to the MPS backend"):
            torch.arange(3, device="mps").to(torch.uint16) + 1
    with emulate("2.9"):
        torch.zeros(2, dtype=torch.uint16, device="mps")


def test_tensors_of_two_devices(mps: Session) -> None:
    host, device = torch.ones(2, 2), torch.ones(2, 2, device="mps")
    same = "Expected all tensors to be on the same device, but found at least two devices, "
    placeholder = "Placeholder storage has not been allocated on MPS device!"
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: device + host, same + "mps:0 and cpu!"),
        (
            lambda: host - device,
            same + "mps:0 and cpu!",
        ),  # TensorIterator names the device that is not the CPU first
        (lambda: device.mul_(host), same + "mps:0 and cpu!"),
        (lambda: torch.where(device > 0, host, 0.0), same + "mps:0 and cpu!"),
        (lambda: device @ host, placeholder),
        (lambda: torch.cat([device, host]), placeholder),
        (lambda: F.embedding(torch.zeros(1, dtype=torch.int64), device), placeholder),
        (lambda: F.linear(device, host), "Tensor for argument weight is on cpu but expected on mps"),
        (
            lambda: F.conv1d(device[None], host[None]),
            "Input type (MPSFloatType) and weight type (torch.FloatTensor) should be the same",
        ),
    ]
    for attempt, text in cases:
        with pytest.raises(RuntimeError) as caught:
            attempt()
        assert str(caught.value) == text
    # a CPU input chooses the CPU's convolution, whose kernel for MPS only says this (PyTorch's own test_invalid_conv2d)
    with pytest.raises(RuntimeError, match=r"input\(device='cpu'\) and weight.*  must be on the same device"):
        F.conv2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 1, device="mps"))
    assert (device + torch.tensor(1.0)).sum().item() == 8
    assert device[torch.tensor([0])].device.type == "mps"  # index tensors are moved


def test_generators_of_two_devices(mps: Session) -> None:
    with pytest.raises(RuntimeError, match="Expected a 'mps' device type for generator but found 'cpu'"):
        torch.randn(2, generator=torch.Generator(), device="mps")
    seeded = [
        torch.randn(2, generator=torch.Generator("mps").manual_seed(3), device="mps").cpu() for _ in range(2)
    ]
    assert torch.equal(*seeded)
    # the other way round it is the CPU's kernel that refuses (check_generator, ATen/core/Generator.h)
    with pytest.raises(RuntimeError, match="Expected a 'cpu' device type for generator but found 'mps'"):
        torch.randn(2, generator=torch.Generator("mps"))
    generator = torch.Generator("mps")
    assert generator.device == torch.device("mps:0")
    state = generator.get_state()
    first = torch.rand(3, generator=generator, device="mps")
    generator.set_state(state)
    assert torch.equal(torch.rand(3, generator=generator, device="mps").cpu(), first.cpu())


def test_numpy(mps: Session) -> None:
    with pytest.raises(TypeError, match="can't convert mps:0 device type tensor to numpy"):
        torch.ones(2, device="mps").numpy()


def test_cuda_is_not_there(mps: Session) -> None:
    assert not torch.cuda.is_available()
    with pytest.raises(AssertionError, match="Torch not compiled with CUDA enabled"):
        torch.ones(2).to("cuda")


@pytest.mark.parametrize(
    ("release", "dtype", "result"),
    [
        ("2.6", torch.bfloat16, torch.bfloat16),
        ("2.5", torch.float16, torch.float16),
        ("2.5", torch.bfloat16, None),
    ],
)
def test_autocast(release: str, dtype: torch.dtype, result: torch.dtype | None) -> None:
    with emulate(release):
        x = torch.ones(2, 2, device="mps")
        if result is None:
            with pytest.warns(UserWarning, match="In MPS autocast, but the target dtype is not supported"):
                context = torch.autocast("mps", dtype=dtype)
        else:
            context = torch.autocast("mps", dtype=dtype)
        with context:
            assert (x @ x).dtype is (result or torch.float32)


def test_autocast_before_it_was_there() -> None:
    with emulate("2.4"), pytest.raises(RuntimeError) as caught:
        torch.autocast("mps", dtype=torch.float16)
    assert str(caught.value) == "User specified an unsupported autocast device_type 'mps'"


def test_collecting_goes_on_as_if_mended() -> None:
    with emulate("2.13", fallback=False, on_fail="collect") as session:
        x = torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64).to("mps"))
        assert x.dtype is torch.float32
        values = torch.linalg.eigh(x).eigenvalues + torch.ones(2)
        torch.randn(2, generator=torch.Generator(), device="mps")
        assert values.cpu().tolist() == [2, 3]
    assert [(one.kind, one.op) for one in session.findings] == [
        ("dtype", "aten::empty_strided"),
        ("missing-op", "aten::_linalg_eigh.eigenvalues"),
        ("device", "aten::add.Tensor"),
        ("generator", "aten::normal_"),
    ]
    assert all(one.source.startswith(__file__) for one in session.findings)
    assert {one.grade for one in session.findings} == {FindingGrade.CERTAIN}


def test_a_macos_that_is_none() -> None:
    with pytest.raises(UsageError, match="Sequoia"), emulate(macos="Sequoia"):
        pass


def test_a_macos_too_old_for_the_release() -> None:
    with (
        pytest.raises(VirtualDeviceError, match=r"torch 2\.15 has no MPS on macOS 14\.7"),
        emulate("2.15", "14.7"),
    ):
        pass


@pytest.mark.parametrize("release", ["2.6", "2.15"])
def test_a_stub_without_a_kernel_of_mps(release: str) -> None:
    """A build without MPS says "An unexpected device type was provided mps", which no Mac does."""
    with emulate(release, fallback=False):
        for call in (
            lambda: torch.kaiser_window(4, device="mps"),
            lambda: torch.kaiser_window(4, True, 8.0, device="mps"),
        ):
            with pytest.raises(RuntimeError, match="DispatchStub: missing kernel for mps"):
                call()
        assert torch.kaiser_window(1, device="mps").tolist() == [1]
    with emulate(release, fallback=False, on_fail="collect") as session:
        torch.testing.assert_close(
            torch.kaiser_window(4, False, device="mps").cpu(), torch.kaiser_window(4, False)
        )
    assert [(one.kind, one.op) for one in session.findings] == [("limit", "aten::kaiser_window")]


@pytest.mark.parametrize("release", ["2.8", "2.15"])
def test_a_stub_that_is_asked_for_first(release: str) -> None:
    """`ldexp` multiplies where its stub has no kernel; a build without MPS raises when it asks."""
    x, exponent = torch.tensor([1.0, 2.5]), torch.tensor([3, -1])
    plain = x.clone().requires_grad_()
    torch.ldexp(plain, exponent).sum().backward()
    with emulate(release, fallback=False) as session:
        on_device, power = x.to("mps").requires_grad_(), exponent.to("mps")
        result = torch.ldexp(on_device, power)
        result.sum().backward()
        assert result.tolist() == torch.ldexp(x, exponent).tolist()
        assert on_device.grad is not None
        assert plain.grad is not None
        assert on_device.grad.tolist() == plain.grad.tolist()
        assert x.to("mps").ldexp_(power).tolist() == result.tolist()
        assert torch.ldexp(x.to("mps"), power, out=torch.empty(2, device="mps")).tolist() == result.tolist()
        assert torch.ldexp(x, exponent).tolist() == result.tolist()
        assert session.findings == []
