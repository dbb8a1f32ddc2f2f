"""Which NumPy expressions are float64."""

from __future__ import annotations

import ast

from mpsprobe.scan.site import Site, argument, text_of

#: Make float64 whatever they are given, unless a dtype says otherwise; the position where it can stand.
_ALWAYS = {
    "linspace": 5, "logspace": 6, "geomspace": 5, "zeros": 1, "ones": 1, "empty": 1, "eye": 3, "identity": 1,
    "hanning": None, "hamming": None, "blackman": None, "bartlett": None, "kaiser": None, "float64": None,
    "double": None,
}  # fmt: skip
_RANDOM = {
    "rand", "randn", "random", "random_sample", "uniform", "normal", "standard_normal", "beta", "gamma",
    "exponential", "lognormal", "laplace", "dirichlet",
}  # fmt: skip
#: Keep the dtype of an array, and make float64 of Python numbers.
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


def is_float64_array(node: ast.expr, site: Site, depth: int = 0) -> bool:
    """Whether an expression is surely a NumPy array (or scalar) of float64."""
    if depth > 6:
        return False
    if isinstance(node, ast.Name):
        value = site.scope.latest(node.id, node.lineno)
        return value is not None and is_float64_array(value, site, depth + 1)
    if isinstance(node, ast.BinOp):
        sides = [node.left, node.right]
        if not any(is_float64_array(side, site, depth + 1) for side in sides):
            return False
        return all(is_float64_array(side, site, depth + 1) or _is_number(side) for side in sides)
    if isinstance(node, ast.UnaryOp):
        return is_float64_array(node.operand, site, depth + 1)
    if not isinstance(node, ast.Call):
        return False
    called = site.called_by(node)
    if called.startswith(("numpy.", "np.")):
        return _numpy_call(node, called.partition(".")[2], site, depth)
    if isinstance(node.func, ast.Attribute):
        if node.func.attr == "astype":
            return _is_wide(argument(node, "dtype", 0), site)
        if node.func.attr in _METHODS_KEEP:
            return is_float64_array(node.func.value, site, depth + 1)
    return False


def _numpy_call(node: ast.Call, name: str, site: Site, depth: int) -> bool:
    module, _, last = name.rpartition(".")
    dtype = argument(node, "dtype", _ALWAYS.get(last))
    if dtype is not None:
        return _is_wide(dtype, site)
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
        return _has_float(node.args[0]) or is_float64_array(node.args[0], site, depth + 1)
    return last in _OF_NUMBERS and all(_is_number(arg) for arg in node.args)


def _has_float(node: ast.expr) -> bool:
    """Whether a display of numbers, nested or not, has a float in it and nothing but numbers."""
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
    """Whether an expression is a plain Python number: constants and arithmetic of them."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float))
    if isinstance(node, ast.UnaryOp):
        return _is_number(node.operand)
    if isinstance(node, ast.BinOp):
        return _is_number(node.left) and _is_number(node.right)
    return isinstance(node, ast.Attribute) and node.attr in ("pi", "e", "inf")


def _is_wide(dtype: ast.expr | None, site: Site) -> bool:
    if dtype is None:
        return False
    name = text_of(dtype) or site.name(dtype)
    last = name.rpartition(".")[2]
    return last not in _NARROW and last in ("float64", "double", "float", "float_", "f8")
