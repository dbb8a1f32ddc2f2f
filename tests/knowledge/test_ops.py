"""Truth from elsewhere: the installed torch's dispatcher (same schemas, no MPS) and PyTorch's own tests."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch

from mpsprobe.knowledge import _pasted, ops
from mpsprobe.knowledge._opfile import ReleaseFile, dump
from mpsprobe.knowledge.ops import Kernel, Support
from mpsprobe.run import OpVerdict

_FOLDER = Path(ops.__file__).parent / "data" / "ops"
_INSTALLED = ".".join(torch.__version__.split(".")[:2])
#: Kernels of one alias key, and the alias keys that would win over it.
_COMPOSITES = {
    Kernel.STRUCTURED: ("CompositeExplicitAutogradNonFunctional", ()),
    Kernel.COMPOSITE_EXPLICIT: ("CompositeExplicitAutograd", ("CompositeExplicitAutogradNonFunctional",)),
    Kernel.COMPOSITE_IMPLICIT: (
        "CompositeImplicitAutograd",
        ("CompositeExplicitAutogradNonFunctional", "CompositeExplicitAutograd"),
    ),
}
needs_same_torch = pytest.mark.skipif(
    _INSTALLED not in ops.releases(), reason="no data on the installed torch"
)


def _has(op: str, key: str) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(op, key))


def _here(release: ops.Release) -> list[ops.OpSupport]:
    """Ops of the release whose schema exists in the installed torch."""
    return [
        support
        for support in release.ops()
        if support.op.startswith("aten::") and torch._C._dispatch_has_kernel(support.op)
    ]


def test_fifteen_releases_in_order() -> None:
    assert ops.releases() == tuple(f"2.{minor}" for minor in range(1, 16))


@pytest.mark.parametrize(
    ("written", "minor"), [("2.8", "2.8"), ("2.8.0", "2.8"), ("2.13.0+cpu", "2.13"), ("v2.10.1", "2.10")]
)
def test_a_version_belongs_to_its_minor_release(written: str, minor: str) -> None:
    assert ops.resolve_release(written) == minor


@pytest.mark.parametrize("written", ["2.99", "1.13.1", "newest", "2", ""])
def test_an_unknown_release_names_the_known_ones(written: str) -> None:
    with pytest.raises(ops.UnknownReleaseError, match=r"2\.1 to 2\.15"):
        ops.resolve_release(written)


@needs_same_torch
def test_missing_ops_are_those_of_the_dispatcher() -> None:
    wrong = []
    checked = 0
    for support in _here(ops.release(_INSTALLED)):
        kernel = support.kernel
        assert kernel is not None
        if kernel in _COMPOSITES:
            key, stronger = _COMPOSITES[kernel]
            right = _has(support.op, key) and not any(_has(support.op, other) for other in stronger)
        elif kernel in {Kernel.NONE, Kernel.NONE_NO_CPU, Kernel.NONE_VIEW}:
            right = not any(_has(support.op, key) for key, _ in _COMPOSITES.values())
            if kernel is not Kernel.NONE_VIEW:
                right = right and _has(support.op, "CPU") == (kernel is Kernel.NONE)
        else:
            continue
        checked += 1
        if not right:
            wrong.append((support.op, kernel))
    # Kernels that only one of the two builds has: MKLDNN's (Linux on x86).
    assert [op for op, _ in wrong if "mkldnn" not in op] == []
    assert checked > 2000


_REPLAY = """
import json, sys, torch
registered, asked = json.load(sys.stdin)
library = torch.library.Library("aten", "IMPL")
for op in registered:
    library.impl(op, lambda *args, **kwargs: None, "MPS")
