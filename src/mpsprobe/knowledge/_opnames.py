"""The spellings of an op that users paste, which differ between error messages, traces, FX graphs and Python code."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from mpsprobe import toml

#: Python modules that became prefixes of ATen names: `torch.linalg.svd` is `aten::linalg_svd`.
_PREFIXED = ("fft", "linalg", "special", "sparse")

#: Python modules whose function names are ATen names.
_PLAIN = (
    "torch.nn.functional.",
    "nn.functional.",
    "torch.functional.",
    "torch.Tensor.",
    "torch._C._nn.",
    "torch.",
)


def qualified(op: str) -> str:
    """Return an overload name with its namespace and without `.default`, as PyTorch's error messages write it.

    `aten.add.Tensor`, `torch.ops.aten.add.Tensor` and `add.Tensor` give `aten::add.Tensor`.
    """
    name = op.strip().strip("'\"`").removesuffix("()")
    name = name.removeprefix("torch.ops.").removeprefix("torch._ops.")
    if "::" not in name:
        namespace, dot, rest = name.partition(".")
        name = (
            f"{namespace}::{rest}"
            if dot and namespace in {"aten", "mps", "quantized", "prims"}
            else f"aten::{name}"
        )
    return name.removesuffix(".default")


def below_torch(op: str) -> str:
    """Return the name of a Python function relative to `torch`: `nn.functional.gelu` for `F.gelu`."""
    name = op.strip().strip("'\"`").removesuffix("()").removeprefix("torch.")
    return f"nn.functional.{name[2:]}" if name.startswith("F.") else name


def python_name(op: str) -> str | None:
    """Return the ATen base name for a Python function's name; None when `op` is not written as one."""
    name = op.strip().strip("'\"`").removesuffix("()")
    if name.startswith("F."):
        name = f"torch.{below_torch(name)}"
    for prefix in _PLAIN:
        if name.startswith(prefix) and not name.startswith("torch.ops."):
            name = name.removeprefix(prefix)
            break
    else:
        if name.partition(".")[0] not in _PREFIXED:
            return None
    module, dot, rest = name.partition(".")
    if dot and module in _PREFIXED:
        return f"aten::{module}_{rest}"
    return f"aten::{name}"


def module_functions(op: str) -> tuple[str, ...]:
    """Return the ATen base names that a module of `torch.nn` may call, such as `conv2d` for `torch.nn.Conv2d`.

    The name of a module without data is converted to snake case, with and without suffixes of classes (`_loss`, a
    number of dimensions). Empty when `op` is not written as a module.
    """
    name = op.strip().strip("'\"`").removesuffix("()").removeprefix("torch.")
    class_name = name.removeprefix("nn.")
    if not re.fullmatch(r"[A-Z]\w*", class_name):
        return ()
    known = _modules().functions.get(class_name)
    if known is None:
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", class_name).lower()
        known = (snake, snake.removesuffix("_loss"), re.sub(r"\d+d$", "", snake), snake.replace("_", ""))
    return tuple(f"aten::{function}" for function in dict.fromkeys(known))


class _ModuleFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    functions: dict[str, tuple[str, ...]]


@functools.cache
def _modules() -> _ModuleFile:
    return toml.load(Path(__file__).parent / "data" / "modules.toml", _ModuleFile)


def base(op: str) -> str:
    """Return the name without its overload: `aten::add` for `aten::add.Tensor`."""
    namespace, _, name = op.partition("::")
    return f"{namespace}::{name.partition('.')[0]}"


def suggestions(op: str, known: Collection[str], limit: int = 3) -> list[str]:
    """Return known names that a misspelt one may mean, best first."""
    wanted = _letters(op)
    namespace = op.partition("::")[0]
    same = (name for name in known if name.partition("::")[0] == namespace)
    by_letters: dict[str, str] = {}
    for name in sorted(same, key=lambda name: ("::_" in name, name)):  # public names before internal ones
        by_letters.setdefault(_letters(base(name)), base(name))
    if wanted in by_letters:
        return [by_letters[wanted]]
    close = difflib.get_close_matches(wanted, by_letters, n=limit, cutoff=0.7)
    return [by_letters[letters] for letters in close]


def _letters(op: str) -> str:
    return re.sub(r"[^a-z0-9]", "", op.partition("::")[2].lower())


def overloads(wanted: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the overloads of one base name: the most common first, `.out` and named-dimension variants last."""
    found = [name for name in known if base(name) == wanted]
    return tuple(sorted(found, key=_rarity))


def _rarity(name: str) -> tuple[bool, bool, bool, str]:
    return "imname" in name, name.endswith("out"), not name.endswith(".Tensor"), name


@functools.cache
def opinfo_ops() -> Mapping[str, tuple[str, ...]]:
    """Return the overloads (without `aten::`) that the CPU samples of each OpInfo run, by `name:variant`."""
    path = Path(__file__).parent / "data" / "ops" / "opinfo.json"
    return msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[str, ...]])


def run_by(function: str) -> tuple[str, ...]:
    """Return the overloads that PyTorch's operator tests run for a Python function, such as `nn.functional.gelu`."""
    found = {
        op for name, called in opinfo_ops().items() if name.partition(":")[0] == function for op in called
    }
    return tuple(f"aten::{op}" for op in sorted(found))
