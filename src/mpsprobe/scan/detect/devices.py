"""CUDA devices by name: where tensors are placed, in defaults, in generators, and in calls of torch.cuda."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from mpsprobe.scan.lookup import torch_cuda
from mpsprobe.scan.names import Function
from mpsprobe.scan.position import Hit, Position, argument, on, on_call, on_torch_call, text_of
from mpsprobe.scan.truth import is_cuda_text

#: `device`, `map_location`, `torch_device`, `device_map` and so on, but not `device_type`, which places nothing.
_PLACE = re.compile(r"(device|device_map|map_location|devices)(_id)?$|^dev$", re.IGNORECASE)
_TENSOR_TYPE = re.compile(r"torch\.cuda\.\w*Tensor$")
#: Calls whose device other rules cover.
_OTHER_RULES = {"Generator", "autocast", "maybe_autocast", "GradScaler", "custom_fwd", "custom_bwd"}
_CUDA_QUESTION = re.compile(r"cuda\.(is_available|device_count)$|is_(torch_)?cuda_available$")
_CUDA_FLAG = re.compile(r"\b(use|no|has)_cuda$|\.cuda$")
_CUDA_FORWARDS = {"cuda", "to_cuda", "to_gpu"}


def places(name: str) -> bool:
    """Return whether a variable of this name, such as `device` or `map_location`, states where tensors are placed."""
    return _PLACE.search(name) is not None


def cuda_text(node: ast.expr | None, position: Position) -> str | None:
    """Return the text of the CUDA device that an expression states; None when it states none, or may be another."""
    if node is None:
        return None
    if isinstance(node, ast.Constant):
        return repr(node.value).replace("'", '"') if is_cuda_text(node.value) else None
    if isinstance(node, ast.JoinedStr):
        first = text_of(node.values[0]) if node.values else None
        return f'f"{first}..."' if first in ("cuda:", "cuda") else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mod)):
        left = text_of(node.left)
        return f'"{left}"...' if left is not None and re.fullmatch(r"cuda:(%[sd])?", left) else None
    if isinstance(node, ast.Name) and not places(node.id):
        value = position.scope.only(node.id)
        return cuda_text(value, position) if value is not None and not isinstance(value, ast.Name) else None
    if isinstance(node, ast.IfExp):
        taken = position.truth.choose(node, position.scope)
        return cuda_text(taken, position) if taken is not None else None
    return None


def _is_forwarded(position: Position) -> bool:
    """Return whether a CUDA call is in a function called `cuda`, `to_cuda` or `to_gpu`, or its failure is handled."""
    return position.failure_is_handled or any(
        function.name in _CUDA_FORWARDS for function in position.functions
    )


@on_call("cuda")
def cuda_method(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report `x.cuda()`, which raises in a PyTorch without CUDA."""
    if isinstance(node.func, ast.Attribute) and not _is_forwarded(position):
        yield Hit("MPS101", node, ".cuda() places it on a CUDA device.")


