"""How each op of each torch release runs on MPS: in a Metal kernel of PyTorch, or through MPSGraph.

An op that goes through MPSGraph costs the host some 20 µs, a native Metal kernel 1.3 µs
(https://github.com/pytorch/pytorch/issues/148219), and each release moves ops from the first to the second. The
data file is read from the macOS wheels by `tools/op_support/regimes.py`. Nothing imports torch.
"""

from __future__ import annotations

import enum
import functools
from pathlib import Path

import msgspec

_FILE = Path(__file__).parent / "data" / "regimes.json"


class Regime(str, enum.Enum):
    """What the kernel of an op reaches in the machine code of the library."""

    METAL = "M"  #: a Metal kernel of PyTorch, directly or through a dispatch stub
    GRAPH = "G"  #: MPSGraph on every path that computes
    BOTH = "B"  #: MPSGraph on some paths, a Metal kernel or an MPS matrix kernel on others
    MATRIX = "K"  #: a kernel of Metal Performance Shaders without a graph
    OTHER = "o"  #: no kernel of its own: it calls other ops, or only describes memory


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data file: `ops[name]` has one letter a release, `-` where the release has no MPS kernel of that name."""

    source: str
    wheels: list[str]
    releases: list[str]
    ops: dict[str, str]


@functools.cache
def _file() -> _File:
    return msgspec.json.decode(_FILE.read_bytes(), type=_File)


def releases() -> list[str]:
    """Return the minor releases that were read, oldest first."""
    return list(_file().releases)


@functools.cache
def regime(op: str, release: str) -> Regime | None:
    """Return how an op runs on MPS in a release.

    Args:
        op: The overload name, with or without `aten::`, such as `"aten::add.Tensor"`.
        release: The minor release, such as `"2.8"`; one newer than all known counts as the newest known.

    Returns:
        The regime; None where that release has no MPS kernel of that name, or is older than the oldest known.
    """
    known = _file()
    at = _position(release)
    if at is None:
        return None
    name = op.removeprefix("aten::")
    # `copy_` and the ops that call it end in `_copy_from`
    name = "_copy_from" if name in ("copy_", "clone", "_to_copy", "contiguous") else name
    letter = known.ops.get(name, "-" * len(known.releases))[at]
    return None if letter == "-" else Regime(letter)


def became_metal(op: str) -> str | None:
    """Return the first release from which on an op never goes through MPSGraph again; None if it still does."""
    row = _file().ops.get(op.removeprefix("aten::"))
    if row is None:
        return None
    letters = [
        (release, letter) for release, letter in zip(_file().releases, row, strict=True) if letter != "-"
    ]
    graphs = [k for k, (_, letter) in enumerate(letters) if letter in "GB"]
    if not graphs:
        return letters[0][0] if letters else None
    return letters[graphs[-1] + 1][0] if graphs[-1] + 1 < len(letters) else None


def _position(release: str) -> int | None:
    known = _file().releases
    if release in known:
        return known.index(release)
    wanted = tuple(int(part) for part in release.split(".")[:2])
    ordered = [tuple(int(part) for part in one.split(".")) for one in known]
    older = [k for k, one in enumerate(ordered) if one <= wanted]
    return older[-1] if older else None