tables = (torch._C._dispatch_dump_table(op).splitlines() for op in asked)
print(json.dumps(["".join(line for line in table if line.startswith("MPS:")) for table in tables]))
"""


@needs_same_torch
def test_the_dispatcher_agrees_with_replayed_registrations() -> None:
    release = ops.release(_INSTALLED)
    here = _here(release)
    registered = [support.op for support in here if support.op in release.mps_ops]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _REPLAY],
        input=json.dumps([registered, [support.op for support in here]]),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = json.loads(done.stdout)
    assert len(lines) == len(here)
    wrong = []
    for support, line in zip(here, lines, strict=True):
        if support.op in release.mps_ops:
            said = "[kernel]" in line
        elif support.support is Support.COMPOSITE:
            said = "[math kernel]" in line or "[default backend kernel]" in line
        else:
            said = not line or "fallback" in line  # no line: nothing is registered
        if not said:
            wrong.append((support.op, support.kernel, line))
    assert wrong == []


@needs_same_torch
def test_what_stops_a_composite_is_run_by_pytorchs_samples() -> None:
    """The call graph of the Mac's machine code against ops recorded while the operator tests ran on a CPU."""
    recorded = json.loads((_FOLDER / "opinfo.json").read_text())
    release = ops.release(_INSTALLED)
    checked = []
    for name, called in recorded.items():
        op = _pasted.python_name(f"torch.{name.partition(':')[0]}")
        if not called or op not in release.names:
            continue
        support = release.lookup(op)
        runs_below = op.removeprefix("aten::") not in called  # else the recording stops at the op itself
        if runs_below and support.support is Support.COMPOSITE and support.via and support.certain:
            checked.append(op)
            assert _pasted.base(support.via) in {_pasted.base(f"aten::{other}") for other in called}, op
    assert "aten::linalg_eigh" in checked
    assert len(checked) >= 8


def test_names_that_users_paste() -> None:
    lookup = ops.release("2.13").lookup
    assert lookup("aten.add.Tensor") == lookup("aten::add.Tensor") == lookup("torch.ops.aten.add.Tensor")
    assert lookup("aten.abs.default").op == "aten::abs"
    assert ops.normalise("torch.linalg.svd")[0] == "aten::linalg_svd"
    assert ops.normalise("F.gelu")[0] == "aten::gelu"
    assert ops.normalise("aten::add.Tensor") == ("aten::add.Tensor",)
    assert set(ops.normalise("torch.add")) == set(ops.normalise("add")) == set(ops.normalise("aten::add"))
    assert ops.normalise("add")[0] == "aten::add.Tensor"
    assert ops.normalise("add")[-1] == "aten::add.out"
    assert ops.normalise("softmax")[0] == "aten::softmax.int"
    assert any(op.startswith("aten::upsample_bilinear2d") for op in ops.normalise("F.interpolate"))


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [("aten::linalg_eig", ""), ("aten::softmx", "aten::softmax"), ("torch.linalg.svdd", "aten::linalg_svd")],
)
def test_a_misspelt_op_is_met_with_a_suggestion(misspelt: str, meant: str) -> None:
    if not meant:
        assert ops.normalise(misspelt)
        return
    with pytest.raises(ops.UnknownOpError) as caught:
        ops.normalise(misspelt)
    assert meant in caught.value.hint


def test_an_op_of_another_library_is_unknown_not_missing() -> None:
    assert ops.verdict("torchvision::nms", "2.13", fallback=True) == (OpVerdict.UNKNOWN, "")
    with pytest.raises(ops.UnknownOpError, match="torchvision"):
        ops.release("2.13").lookup("torchvision::nms")


def test_absent_is_not_missing() -> None:
    """`aten::_fused_rms_norm` came with 2.9; 2.1 has no op of that name."""
    assert ops.release("2.1").lookup("aten::_fused_rms_norm").support is Support.ABSENT
    assert ops.release("2.1").lookup("aten::_linalg_svd.U").support is not Support.ABSENT
    assert ops.verdict("aten::_fused_rms_norm", "2.1", fallback=False) == (OpVerdict.UNKNOWN, "")


@pytest.mark.parametrize(
    ("op", "torch_release", "verdict", "with_fallback"),
    [
        # https://github.com/pytorch/pytorch/issues/77764 and 141287, release notes of 2.7 and 2.8
        ("aten::isin.Tensor_Tensor_out", "2.3", OpVerdict.RAISES, OpVerdict.FALLBACK),
        ("aten::isin.Tensor_Tensor_out", "2.4", OpVerdict.NATIVE, OpVerdict.NATIVE),
        ("aten::_upsample_bilinear2d_aa.out", "2.6", OpVerdict.RAISES, OpVerdict.FALLBACK),
        ("aten::_upsample_bilinear2d_aa.out", "2.7", OpVerdict.NATIVE, OpVerdict.NATIVE),
        ("aten::max_pool3d_with_indices", "2.8", OpVerdict.RAISES, OpVerdict.FALLBACK),
        ("aten::max_pool3d_with_indices", "2.9", OpVerdict.NATIVE, OpVerdict.NATIVE),
        ("aten::index_copy.out", "2.7", OpVerdict.RAISES, OpVerdict.FALLBACK),
        ("aten::index_copy.out", "2.8", OpVerdict.NATIVE, OpVerdict.NATIVE),
        ("aten::_fft_r2c", "2.2", OpVerdict.RAISES, OpVerdict.FALLBACK),
        ("aten::_amp_foreach_non_finite_check_and_unscale_", "2.7", OpVerdict.RAISES, OpVerdict.FALLBACK),
        ("aten::_amp_foreach_non_finite_check_and_unscale_", "2.8", OpVerdict.NATIVE, OpVerdict.NATIVE),
        ("aten::linalg_svd", "2.13", OpVerdict.FALLBACK, OpVerdict.FALLBACK),
    ],
)
def test_what_users_and_release_notes_report(
    op: str, torch_release: str, verdict: OpVerdict, with_fallback: OpVerdict
) -> None:
    assert ops.verdict(op, torch_release, fallback=False)[0] is verdict
    assert ops.verdict(op, torch_release, fallback=True)[0] is with_fallback


