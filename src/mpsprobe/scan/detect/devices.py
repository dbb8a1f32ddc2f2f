"""Devices by name: "cuda" where tensors are placed, in defaults, and in choices that forget MPS."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from mpsprobe.scan.detect.registry import on, on_call
from mpsprobe.scan.scope import Function
from mpsprobe.scan.site import Hit, Site, argument, text_of
from mpsprobe.scan.truth import is_cuda_text

#: `device`, `map_location`, `torch_device`, `device_map` ... but not `device_type`, which places nothing.
_PLACE = re.compile(r"(device|device_map|map_location|devices)(_id)?$|^dev$", re.IGNORECASE)
_TENSOR_TYPE = re.compile(r"torch\.cuda\.\w*Tensor$")
#: Calls whose device other rules speak of.
_OTHER_RULES = {"Generator", "autocast", "maybe_autocast", "GradScaler", "custom_fwd", "custom_bwd"}
_CUDA_QUESTION = re.compile(r"cuda\.(is_available|device_count)$|is_(torch_)?cuda_available$")
_CUDA_FLAG = re.compile(r"\b(use|no|has)_cuda$|\.cuda$")
_CUDA_FORWARDS = {"cuda", "to_cuda", "to_gpu"}


def places(name: str) -> bool:
    """Whether a name is that of something tensors are placed by."""
    return _PLACE.search(name) is not None


def cuda_text(node: ast.expr | None, site: Site) -> str | None:
    """How an expression spells a CUDA device; None when it does not, or may be something else."""
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
        value = site.scope.only(node.id)
        return cuda_text(value, site) if value is not None and not isinstance(value, ast.Name) else None
    if isinstance(node, ast.IfExp):
        taken = site.truth.choose(node, site.scope)
        return cuda_text(taken, site) if taken is not None else None
    return None


def _is_forwarded(site: Site) -> bool:
    """Whether this is `def cuda(self): ...`, which passes its caller's request on, or is caught when it fails."""
    return site.failure_is_handled or any(function.name in _CUDA_FORWARDS for function in site.functions)


@on_call("cuda")
def cuda_method(node: ast.Call, site: Site) -> Iterator[Hit]:
    """`x.cuda()`."""
    if isinstance(node.func, ast.Attribute) and not _is_forwarded(site):
        yield Hit("MPS101", node, ".cuda() places it on a CUDA device.")


@on_call("to", "device", "set_default_device", "load")
def placement(node: ast.Call, site: Site) -> Iterator[Hit]:
    """`x.to("cuda")`, `torch.device("cuda")`, `torch.load(file, "cuda")`."""
    called = site.called
    last = called.rpartition(".")[2] or "to"
    if last == "load":
        place = argument(node, "", 1) if called == "torch.load" else None
    elif last == "to" or called in ("torch.device", "torch.set_default_device"):
        place = argument(node, "", 0)
    else:
        place = None
    text = cuda_text(place, site)
    if isinstance(site.parents[-1], ast.Compare):
        return  # device == torch.device("cuda") asks
    if text is not None and id(node) not in site.reported and not _is_forwarded(site):
        yield Hit("MPS101", node, f"{last}({text}) names a CUDA device.")


@on_call("type", "set_default_tensor_type")
def tensor_type(node: ast.Call, site: Site) -> Iterator[Hit]:
    """`x.type("torch.cuda.FloatTensor")`."""
    kind = (text_of(node.args[0]) or site.name(node.args[0])) if node.args else ""
    if _TENSOR_TYPE.match(kind) and not _is_forwarded(site):
        yield Hit("MPS101", node, f"{kind} makes CUDA tensors.")


@on(ast.keyword)
def placed_by_keyword(node: ast.keyword, site: Site) -> Iterator[Hit]:
    """`torch.zeros(2, device="cuda")`, `device_map={"": "cuda"}`."""
    call = site.parents[-1]
    if not node.arg or not places(node.arg) or not isinstance(call, ast.Call) or _is_forwarded(site):
        return
    if site.called_by(call).rpartition(".")[2] in _OTHER_RULES:
        return
    text = cuda_text(node.value, site) or _in_dict(node.value, site)
    if text is not None:
        yield Hit("MPS101", node, f"{node.arg}={text} names a CUDA device.")


@on_call("get", "pop", "getattr", "setdefault", "getenv")
def fallback_value(node: ast.Call, site: Site) -> Iterator[Hit]:
    """`kwargs.get("device", "cuda")`."""
    if len(node.args) >= 2:
        name, default = text_of(node.args[-2]), cuda_text(node.args[-1], site)
        if default is not None and name is not None and places(name):
            yield Hit("MPS102", node, f"{name!r} is {default} unless it is given.")


@on_call("add_argument", "option", "Option", "Argument", "Field", "field")
def option(node: ast.Call, site: Site) -> Iterator[Hit]:
    """`parser.add_argument("--device", default="cuda")`."""
    text = cuda_text(argument(node, "default"), site)
    if text is not None:
        name = next((name for name in map(text_of, node.args) if name), "it")
        yield Hit("MPS102", node, f"{name} defaults to {text}.")


def _in_dict(node: ast.expr, site: Site) -> str | None:
    """The CUDA device in `{"": "cuda"}`."""
    if not isinstance(node, ast.Dict):
        return None
    return next((text for value in node.values if (text := cuda_text(value, site))), None)


