"""float64 and complex128 that reach the device, NumPy's included."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from mpsprobe.scan.detect.arrays import is_float64_array
from mpsprobe.scan.detect.devices import places
from mpsprobe.scan.detect.registry import on_call, on_torch_call
from mpsprobe.scan.finding import Severity
from mpsprobe.scan.site import Hit, Site, argument, text_of

_FLOAT64 = {"torch.float64", "torch.double"}
_COMPLEX128 = {"torch.complex128", "torch.cdouble"}
_FROM_NUMPY = {"torch.from_numpy", "torch.tensor", "torch.as_tensor", "torch.asarray"}
#: Steps between a tensor and its move that leave its dtype alone.
_KEEPS_DTYPE = {
    "unsqueeze", "squeeze", "view", "reshape", "permute", "transpose", "contiguous", "flatten", "clone", "detach",
    "repeat", "expand", "requires_grad_", "t", "pin_memory", "unsqueeze_", "flip", "expand_as",
}  # fmt: skip


def wide(node: ast.expr | None, site: Site) -> str | None:
    """The rule that a dtype expression falls under; None for a dtype that MPS has, or that is not known."""
    if node is None:
        return None
    node = site.value(node)
    name = text_of(node) or site.name(node)
    if name in _FLOAT64 or name == "float64":
        return "MPS301"
    return "MPS302" if name in _COMPLEX128 or name == "complex128" else None


@on_call("to", "type", "double", "cdouble")
def conversion(node: ast.Call, site: Site) -> Iterator[Hit]:
    """`x.double()`, `x.to(torch.float64)`, `x.type(torch.double)`."""
    if not isinstance(node.func, ast.Attribute):
        return
    method, receiver = node.func.attr, node.func.value
    if site.called.startswith("torch.") or any(f.name == method for f in site.functions):
        return
    if method in ("double", "cdouble"):
        if node.args or node.keywords or not site.names.knows("torch"):
            return
        code: str | None = "MPS301" if method == "double" else "MPS302"
    else:
        if method == "to" and _names_cpu(node):
            return
        code = wide(argument(node, "dtype"), site)
        for value in node.args[: 2 if method == "to" else 1]:
            code = code or wide(value, site)
    if (
        code is None
        or site.unknown_dtype_is_handled
        or on_cpu(receiver, site)
        or (isinstance(receiver, ast.Call) and _is_super(receiver))
    ):
        return
    kind = "float64" if code == "MPS301" else "complex128"
    yield Hit(
        code, node, f"{ast.unparse(node.func)[-60:]}() makes {kind}, which a tensor on MPS cannot become."
    )


@on_torch_call
def creation(node: ast.Call, site: Site) -> Iterator[Hit]:
    """`torch.zeros(..., dtype=torch.float64, device=device)`, or without a device and then moved."""
    called = site.called
    if called == "torch.set_default_dtype":
        if node.args and (code := wide(node.args[0], site)):
            yield Hit(code, node, "Every new tensor becomes float64, on the device too.")
        return
    code = wide(argument(node, "dtype"), site)
    if code is None or site.unknown_dtype_is_handled:
        return
    kind = "float64" if code == "MPS301" else "complex128"
    device = argument(node, "device")
    if device is not None:
        if not _is_cpu(device, site) and not (isinstance(device, ast.Constant) and device.value is None):
            severity = Severity.WARNING if _defaults_to_cpu(device, site) else None
            yield Hit(code, node, f"{called}() makes {kind} on a device that may be MPS.", severity)
    elif (where := reaches_device(node, site)) is not None:
        yield Hit(code, node, f"{called}() makes {kind}, and {where}.")


@on_call("from_numpy", "tensor", "as_tensor", "asarray")
def from_numpy(node: ast.Call, site: Site) -> Iterator[Hit]:
    """`torch.from_numpy(np.linspace(0, 1, 8)).to(device)`."""
    called = site.called
    if (
        called not in _FROM_NUMPY
        or not node.args
        or argument(node, "dtype", 1 if "numpy" not in called else None)
    ):
        return
    if not is_float64_array(node.args[0], site):
        return
    device = argument(node, "device")
    if device is not None:
        if not _is_cpu(device, site):
            yield Hit("MPS303", node, f"{called}() keeps NumPy's float64, on a device that may be MPS.")
    elif (where := reaches_device(node, site)) is not None:
        yield Hit("MPS303", node, f"{called}() keeps NumPy's float64, and {where}.")


def reaches_device(node: ast.Call, site: Site) -> str | None:
    """How a tensor that was made here comes to the device with its dtype; None when nothing shows that."""
    inner: ast.AST = node
    for parent in reversed(site.parents):
        if isinstance(parent, ast.Attribute) and parent.value is inner:
            inner = parent
            continue
        if isinstance(parent, ast.Call):
            if parent.func is inner and isinstance(inner, ast.Attribute):
                step = _step(parent, inner.attr, site)
                if step != "":
                    return step
                inner = parent
                continue
            called = site.called_by(parent).rpartition(".")[2]
            if called in ("register_buffer", "Parameter", "Buffer"):
                return f"{called} moves with its module"
            return None
        if isinstance(parent, (ast.Assign, ast.AnnAssign)) and parent.value is inner:
            return _later_move(parent, site)
        return None
    return None


def _step(call: ast.Call, method: str, site: Site) -> str | None:
    """What one method in a chain does: `""` goes on, None ends the matter, words tell of the move."""
    if method in _KEEPS_DTYPE:
        return ""
    if method == "cuda":
        return ".cuda() moves it"
    if method == "to":
        if _names_cpu(call) or _has_dtype(call, site):
            return None
        return ".to() moves it"
    return None


def _has_dtype(call: ast.Call, site: Site) -> bool:
    """Whether `.to(...)` converts as well: float64 there is `conversion`'s matter."""
    values = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "dtype")]
    if argument(call, "dtype") is not None or len(call.args) > 1:
        return True
    return any("dtype" in ast.unparse(value) or _is_dtype(site.name(value)) for value in values)