def test_a_structured_op_raises_in_the_name_of_its_out_form() -> None:
    """Who calls torch.linalg.eigh reads `aten::_linalg_eigh.eigenvalues` in the error (issue 141287)."""
    verdict, via = ops.verdict("aten::linalg_eigh", "2.6", fallback=False)
    assert (verdict, via) == (OpVerdict.RAISES, "aten::_linalg_eigh.eigenvalues")


def test_autocast_came_with_2_5_and_casts_matmul_down() -> None:
    assert ops.release("2.4").autocast == {}
    lists = ops.release("2.5").autocast
    assert "aten::matmul" in lists["fp16"]
    assert "aten::log" in lists["fp32"]


@needs_same_torch
def test_autocast_lists_are_those_of_torchs_header() -> None:
    """ATen/autocast_mode.h lists what every backend casts; MPS registers no op that is in the other list."""
    header = (Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h").read_text()
    lists = ops.release(_INSTALLED).autocast

    def listed(macro: str) -> set[str]:
        body = header.partition(f"#define {macro}(_)")[2].partition("\n\n")[0]
        entries = [line.strip(" \\").removeprefix("_(").removesuffix(")") for line in body.splitlines()]
        return {"aten::" + entry.replace(", ", ".") for entry in entries if entry}

    lower, full = listed("AT_FORALL_LOWER_PRECISION_FP"), listed("AT_FORALL_FP32")
    assert len(lower) > 15
    assert len(full) > 30
    assert not lists["fp16"] & full
    assert not (lists["fp32"] & lower) - {
        "aten::conv_transpose3d.input"
    }  # fp32 because 3-D half is unsupported


def test_sparse_tensors_came_with_2_9() -> None:
    assert ops.release("2.8").lookup("aten::_coalesce").support is Support.MISSING_NO_CPU
    found = ops.release("2.13").lookup("aten::_coalesce")
    assert (found.support, found.kernel) == (Support.NATIVE, Kernel.SPARSE)
    assert "aten::_coalesce" in ops.release("2.13").sparse["SparseMPS"]


def test_quantised_ops_have_no_kernel_on_mps() -> None:
    assert ops.release("2.13").lookup("quantized::linear").support is Support.MISSING_NO_CPU


def test_messages_that_a_kernel_can_raise() -> None:
    assert (
        "MPS device does not support mm for non-float inputs"
        in ops.release("2.6").lookup("aten::mm").messages
    )
    assert (
        "MPS device does not support mm for non-float inputs"
        not in ops.release("2.7").lookup("mm.out").messages
    )


@pytest.mark.parametrize("minor", ops.releases())
def test_a_file_is_what_the_tool_writes_from_its_wheel(minor: str) -> None:
    raw = (_FOLDER / f"{minor}.json").read_bytes()
    data = msgspec.json.decode(raw, type=ReleaseFile)
    assert dump(data) == raw
    assert data.torch == minor
    assert data.wheel.version.startswith(f"{minor}.")
    assert data.wheel.file.startswith(f"torch-{data.wheel.version}-")
    assert len(data.wheel.sha256) == 64
    assert len(data.wheel.git) == 40
    named = {*data.via, *data.may_reach}.union(*data.messages.values())
    assert named <= set().union(*data.ops.values())


def test_knowledge_is_read_without_torch() -> None:
    code = (
        "import sys; from mpsprobe.knowledge import ops; ops.known_ops(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
