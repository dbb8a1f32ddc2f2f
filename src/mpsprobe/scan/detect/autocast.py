"""Autocast regions, gradient scalers and autocast queries that are written for CUDA."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from mpsprobe.scan.detect.devices import cuda_text
from mpsprobe.scan.detect.registry import on_call
from mpsprobe.scan.findings import Level
from mpsprobe.scan.position import Hit, Position, argument, text_of
from mpsprobe.scan.truth import is_cuda_text

_WITH_DEVICE = {
    "torch.autocast",
    "torch.amp.autocast",
    "torch.amp.autocast_mode.autocast",
    "autocast",
    "maybe_autocast",
}
#: Python functions that regions use on shapes and numbers.
_PYTHON = {
    "len",
    "range",
    "int",
    "float",
    "tuple",
    "list",
    "zip",
    "enumerate",
    "isinstance",
    "getattr",
    "max",
    "min",
}
_CUDA_ONLY = {"torch.cuda.amp.autocast", "torch.cuda.amp.autocast_mode.autocast"}
_QUERIES = {
    "torch.get_autocast_gpu_dtype",
    "torch.set_autocast_gpu_dtype",
    "torch.get_autocast_dtype",
    "torch.is_autocast_enabled",
}


@on_call("autocast", "maybe_autocast")
def region(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report `torch.autocast(device, enabled=...)` in all its spellings."""
    called = position.called
    if called in _CUDA_ONLY:
        spelt = f"{called}()"
        device: str | None = "cuda"
        given = None
        enabled = argument(node, "enabled", 0)
    elif called in _WITH_DEVICE or called.rpartition(".")[2] == "maybe_autocast":
        given = argument(node, "device_type", 0)
        device = _device_type(given, position, node.lineno) if given is not None else None
        spelt = f'{called.rpartition(".")[2]}("{device}")'
        enabled = argument(node, "enabled", 2)
        if enabled is None:
            enabled = argument(node, "enabled")
    else:
        return
    off = isinstance(enabled, ast.Constant) and enabled.value is False
    if device is None or device.startswith("mps"):
        return
    if off:
        if _is_indifferent(position):
            return
        yield Hit("MPS202", node, f'{spelt} is switched off here, an autocast("mps") around it is not.')
    elif is_cuda_text(device):
        yield Hit("MPS201", node, f"{spelt} switches itself off on a Mac.")
    elif given is not None and not isinstance(given, ast.Constant):
        yield Hit("MPS201", node, f"For tensors on MPS this comes to {spelt}, which casts nothing of theirs.")


def _is_indifferent(position: Position) -> bool:
    """Return whether the region holds no op that autocast runs in half precision."""
    region = position.parents[-1]
    if isinstance(region, ast.withitem):
        region = position.parents[-2]
    if not isinstance(region, (ast.With, ast.AsyncWith, ast.FunctionDef, ast.AsyncFunctionDef)):
        return False
    for part in (step for statement in region.body for step in ast.walk(statement)):
        if isinstance(part, (ast.BinOp, ast.AugAssign)) and isinstance(part.op, ast.MatMult):
            return False
        if isinstance(part, ast.Call):
            module, _, name = position.called_by(part).rpartition(".")
            name = name or getattr(part.func, "attr", "")
            if module != "math" and name not in _PYTHON and position.release.is_lowered_by_autocast(name):
                return False
    return True


def _device_type(node: ast.expr, position: Position, line: int, depth: int = 0) -> str | None:
    """Return the device type of an expression for a tensor on MPS; None when it cannot be derived."""
    if depth > 6:
        return None
    text = text_of(node)
    if text is not None:
        return text
    if isinstance(node, ast.IfExp):
        taken = position.truth.choose(node, position.scope)
        return _device_type(taken, position, line, depth + 1) if taken is not None else None
    if isinstance(node, ast.Attribute) and node.attr == "type":
        return "mps"
    if isinstance(node, ast.Name):
        value = position.scope.latest(node.id, line)
        if value is None:
            return "cuda" if cuda_text(node, position) else None
        return _device_type(value, position, getattr(value, "lineno", line), depth + 1)
    return None


@on_call("GradScaler")
def scaler(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report `GradScaler()` and `GradScaler("cuda")`."""
    called = position.called
    if not called.startswith(("torch.", "GradScaler")):
        return
    if called.startswith("torch.cuda."):
        enabled = argument(node, "enabled")
    else:
        device = argument(node, "device", 0)
        if device is not None and not is_cuda_text(text_of(device)):
            return
        enabled = argument(node, "enabled")
    if isinstance(enabled, ast.Constant) and enabled.value is False:
        return
    yield Hit("MPS203", node, "This GradScaler is CUDA's and switches itself off on a Mac.")


@on_call(*(name.rpartition(".")[2] for name in _QUERIES))
def query(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report `torch.is_autocast_enabled()` without a device, and the `gpu` functions."""
    called = position.called
    if called not in _QUERIES:
        return
    if "gpu" in called:
        yield Hit("MPS204", node, f"{called}() asks about CUDA's autocast.")
    elif not node.args and not node.keywords:
        yield Hit("MPS204", node, f"{called}() without a device asks about CUDA's autocast.")
    elif is_cuda_text(text_of(node.args[0]) if node.args else None):
        yield Hit("MPS204", node, f'{called}("cuda") asks about CUDA\'s autocast.', Level.NOTE)
