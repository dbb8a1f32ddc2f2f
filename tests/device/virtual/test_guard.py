"""The tricks below PyTorch's Python: guard, hooks, relabelling, the engine's thread."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from mpsprobe.device.virtual.cpp import native, relabel
from mpsprobe.device.virtual.cpp.without_mps import MPS_HOOKS, WithoutMps
from mpsprobe.device.virtual.session import Session
from mpsprobe.errors import UnsupportedInstallError

pytestmark = pytest.mark.own_process


def test_slot_order_is_read_from_the_headers() -> None:
    names = [
        name
        for name, _ in native.virtual_functions(
            "c10/core/impl/DeviceGuardImplInterface.h", "DeviceGuardImplInterface"
        )
    ]
    assert names[:3] == ["type", "exchangeDevice", "getDevice"]
    assert names[-2:] == ["~complete", "~deleting"]
    slots = MPS_HOOKS.slots()
    assert slots.index("hasMPS") > slots.index("getNewGenerator")
    assert len(slots) == len(set(slots))


def test_a_struct_that_is_not_there_is_a_typed_error() -> None:
    with pytest.raises(UnsupportedInstallError, match="does not declare Nothing"):
        native.virtual_functions("ATen/detail/MPSHooksInterface.h", "Nothing")


def test_guard_refuses_a_taken_slot(mps: Session) -> None:
    with pytest.raises(UnsupportedInstallError, match="Another MPS backend"):
        WithoutMps().install()


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.complex64]
)
def test_relabelling_keeps_memory_shape_strides_and_dtype(mps: Session, dtype: torch.dtype) -> None:
    host = torch.arange(12).reshape(3, 4).to(dtype).t()[1:]
    device = relabel.device(host)
    assert device.device == torch.device("mps", 0)
    assert (device.shape, device.stride(), device.dtype) == (host.shape, host.stride(), dtype)
    assert device.data_ptr() == host.data_ptr()
    assert torch.equal(relabel.host(device), host)


def test_relabelling_keeps_conjugate_and_negative_bits(mps: Session) -> None:
    numbers = torch.randn(4, dtype=torch.complex64)
    for host in (numbers.conj(), numbers.conj().imag, numbers.imag):
        device = relabel.device(host)
        assert (device.is_conj(), device.is_neg()) == (host.is_conj(), host.is_neg())
        assert torch.equal(relabel.host(device), host)


def test_memory_lives_as_long_as_either_name(mps: Session) -> None:
    device = relabel.device(torch.full((1000,), 7.0))
    host = relabel.host(device)
    del device
    assert host.sum() == 7000


def _in_a_new_process(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.mark.parametrize("earlier", ["torch.ones(1, requires_grad=True).sum().backward()", "pass"])
def test_gradients_work_whether_or_not_the_engine_had_started(earlier: str) -> None:
    # the engine starts its threads at the first backward of a process, so each case needs its own
    out = _in_a_new_process(
        f"import torch\n{earlier}\n"
        "from mpsprobe.device.virtual.session import emulate\n"
        "for _ in range(2):\n"
        "    with emulate():\n"
        "        x = torch.ones(3, device='mps', requires_grad=True)\n"
        "        (x * x).sum().backward()\n"
        "        print(x.grad.cpu().tolist())\n"
    )
    assert out.split("\n")[:2] == ["[2.0, 2.0, 2.0]"] * 2


def test_a_policy_against_executable_memory_is_named() -> None:
    # PR_SET_MDWE (65), PR_MDWE_REFUSE_EXEC_GAIN (1): what systemd and hardened distributions switch on; Linux 6.3
    out = _in_a_new_process(
        "import ctypes\n"
        "from mpsprobe.device.virtual.cpp import native\n"
        "from mpsprobe.errors import UnsupportedInstallError\n"
        "if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):\n"
        "    print('too old')\n"
        "else:\n"
        "    try:\n"
        "        native.function('mps0')\n"
        "    except UnsupportedInstallError as problem:\n"
        "        print(problem.what, problem.hint)\n"
    )
    if "too old" in out:
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert "refused executable memory" in out
    assert "PR_SET_MDWE" in out


@pytest.mark.parametrize(
    ("files", "cause"),
    [
        (
            {"/sys/fs/selinux/enforce": "1", "/proc/self/attr/current": "staff_u:staff_r:staff_t:s0\0"},
            "staff_t",
        ),
        ({"/proc/self/status": "Name:\tpython\nPaX:\tPeMRs\n"}, "paxctl"),
        ({"/proc/self/status": "Name:\tpython\nSeccomp:\t2\n"}, "MemoryDenyWriteExecute"),
        ({}, "hardened kernel"),
    ],
)
def test_the_policy_is_read_from_the_kernel(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cause: str
) -> None:
    monkeypatch.setattr(native, "_text", lambda path: files.get(path, ""))
    assert cause in native._who_forbids()
