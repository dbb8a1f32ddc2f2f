"""Known faults of combinations of torch, macOS, chip and op: what goes wrong, the fix, and the sources.

Each advisory is a TOML table in `data/advisories/`; `docs/advisories.md` explains how to write one. The conditions
are those of `mpsprobe.knowledge._conditions`. Nothing imports torch, and no file is read on import.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import msgspec

from mpsprobe import toml
from mpsprobe.errors import UsageError
from mpsprobe.knowledge import ops
from mpsprobe.knowledge._advisory import Advisory, Certainty, Example, Severity, Symptom
from mpsprobe.knowledge._calls import Form, forms, names, recorded_as
from mpsprobe.knowledge._conditions import Conditions, Mode, Threshold
from mpsprobe.run import OpUse

__all__ = [
    "Advisory",
    "Certainty",
    "Conditions",
    "Example",
    "Match",
    "Mode",
    "Severity",
    "Symptom",
    "Threshold",
    "applicable",
    "by_id",
    "load_all",
    "match",
    "match_later",
    "of_op",
    "on_topic",
]

DATA = Path(__file__).parent / "data" / "advisories"


class Match(msgspec.Struct, frozen=True):
    """An advisory that concerns a call: one that meets its conditions, may meet them, or would in a larger workload.

    Attributes:
        advisory: The advisory.
        certainty: `certain` when every condition is known to hold, otherwise `possible`.
        unknown: Phrases that name what is not known, such as macOS, the chip, or an argument that was not recorded.
        circumstances: Phrases for conditions that no recording shows, such as values or earlier calls.
        later: The smallest sizes at which a larger workload meets it; empty when this call already does.
    """

    advisory: Advisory
    certainty: Certainty
    unknown: tuple[str, ...] = ()
    circumstances: tuple[str, ...] = ()
    later: tuple[Threshold, ...] = ()

    @property
    def why(self) -> str:
        """Return why the match is not certain, reasons separated by semicolons; empty for a certain match."""
        parts = [str(threshold) for threshold in self.later]
        parts += [f"not known: {words}" for words in (", ".join(self.unknown),) if words]
        parts += [f"only if: {words}" for words in (" or ".join(self.circumstances),) if words]
        return "; ".join(parts)

    def is_reached(self, longest: int | None) -> bool:
        """Return whether a longer prompt, which the model accepts, certainly triggers this critical advisory.

        Args:
            longest: The greatest number of tokens that the model accepts; None when unknown, which gives False.
        """
        if longest is None or self.unknown or self.circumstances or not self.later:
            return False
        tokens = all(one.unit == "tokens" and one.needed <= longest for one in self.later)
        return tokens and self.advisory.severity is Severity.CRITICAL


class _File(msgspec.Struct, forbid_unknown_fields=True):
    advisory: list[Advisory]


@lru_cache(maxsize=1)
def load_all() -> tuple[Advisory, ...]:
    """Return every advisory, by file and in the order of the file.

    Raises:
        DataError: A file does not fit the schema; the message names the file and the key.
    """
    return tuple(
        advisory for path in sorted(DATA.glob("*.toml")) for advisory in toml.load(path, _File).advisory
    )


def find(id_: str) -> Advisory | None:
    """Return the advisory with the id `id_`; None for an id that this version does not know."""
    return next((advisory for advisory in load_all() if advisory.id == id_), None)


def by_id(id_: str) -> Advisory:
    """Return the advisory with the id `id_`.

    Raises:
        UsageError: No advisory has that id.
    """
    if (advisory := find(id_)) is None:
        raise UsageError(f"No advisory is called {id_!r}.", "`mpsprobe advisories` lists them.")
    return advisory


@lru_cache(maxsize=64)
def applicable(torch: str, macos: str | None = None, chip: str | None = None) -> tuple[Match, ...]:
    """Return the advisories that hold, or may hold, for this torch, macOS and chip, before any op use is compared.

    Args:
        torch: A release or build, such as `"2.8.0"` or `"2.9.0.dev20250801"`.
        macos: The version of macOS, such as `"15.5"`; None when unknown.
        chip: The chip or Mac, such as `"Apple M1 Max"` or `"m1-max-64"`; None when unknown.

    Raises:
        UsageError: A version cannot be parsed.
    """
    found = []
    for advisory in load_all():
        facts = advisory.facts(torch, macos, chip)
        if False not in facts.values():
            unknown = tuple(words for words, holds in facts.items() if holds is None)
            circumstances = () if advisory.ops else tuple(case.unrecorded for case in advisory.when)
            found.append(_match(advisory, unknown, circumstances))
    return tuple(found)


def match(
    use: OpUse,
    torch: str,
    macos: str | None = None,
    chip: str | None = None,
    modes: frozenset[Mode] | None = None,
) -> list[Match]:
    """Return the advisories that `use` meets, or may meet, on this Mac.

    An advisory may name the op as users call it or as a device receives it. `data/op_forms.toml` lists the names of
    one call, and the numbering of their arguments.

    Args:
        use: An op use, of which dtypes, shapes, strides and scalars are compared.
        torch: See `applicable`.
        macos: See `applicable`.
        chip: See `applicable`.
        modes: The modes that the use runs under; None when unknown.

    Raises:
        UsageError: A version cannot be parsed.
    """
    found: dict[str, Match] = {}
    for candidate, form in _candidates(use, torch, macos, chip):
        one = _met(candidate, form, modes)
        known = found.get(candidate.advisory.id)
        if one is not None and (known is None or _doubts(one) < _doubts(known)):
            found[candidate.advisory.id] = one
    return list(found.values())


def match_later(
    use: OpUse,
    torch: str,
    macos: str | None = None,
    chip: str | None = None,
    modes: frozenset[Mode] | None = None,
) -> list[Match]:
    """Return the advisories that `use` does not meet and that a larger workload would: longer inputs, or more at once.

    Args:
        use: See `match`.
        torch: See `applicable`.
        macos: See `applicable`.
        chip: See `applicable`.
        modes: See `match`.

    Returns:
        A match for each, never certain, with the size that must be reached in `later`.

    Raises:
        UsageError: A version cannot be parsed.
    """
    found: dict[str, Match] = {}
    met: set[str] = set()
    for candidate, form in _candidates(use, torch, macos, chip):
        if _met(candidate, form, modes) is not None:
            met.add(candidate.advisory.id)
            continue
        one = _met_later(candidate, form, modes)
        known = found.get(candidate.advisory.id)
        if one is not None and (known is None or (one.later, _doubts(one)) < (known.later, _doubts(known))):
            found[candidate.advisory.id] = one
    return [one for id_, one in found.items() if id_ not in met]


def _met(candidate: Match, form: Form, modes: frozenset[Mode] | None) -> Match | None:
    """Return the match of one form of a call with an advisory; None when every set of conditions is violated."""
    advisory, use = candidate.advisory, form.use
    doubts = (form.doubt,) if form.doubt else ()
    answers = [(case, case.holds(use, modes)) for case in advisory.when]
    if not answers or any(answer is True for _, answer in answers):
        return _match(advisory, (*candidate.unknown, *doubts), ()) if doubts else candidate
    open_cases = [case for case, answer in answers if answer is None]
    if not open_cases:
        return None
    unknown = dict.fromkeys(words for case in open_cases for words in case.unknowns(use, modes))
    circumstances = dict.fromkeys(case.unrecorded for case in open_cases if case.unrecorded)
    return _match(advisory, (*candidate.unknown, *doubts, *unknown), tuple(circumstances))


def _met_later(candidate: Match, form: Form, modes: frozenset[Mode] | None) -> Match | None:
    """Return the match that the smallest sufficient growth would give; None when growth cannot meet the advisory."""
    advisory, use = candidate.advisory, form.use
    reached = []
    for case in advisory.when:
        thresholds: list[Threshold] = []
        if case.holds(use, modes, thresholds) is not False and thresholds:
            reached.append((max(thresholds), case))
    if not reached:
        return None
    threshold, case = min(reached, key=lambda pair: pair[0])
    circumstances = (case.unrecorded,) if case.unrecorded else ()
    doubts = (form.doubt,) if form.doubt else ()
    unknown = (*candidate.unknown, *doubts, *case.unknowns(use, modes))
    return _match(advisory, unknown, circumstances, (threshold,))


def _doubts(match: Match) -> tuple[int, int]:
    return len(match.circumstances), len(match.unknown)


def _candidates(use: OpUse, torch: str, macos: str | None, chip: str | None) -> Iterator[tuple[Match, Form]]:
    """Yield each advisory for this Mac that names the op of `use`, with the form of the call under that name."""
    index = _by_op(torch, macos, chip)
    if not any(name in index for name in names(base_name(use.op))):
        return
    for form in forms(use):
        op = form.use.op
        base = base_name(op)
        for candidate in index.get(base, ()):
            # A name from the data covers every overload.
            known = candidate.advisory.ops
            if form.use is not use or op in known or base in known:
                yield candidate, form


def _match(
    advisory: Advisory,
    unknown: tuple[str, ...],
    circumstances: tuple[str, ...],
    later: tuple[Threshold, ...] = (),
) -> Match:
    certainty = Certainty.POSSIBLE if unknown or circumstances or later else Certainty.CERTAIN
    return Match(advisory, certainty, tuple(dict.fromkeys(unknown)), circumstances, later)


def of_op(op: str) -> list[Advisory]:
    """Return the advisories about an op, in any spelling that `ops.normalise` accepts.

    With an overload, only advisories about it or about all overloads count. Without one, those about any overload
    count, and those about related ops: what it calls, its in-place form, its gradient and what a recording calls it.

    Raises:
        UnknownOpError: No release has such an op; the hint suggests similar names.
    """
    exact = ops.normalise(op)
    if len(exact) == 1 and "." in exact[0]:
        wanted = {exact[0], base_name(exact[0])}
        return [advisory for advisory in load_all() if wanted.intersection(advisory.ops)]
    bases = set(ops.related(op))
    bases.update(*(recorded_as(base) for base in exact))
    return [advisory for advisory in load_all() if any(base_name(name) in bases for name in advisory.ops)]


def base_name(op: str) -> str:
    """Return an op's name without its overload: `"aten::add"` for `"aten::add.Tensor"`."""
    return op.partition(".")[0]