@on_call("to", "device", "set_default_device", "load")
def placement(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report a CUDA device in a call that places tensors: `x.to("cuda")`, `torch.load(file, "cuda")`."""
    called = position.called
    last = called.rpartition(".")[2] or "to"
    if last == "load":
        place = argument(node, "", 1) if called == "torch.load" else None
    elif last == "to" or called in ("torch.device", "torch.set_default_device"):
        place = argument(node, "", 0)
    else:
        place = None
    text = cuda_text(place, position)
    if isinstance(position.parents[-1], ast.Compare):
        return  # device == torch.device("cuda") only asks
    if text is not None and id(node) not in position.reported and not _is_forwarded(position):
        yield Hit("MPS101", node, f"{last}({text}) names a CUDA device.")


@on_call("type", "set_default_tensor_type")
def tensor_type(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report a conversion to a CUDA type: `x.type("torch.cuda.FloatTensor")`."""
    kind = (text_of(node.args[0]) or position.name(node.args[0])) if node.args else ""
    if _TENSOR_TYPE.match(kind) and not _is_forwarded(position):
        yield Hit("MPS101", node, f"{kind} makes CUDA tensors.")


@on(ast.keyword)
def placed_by_keyword(node: ast.keyword, position: Position) -> Iterator[Hit]:
    """Report a CUDA device in a keyword: `torch.zeros(2, device="cuda")`, `device_map={"": "cuda"}`."""
    call = position.parents[-1]
    if not node.arg or not places(node.arg) or not isinstance(call, ast.Call) or _is_forwarded(position):
        return
    if position.called_by(call).rpartition(".")[2] in _OTHER_RULES:
        return
    text = cuda_text(node.value, position) or _in_dict(node.value, position)
    if text is not None:
        yield Hit("MPS101", node, f"{node.arg}={text} names a CUDA device.")


@on_call("get", "pop", "getattr", "setdefault", "getenv")
def fallback_value(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report CUDA as the value of a missing entry: `kwargs.get("device", "cuda")`."""
    if len(node.args) >= 2:
        name, default = text_of(node.args[-2]), cuda_text(node.args[-1], position)
        if default is not None and name is not None and places(name):
            yield Hit("MPS102", node, f"{name!r} is {default} unless it is given.")


@on_call("add_argument", "option", "Option", "Argument", "Field", "field")
def option(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report a command-line option whose default is CUDA: `add_argument("--device", default="cuda")`."""
    text = cuda_text(argument(node, "default"), position)
    if text is not None:
        name = next((name for name in map(text_of, node.args) if name), "it")
        yield Hit("MPS102", node, f"{name} defaults to {text}.")


def _in_dict(node: ast.expr, position: Position) -> str | None:
    """Return the first CUDA device among the values of a dict such as `{"": "cuda"}`; None without one."""
    if not isinstance(node, ast.Dict):
        return None
    return next((text for value in node.values if (text := cuda_text(value, position))), None)


@on(ast.FunctionDef, ast.AsyncFunctionDef)
def defaults(node: Function, position: Position) -> Iterator[Hit]:
    """Report a parameter whose default is CUDA: `def f(x, device="cuda")`."""
    arguments = [*node.args.posonlyargs, *node.args.args]
    pairs = list(zip(arguments[len(arguments) - len(node.args.defaults) :], node.args.defaults, strict=True))
    pairs += [
        (a, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d is not None
    ]
    for parameter, default in pairs:
        text = cuda_text(default, position) or _device_call(default, position)
        if text is not None and (places(parameter.arg) or isinstance(default, ast.Call)):
            position.reported.add(id(default))
            yield Hit("MPS102", default, f"{node.name}({parameter.arg}={text}) defaults to a CUDA device.")


def _device_call(node: ast.expr, position: Position) -> str | None:
    if isinstance(node, ast.Call) and position.called_by(node) == "torch.device" and node.args:
        text = cuda_text(node.args[0], position)
        return f"torch.device({text})" if text else None
    return None


@on(ast.Assign, ast.AnnAssign)
def assignments(node: ast.Assign | ast.AnnAssign, position: Position) -> Iterator[Hit]:
    """Report CUDA as the value of a variable or field: `device = "cuda"`."""
    if node.value is None:
        return
    text = cuda_text(node.value, position)
    if text is None:
        return
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        name = target.id if isinstance(target, ast.Name) else getattr(target, "attr", "")
        if not places(name):
            continue
        if position.in_class_body:
            yield Hit("MPS102", node.value, f"{name} is {text} unless it is given.")
        elif not isinstance(target, ast.Name) or len(position.scope.values(name)) == 1:
            yield Hit("MPS101", node.value, f"{name} is {text}, whatever machine this is.")


@on(ast.Dict)
def entries(node: ast.Dict, position: Position) -> Iterator[Hit]:
    """Report CUDA as the value in a dict: `{"device": "cuda"}`."""
    for key, value in zip(node.keys, node.values, strict=True):
        name, text = text_of(key), cuda_text(value, position)
        if name and text is not None and places(name):
            yield Hit("MPS102", value, f"{name!r} is {text} unless it is given.")


@on(ast.IfExp)
def choice(node: ast.IfExp, position: Position) -> Iterator[Hit]:
    """Report a choice that never takes MPS: `"cuda" if torch.cuda.is_available() else "cpu"`."""
    if id(node) in position.reported or not _asks_for_cuda(node.test, position):
        return
    taken, left = _leaf(node, position), _leaf_of_cuda(node, position)
    if taken is None or left is None:
        return
    position.reported.update(id(inner) for inner in ast.walk(node) if isinstance(inner, ast.IfExp))
    yield Hit("MPS107", node, f"On a Mac this device choice gives {taken}.")


def _asks_for_cuda(test: ast.expr, position: Position) -> bool:
    """Return whether a condition that is decidable on a Mac asks whether the machine has CUDA."""
    if position.truth.of(test, position.scope) is None:
        return False
    test = position.value(test)
    return any(
        (isinstance(node, ast.Call) and _CUDA_QUESTION.search(position.called_by(node)) is not None)
        or (isinstance(node, (ast.Name, ast.Attribute)) and _CUDA_FLAG.search(ast.unparse(node)) is not None)
        for node in ast.walk(test)
    )


def _leaf(node: ast.expr, position: Position) -> str | None:
    """Return the value that a chain of conditional expressions has on a Mac, if it is the CPU; else None."""
    while isinstance(node, ast.IfExp):
        taken = position.truth.choose(node, position.scope)
        if taken is None:
            return None
        node = taken
    if isinstance(node, ast.Call) and position.called_by(node) == "torch.device" and node.args:
        node = node.args[0]
    if isinstance(node, ast.Constant) and (node.value == "cpu" or node.value is None):
        return repr(node.value).replace("'", '"') if node.value else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return "-1, the CPU," if ast.unparse(node) == "-1" else None
    return None


def _leaf_of_cuda(node: ast.IfExp, position: Position) -> str | None:
    """Return the text of the branch that names CUDA, or `"0"`, the first GPU in pipelines; None without one."""
    for arm in (node.body, node.orelse):
        inner = arm.args[0] if isinstance(arm, ast.Call) and arm.args else arm
        text = cuda_text(inner, position)
        if text is not None:
            return text
        if isinstance(inner, ast.Constant) and inner.value == 0 and inner.value is not False:
            return "0"
        if isinstance(inner, ast.IfExp):
            return _leaf_of_cuda(inner, position)
    return None


@on(ast.If)
def branch_choice(node: ast.If, position: Position) -> Iterator[Hit]:
    """Report an `if` that chooses between CUDA and the CPU, so that MPS is never taken."""
    if position.truth.of(node.test, position.scope) is not False or not _asks_for_cuda(node.test, position):
        return
    body, orelse = _assigned(node.body), _assigned(node.orelse)
    for name in body.keys() & orelse.keys():
        cuda = cuda_text(_device_argument(body[name]), position)
        if cuda and places(name) and _leaf(orelse[name], position):
            values = position.scope.values(name)
            if not any(value is not None and "mps" in ast.unparse(value) for _, value in values):
                yield Hit("MPS107", node, f"On a Mac {name} is the CPU here.")


def _device_argument(node: ast.expr) -> ast.expr:
    return node.args[0] if isinstance(node, ast.Call) and node.args else node


def _assigned(body: list[ast.stmt]) -> dict[str, ast.expr]:
    return {
        ast.unparse(target): statement.value
        for statement in body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, (ast.Name, ast.Attribute))
    }


@on(ast.Assert)
def demand(node: ast.Assert, position: Position) -> Iterator[Hit]:
    """Report an assertion that fails on a Mac: `assert torch.cuda.is_available()`."""
    if position.truth.of(node.test, position.scope) is False and "cuda" in ast.unparse(node.test).lower():
        yield Hit("MPS106", node, "This assertion fails for tensors on MPS, and without CUDA.")


@on(ast.If)
def refusal(node: ast.If, position: Position) -> Iterator[Hit]:
    """Report code that raises without CUDA: `if not torch.cuda.is_available(): raise ...`."""
    if (
        node.body
        and isinstance(node.body[-1], ast.Raise)
        and "cuda" in ast.unparse(node.test).lower()
        and position.truth.of(node.test, position.scope) is True
    ):
        yield Hit("MPS106", node.body[-1], "This raises for tensors on MPS, or without CUDA.")


@on_call("Generator")
def cuda_generator(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report a random generator on CUDA: `torch.Generator(device="cuda")`."""
    if position.called == "torch.Generator" and not position.failure_is_handled:
        text = cuda_text(argument(node, "device", 0), position)
        if text is not None:
            yield Hit("MPS701", node, f"torch.Generator({text}) raises without CUDA.")


@on(ast.keyword)
def cpu_generator(node: ast.keyword, position: Position) -> Iterator[Hit]:
    """Report a CPU generator for values on another device: `torch.randn(2, generator=g, device=device)`."""
    call = position.parents[-1]
    if node.arg != "generator" or not isinstance(call, ast.Call):
        return
    generator, device = node.value, argument(call, "device")
    if device is None or not position.called_by(call).startswith("torch."):
        return
    place = position.value(device)
    if text_of(place) == "cpu" or (isinstance(place, ast.Constant) and place.value is None):
        return
    if _is_on_cpu(generator, position):
        yield Hit("MPS702", node, f"A CPU generator, and a device ({ast.unparse(device)}) that may be MPS.")


def _is_on_cpu(node: ast.expr, position: Position) -> bool:
    """Return whether an expression is `torch.Generator()` or `torch.Generator("cpu")`, seeded or not."""
    node = position.value(node)
    while isinstance(node, ast.Call):
        if position.called_by(node) == "torch.Generator":
            device = argument(node, "device", 0)
            return device is None or text_of(position.value(device)) == "cpu"
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("manual_seed", "set_state"):
            node = position.value(node.func.value)
            continue
        return False
    return False


@on_torch_call
def torch_cuda_call(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report a call of a `torch.cuda` function that raises, or does nothing, on a Mac."""
    called = position.called
    if not called.startswith("torch.cuda."):
        return
    name = called.removeprefix("torch.cuda.")
    table = torch_cuda()
    if name in table.nothing:
        yield Hit("MPS104", node, f"{called}() does nothing on a Mac.")
    elif name in table.seeds:
        if not _is_seeded(position):
            yield Hit("MPS703", node, f"{called}() seeds nothing on a Mac.")
    elif position.failure_is_handled:
        return
    elif name in table.streams:
        yield Hit("MPS105", node, f"{called}() raises without CUDA.")
    elif name in table.raises:
        yield Hit("MPS103", node, f"{called}() raises without CUDA.")


def _is_seeded(position: Position) -> bool:
    """Return whether the same function (or module) also calls `torch.manual_seed`, which seeds every device."""
    return any(
        isinstance(node, ast.Call)
        and position.called_by(node) in ("torch.manual_seed", "torch.random.manual_seed")
        for node in ast.walk(position.scope.node)
    )


@on(ast.Subscript)
def default_generators(node: ast.Subscript, position: Position) -> Iterator[Hit]:
    """Report `torch.cuda.default_generators[i]`: the tuple is empty without CUDA."""
    if position.name(node.value) == "torch.cuda.default_generators" and not position.failure_is_handled:
        yield Hit("MPS103", node, "torch.cuda.default_generators is empty without CUDA: IndexError.")


@on(ast.keyword)
def pinned_by_keyword(node: ast.keyword, _position: Position) -> Iterator[Hit]:
    """Report `DataLoader(pin_memory=True)`, which warns on a Mac and has no effect."""
    if node.arg == "pin_memory" and isinstance(node.value, ast.Constant) and node.value.value is True:
        yield Hit("MPS108", node, "pin_memory=True gains nothing on a Mac.")


@on_call("pin_memory")
def pinned(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report `x.pin_memory()`, which raises in some releases and gains nothing in a Mac's shared memory."""
    if isinstance(node.func, ast.Attribute) and position.names.knows("torch"):
        yield Hit("MPS108", node, ".pin_memory() gains nothing on a Mac, and raises in older releases.")


@on_call("init_process_group", "new_group", "init_distributed")
def process_group(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report a process group with NCCL, which macOS does not have: `init_process_group("nccl")`."""
    last = position.called.rpartition(".")[2]
    backend = argument(node, "backend", 2 if last == "new_group" else 0)
    text = text_of(position.value(backend)) if backend is not None else None
    if text is not None and text.lower() == "nccl" and not position.failure_is_handled:
        yield Hit("MPS109", node, f'{last}("nccl") raises on a Mac.')
