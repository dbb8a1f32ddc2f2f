"""Device choices of programs: MPS replaced by the CPU, lists without MPS, "cuda" passed on by position."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from mpsprobe.scan.detect.devices import cuda_text, places
from mpsprobe.scan.position import Hit, Position, argument, on, on_call, text_of

#: Functions that take a text and do not place anything by it.
_READERS = frozenset(
    """
    startswith endswith split rsplit partition replace strip join format find index count lower upper print log
    info debug warning warn error exception critical append add remove discard insert extend get pop setdefault
    getattr hasattr setattr delattr getenv isinstance issubclass len str repr autocast maybe_autocast GradScaler
    Generator custom_fwd custom_bwd custom_op register_kernel register_fake register_autocast impl define
    Library Literal skipif skip skipIf mark param parametrize add_argument option Option Argument Choice Field
    field cast TypeVar import_module find_spec match search fullmatch compile sub assertEqual assertIn
    assertTrue raises device to load type set_default_device is_autocast_enabled get_autocast_dtype
    set_autocast_enabled set_autocast_dtype
    """.split()  # noqa: SIM905 - a list of one name a line is two pages
)
_ERRORS = re.compile(r"(Error|Exception|Warning)$")
_DEVICE_WORDS = re.compile(r"device|^dev$", re.IGNORECASE)


@on(ast.Call)
def handed_on(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report a CUDA device that is passed to other code by position: `Pipeline(path, "cuda")`."""
    last = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if last in _READERS or _ERRORS.search(last) or position.failure_is_handled:
        return
    if position.name(node.func).startswith(
        "torch."
    ):  # torch's functions take a device by keyword; `placement` covers the others
        return
    for given in node.args:
        text = cuda_text(given, position) if not isinstance(given, ast.Starred) else None
        if text is not None and id(given) not in position.reported:
            yield Hit("MPS110", given, f"{last or 'a call'}(... {text} ...) hands on a CUDA device.")


@on(ast.If)
def turned_away(node: ast.If, _position: Position) -> Iterator[Hit]:
    """Report code that replaces MPS by the CPU: `if device == "mps": device = "cpu"`."""
    if not _asks_for_mps(node.test):
        return
    for statement in node.body:
        if isinstance(statement, ast.Assign) and _is_cpu(statement.value):
            for target in statement.targets:
                name = target.id if isinstance(target, ast.Name) else getattr(target, "attr", "")
                if places(name):
                    yield Hit("MPS111", statement, f"{name} becomes the CPU where MPS was asked for.")


def _asks_for_mps(test: ast.expr) -> bool:
    """Return whether a condition is true for the device MPS."""
    if isinstance(test, ast.BoolOp):
        return isinstance(test.op, ast.Or) and any(_asks_for_mps(one) for one in test.values)
    if isinstance(test, ast.Call):
        ends = isinstance(test.func, ast.Attribute) and test.func.attr == "startswith"
        return ends and bool(test.args) and text_of(test.args[0]) == "mps"
    if not (isinstance(test, ast.Compare) and len(test.ops) == 1):
        return False
    left, right = test.left, test.comparators[0]
    if isinstance(test.ops[0], ast.Eq):
        return any(text_of(_inner(one)) == "mps" for one in (left, right))
    if isinstance(test.ops[0], ast.In):
        return text_of(left) == "mps" or "mps" in _texts(right)
    return False


def _inner(node: ast.expr) -> ast.expr:
    """Return the argument of a call with only one, such as `torch.device("mps")`; any other node unchanged."""
    return node.args[0] if isinstance(node, ast.Call) and len(node.args) == 1 else node


def _is_cpu(node: ast.expr) -> bool:
    return text_of(_inner(node)) == "cpu"


@on(ast.Compare)
def list_without_mps(node: ast.Compare, position: Position) -> Iterator[Hit]:
    """Report a list of devices that rejects MPS: `if device not in ("cuda", "cpu"): raise`."""
    if len(node.ops) != 1 or not isinstance(node.ops[0], (ast.In, ast.NotIn)):
        return
    texts = _texts(position.value(node.comparators[0]))
    if "cuda" not in texts or "cpu" not in texts or "mps" in texts:
        return
    if not _DEVICE_WORDS.search(ast.unparse(node.left)):
        return
    if _refuses(node, position):
        yield Hit("MPS112", node, f"MPS is not among the devices that are let through: {', '.join(texts)}.")


def _refuses(node: ast.Compare, position: Position) -> bool:
    """Return whether the code raises for a device that is not in the list."""
    around = [one for one in position.parents if isinstance(one, (ast.If, ast.Assert))]
    if not around:
        return False
    last = around[-1]
    if isinstance(last, ast.Assert):
        return isinstance(node.ops[0], ast.In) and any(one is node for one in ast.walk(last.test))
    if not any(one is node for one in ast.walk(last.test)):
        return False
    branch = last.body if isinstance(node.ops[0], ast.NotIn) else last.orelse
    return bool(branch) and isinstance(branch[-1], ast.Raise)


@on_call("add_argument", "option", "Option", "Argument", "Choice")
def choices_without_mps(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report an option that offers CUDA and not MPS: `choices=["cuda", "cpu"]`, `click.Choice(["cuda", "cpu"])`."""
    last = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    given = argument(node, "choices", 0 if last == "Choice" else None)
    texts = _texts(position.value(given)) if given is not None else []
    if "cuda" in texts and "mps" not in texts:
        yield Hit("MPS112", given or node, f"MPS is not among the choices: {', '.join(texts)}.")


def _texts(node: ast.expr) -> list[str]:
    """Return the strings of a list, tuple or set that holds strings only; empty for any other expression."""
    if not isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return []
    found = [text_of(one) for one in node.elts]
    return [] if None in found else [text for text in found if text is not None]
