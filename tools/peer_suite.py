"""Compare the emulated device with PyTorch's own expectations of MPS.

There are two sources:
- without arguments, the operator database of the installed wheel (`torch.testing`): every operator's own sample
  inputs run on the CPU and on the emulated device, and the outcome is compared with what PyTorch's MPS tests expect
  (`torch/testing/_internal/common_mps.py`: expected failures and skips by operator and dtype). This is what
  `TestConsistency` of `test/test_mps.py` does;
- `--checkout DIR`: `test/test_mps.py` of a PyTorch checkout itself, in a child process under the emulated device.

Nothing of PyTorch's is copied. The figures of the last run are in docs/virtual-device.md.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import platform
import subprocess
import sys
import unittest
import warnings
from pathlib import Path
from typing import Any

import torch

from mpsprobe.device.virtual.session import Session, emulate
from mpsprobe.errors import VirtualDeviceError

_DTYPES = (
    *(
        "float32",
        "float16",
        "bfloat16",
        "complex64",
        "complex32",
        "bool",
        "uint8",
        "int8",
        "int16",
        "int32",
        "int64",
    ),
    *("uint16", "uint32", "uint64", "float64", "complex128"),
)
#: What PyTorch expects, and what the emulated device did.
_PASS, _FAIL, _SKIP = "passes", "fails", "skipped"

#: Dtypes in which PyTorch's MPS tests take gradients (MPS_GRAD_DTYPES).
_GRADIENTS = (torch.float32, torch.float16)

#: Memory of the emulated Mac, the default of `emulate`.
_MEMORY_GIB = 64

_PLUGIN = """
import os
import platform

import pytest
from mpsprobe.device.virtual.session import emulate

# the tests ask which macOS they are on when they are imported
platform.mac_ver = lambda *_args, **_kwargs: ("15.5", ("", "", ""), "arm64")
_context = emulate(macos="15.5", fallback=False)
_context.__enter__()
os.environ["MPSPROBE_PEER_CHILD"] = "1"

@pytest.hookimpl(trylast=True)  # after -k
def pytest_collection_modifyitems(config, items):
    part, _, parts = os.environ.get("MPSPROBE_PEER_SHARD", "1/1").partition("/")
    mine = items[int(part) - 1 :: int(parts)]
    config.hook.pytest_deselected(items=[one for k, one in enumerate(items) if k % int(parts) != int(part) - 1])
    items[:] = mine

def pytest_unconfigure():
    _context.__exit__(None, None, None)
"""


#: Some tests start another Python, which gets the emulated device as soon as it has imported torch.
CHILD = """
import os
import sys

if os.environ.get("MPSPROBE_PEER_CHILD"):
    import atexit
    import importlib.abc
    import importlib.util

    class Emulating(importlib.abc.MetaPathFinder):
        asked = False

        def find_spec(self, name, path, target=None):
            if name != "torch" or self.asked:
                return None
            self.asked = True
            spec = importlib.util.find_spec(name)
            self.asked = False  # who asks whether torch is there does not import it yet
            if spec is None:
                return None
            run = spec.loader.exec_module

            def exec_module(module):
                sys.meta_path.remove(self)
                run(module)
                from mpsprobe.device.virtual.session import emulate

                context = emulate(macos="15.5")
                context.__enter__()
                atexit.register(context.__exit__, None, None, None)

            spec.loader.exec_module = exec_module
            return spec

    sys.meta_path.insert(0, Emulating())
