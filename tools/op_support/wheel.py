"""Fetch the macOS arm64 wheel of a release from PyPI on any system, check it, and unpack parts of it."""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

#: The tags that PyTorch has used; the Python version does not matter for what is read.
_PLATFORMS = ("macosx_11_0_arm64", "macosx_14_0_arm64", "macosx_15_0_arm64")
_PYTHON = "3.11"
LIBRARY = "torch/lib/libtorch_cpu.dylib"
_NEEDED = re.compile(
    r"torch/lib/libtorch_cpu\.dylib|torch/version\.py|torchgen/.*"
    r"|torch/include/(c10|torch/headeronly)/core/ScalarType\.h|torch/testing/_internal/common_mps\.py"
)


@dataclass(frozen=True)
class Unpacked:
    """What was read from one wheel, and where its files were unpacked.

    Attributes:
        root: The folder with the wheel's files that are needed.
        file: The name of the wheel.
        sha256: The digest of the wheel.
        version: The full version of torch.
        git: The commit of PyTorch.
        python_kernels: The ops that PyTorch's Python code registers under MPS.
    """

    root: Path
    file: str
    sha256: str
    version: str
    git: str
    python_kernels: frozenset[str]


def fetch(requirement: str, folder: Path) -> Path:
    """Download the macOS arm64 wheel that fits `requirement` (`torch==2.15.*`) into `folder`.

    Raises:
        RuntimeError: No wheel was found, or pip failed.
    """
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        command = [sys.executable, "-m", "pip", "download", requirement, "--no-deps", "--only-binary=:all:"]
        command += ["--python-version", _PYTHON, "--implementation", "cp", "--quiet", "--dest", fresh]
        command += [argument for platform in _PLATFORMS for argument in ("--platform", platform)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(fresh).glob("torch-*.whl"))
        if done.returncode or len(wheels) != 1:
            raise RuntimeError(f"pip download {requirement}: {done.stderr.strip() or 'no wheel'}")
        return wheels[0].rename(folder / wheels[0].name)


def unpack(wheel: Path, root: Path) -> Unpacked:
    """Unpack the needed files of a wheel below `root`, and return its facts."""
    digest = hashlib.sha256()
    with wheel.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    registered: set[str] = set()
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if _NEEDED.fullmatch(entry.filename) and not entry.is_dir():
                archive.extract(entry, root)
            if re.fullmatch(r"torch/.*\.py", entry.filename):
                registered |= python_kernels(archive.read(entry))
    facts = (root / "torch" / "version.py").read_text("utf-8")
    return Unpacked(
        root=root,
        file=wheel.name,
        sha256=digest.hexdigest(),
        version=_assigned(facts, "__version__"),
        git=_assigned(facts, "git_version"),
        python_kernels=frozenset(registered),
    )


def _assigned(source: str, name: str) -> str:
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return str(ast.literal_eval(node.value))  # type: ignore[attr-defined]
    raise ValueError(f"torch/version.py does not set {name}.")


def python_kernels(source: bytes) -> set[str]:
    """Return the qualified names of ops that a Python file registers under MPS through `torch.library.Library`.

    Both spellings count: `lib.impl(op, f, "MPS")`, and `impl(op, f)` of a `Library("aten", "IMPL", "MPS")`.
    """
    if b'"MPS"' not in source and b"'MPS'" not in source:
        return set()
    found: set[str] = set()
    libraries: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            called = node.value.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in {"Library", "_Library"} and _literals(node.value)[2:3] == ["MPS"]:
                libraries |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if not (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "impl"
        ):
            continue
        arguments = _literals(node)
        on_mps = arguments[2:3] == ["MPS"] or getattr(node.func.value, "id", None) in libraries
        if on_mps and arguments and arguments[0]:
            found.add(arguments[0] if "::" in arguments[0] else f"aten::{arguments[0]}")
    return found


def _literals(call: ast.Call) -> list[str]:
    """Return the string arguments of a call by position, `""` for anything else."""
    return [
        argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else ""
        for argument in call.args
    ]
