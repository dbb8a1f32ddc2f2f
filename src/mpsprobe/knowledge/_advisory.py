"""The schema of an advisory, of its examples, and of the version ranges that it applies to."""

from __future__ import annotations

import enum
import re
from functools import lru_cache

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from mpsprobe.errors import DataError, UsageError
from mpsprobe.knowledge._calls import tensor
from mpsprobe.knowledge._conditions import Conditions, Mode, Scalar, every
from mpsprobe.run import OpUse


class Symptom(str, enum.Enum):
    """What a user sees of a fault: an error, wrong values, a crash, a hang, a leak or lost time."""

    WRONG = "wrong"  #: finite but wrong values, without any message
    NAN = "nan"  #: NaN or infinity where the correct result has none
    ABORT = "abort"  #: the process dies (a Metal assertion, an LLVM error, a segmentation fault)
    HANG = "hang"  #: the call never ends
    LEAK = "leak"  #: memory grows from call to call
    RAISES = "raises"  #: a Python exception
    SLOW = "slow"  #: correct, but far slower than it should be


class Severity(str, enum.Enum):
    """How much harm a fault does to a user who does not know about it, worst first."""

    CRITICAL = "critical"  #: silently wrong results for shapes that ordinary models have
    HIGH = "high"  #: silently wrong results for unusual inputs, or the process dies or never ends
    MEDIUM = "medium"  #: a clear error, a leak, or a heavy loss of speed
    LOW = "low"  #: rare, or easily noticed and avoided


class Certainty(str, enum.Enum):
    """Whether every condition of an advisory is known to hold, or one of them is unknown."""

    CERTAIN = "certain"
    POSSIBLE = "possible"


class Example(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A made-up op use on a made-up Mac, with the answer that the matcher must give for the advisory.

    Attributes:
        expect: The certainty of the match; None (the key is left out) where the advisory does not match.
        torch: The torch release.
        op: The overload name; empty for an advisory that is not about an op.
        macos: The version of macOS; empty when unknown.
        chip: The chip; empty when unknown.
        inputs: The input tensors as `"float16[2,8]"`, or as `"float16[2,8]@[1,2]"` where strides are not packed.
        outputs: The output tensors in the same notation.
        scalars: The other arguments by name.
        modes: The modes that it runs under; None when unknown.
        note: The reason why it is inside or outside the conditions, where that is not obvious.
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
        """Return the op use that the example's texts describe."""
        return OpUse(
            op=self.op,
            inputs=[tensor(text) for text in self.inputs],
            outputs=[tensor(text) for text in self.outputs],
            scalars=dict(self.scalars),
        )


class Advisory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One known fault of a combination of torch, macOS, chip and op.

    Attributes:
        id: A stable id in kebab-case, such as `"sdpa-decode-half-long-keys"`.
        title: What goes wrong, as one sentence without a full stop.
        torch: The affected releases as a version specifier; empty for all, None when the sources name none.
        torch_maybe: The releases that the sources do not cover, as a version specifier; a match there is
            `possible`.
        macos: The affected versions of macOS as a version specifier; empty for all.
        macos_maybe: The versions of macOS that the sources do not cover, as a version specifier.
        chips: The affected chips (`"M1"` covers every M1, `"M1 Max"` only that one); empty for all.
        ops: Overloads (`"aten::add.Tensor"`) or names without one (`"aten::add"`, which covers every overload).
            Empty for what no single op shows, such as errors at start-up.
        when: Alternative sets of conditions, of which one must hold; empty for every use of the ops. Without `ops`,
            a set holds only conditions in words, and a match is never more than `possible`.
        symptom: What the user sees.
        severity: How much harm it does.
        fix: What to do about it.
        first_good: The first correct torch release, as a source states it; empty when none does.
        links: The sources, the original report first.
        confirmed: Who confirmed what, and when, and what the sources leave open.
        probe: The name of the check that shows it on a Mac; empty when there is none.
        examples: Op uses inside and outside its conditions.
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
        """Return whether the advisory is about this torch, macOS and chip; None when that is unknown."""
        return every(self.facts(torch, macos, chip).values())

    def facts(self, torch: str, macos: str | None, chip: str | None) -> dict[str, bool | None]:
        """Return whether each requirement on torch, chip and macOS holds, by its name in words; None for unknown.

        Raises:
            UsageError: A version that is compared cannot be parsed.
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
    """Return whether `version` lies in the range `known`; None where it lies only in the range `maybe`.

    A build (`2.8.0+cpu`) counts as its release; a nightly comes before its release. A range that is None contains
    no version.
    """
    parsed = _version(version)
    if known is not None and _specifiers(known).contains(parsed):
        return True
    return None if maybe is not None and _specifiers(maybe).contains(parsed) else False


def is_chip(chip: str | None, chips: list[str]) -> bool | None:
    """Return whether `chip` is covered by one of `chips`; None when its name has neither `M` and a number nor `Intel`.

    An empty `chips` covers every chip. A name covers each chip whose own name has all of its words: `"M1"` covers
    `"Apple M1 Max"`.
    """
    if not chips:
        return True
    words = re.findall(r"\w+", (chip or "").lower())
    if not any(re.fullmatch(r"m\d+|intel", word) for word in words):
        return None
    return any(all(word in words for word in known.lower().split()) for known in chips)
