"""The form of an advisory, of the examples its author gives, and of the ranges it holds for."""

from __future__ import annotations

import enum
import re
from functools import lru_cache

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from mpsprobe.errors import DataError, UsageError
from mpsprobe.knowledge._conditions import Conditions, Mode, Scalar, every
from mpsprobe.knowledge._recorded import tensor
from mpsprobe.run import OpUse


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
        """Return the op use that the example describes."""
        return OpUse(
            op=self.op,
            inputs=[tensor(text) for text in self.inputs],
            outputs=[tensor(text) for text in self.outputs],
            scalars=dict(self.scalars),
        )


class Advisory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One known-bad combination.

    Attributes:
        id: stable, kebab-case, e.g. `"sdpa-decode-half-long-keys"`.
        title: what goes wrong, as one sentence without a full stop.
        torch: releases it is known for, as a version specifier; empty: all; left out: the sources name none.
        torch_maybe: releases for which the sources do not say; a match there is `possible`.
        macos, macos_maybe: the same two specifiers for the version of macOS.
        chips: chips it is known for (`"M1"` stands for all M1, `"M1 Max"` for that one); empty: all.
        ops: overloads (`"aten::add.Tensor"`) or names without one (`"aten::add"`: every overload of it).
            Empty for what no single op shows, such as start-up errors.
        when: cases, any of which is enough; none: every use of the ops. Without ops, cases hold nothing but
            conditions in words, and it is never more than possible.
        symptom, severity: see their types.
        fix: what to do about it.
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
    when: list[Conditions] = []
    symptom: Symptom
    severity: Severity
    fix: str
    first_good: str = ""
    links: list[str]
    confirmed: str
    probe: str = ""
    examples: list[Example] = []

    def concerns(self, torch: str, macos: str | None, chip: str | None) -> bool | None:
        """Whether it is about this torch, macOS and chip; None when that is not known."""
        return every(self.facts(torch, macos, chip).values())

    def facts(self, torch: str, macos: str | None, chip: str | None) -> dict[str, bool | None]:
        """Return what the advisory requires of a Mac, in words, each with whether it holds; None: not known.

        Raises:
            UsageError: a version cannot be read.
        """
        facts = {
            f"whether torch {torch} has it": within(torch, self.torch, self.torch_maybe),
            "the chip": is_chip(chip, self.chips),
        }
        if self.macos:
            words = f"whether macOS {macos} has it" if macos else "the macOS version"
            facts[words] = within(macos, self.macos, self.macos_maybe) if macos else None
        return facts


@lru_cache(maxsize=64)
def _version(text: str) -> Version:
    try:
        return Version(Version(text).public)
    except InvalidVersion as problem:
        hint = "Give one such as 2.8.0 (torch) or 15.5 (macOS)."
        raise UsageError(f"{text!r} is no version.", hint) from problem


@lru_cache(maxsize=512)
def _specifiers(text: str) -> SpecifierSet:
    try:
        return SpecifierSet(text, prereleases=True)
    except InvalidSpecifier as problem:
        raise DataError(f"{text!r} is no version specifier.") from problem


@lru_cache(maxsize=4096)
def within(version: str, known: str | None, maybe: str | None) -> bool | None:
    """Whether `version` lies in the range; None in the range of which nobody knows.

    A build (`2.8.0+cpu`) counts as its release; a nightly comes before its release.
    """
    parsed = _version(version)
    if known is not None and _specifiers(known).contains(parsed):
        return True
    return None if maybe is not None and _specifiers(maybe).contains(parsed) else False


def is_chip(chip: str | None, chips: list[str]) -> bool | None:
    """Whether `chip` is one of them; None when it names no chip that we can tell (a virtual machine's does not)."""
    if not chips:
        return True
    words = re.findall(r"\w+", (chip or "").lower())
    if not any(re.fullmatch(r"m\d+|intel", word) for word in words):
        return None
    return any(all(word in words for word in known.lower().split()) for known in chips)