@on(ast.FunctionDef, ast.AsyncFunctionDef)
def defaults(node: Function, site: Site) -> Iterator[Hit]:
    """`def f(x, device="cuda")`."""
    arguments = [*node.args.posonlyargs, *node.args.args]
    pairs = list(zip(arguments[len(arguments) - len(node.args.defaults) :], node.args.defaults, strict=True))
    pairs += [
        (a, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d is not None
    ]
    for parameter, default in pairs:
        text = cuda_text(default, site) or _device_call(default, site)
        if text is not None and (places(parameter.arg) or isinstance(default, ast.Call)):
            site.reported.add(id(default))
            yield Hit("MPS102", default, f"{node.name}({parameter.arg}={text}) defaults to a CUDA device.")


def _device_call(node: ast.expr, site: Site) -> str | None:
    if isinstance(node, ast.Call) and site.called_by(node) == "torch.device" and node.args:
        text = cuda_text(node.args[0], site)
        return f"torch.device({text})" if text else None
    return None


@on(ast.Assign, ast.AnnAssign)
def assignments(node: ast.Assign | ast.AnnAssign, site: Site) -> Iterator[Hit]:
    """`device = "cuda"`, as a statement or as a field of a class."""
    if node.value is None:
        return
    text = cuda_text(node.value, site)
    if text is None:
        return
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        name = target.id if isinstance(target, ast.Name) else getattr(target, "attr", "")
        if not places(name):
            continue
        if site.in_class_body:
            yield Hit("MPS102", node.value, f"{name} is {text} unless it is given.")
        elif not isinstance(target, ast.Name) or len(site.scope.values(name)) == 1:
            yield Hit("MPS101", node.value, f"{name} is {text}, whatever machine this is.")


@on(ast.Dict)
def entries(node: ast.Dict, site: Site) -> Iterator[Hit]:
    """`{"device": "cuda"}`."""
    for key, value in zip(node.keys, node.values, strict=True):
        name, text = text_of(key), cuda_text(value, site)
        if name and text is not None and places(name):
            yield Hit("MPS102", value, f"{name!r} is {text} unless it is given.")


@on(ast.IfExp)
def choice(node: ast.IfExp, site: Site) -> Iterator[Hit]:
    """`"cuda" if torch.cuda.is_available() else "cpu"`."""
    if id(node) in site.reported or not _asks_for_cuda(node.test, site):
        return
    taken, left = _leaf(node, site), _leaf_of_cuda(node, site)
    if taken is None or left is None:
        return
    site.reported.update(id(inner) for inner in ast.walk(node) if isinstance(inner, ast.IfExp))
    yield Hit("MPS107", node, f"On a Mac this device choice gives {taken}.")


def _asks_for_cuda(test: ast.expr, site: Site) -> bool:
    """Whether a condition is about this machine having CUDA, not about the device of something."""
    if site.truth.of(test, site.scope) is None:
        return False
    test = site.value(test)
    return any(
        (isinstance(node, ast.Call) and _CUDA_QUESTION.search(site.called_by(node)) is not None)
        or (isinstance(node, (ast.Name, ast.Attribute)) and _CUDA_FLAG.search(ast.unparse(node)) is not None)
        for node in ast.walk(test)
    )


def _leaf(node: ast.expr, site: Site) -> str | None:
    """What a chain of conditional expressions comes to on a Mac, when that is the CPU."""
    while isinstance(node, ast.IfExp):
        taken = site.truth.choose(node, site.scope)
        if taken is None:
            return None
        node = taken
    if isinstance(node, ast.Call) and site.called_by(node) == "torch.device" and node.args:
        node = node.args[0]
    if isinstance(node, ast.Constant) and (node.value == "cpu" or node.value is None):
        return repr(node.value).replace("'", '"') if node.value else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return "-1, the CPU," if ast.unparse(node) == "-1" else None
    return None


def _leaf_of_cuda(node: ast.IfExp, site: Site) -> str | None:
    """The arm that names CUDA (or device 0, as pipelines count)."""
    for arm in (node.body, node.orelse):
        inner = arm.args[0] if isinstance(arm, ast.Call) and arm.args else arm
        text = cuda_text(inner, site)
        if text is not None:
            return text
        if isinstance(inner, ast.Constant) and inner.value == 0 and inner.value is not False:
            return "0"
        if isinstance(inner, ast.IfExp):
            return _leaf_of_cuda(inner, site)
    return None


@on(ast.If)
def branch_choice(node: ast.If, site: Site) -> Iterator[Hit]:
    """`if torch.cuda.is_available(): device = "cuda"` / `else: device = "cpu"`."""
    if site.truth.of(node.test, site.scope) is not False or not _asks_for_cuda(node.test, site):
        return
    body, orelse = _assigned(node.body), _assigned(node.orelse)
    for name in body.keys() & orelse.keys():
        cuda = cuda_text(_device_argument(body[name]), site)
        if cuda and places(name) and _leaf(orelse[name], site):
            values = site.scope.values(name)
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
def demand(node: ast.Assert, site: Site) -> Iterator[Hit]:
    """`assert torch.cuda.is_available()`."""
    if site.truth.of(node.test, site.scope) is False and "cuda" in ast.unparse(node.test).lower():
        yield Hit("MPS106", node, "This assertion fails for tensors on MPS, and without CUDA.")


@on(ast.If)
def refusal(node: ast.If, site: Site) -> Iterator[Hit]:
    """`if not torch.cuda.is_available(): raise ...`."""
    if (
        node.body
        and isinstance(node.body[-1], ast.Raise)
        and "cuda" in ast.unparse(node.test).lower()
        and site.truth.of(node.test, site.scope) is True
    ):
        yield Hit("MPS106", node.body[-1], "This raises for tensors on MPS, or without CUDA.")
