"""Known-bad combinations of torch, macOS, chip and op: what goes wrong, what to do, and where that was read.

Each advisory is a TOML table in `data/advisories/`; `docs/advisories.md` says how to write one. The
conditions are those of `mpsprobe.knowledge._conditions`. No torch here, and nothing is read on import.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec

from mpsprobe import toml
from mpsprobe.errors import UsageError
from mpsprobe.knowledge._advisory import Advisory, Certainty, Example, Severity, Symptom
from mpsprobe.knowledge._conditions import Case, Mode, some
from mpsprobe.run import OpUse

__all__ = [
    "Advisory",
    "Case",
    "Certainty",
    "Example",
    "Match",
    "Mode",
    "Severity",
    "Symptom",
    "applicable",
    "by_id",
    "load_all",
    "match",
    "of_op",
]

DATA = Path(__file__).parent / "data" / "advisories"


class Match(msgspec.Struct, frozen=True):
    """An advisory that an op use meets.

    Attributes:
        advisory: which.
        certainty: `possible` when a fact was not known: macOS, an argument that was not recorded ...
        unknown: what was not known, in words.
    """

    advisory: Advisory
    certainty: Certainty
    unknown: tuple[str, ...] = ()


class _File(msgspec.Struct, forbid_unknown_fields=True):
    advisory: list[Advisory]


@lru_cache(maxsize=1)
def load_all() -> tuple[Advisory, ...]:
    """Every advisory, by file and in the order of the file.

    Raises:
        DataError: a file does not have its form (names the file and the key).
    """
    return tuple(
        advisory for path in sorted(DATA.glob("*.toml")) for advisory in toml.load(path, _File).advisory
    )


def by_id(id_: str) -> Advisory:
    """The advisory called `id_`.

    Raises:
        UsageError: there is none.
    """
    for advisory in load_all():
        if advisory.id == id_:
            return advisory
    raise UsageError(f"No advisory is called {id_!r}.", "`mpsprobe advisories` lists them.")


@lru_cache(maxsize=64)
def applicable(torch: str, macos: str | None = None, chip: str | None = None) -> tuple[Match, ...]:
    """The advisories about this torch, macOS and chip, whatever runs on them.

    Args:
        torch: a release or build, e.g. `"2.8.0"` or `"2.9.0.dev20250801"`.
        macos: e.g. `"15.5"`; None when not known.
        chip: e.g. `"Apple M1 Max"` or `"m1-max-64"`; None when not known.

    Raises:
        UsageError: a version cannot be read.
    """
    found = []
    for advisory in load_all():
        facts = advisory.facts(torch, macos, chip)
        if False not in facts.values():
            unknown = tuple(words for words, holds in facts.items() if holds is None)
            found.append(Match(advisory, Certainty.POSSIBLE if unknown else Certainty.CERTAIN, unknown))
    return tuple(found)


def match(
    use: OpUse,
    torch: str,
    macos: str | None = None,
    chip: str | None = None,
    modes: frozenset[Mode] | None = None,
) -> list[Match]:
    """The advisories that `use` meets on this Mac.

    Args:
        use: an op use; its dtypes, shapes, strides and scalars are looked at.
        torch: see `applicable`.
        macos: see `applicable`.
        chip: see `applicable`.
        modes: what the use runs under; None when not known.

    Raises:
        UsageError: a version cannot be read.
    """
    found = []
    for candidate in _by_op(torch, macos, chip).get(base_name(use.op), ()):
        advisory = candidate.advisory
        if use.op not in advisory.ops and base_name(use.op) not in advisory.ops:
            continue
        answer = some(case.holds(use, modes) for case in advisory.when) if advisory.when else True
        if answer is False:
            continue
        unknown = candidate.unknown
        if answer is None:
            unknown += _unknown_of_use(advisory, use, modes)
        found.append(Match(advisory, Certainty.POSSIBLE if unknown else Certainty.CERTAIN, unknown))
    return found


def of_op(op: str) -> list[Advisory]:
    """The advisories about `op`; without an overload, those about any overload of it."""
    base = base_name(op)
    return [
        advisory
        for advisory in load_all()
        if any(name in (op, base) or (op == base and base_name(name) == base) for name in advisory.ops)
    ]


def base_name(op: str) -> str:
    """`"aten::add"` of `"aten::add.Tensor"`."""
    return op.partition(".")[0]


@lru_cache(maxsize=64)
def _by_op(torch: str, macos: str | None, chip: str | None) -> dict[str, list[Match]]:
    """What applies to this Mac, by name of op without overload: a use then looks at a few advisories only."""
    index: dict[str, list[Match]] = {}
    for candidate in applicable(torch, macos, chip):
        for name in dict.fromkeys(base_name(op) for op in candidate.advisory.ops):
            index.setdefault(name, []).append(candidate)
    return index


def _unknown_of_use(advisory: Advisory, use: OpUse, modes: frozenset[Mode] | None) -> tuple[str, ...]:
    """What kept the cases that could hold from being certain."""
    reasons: dict[str, None] = {}
    for case in advisory.when:
        if case.holds(use, modes) is None:
            reasons.update(dict.fromkeys(case.unknowns(use, modes)))
    return tuple(reasons)