def _is_dtype(name: str) -> bool:
    return name.startswith("torch.") and name.rpartition(".")[2].rstrip("0123456789") in (
        "float", "bfloat", "half", "int", "long", "uint", "double", "complex", "bool",
    )  # fmt: skip


def _later_move(statement: ast.Assign | ast.AnnAssign, site: Site) -> str | None:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    if len(targets) != 1 or not isinstance(targets[0], ast.Name):
        return None
    name = targets[0].id
    if len(site.scope.bindings.get(name, ())) != 1:
        return None
    for _, around in site.scope.uses(name):
        attribute = around[-1] if around else None
        call = around[-2] if len(around) > 1 else None
        if isinstance(attribute, ast.Attribute) and isinstance(call, ast.Call) and call.func is attribute:
            step = _step(call, attribute.attr, site)
            if step:
                return f"line {call.lineno} moves it"
        elif isinstance(attribute, ast.Call) and site.called_by(attribute).rpartition(".")[2] in (
            "register_buffer",
            "Parameter",
        ):
            return f"line {attribute.lineno} makes it move with its module"
    return None


def on_cpu(node: ast.expr, site: Site, depth: int = 0) -> bool:
    """Whether an expression is plainly on the CPU: a chain with `.cpu()`, a NumPy array, a fresh tensor."""
    while True:
        if isinstance(node, ast.Call):
            called = site.called_by(node)
            if called.startswith(("numpy.", "np.")) or called in ("torch.from_numpy", "torch.Tensor"):
                return True
            if called.startswith("torch.") and called.rpartition(".")[2] in (
                "tensor", "zeros", "ones", "arange", "linspace", "eye", "rand", "randn", "full", "empty",
            ):  # fmt: skip
                device = argument(node, "device")
                return device is None or _is_cpu(device, site)
            if isinstance(node.func, ast.Attribute):
                if node.func.attr in ("cpu", "numpy") or (node.func.attr == "to" and _names_cpu(node)):
                    return True
                node = node.func.value
                continue
            return False
        if isinstance(node, (ast.Subscript, ast.Attribute)):
            node = node.value
            continue
        if isinstance(node, ast.UnaryOp):
            node = node.operand
            continue
        if isinstance(node, ast.BinOp):  # tensors of two devices do not mix, numbers go with either
            return on_cpu(node.left, site, depth + 1) or on_cpu(node.right, site, depth + 1)
        if isinstance(node, ast.Name) and depth < 8:
            value = site.scope.latest(node.id, node.lineno)
            return value is not None and on_cpu(value, site, depth + 1)
        return False


def _names_cpu(call: ast.Call) -> bool:
    return any(
        text_of(value) == "cpu"
        for value in (*call.args, *(k.value for k in call.keywords if k.arg and places(k.arg)))
    )


def _is_cpu(node: ast.expr, site: Site) -> bool:
    node = site.value(node)
    if isinstance(node, ast.Call) and site.called_by(node) == "torch.device" and node.args:
        node = node.args[0]
    if isinstance(node, ast.Attribute) and node.attr == "device":
        return on_cpu(node.value, site)
    return text_of(node) == "cpu" or text_of(node) == "meta"


def _defaults_to_cpu(node: ast.expr, site: Site) -> bool:
    """Whether a device is a parameter whose default is the CPU."""
    if not isinstance(node, ast.Name) or not site.functions:
        return False
    arguments = site.functions[-1].args
    named = [*arguments.posonlyargs, *arguments.args]
    pairs = [*zip(reversed(named), reversed(arguments.defaults), strict=False)]
    pairs += [
        (a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None
    ]
    return any(parameter.arg == node.id and text_of(default) == "cpu" for parameter, default in pairs)


def _is_super(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id == "super"