"""


def operators(dtypes: list[torch.dtype], shard: str = "1/1") -> dict[str, list[str]]:
    """Run the sample inputs of the operator database on the CPU and emulated.

    Args:
        dtypes: The dtypes to run it in.
        shard: The part of the operators, such as `"3/8"`: every eighth one, from the third on.

    Returns:
        Entries `"operator dtype: message"` by `"expected / outcome"`.
    """
    platform.mac_ver = lambda *_args, **_kwargs: ("15.5", ("", "", ""), "arm64")
    found: dict[str, list[str]] = collections.defaultdict(list)
    with emulate(macos="15.5", fallback=False) as session, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # both inspect the machine on import, so they must see the emulated one
        from torch.testing._internal.common_methods_invocations import op_db
        from torch.testing._internal.common_mps import mps_ops_modifier

        for info in mps_ops_modifier(_part(op_db, shard)):
            for dtype in dtypes:
                if dtype not in info.supported_dtypes("cpu"):
                    continue
                expected = _expected(info, dtype)
                outcome = _outcome(info, dtype, session)
                found[f"{expected} / {outcome.partition(':')[0]}"].append(
                    f"{info.name}{info.variant_test_name} {str(dtype)[6:]}: {outcome}"
                )
    return found


def outputs(dtypes: list[torch.dtype]) -> dict[str, list[str]]:
    """Run every operator with several kinds of `out=` arguments that are views, on the CPU and emulated.

    Returns:
        Entries `"operator dtype, kind of output: message"` by outcome.
    """
    platform.mac_ver = lambda *_args, **_kwargs: ("15.5", ("", "", ""), "arm64")
    found: dict[str, list[str]] = collections.defaultdict(list)
    with emulate(macos="15.5", fallback=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db

        for info in op_db:
            for dtype in dtypes:
                if not info.supports_out or dtype not in info.supported_dtypes("cpu"):
                    continue
                for kind in _OUTPUTS:
                    outcome = _with_output(info, dtype, kind)
                    if outcome:
                        found[outcome.partition(":")[0]].append(
                            f"{info.name}{info.variant_test_name} {str(dtype)[6:]}, {kind}: {outcome}"
                        )
    return found


#: Kinds of outputs: (elements before it in its storage, its own elements as a share of those needed, its stride).
_OUTPUTS = {
    "empty, in the middle of a storage that is large enough": (3, 0, 1),
    "empty, at the end of a storage that must grow": (3, 0, 0),
    "every other element": (1, 1, 2),
    "too few elements": (2, 0.5, 1),
}


def _with_output(info: Any, dtype: torch.dtype, kind: str) -> str:
    before, share, stride = _OUTPUTS[kind]
    sample = next(iter(info.sample_inputs("cpu", dtype)), None)
    if sample is None:
        return ""
    try:
        plain = info.op(sample.input, *sample.args, **sample.kwargs)
    except Exception:
        return ""
    if not isinstance(plain, torch.Tensor) or plain.dtype is not dtype or not plain.numel():
        return ""

    def run(device: str) -> tuple[torch.Tensor, torch.Tensor]:
        needed = plain.numel()
        elements = before + (needed * max(stride, 1) + 2 if stride else 0)
        storage = torch.zeros(elements, dtype=dtype, device=device)
        own = round(needed * share)
        if stride == 2:
            out = storage.as_strided(plain.shape, [2 * one for one in plain.contiguous().stride()], before)
        else:
            out = storage[before : before + own]
        moved = sample.transform(lambda x: x.detach().to(device) if isinstance(x, torch.Tensor) else x)
        if "device" in moved.kwargs:
            moved.kwargs["device"] = device
        torch.manual_seed(0)
        info.op(moved.input, *moved.args, **moved.kwargs, out=out)
        return storage, out

    try:
        expected = run("cpu")
    except Exception:
        return ""
    try:
        got = run("mps")
    except VirtualDeviceError as problem:
        return f"out of reach: {_line(problem)}"
    except Exception as problem:
        return f"raised: {_line(problem)}"
    return f"differs: {difference}" if (difference := _differs(list(got), list(expected))) else _PASS


def _part(values: list[Any], shard: str) -> list[Any]:
    part, _, parts = shard.partition("/")
    return values[int(part) - 1 :: int(parts)]


def gradients(dtypes: list[torch.dtype], shard: str = "1/1") -> dict[str, list[str]]:
    """Compare the gradients of every operator that has them, as `test_output_grad_match` of PyTorch's MPS tests does.

    Args:
        dtypes: The dtypes to take them in.
        shard: The part of the operators, such as `"3/8"`: every eighth one, from the third on.

    Returns:
        Entries `"operator dtype: message"` by `"expected / outcome"`.
    """
    platform.mac_ver = lambda *_args, **_kwargs: ("15.5", ("", "", ""), "arm64")
    found: dict[str, list[str]] = collections.defaultdict(list)
    with emulate(macos="15.5", fallback=False) as session, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
        from torch.testing._internal.common_mps import mps_ops_grad_modifier, mps_ops_modifier

        for info in mps_ops_grad_modifier(mps_ops_modifier(_part(op_db, shard))):
            for dtype in dtypes:
                if not info.supports_autograd or dtype not in info.supported_backward_dtypes("cpu"):
                    continue
                expected = _expected(info, dtype, "test_output_grad_match")
                outcome = _gradient_outcome(info, dtype, session)
                found[f"{expected} / {outcome.partition(':')[0]}"].append(
                    f"{info.name}{info.variant_test_name} {str(dtype)[6:]}: {outcome}"
                )
    return found


def _gradient_outcome(info: Any, dtype: torch.dtype, session: Session) -> str:
    """Return `passes`, how the first sample fails, or that the CPU takes no gradients of any."""
    compared = 0
    for sample in info.sample_inputs("cpu", dtype, requires_grad=True):
        try:
            on_cpu = _gradients_of(info, sample)
        except Exception:
            continue  # the CPU takes no gradient either, so there is nothing to compare with
        try:
            moved = sample.transform(_moved_leaf)
            if "device" in moved.kwargs:
                moved.kwargs["device"] = "mps"
            on_mps = _gradients_of(info, moved)
        except Exception as problem:
            return _failure(problem, session)
        if difference := _differs(on_mps, on_cpu):
            return f"differs: {difference}"
        compared += 1
    return _PASS if compared else "the CPU fails too"


def _moved_leaf(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().to("mps").requires_grad_(value.requires_grad)


def _gradients_of(info: Any, sample: Any) -> list[torch.Tensor | None]:
    torch.manual_seed(0)
    result = info.op(sample.input, *sample.args, **sample.kwargs)
    outputs = [one for one in torch.utils._pytree.tree_leaves(result) if _needs_gradient(one)]
    leaves = torch.utils._pytree.tree_leaves((sample.input, sample.args, sample.kwargs))
    inputs = [one for one in leaves if _needs_gradient(one)]
    torch.manual_seed(1)
    weights = [torch.randn(one.shape).to(one.dtype).to(one.device) for one in outputs]
    return list(torch.autograd.grad(outputs, inputs, weights, allow_unused=True))


def _needs_gradient(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _expected(info: Any, dtype: torch.dtype, test: str = "test_output_match") -> str:
    expected = _PASS if dtype in info.supported_dtypes("mps") else _FAIL
    for decorator in info.decorators:
        if getattr(decorator, "device_type", None) not in (None, "mps"):
            continue
        if getattr(decorator, "cls_name", None) not in (None, "TestConsistency"):
            continue
        if getattr(decorator, "test_name", None) not in (None, test):
            continue
        if getattr(decorator, "dtypes", None) is not None and dtype not in decorator.dtypes:
            continue
        for one in getattr(decorator, "decorators", ()):
            if one is unittest.expectedFailure:
                return _FAIL
            if one is unittest.skip or getattr(one, "__name__", "") == "decorator":
                expected = _SKIP
    return expected


def _outcome(info: Any, dtype: torch.dtype, session: Session) -> str:
    """Return `passes`, or how the first sample that does not pass fails; samples that the CPU refuses are skipped."""
    try:
        # made on the device, as TestConsistency does: some operators have other samples for "mps:0"
        samples = list(info.sample_inputs("mps:0", dtype))
    except Exception as problem:
        return _failure(problem, session)
    for sample in samples:
        on_cpu = sample.transform(lambda x: x.detach().cpu() if isinstance(x, torch.Tensor) else x)
        if "device" in on_cpu.kwargs:
            on_cpu.kwargs["device"] = "cpu"
        try:
            torch.manual_seed(0)
            reference = info.op(on_cpu.input, *on_cpu.args, **on_cpu.kwargs)
        except Exception:
            continue  # not available for this dtype on the CPU either, so there is nothing to compare with
        try:
            torch.manual_seed(0)
            got = info.op(sample.input, *sample.args, **sample.kwargs)
        except Exception as problem:
            return _failure(problem, session)
        difference = _differs(got, reference)
        if difference:
            return f"differs: {difference}"
    return _PASS


def _failure(problem: Exception, session: Session) -> str:
    if isinstance(problem, VirtualDeviceError):  # OutOfReachError: unknown, not a failure
        return f"out of reach: {_line(problem)}"
    if any(finding.message == str(problem) for finding in session.findings):
        return f"refused: {_line(problem)}"
    return f"error: {type(problem).__name__}: {_line(problem)}"


def _differs(got: Any, expected: Any) -> str:
    try:
        torch.testing.assert_close(
            torch.utils._pytree.tree_map_only(torch.Tensor, lambda x: x.detach().cpu(), got),
            torch.utils._pytree.tree_map_only(torch.Tensor, lambda x: x.detach(), expected),
            equal_nan=True,
            check_stride=False,
        )
    except AssertionError as problem:
        return _line(problem)
    except TypeError:
        return ""  # results that are not tensors or numbers
    return ""


def _line(problem: BaseException) -> str:
    return (str(problem).strip().split("\n") or [""])[0][:160]


def suite(checkout: Path, options: list[str], shard: str = "1/1") -> int:
    """Run test/test_mps.py of a checkout under the emulated device.

    Args:
        checkout: A PyTorch checkout of the installed release.
        options: The options of pytest.
        shard: The part of the selected tests, such as `"3/8"`: every eighth one, from the third on.

    Returns:
        The exit code of pytest, or 2 if the checkout has no such file.
    """
    checkout = checkout.resolve()
    file = checkout / "test" / "test_mps.py"
    if not file.is_file():
        sys.stderr.write(
            f"{file} is not there: give a checkout of pytorch/pytorch of the installed release.\n"
        )
        return 2
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / "mpsprobe-peer"
    folder.mkdir(exist_ok=True)
    (folder / "peer_plugin.py").write_text(_PLUGIN)
    (folder / "sitecustomize.py").write_text(CHILD)
    # the tests query macOS for the size of its memory on import
    sysctl = folder / "sysctl"
    sysctl.write_text(f"#!/bin/sh\necho {_MEMORY_GIB << 30}\n")
    sysctl.chmod(0o755)
    paths = [
        str(folder),
        str(checkout / "test"),
        str(Path(__file__).parents[1] / "src"),
        os.environ.get("PYTHONPATH", ""),
    ]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "peer_plugin",
        "-p",
        "no:cacheprovider",
        "--noconftest",  # PyTorch's is for its own CI, and newer pytest refuses an old one
        "-q",
        str(file),
        *options,
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": os.pathsep.join([str(folder), os.environ.get("PATH", "")]),
        "MPSPROBE_PEER_SHARD": shard,
    }
    return subprocess.run(command, cwd=checkout / "test", env=environment, check=False).returncode


def main() -> int:
    """Run the comparison that the command line names, and print the number of operators by outcome."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkout", type=Path, help="a PyTorch checkout: run its test/test_mps.py instead")
    parser.add_argument("--dtypes", default=",".join(_DTYPES), help="all that MPS may have, unless given")
    parser.add_argument(
        "--outputs", action="store_true", help="compare `out=` variants instead: views, offsets, sizes"
    )
    parser.add_argument(
        "--gradients",
        action="store_true",
        help="compare gradients instead, in the floating dtypes of --dtypes",
    )
    parser.add_argument("--shard", default="1/1", help="this part of the operators or tests: 3/8")
    parser.add_argument("--json", type=Path, help="where to write every operator's outcome")
    parser.add_argument("options", nargs="*", help="options for pytest, with --checkout")
    chosen = parser.parse_args()
    if chosen.checkout is not None:
        return suite(chosen.checkout, chosen.options, chosen.shard)
    torch.set_num_threads(1)
    dtypes = [getattr(torch, name) for name in chosen.dtypes.split(",")]
    if chosen.outputs:
        found = outputs([one for one in dtypes if one in (torch.float32, torch.int64)])
        sys.stdout.write(f"torch {torch.__version__}, outputs that are views:\n")
        for key in sorted(found):
            sys.stdout.write(f"  {key:24} {len(found[key])}\n")
        if chosen.json:
            chosen.json.write_text(json.dumps(found, indent=1) + "\n")
        return 0
    if chosen.gradients:
        found = gradients([one for one in dtypes if one in _GRADIENTS], chosen.shard)
    else:
        found = operators(dtypes, chosen.shard)
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(f"torch {torch.__version__}, expected by PyTorch / emulated:\n")
    for key in sorted(found):
        sys.stdout.write(f"  {key:24} {len(found[key])}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
