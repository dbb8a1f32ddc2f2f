"""Known-bad combinations of torch, macOS, chip and op: what goes wrong, what to do, and where that was read.

Each advisory is a TOML table in `data/advisories/`; `docs/advisories.md` says how to write one. The
conditions are those of `mpsprobe.knowledge._conditions`. No torch here, and nothing is read on import.
"""

from __future__ import annotations

import enum
import re
from functools import lru_cache
from pathlib import Path

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from mpsprobe import toml
from mpsprobe.errors import DataError, UsageError
from mpsprobe.knowledge._conditions import Case, Mode, Range, Scalar, every, some
from mpsprobe.run import OpUse, TensorMeta

__all__ = [
    "Advisory",
    "Case",
    "Certainty",
    "Example",
    "Match",
    "Mode",
    "Range",
    "Severity",
    "Symptom",
    "applicable",
    "by_id",
    "load_all",
    "match",
    "of_op",
]

DATA = Path(__file__).parent / "data" / "advisories"


class Symptom(str, enum.Enum):
    """What its user sees."""

    WRONG = "wrong"  #: finite values, but not the right ones, without a word
    NAN = "nan"  #: NaN or infinity where the right answer has none
    ABORT = "abort"  #: the process dies (a Metal assertion, an LLVM error, a segmentation fault)
    HANG = "hang"  #: it never ends
    LEAK = "leak"  #: memory grows from call to call
    RAISES = "raises"  #: a Python exception
    SLOW = "slow"  #: right, but far slower than it should be


class Severity(str, enum.Enum):
    """How much harm it does to somebody who does not know of it, worst first."""

    CRITICAL = "critical"  #: wrong results without a word, for shapes that ordinary models have
    HIGH = "high"  #: the same for unusual inputs, or the process dies or never ends
    MEDIUM = "medium"  #: a clear error, a leak, or a heavy loss of speed
    LOW = "low"  #: rare, or easily seen and avoided


class Certainty(str, enum.Enum):
    """Whether everything an advisory asks for is known to hold, or something was not known."""

    CERTAIN = "certain"
    POSSIBLE = "possible"


class Example(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A made-up op use with the answer its author knows to be right.

    Attributes:
        expect: whether it meets the advisory; left out where it does not.
        op: overload name; empty for an advisory that is about no op.
        torch, macos, chip: the Mac; an empty one is not known.
        inputs, outputs: tensors as `"float16[2,8]"`, or `"float16[2,8]@[1,2]"` where strides are not packed.
        scalars: other arguments, by name.
        modes: what it runs under; left out when not known.
        note: what puts it inside or outside, where that is not plain to see.
    """

    expect: Certainty | None = None
    torch: str
    op: str = ""
    macos: str = ""
    chip: str = ""
    inputs: list[str] = []
    outputs: list[str] = []
    scalars: dict[str, Scalar | list[Scalar]] = {}
    modes: list[Mode] | None = None
    note: str = ""

    def use(self) -> OpUse:
        """The op use it stands for."""
        return OpUse(
            op=self.op,
            inputs=[tensor(text) for text in self.inputs],
            outputs=[tensor(text) for text in self.outputs],
            scalars=dict(self.scalars),
        )


class Advisory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One known-bad combination.

    Attributes:
        id: stable, kebab-case, e.g. `"sdpa-decode-gqa-oob"`.
        title: what goes wrong, as one sentence without a full stop.
        torch: releases it is known for, as a version specifier; empty: all; left out: the sources name none.
        torch_maybe: releases for which the sources do not say; a match there is `possible`.
        macos, macos_maybe: macOS versions, likewise.
        chips: chips it is known for (`"M1"` stands for all M1, `"M1 Max"` for that one); empty: all.
        ops: overloads (`"aten::add.Tensor"`) or names without one (`"aten::add"`: every overload of it).
            Empty for what no single op shows, such as start-up errors.
        when: cases, any of which is enough; none: every use of the ops.
        symptom, severity: see their types.
        mend: what to do about it.
        first_good: first torch release said to be right; empty when no source says so.
        links: where it was read, the report first.
        confirmed: who said what, and when; and what the sources leave open.
        probe: name of the check that shows it on a Mac; empty when there is none.
        examples: op uses inside and outside its conditions.
    """

    id: str
    title: str
    torch: str | None = None
    torch_maybe: str | None = None
    macos: str = ""
    macos_maybe: str | None = None
    chips: list[str] = []
    ops: list[str] = []
    when: list[Case] = []
    symptom: Symptom
    severity: Severity
    mend: str
    first_good: str = ""
    links: list[str]
    confirmed: str
    probe: str = ""
    examples: list[Example] = []

    def concerns(self, torch: str, macos: str | None, chip: str | None) -> bool | None:
        """Whether it is about this torch, macOS and chip; None when a fact that it asks for is not known."""
        return every(
            (
                _within(torch, self.torch, self.torch_maybe),
                _within(macos, self.macos, self.macos_maybe) if self.macos else True,
                _is_chip(chip, self.chips),
            )
        )


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


@lru_cache(maxsize=16)
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
        answer = advisory.concerns(torch, macos, chip)
        if answer is not False:
            certainty = Certainty.POSSIBLE if answer is None else Certainty.CERTAIN
            found.append(Match(advisory, certainty, _unknown_of_mac(advisory, torch, macos, chip)))
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


_TENSOR = re.compile(r"(?P<dtype>\w+)\[(?P<shape>[\d,]*)\](@\[(?P<strides>[\d,]*)\])?")


def tensor(text: str) -> TensorMeta:
    """`"float16[2,8]"`, or `"float16[2,8]@[1,2]"` with strides, as a tensor; without strides it is packed.

    Raises:
        DataError: it is neither.
    """
    parts = _TENSOR.fullmatch(text)
    if parts is None:
        raise DataError(f"{text!r} is no tensor.", 'Write "float16[2,8]" or "float16[2,8]@[1,2]".')
    shape = _numbers(parts["shape"])
    strides = _numbers(parts["strides"]) if parts["strides"] is not None else _row_major(shape)
    if len(strides) != len(shape):
        raise DataError(f"{text!r} has {len(shape)} dimensions and {len(strides)} strides.")
    return TensorMeta(parts["dtype"], shape, strides)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",")) if text else ()


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


