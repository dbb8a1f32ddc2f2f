"""Check the rules for advisories that their schema cannot express; `docs/advisories.md` lists them."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from mpsprobe.errors import MpsprobeError
from mpsprobe.knowledge import advisories, ops
from mpsprobe.knowledge._calls import ITEM_SIZE
from mpsprobe.knowledge._conditions import Conditions
from mpsprobe.knowledge.advisories import Advisory, Certainty, Example, Match

#: macOS versions on which a range is tried, minor by minor; a range without any of them is a mistake.
MACOS = [f"{major}.{minor}" for major in (12, 13, 14, 15, 26, 27) for minor in range(8)]

#: Torch releases with a macOS arm64 wheel on PyPI, oldest first.
RELEASES = [
    *(
        "2.1.0",
        "2.1.1",
        "2.1.2",
        "2.2.0",
        "2.2.1",
        "2.2.2",
        "2.3.0",
        "2.3.1",
        "2.4.0",
        "2.4.1",
        "2.5.0",
        "2.5.1",
    ),
    *("2.6.0", "2.7.0", "2.7.1", "2.8.0", "2.9.0", "2.9.1", "2.10.0", "2.11.0", "2.12.0", "2.12.1", "2.13.0"),
    *("2.14.0", "2.15.0"),
]

Exists = Callable[[str, str], bool]


def lint(found: Sequence[Advisory], releases: Sequence[str], exists: Exists | None = None) -> Iterator[str]:
    """Yield one line for each breach of a rule, with the id of the advisory.

    Args:
        found: The advisories.
        releases: The torch releases, oldest first, such as `"2.7.1"`.
        exists: A function that tells whether an op (with or without overload) exists in a release; None to
            skip ops.
    """
    yield from _unique("id", [advisory.id for advisory in found])
    yield from _unique("first link", [advisory.links[0] for advisory in found if advisory.links])
    for advisory in found:
        for problem in _one(advisory, releases, exists):
            yield f"{advisory.id}: {problem}"


def op_exists(op: str, release: str) -> bool:
    """Return whether a torch release has `op`; a name without overload needs any one of its overloads."""
    return op in _names(ops.release(release).torch)


@functools.cache
def _names(release: str) -> frozenset[str]:
    names = ops.release(release).names
    return names | {advisories.base_name(name) for name in names}


def _one(advisory: Advisory, releases: Sequence[str], exists: Exists | None) -> Iterator[str]:
    yield from _form(advisory)
    broken = list(_ranges(advisory, releases))
    if broken:
        yield from broken
        return
    if exists is not None:
        about = [r for r in releases if _holds(advisory.torch, r) or _holds(advisory.torch_maybe, r)]
        for op in advisory.ops:
            if op.startswith("aten::") and not any(exists(op, release) for release in about):
                yield f"{op} exists in no release that it is about"
    yield from _examples(advisory)


def _form(advisory: Advisory) -> Iterator[str]:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", advisory.id):
        yield "id is not kebab-case"
    for field in ("title", "fix", "confirmed"):
        if not getattr(advisory, field).strip():
            yield f"{field} is empty"
    if advisory.title.endswith("."):
        yield "title ends in a full stop"
    if not advisory.links:
        yield "no link"
    yield from _unique("link", advisory.links)
    yield from _unique("op", advisory.ops)
    for link in advisory.links:
        if not link.startswith("https://"):
            yield f"{link!r} is no https address"
    for op in advisory.ops:
        if not re.fullmatch(r"\w+::\w+(\.\w+)?", op):
            yield f"{op!r} is no op name"
    for chip in advisory.chips:
        if not re.fullmatch(r"M\d+( (Pro|Max|Ultra))?|Intel", chip):
            yield f"{chip!r} is no chip"
    dtypes = {dtype for case in advisory.when for tensor in case.tensors for dtype in tensor.dtype or ()}
    for dtype in sorted(dtypes - ITEM_SIZE.keys()):
        yield f"{dtype!r} is no dtype"
    if not advisory.ops and any(
        case != Conditions(unrecorded=case.unrecorded or "?") for case in advisory.when
    ):
        yield "conditions on an op use, but no op"


def _ranges(advisory: Advisory, releases: Sequence[str]) -> Iterator[str]:
    named = (
        ("torch", advisory.torch, releases),
        ("torch_maybe", advisory.torch_maybe, releases),
        ("macos", advisory.macos, MACOS),
        ("macos_maybe", advisory.macos_maybe, MACOS),
    )
    unreadable = [field for field, text, _ in named if not _is_specifier(text)]
    if unreadable:
        yield f"{', '.join(unreadable)}: no version specifier"
        return
    for field, text, versions in named:
        if text is not None and not any(_holds(text, version) for version in versions):
            yield f"{field} = {text!r} holds no version"
    if advisory.torch is None and advisory.torch_maybe is None:
        yield "neither torch nor torch_maybe"
    if advisory.macos_maybe is not None and not advisory.macos:
        yield "macos_maybe without macos"
    if not advisory.first_good:
        return
    try:
        good = str(Version(advisory.first_good))
    except InvalidVersion:
        yield f"first_good = {advisory.first_good!r} is no version"
        return
    if _holds(advisory.torch, good) or _holds(advisory.torch_maybe, good):
        yield f"first_good {good} lies in its own range"


def _examples(advisory: Advisory) -> Iterator[str]:
    expected = {example.expect for example in advisory.examples}
    if not expected & {Certainty.CERTAIN, Certainty.POSSIBLE}:
        yield "no example inside"
    if None not in expected:
        yield "no example outside"
    for number, example in enumerate(advisory.examples, 1):
        if bool(example.op) != bool(advisory.ops):
            yield f"example {number}: an op belongs to an advisory with ops, and only there"
            continue
        try:
            answer = answer_to(advisory, example)
        except MpsprobeError as problem:
            yield f"example {number}: {problem}"
            continue
        if answer is not example.expect:
            said = [wanted.value if wanted else "no match" for wanted in (example.expect, answer)]
            yield f"example {number}: expected {said[0]}, the matcher says {said[1]}"


def answer_to(advisory: Advisory, example: Example) -> Certainty | None:
    """Return the certainty with which an advisory matches an example (without an op: its Mac); None for no match."""
    macos, chip = example.macos or None, example.chip or None
    if example.op:
        modes = None if example.modes is None else frozenset(example.modes)
        matches: Sequence[Match] = advisories.match(example.use(), example.torch, macos, chip, modes)
    else:
        matches = advisories.applicable(example.torch, macos, chip)
    return next((found.certainty for found in matches if found.advisory.id == advisory.id), None)


def _holds(specifier: str | None, version: str) -> bool:
    return specifier is not None and SpecifierSet(specifier, prereleases=True).contains(version)


def _is_specifier(text: str | None) -> bool:
    try:
        SpecifierSet(text or "")
    except InvalidSpecifier:
        return False
    return True


def _unique(what: str, values: Sequence[str]) -> Iterator[str]:
    for value, count in Counter(values).items():
        if count > 1:
            yield f"{what} {value} appears {count} times"
