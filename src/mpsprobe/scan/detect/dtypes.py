"""Float64 and complex128 tensors that reach the device, including those from NumPy arrays."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from mpsprobe.scan.detect.devices import places
from mpsprobe.scan.findings import Level
from mpsprobe.scan.position import Hit, Position, argument, on_call, on_torch_call, text_of

#: NumPy functions that make float64 unless a dtype is given, with the position of that argument.
_ALWAYS = {
    "linspace": 5, "logspace": 6, "geomspace": 5, "zeros": 1, "ones": 1, "empty": 1, "eye": 3, "identity": 1,
    "hanning": None, "hamming": None, "blackman": None, "bartlett": None, "kaiser": None, "float64": None,
    "double": None,
}  # fmt: skip
_RANDOM = {
    "rand", "randn", "random", "random_sample", "uniform", "normal", "standard_normal", "beta", "gamma",
    "exponential", "lognormal", "laplace", "dirichlet",
}  # fmt: skip
#: NumPy functions that keep the dtype of an array, and make float64 of Python numbers.
_KEEPS = {"array", "asarray", "stack", "concatenate", "vstack", "hstack", "ascontiguousarray", "full"}
_OF_NUMBERS = {
    "log",
    "log2",
    "log10",
    "sqrt",
    "exp",
    "sin",
    "cos",
    "tan",
    "arctan",
    "deg2rad",
    "sum",
    "mean",
    "prod",
}
_NARROW = {
    "float32",
    "float16",
    "single",
    "half",
    "int32",
    "int64",
    "int8",
    "uint8",
    "bool",
    "bool_",
    "int",
    "complex64",
}
_METHODS_KEEP = {"reshape", "copy", "transpose", "flatten", "ravel", "squeeze", "T", "repeat", "tile"}


def is_float64_array(node: ast.expr, position: Position, depth: int = 0) -> bool:
    """Return whether an expression is certainly a NumPy array or scalar of float64."""
    if depth > 6:
        return False
    if isinstance(node, ast.Name):
        value = position.scope.latest(node.id, node.lineno)
        return value is not None and is_float64_array(value, position, depth + 1)
    if isinstance(node, ast.BinOp):
        sides = [node.left, node.right]
        if not any(is_float64_array(side, position, depth + 1) for side in sides):
            return False
        return all(is_float64_array(side, position, depth + 1) or _is_number(side) for side in sides)
    if isinstance(node, ast.UnaryOp):
        return is_float64_array(node.operand, position, depth + 1)
    if not isinstance(node, ast.Call):
        return False
    called = position.called_by(node)
    if called.startswith(("numpy.", "np.")):
        return _numpy_call(node, called.partition(".")[2], position, depth)
    if isinstance(node.func, ast.Attribute):
        if node.func.attr == "astype":
            return _is_wide(argument(node, "dtype", 0), position)
        if node.func.attr in _METHODS_KEEP:
            return is_float64_array(node.func.value, position, depth + 1)
    return False


def _numpy_call(node: ast.Call, name: str, position: Position, depth: int) -> bool:
    module, _, last = name.rpartition(".")
    dtype = argument(node, "dtype", _ALWAYS.get(last))
    if dtype is not None:
        return _is_wide(dtype, position)
    if last in _ALWAYS and not module:
        return True
    if module == "random" and last in _RANDOM:
        return True
    if module or not node.args:
        return False
    if last == "arange":
        return any(isinstance(arg, ast.Constant) and isinstance(arg.value, float) for arg in node.args)
    if last == "full":
        return len(node.args) > 1 and _has_float(node.args[1])
    if last in _KEEPS:
        return _has_float(node.args[0]) or is_float64_array(node.args[0], position, depth + 1)
    return last in _OF_NUMBERS and all(_is_number(arg) for arg in node.args)


def _has_float(node: ast.expr) -> bool:
    """Return whether an expression is a float, or a list or tuple of numbers of which at least one is a float."""
    if isinstance(node, (ast.List, ast.Tuple)):
        return (
            bool(node.elts)
            and all(_is_number(e) or _has_float(e) for e in node.elts)
            and any(_has_float(e) for e in node.elts)
        )
    if isinstance(node, ast.UnaryOp):
        return _has_float(node.operand)
    return isinstance(node, ast.Constant) and isinstance(node.value, float)


def _is_number(node: ast.expr) -> bool:
    """Return whether an expression is a Python number: a constant, arithmetic on constants, or `pi`, `e` or `inf`."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float))
    if isinstance(node, ast.UnaryOp):
        return _is_number(node.operand)
    if isinstance(node, ast.BinOp):
        return _is_number(node.left) and _is_number(node.right)
    return isinstance(node, ast.Attribute) and node.attr in ("pi", "e", "inf")