@lru_cache(maxsize=64)
def _by_op(torch: str, macos: str | None, chip: str | None) -> dict[str, list[Match]]:
    """Return the advisories for this Mac by op name without overload, so that few are compared with each use."""
    index: dict[str, list[Match]] = {}
    for candidate in applicable(torch, macos, chip):
        for name in dict.fromkeys(base_name(op) for op in candidate.advisory.ops):
            index.setdefault(name, []).append(candidate)
    return index


#: Words of titles that tell nothing about the topic, and the names of libraries, of which a text must know.
_COMMON = re.compile(
    r"torch|mps|metal|macos|tensors?|raises?|process|kills|fails?|aborts?|wrong|values?|with|that|from|over|more|than"
    r"|does|every|only|into|them|when|this|some|before|after|later|newer|older|support(?:ed)?|inputs?|device|errors?"
    r"|which|first|last|dimensions?|large|between|implemented|kernels?"
)
_LIBRARIES = {
    "transformers",
    "diffusers",
    "accelerate",
    "torchvision",
    "torchaudio",
    "lightning",
    "ultralytics",
}
_DTYPE = re.compile(r"\b(float8|float64|float16|bfloat16|complex|int64|int8|uint8|bool)(?=\d*\b|_)")


def on_topic(advisory: Advisory, answer: str, text: str, op: str = "", dtype: str = "") -> bool:
    """Return whether an advisory of a source that a message also has is about what the message says.

    A source is often a long thread about several faults. Dtypes of an advisory's title must be the message's,
    libraries of its title must be in the text, and one about ops needs an op, or a word of its title, in the answer.

    Args:
        advisory: The advisory.
        answer: The message as the text has it, with its meaning and its fix.
        text: The whole text.
        op: The op that the message is about; empty when it names none.
        dtype: The dtype that the message is about; empty when it names none.
    """
    title, said = advisory.title.lower(), answer.lower()
    dtypes = set(_DTYPE.findall(title))
    if dtype and dtypes and not any(dtype.startswith(one) for one in dtypes):
        return False
    words = {word for word in re.findall(r"[a-z][a-z0-9_]{3,}", title) if not _COMMON.fullmatch(word)}
    if any(library not in text for library in words & _LIBRARIES):
        return False
    concerned = {base_name(one) for one in advisory.ops}
    functions = {one.rpartition("::")[2].removeprefix("_") for one in concerned}
    return (
        not concerned
        or base_name(op) in concerned
        or any(re.search(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z])", said) for name in functions)
        or any(word.removesuffix("s") in said for word in words - _LIBRARIES)
    )
