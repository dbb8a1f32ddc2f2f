"""Hazards of training loops: autocast, scalers, data loaders, copies that do not wait, compiled steps."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from mpsprobe.scan.detect.devices import cuda_text
from mpsprobe.scan.findings import Level
from mpsprobe.scan.position import Hit, Position, argument, on, on_call, text_of
from mpsprobe.scan.truth import is_cuda_text

#: The release in which `x.to("mps", non_blocking=True)` was seen to leave random values, whatever happens to its
# source.
_RANDOM_COPIES = "2.5"


@on_call("GradScaler")
def scaler_before_its_release(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report `torch.amp.GradScaler("mps")` where the release's scaler computes in float64 and raises."""
    if not position.called.startswith(("torch.amp", "torch.GradScaler")):
        return
    device = argument(node, "device", 0)
    advisory = position.release.advisory("gradscaler-raises")
    if device is None or advisory is None or not _may_be_mps(device, position):
        return
    if isinstance(enabled := argument(node, "enabled"), ast.Constant) and enabled.value is False:
        return
    named = (text_of(position.value(device)) or "").startswith("mps")
    yield Hit(
        "MPS205",
        node,
        f"scaler.step() raises TypeError on MPS in torch {position.release.torch} ({advisory.id}).",
        None if named else Level.WARNING,
    )


@on_call("DataLoader")
def worker_places_data(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report a data loader with workers whose dataset or `collate_fn` places tensors on a device that may be MPS."""
    workers = argument(node, "num_workers", 5)
    if workers is None or (isinstance(workers, ast.Constant) and not workers.value):
        return
    module = position.parents[0] if position.parents else None
    if not isinstance(module, ast.Module):
        return
    classes = {one.name: one for one in ast.walk(module) if isinstance(one, ast.ClassDef)}
    functions = {one.name: one for one in ast.walk(module) if isinstance(one, ast.FunctionDef)}
    found: list[tuple[str, ast.AST]] = []
    dataset = argument(node, "dataset", 0)
    made = position.value(dataset) if dataset is not None else None
    if isinstance(made, ast.Call) and isinstance(made.func, ast.Name) and made.func.id in classes:
        found += [
            (f"{made.func.id}.{one.name}", one)
            for one in classes[made.func.id].body
            if isinstance(one, ast.FunctionDef) and one.name in ("__getitem__", "__getitems__", "__iter__")
        ]
    collate = argument(node, "collate_fn", 6)
    if isinstance(collate, ast.Lambda):
        found.append(("collate_fn", collate))
    elif isinstance(collate, ast.Name) and collate.id in functions:
        found.append((collate.id, functions[collate.id]))
    for name, function in found:
        placing = next((one for one in ast.walk(function) if _places(one, position)), None)
        if placing is not None:
            yield Hit(
                "MPS603",
                node,
                f"{name} places tensors on a device ({ast.unparse(placing)[:60]}), in a worker process.",
            )
            return


@on_call("to", "cpu", "cuda")
def copy_that_does_not_wait(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report copies with `non_blocking=True` whose values may be wrong.

    These are copies to the CPU in a scope that never synchronises, copies to MPS of a tensor that nobody keeps, and
    on torch 2.5 all copies to MPS.
    """
    if not isinstance(node.func, ast.Attribute) or not _is_true(argument(node, "non_blocking")):
        return
    target = argument(node, "device", 0)
    to_cpu = node.func.attr == "cpu" or (target is not None and text_of(position.value(target)) == "cpu")
    if to_cpu:
        if not any(_synchronises(one) for one in ast.walk(position.scope.node)):
            yield Hit("MPS113", node, "The copy to the CPU may not be done when its values are read.")
    elif target is not None and _may_be_mps(target, position):
        receiver = node.func.value
        temporary = isinstance(receiver, ast.Call) and position.called_by(receiver).startswith("torch.")
        if position.release.torch == _RANDOM_COPIES:
            yield Hit("MPS113", node, "On torch 2.5 such a copy was seen to leave random values on MPS.")
        elif temporary:
            yield Hit("MPS113", node, "The source is a tensor that nobody keeps until the copy is done.")


@on(ast.FunctionDef)
def compiled_step(node: ast.FunctionDef, position: Position) -> Iterator[Hit]:
    """Report a function under `@torch.compile` that calls `backward`, unless its backend generates no code."""
    for decorator in node.decorator_list:
        call = decorator.func if isinstance(decorator, ast.Call) else decorator
        if position.name(call) == "torch.compile" and not _is_eager(decorator) and _goes_back(node):
            yield Hit("MPS804", decorator, f"{node.name} is compiled with its backward.")


@on_call("compile")
def compiled_model(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report `torch.compile(model)` in a scope that calls `backward`, unless its backend generates no code."""
    if (
        position.called == "torch.compile"
        and node.args
        and not _is_eager(node)
        and _goes_back(position.scope.node)
    ):
        yield Hit("MPS804", node, f"{ast.unparse(node.args[0])[:60]} is compiled, and its backward with it.")


def _may_be_mps(device: ast.expr, position: Position) -> bool:
    """Return whether a device expression is MPS, or a name with `device` in it whose value is not visible."""
    value = position.value(device)
    if isinstance(value, ast.Call) and position.called_by(value) == "torch.device" and value.args:
        value = position.value(value.args[0])
    text = text_of(value)
    if text is not None:
        return text.startswith("mps")
    return isinstance(value, (ast.Name, ast.Attribute)) and "device" in ast.unparse(value)


def _places(node: ast.AST, position: Position) -> bool:
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute) and node.func.attr == "to" and node.args:
        return _may_be_mps(node.args[0], position)
    return any(one.arg == "device" and _may_be_mps(one.value, position) for one in node.keywords)


def _is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _synchronises(node: ast.AST) -> bool:
    """Return whether a node calls a function that waits: `torch.mps.synchronize()`, `event.synchronize()`, `wait()`."""
    return isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("synchronize", "wait")


def _goes_back(node: ast.AST) -> bool:
    return any(
        isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute) and one.func.attr == "backward"
        for one in ast.walk(node)
    )


def _is_eager(node: ast.expr) -> bool:
    """Return whether a call of `torch.compile` names a backend that generates no code: `eager` or `aot_eager`."""
    backend = argument(node, "backend") if isinstance(node, ast.Call) else None
    return text_of(backend) in ("eager", "aot_eager")


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
    """Report an autocast region that does not apply to MPS: `torch.autocast("cuda")` in all its spellings.

    A region that is switched off for another device is reported where it holds ops that an `autocast("mps")` around
    it would still cast.
    """
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
    """Return whether the region is visible and holds no op that autocast may run in half precision."""
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
    """Return the device type that an expression has where tensors are on MPS; None when it cannot be derived."""
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
    """Report a gradient scaler for CUDA: `GradScaler()`, `GradScaler("cuda")`."""
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
    """Report a question about CUDA's autocast: `torch.is_autocast_enabled()` without a device, the `gpu` functions."""
    called = position.called
    if called not in _QUERIES:
        return
    if "gpu" in called:
        yield Hit("MPS204", node, f"{called}() asks about CUDA's autocast.")
    elif not node.args and not node.keywords:
        yield Hit("MPS204", node, f"{called}() without a device asks about CUDA's autocast.")
    elif is_cuda_text(text_of(node.args[0]) if node.args else None):
        yield Hit("MPS204", node, f'{called}("cuda") asks about CUDA\'s autocast.', Level.NOTE)