@lru_cache(maxsize=16)
def _by_op(torch: str, macos: str | None, chip: str | None) -> dict[str, list[Match]]:
    """What applies to this Mac, by name of op without overload: a use then looks at a few advisories only."""
    index: dict[str, list[Match]] = {}
    for candidate in applicable(torch, macos, chip):
        for name in dict.fromkeys(base_name(op) for op in candidate.advisory.ops):
            index.setdefault(name, []).append(candidate)
    return index


def _unknown_of_mac(advisory: Advisory, torch: str, macos: str | None, chip: str | None) -> tuple[str, ...]:
    facts = {
        f"whether torch {torch} has it": _within(torch, advisory.torch, advisory.torch_maybe),
        f"whether macOS {macos} has it" if macos else "the macOS version": (
            _within(macos, advisory.macos, advisory.macos_maybe) if advisory.macos else True
        ),
        "the chip": _is_chip(chip, advisory.chips),
    }
    return tuple(words for words, answer in facts.items() if answer is None)


def _unknown_of_use(advisory: Advisory, use: OpUse, modes: frozenset[Mode] | None) -> tuple[str, ...]:
    """What kept the cases that could hold from being certain."""
    reasons: dict[str, None] = {}
    for case in advisory.when:
        if case.holds(use, modes) is None:
            reasons.update(dict.fromkeys(case.unknowns(use, modes)))
    return tuple(reasons)


@lru_cache(maxsize=256)
def _specifiers(text: str) -> SpecifierSet:
    try:
        return SpecifierSet(text, prereleases=True)
    except InvalidSpecifier as problem:
        raise DataError(f"{text!r} is no version specifier.") from problem


def _within(version: str | None, known: str | None, maybe: str | None) -> bool | None:
    """Whether `version` lies in the range; None in the range of which nobody knows.

    A build (`2.8.0+cpu`) counts as its release; a nightly comes before its release.
    """
    if not version:
        return None
    try:
        parsed = Version(Version(version).public)
    except InvalidVersion as problem:
        hint = "Give one such as 2.8.0 (torch) or 15.5 (macOS)."
        raise UsageError(f"{version!r} is no version.", hint) from problem
    if known is not None and _specifiers(known).contains(parsed):
        return True
    return None if maybe is not None and _specifiers(maybe).contains(parsed) else False


def _is_chip(chip: str | None, chips: list[str]) -> bool | None:
    if not chips:
        return True
    if not chip:
        return None
    words = chip.lower().replace("-", " ").split()
    return any(all(word in words for word in known.lower().split()) for known in chips)