def _is_wide(dtype: ast.expr | None, position: Position) -> bool:
    if dtype is None:
        return False
    name = text_of(dtype) or position.name(dtype)
    last = name.rpartition(".")[2]
    return last not in _NARROW and last in ("float64", "double", "float", "float_", "f8")


_FLOAT64 = {"torch.float64", "torch.double"}
_COMPLEX128 = {"torch.complex128", "torch.cdouble"}
_FROM_NUMPY = {"torch.from_numpy", "torch.tensor", "torch.as_tensor", "torch.asarray"}
#: Methods between a tensor and its move that keep its dtype.
_KEEPS_DTYPE = {
    "unsqueeze", "squeeze", "view", "reshape", "permute", "transpose", "contiguous", "flatten", "clone", "detach",
    "repeat", "expand", "requires_grad_", "t", "pin_memory", "unsqueeze_", "flip", "expand_as",
}  # fmt: skip


def wide(node: ast.expr | None, position: Position) -> str | None:
    """Return the code of the rule about a dtype expression: float64 or complex128; None for any other."""
    if node is None:
        return None
    node = position.value(node)
    name = text_of(node) or position.name(node)
    if name in _FLOAT64 or name == "float64":
        return "MPS301"
    return "MPS302" if name in _COMPLEX128 or name == "complex128" else None


@on_call("to", "type", "double", "cdouble")
def conversion(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report a conversion to float64 or complex128, which MPS lacks: `x.double()`, `x.to(torch.float64)`."""
    if not isinstance(node.func, ast.Attribute):
        return
    method, receiver = node.func.attr, node.func.value
    if position.called.startswith("torch.") or any(f.name == method for f in position.functions):
        return
    if method in ("double", "cdouble"):
        if node.args or node.keywords or not position.names.knows("torch"):
            return
        code: str | None = "MPS301" if method == "double" else "MPS302"
    else:
        if method == "to" and _names_cpu(node):
            return
        code = wide(argument(node, "dtype"), position)
        for value in node.args[: 2 if method == "to" else 1]:
            code = code or wide(value, position)
    if (
        code is None
        or position.unknown_dtype_is_handled
        or on_cpu(receiver, position)
        or (isinstance(receiver, ast.Call) and _is_super(receiver))
    ):
        return
    kind = "float64" if code == "MPS301" else "complex128"
    yield Hit(
        code, node, f"{ast.unparse(node.func)[-60:]}() makes {kind}, which a tensor on MPS cannot become."
    )


@on_torch_call
def creation(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report a float64 or complex128 tensor that is created on a device that may be MPS, or moved to one afterwards.

    `torch.set_default_dtype` with such a dtype counts too.
    """
    called = position.called
    if called == "torch.set_default_dtype":
        if node.args and (code := wide(node.args[0], position)):
            yield Hit(code, node, "Every new tensor becomes float64, on the device too.")
        return
    code = wide(argument(node, "dtype"), position)
    if code is None or position.unknown_dtype_is_handled:
        return
    kind = "float64" if code == "MPS301" else "complex128"
    device = argument(node, "device")
    if device is not None:
        if not _is_cpu(device, position) and not (isinstance(device, ast.Constant) and device.value is None):
            severity = Level.WARNING if _defaults_to_cpu(device, position) else None
            yield Hit(code, node, f"{called}() makes {kind} on a device that may be MPS.", severity)
    elif (where := reaches_device(node, position)) is not None:
        yield Hit(code, node, f"{called}() makes {kind}, and {where}.")


@on_call("from_numpy", "tensor", "as_tensor", "asarray")
def from_numpy(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report a float64 array that becomes a device tensor: `torch.from_numpy(np.linspace(0, 1, 8)).to(device)`."""
    called = position.called
    if (
        called not in _FROM_NUMPY
        or not node.args
        or argument(node, "dtype", 1 if "numpy" not in called else None)
    ):
        return
    if not is_float64_array(node.args[0], position):
        return
    device = argument(node, "device")
    if device is not None:
        if not _is_cpu(device, position):
            yield Hit("MPS303", node, f"{called}() keeps NumPy's float64, on a device that may be MPS.")
    elif (where := reaches_device(node, position)) is not None:
        yield Hit("MPS303", node, f"{called}() keeps NumPy's float64, and {where}.")


def reaches_device(node: ast.Call, position: Position) -> str | None:
    """Return in words how a call's tensor reaches a device with its dtype; None when nothing shows that it does."""
    inner: ast.AST = node
    for parent in reversed(position.parents):
        if isinstance(parent, ast.Attribute) and parent.value is inner:
            inner = parent
            continue
        if isinstance(parent, ast.Call):
            if parent.func is inner and isinstance(inner, ast.Attribute):
                step = _step(parent, inner.attr, position)
                if step != "":
                    return step
                inner = parent
                continue
            called = position.called_by(parent).rpartition(".")[2]
            if called in ("register_buffer", "Parameter", "Buffer"):
                return f"{called} moves with its module"
            return None
        if isinstance(parent, (ast.Assign, ast.AnnAssign)) and parent.value is inner:
            return _later_move(parent, position)
        return None
    return None


def _step(call: ast.Call, method: str, position: Position) -> str | None:
    """Return the effect of one method in a chain: `""` continues, None ends the search, a text describes the move."""
    if method in _KEEPS_DTYPE:
        return ""
    if method == "cuda":
        return ".cuda() moves it"
    if method == "to":
        if _names_cpu(call) or _has_dtype(call, position):
            return None
        return ".to() moves it"
    return None


def _has_dtype(call: ast.Call, position: Position) -> bool:
    """Return whether `.to(...)` also converts the dtype, which `conversion` judges."""
    values = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "dtype")]
    if argument(call, "dtype") is not None or len(call.args) > 1:
        return True
    return any("dtype" in ast.unparse(value) or _is_dtype(position.name(value)) for value in values)


