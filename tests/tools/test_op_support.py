"""The parts of `tools/op_support` that need no wheel: against PyTorch's own files and Arm's encodings."""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mpsprobe.knowledge import ops
from mpsprobe.knowledge._opfile import Kernel
from op_support import summary, texts, unimplemented, wheel, xfails
from op_support.callgraph import CallGraph
from op_support.code import Code
from op_support.registration import Registration
from op_support.resolve import Blockers, Dispatch, dispatch

_TORCH = Path(torch.__file__).parent
_BASE = 0x4000
_RET = 0xD65F03C0
_NOP = 0xD503201F


def _bl(at: int, target: int) -> int:
    return 0x94000000 | ((target - at) // 4 & 0x3FFFFFF)


def _b(at: int, target: int) -> int:
    return 0x14000000 | ((target - at) // 4 & 0x3FFFFFF)


def _cbz(at: int, target: int) -> int:
    return 0xB4000000 | ((target - at) // 4 & 0x7FFFF) << 5


@dataclass
class _Image:
    """What Code and CallGraph need of an image: code at `_BASE`, functions by name."""

    words: list[int]
    address_of: dict[str, int]
    stubs: dict[int, str] = field(default_factory=dict)
    pointers: dict[int, int] = field(default_factory=dict)
    sections: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data = struct.pack(f"<{len(self.words)}I", *self.words)
        self.text = SimpleNamespace(address=_BASE, size=len(self.data), offset=0)
        self.addresses = sorted(self.address_of.values())
        self.name_at = {address: name for name, address in self.address_of.items()}

    def section(self, _name: str) -> None:
        return None

    def symbol_before(self, address: int) -> tuple[str, int] | None:
        start = max((start for start in self.addresses if start <= address), default=None)
        return None if start is None else (self.name_at[start], start)


_KERNEL = "__ZN2at6native6kernelE"
_OP_A, _OP_B = "__ZN2at4_ops1a4callEv", "__ZN2at4_ops1b10redispatchEv"
_FAIL = "__ZN3c106detail14torchCheckFailEv"


def _kernel(*words: int, helper: tuple[int, ...] = ()) -> Any:
    """A kernel at `_BASE`, a helper at `_BASE + 0x40`, then ops `a` and `b`, and a function that throws."""
    code = [*words, *[_NOP] * (16 - len(words)), *helper, *[_RET] * (16 - len(helper)), _RET, _RET, _RET]
    names = {_KERNEL: 0, "__ZN2at6native6helperE": 0x40, _OP_A: 0x80, _OP_B: 0x84, _FAIL: 0x88}
    return _Image(code, {name: _BASE + offset for name, offset in names.items()})


_A, _B, _HELPER, _THROW = _BASE + 0x80, _BASE + 0x84, _BASE + 0x40, _BASE + 0x88


def test_a_call_on_the_only_path_is_certain() -> None:
    graph = CallGraph(_kernel(_bl(_BASE, _A), _RET))
    assert graph.always(_BASE) == {"a"}
    assert graph.reach(_BASE).ops == {"a"}


def test_a_call_on_one_of_two_paths_is_only_possible() -> None:
    graph = CallGraph(_kernel(_cbz(_BASE, _BASE + 8), _bl(_BASE + 4, _A), _bl(_BASE + 8, _B), _RET))
    assert graph.always(_BASE) == {"b"}
    assert graph.reach(_BASE).ops == {"a", "b"}


def test_a_path_that_throws_does_not_make_a_call_uncertain() -> None:
    words = (_cbz(_BASE, _BASE + 12), _bl(_BASE + 4, _A), _RET, _bl(_BASE + 12, _THROW))
    assert CallGraph(_kernel(*words)).always(_BASE) == {"a"}


def test_helpers_and_tail_calls_are_followed() -> None:
    assert CallGraph(_kernel(_b(_BASE, _HELPER), helper=(_bl(_HELPER, _A), _RET))).always(_BASE) == {"a"}
    assert CallGraph(_kernel(_b(_BASE, _A))).always(_BASE) == {"a"}


def test_a_jump_through_a_register_claims_nothing() -> None:
    looping = _kernel(_bl(_BASE, _A), _cbz(_BASE + 4, _BASE), _RET)
    assert CallGraph(looping).always(_BASE) == {"a"}
    by_register = _kernel(_cbz(_BASE, _BASE + 8), 0xD61F0100, _bl(_BASE + 8, _A), _RET)  # br x8
    assert CallGraph(by_register).always(_BASE) == frozenset()


def test_addresses_made_in_two_steps_are_references() -> None:
    adrp_x8 = 0x90000008 | 1 << 29  # page of the instruction + 1 page
    add_x0 = 0x91000000 | 0x123 << 10 | 8 << 5  # add x0, x8, #0x123
    found = Code(_kernel(adrp_x8, add_x0, _RET)).function(_BASE).refers
    assert found == (_BASE + 0x1000 + 0x123,)


def test_a_call_forgets_the_registers_that_it_may_overwrite() -> None:
    adrp_x8 = 0x90000008
    add_x0 = 0x91000000 | 8 << 5
    assert Code(_kernel(adrp_x8, _bl(_BASE + 4, _A), add_x0, _RET)).function(_BASE).refers == ()


def test_python_kernels_of_the_installed_torch() -> None:
    source = (_TORCH / "_refs" / "linalg" / "__init__.py").read_bytes()
    assert wheel.python_kernels(source) == {"aten::linalg_lu_solve.out"}
    by_key = (
        b'lib = Library("aten", "IMPL")\nlib.impl("native_group_norm", f, "MPS")\nlib.impl("a", f, "CPU")'
    )
    assert wheel.python_kernels(by_key) == {"aten::native_group_norm"}


def test_the_installed_torchs_list_is_read_without_running_it() -> None:
    listed = xfails.unimplemented(_TORCH.parent)
    assert listed["linalg.eigh"] is None
    assert listed["nn.functional.relu"] == ["bool"]
    assert listed["median"] == ["bool"]
    assert xfails.unimplemented(_TORCH) == {}


def test_what_only_fails_on_an_older_macos_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "torch" / "testing" / "_internal" / "common_mps.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "def f():\n    UNIMPLEMENTED_XFAILLIST: dict = {'dot': [torch.int64] if MACOS_VERSION < 14.0 else [],"
        " 'mm': [torch.int8, torch.bool] if MACOS_VERSION < 15.0 else [torch.bool]}\n"
    )
    assert xfails.unimplemented(tmp_path) == {"mm": ["bool"]}


def test_restrictions_are_told_from_other_texts() -> None:
    assert texts.restriction("MPS: dot op doesn't support int64 input") is not None
    assert texts.restriction("Expected tensor to have size ") is None
    assert texts.restriction("x INTERNAL ASSERT FAILED: not supported") is None
    assert texts.minimum_macos(b"..The MPS backend is supported on macOS 14.0+. Current..") == "14.0"
    with pytest.raises(RuntimeError, match="minimum macOS"):
        texts.minimum_macos(b"nothing of the kind")


def test_precedence_of_kernels_is_the_installed_dispatchers() -> None:
    """Every op of this torch, from what is registered to what the dispatcher computes for the MPS key."""
    keys = (
        "CompositeExplicitAutogradNonFunctional",
        "CompositeExplicitAutograd",
        "CompositeImplicitAutograd",
        "CPU",
    )
    names = [op for op in torch._C._dispatch_get_all_op_names() if op.startswith("aten::")]
    here = [op for op in names if torch._C._dispatch_has_kernel(op)]
    registrations = [
        Registration(key, op, "", None)
        for op in here
        for key in keys
        if torch._C._dispatch_has_kernel_for_dispatch_key(op, key)
    ]
    registrations.append(Registration("MPS", "<fallback>", "", None))
    registrations.append(Registration("MPS", "aten::none", "mps_fallback", None))
    wrong = []
    for op, found in dispatch(here, (), (), registrations).items():
        table = torch._C._dispatch_dump_table(op).splitlines()
        line = next((line for line in table if line.startswith("MPS:")), "")
        if "[math kernel]" in line:
            right = found.kernel is Kernel.COMPOSITE_IMPLICIT
        elif "[default backend kernel]" in line:
            right = found.kernel in {Kernel.COMPOSITE_EXPLICIT, Kernel.STRUCTURED}
        else:
            right = found.kernel in {Kernel.NONE, Kernel.NONE_NO_CPU}
        if not right:
            wrong.append((op, found.kernel, line))
    assert wrong == []
    assert len(here) > 3000


def test_blockers_go_through_composites_and_stop_at_kernels() -> None:
    kernels = {
        "missing": Dispatch(Kernel.NONE),
        "native": Dispatch(Kernel.MPS),
        "outer": Dispatch(Kernel.COMPOSITE_IMPLICIT),
        "inner": Dispatch(Kernel.STRUCTURED),
        "cycle": Dispatch(Kernel.COMPOSITE_EXPLICIT),
        "fine": Dispatch(Kernel.COMPOSITE_EXPLICIT),
    }
    calls = {
        "outer": ["inner", "native"],
        "inner": ["missing"],
        "cycle": ["cycle", "outer"],
        "native": ["missing"],
        "fine": ["native"],
    }
    found = Blockers(kernels, calls)
    assert [sorted(found.of(op)) for op in kernels] == [
        ["missing"],
        [],
        ["missing"],
        ["missing"],
        ["missing"],
        [],
    ]
    assert Blockers(kernels, calls, harmless={"missing"}).of("outer") == frozenset()


@pytest.mark.parametrize("torch_release", [t for t in ops.releases() if int(t[2:]) >= 8])
def test_every_disagreement_with_pytorchs_own_list_is_explained(torch_release: str) -> None:
    agree, differ = unimplemented.compare(torch_release)
    assert list(unimplemented.unexplained(differ)) == []
    assert agree > 500


def test_the_tables_of_the_document_are_made_from_the_data() -> None:
    written = summary.DOCUMENT.read_text("utf-8")
    assert summary.fill(written) == written
