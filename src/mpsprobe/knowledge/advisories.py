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
from mpsprobe.knowledge import ops
from mpsprobe.knowledge._advisory import Advisory, Certainty, Example, Severity, Symptom
from mpsprobe.knowledge._conditions import Case, Mode, Threshold, some
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
    "Threshold",
    "applicable",
    "by_id",
    "load_all",
    "match",
    "match_later",
    "of_op",
]

DATA = Path(__file__).parent / "data" / "advisories"


class Match(msgspec.Struct, frozen=True):
    """An advisory that an op use meets, or may meet.

    Attributes:
        advisory: the advisory.
        certainty: `certain` only when every condition was seen to hold.
        unknown: facts that are not known, in words: macOS, the chip, an argument that was not recorded ...
        circumstances: what it takes besides, in words, that no recording shows: values, earlier calls ...
        later: sizes from which on a larger workload meets it; empty when this call does already.
    """

    advisory: Advisory
    certainty: Certainty
    unknown: tuple[str, ...] = ()
    circumstances: tuple[str, ...] = ()
    later: tuple[Threshold, ...] = ()

    @property
    def why(self) -> str:
        """Why it is not certain, as one phrase; empty when it is."""
        parts = [str(threshold) for threshold in self.later]
        parts += [f"not known: {words}" for words in (", ".join(self.unknown),) if words]
        parts += [f"only if: {words}" for words in (" or ".join(self.circumstances),) if words]
        return "; ".join(parts)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    advisory: list[Advisory]


@lru_cache(maxsize=1)
def load_all() -> tuple[Advisory, ...]:
    """Return every advisory, by file and in the order of the file.

    Raises:
        DataError: a file does not have the schema (names the file and the key).
    """
    return tuple(
        advisory for path in sorted(DATA.glob("*.toml")) for advisory in toml.load(path, _File).advisory
    )


def by_id(id_: str) -> Advisory:
    """Return the advisory called `id_`.

    Raises:
        UsageError: there is none.
    """
    for advisory in load_all():
        if advisory.id == id_:
            return advisory
    raise UsageError(f"No advisory is called {id_!r}.", "`mpsprobe advisories` lists them.")


@lru_cache(maxsize=64)
def applicable(torch: str, macos: str | None = None, chip: str | None = None) -> tuple[Match, ...]:
    """Return the advisories about this torch, macOS and chip, whatever runs on them.

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
    for candidate in _candidates(use, torch, macos, chip):
        advisory = candidate.advisory
        if not advisory.when:
            found.append(candidate)
            continue
        answers = [(case, case.holds(use, modes)) for case in advisory.when]
        if any(answer is True for _, answer in answers):
            found.append(candidate)
        elif any(answer is None for _, answer in answers):
            open_cases = [case for case, answer in answers if answer is None]
            unknown = dict.fromkeys(words for case in open_cases for words in case.unknowns(use, modes))
            circumstances = dict.fromkeys(case.unrecorded for case in open_cases if case.unrecorded)
            found.append(_match(advisory, (*candidate.unknown, *unknown), tuple(circumstances)))
    return found


def match_later(
    use: OpUse,
    torch: str,
    macos: str | None = None,
    chip: str | None = None,
    modes: frozenset[Mode] | None = None,
) -> list[Match]:
    """Return the advisories that `use` does not meet, and would meet in a larger workload: longer, more at once.

    Args:
        use: see `match`.
        torch: see `applicable`.
        macos: see `applicable`.
        chip: see `applicable`.
        modes: see `match`.

    Raises:
        UsageError: a version cannot be read.
    """
    found = []
    for candidate in _candidates(use, torch, macos, chip):
        advisory = candidate.advisory
        if not advisory.when or some(case.holds(use, modes) for case in advisory.when) is not False:
            continue
        reached = []
        for case in advisory.when:
            thresholds: list[Threshold] = []
            if case.holds(use, modes, thresholds) is not False and thresholds:
                reached.append((max(thresholds), case))
        if reached:
            threshold, case = min(reached, key=lambda pair: pair[0])
            circumstances = (case.unrecorded,) if case.unrecorded else ()
            unknown = (*candidate.unknown, *case.unknowns(use, modes))
            found.append(_match(advisory, unknown, circumstances, (threshold,)))
    return found


def _candidates(use: OpUse, torch: str, macos: str | None, chip: str | None) -> list[Match]:
    """Return the advisories about that Mac and that op, whatever their conditions."""
    named = _by_op(torch, macos, chip).get(base_name(use.op), ())
    return [one for one in named if use.op in one.advisory.ops or base_name(use.op) in one.advisory.ops]


def _match(
    advisory: Advisory,
    unknown: tuple[str, ...],
    circumstances: tuple[str, ...],
    later: tuple[Threshold, ...] = (),
) -> Match:
    certainty = Certainty.POSSIBLE if unknown or circumstances or later else Certainty.CERTAIN
    return Match(advisory, certainty, tuple(dict.fromkeys(unknown)), circumstances, later)


def of_op(op: str) -> list[Advisory]:
    """Return the advisories about an op, in any spelling that `ops.normalise` takes.

    Without an overload, those about any overload count, and those about the ops that it runs on the way.

    Raises:
        UnknownOpError: no release has such an op; its hint says what may have been meant.
    """
    exact = ops.normalise(op)
    if len(exact) == 1 and "." in exact[0]:
        wanted = {exact[0], base_name(exact[0])}
        return [advisory for advisory in load_all() if wanted.intersection(advisory.ops)]
    bases = set(ops.related(op))
    return [advisory for advisory in load_all() if any(base_name(name) in bases for name in advisory.ops)]


def base_name(op: str) -> str:
    """Return `"aten::add"` for `"aten::add.Tensor"`."""
    return op.partition(".")[0]


@lru_cache(maxsize=64)
def _by_op(torch: str, macos: str | None, chip: str | None) -> dict[str, list[Match]]:
    """Index what applies to this Mac by op name without overload, so that a use looks at a few advisories only."""
    index: dict[str, list[Match]] = {}
    for candidate in applicable(torch, macos, chip):
        for name in dict.fromkeys(base_name(op) for op in candidate.advisory.ops):
            index.setdefault(name, []).append(candidate)
    return index