def _is_dtype(name: str) -> bool:
    return name.startswith("torch.") and name.rpartition(".")[2].rstrip("0123456789") in (
        "float", "bfloat", "half", "int", "long", "uint", "double", "complex", "bool",
    )  # fmt: skip


def _later_move(statement: ast.Assign | ast.AnnAssign, position: Position) -> str | None:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    if len(targets) != 1 or not isinstance(targets[0], ast.Name):
        return None
    name = targets[0].id
    if len(position.scope.bindings.get(name, ())) != 1:
        return None
    for _, around in position.scope.uses(name):
        attribute = around[-1] if around else None
        call = around[-2] if len(around) > 1 else None
        if isinstance(attribute, ast.Attribute) and isinstance(call, ast.Call) and call.func is attribute:
            step = _step(call, attribute.attr, position)
            if step:
                return f"line {call.lineno} moves it"
        elif isinstance(attribute, ast.Call) and position.called_by(attribute).rpartition(".")[2] in (
            "register_buffer",
            "Parameter",
        ):
            return f"line {attribute.lineno} makes it move with its module"
    return None


def on_cpu(node: ast.expr, position: Position, depth: int = 0) -> bool:
    """Return whether an expression is certainly on the CPU: it calls `.cpu()`, or is a NumPy array or a new tensor."""
    while True:
        if isinstance(node, ast.Call):
            called = position.called_by(node)
            if called.startswith(("numpy.", "np.")) or called in ("torch.from_numpy", "torch.Tensor"):
                return True
            if called.startswith("torch.") and called.rpartition(".")[2] in (
                "tensor", "zeros", "ones", "arange", "linspace", "eye", "rand", "randn", "full", "empty",
            ):  # fmt: skip
                device = argument(node, "device")
                return device is None or _is_cpu(device, position)
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
        if isinstance(node, ast.BinOp):  # tensors of two devices do not mix; numbers mix with either
            return on_cpu(node.left, position, depth + 1) or on_cpu(node.right, position, depth + 1)
        if isinstance(node, ast.Name) and depth < 8:
            value = position.scope.latest(node.id, node.lineno)
            return value is not None and on_cpu(value, position, depth + 1)
        return False


def _names_cpu(call: ast.Call) -> bool:
    return any(
        text_of(value) == "cpu"
        for value in (*call.args, *(k.value for k in call.keywords if k.arg and places(k.arg)))
    )


def _is_cpu(node: ast.expr, position: Position) -> bool:
    node = position.value(node)
    if isinstance(node, ast.Call) and position.called_by(node) == "torch.device" and node.args:
        node = node.args[0]
    if isinstance(node, ast.Attribute) and node.attr == "device":
        return on_cpu(node.value, position)
    return text_of(node) == "cpu" or text_of(node) == "meta"


def _defaults_to_cpu(node: ast.expr, position: Position) -> bool:
    """Return whether an expression is a parameter of the innermost function whose default is `"cpu"`."""
    if not isinstance(node, ast.Name) or not position.functions:
        return False
    arguments = position.functions[-1].args
    named = [*arguments.posonlyargs, *arguments.args]
    pairs = [*zip(reversed(named), reversed(arguments.defaults), strict=False)]
    pairs += [
        (a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None
    ]
    return any(parameter.arg == node.id and text_of(default) == "cpu" for parameter, default in pairs)


def _is_super(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id == "super"
