"""Score what mpsprobe knows against public MPS faults that were drawn blindly.

    python tools/score_faults.py FAULTS.jsonl [USES.toml]

USES.toml (`tools/data/fault_uses.toml` unless another is given) states for a row (by its id) what mpsprobe would be
given: an op use in the notation of an advisory's example, or the text that the user saw. A row is covered strictly
when an advisory with the row's symptom is met by that use in its stated range, or the text is explained without a
generic answer; leniently when the range is one that the advisory's sources leave open. Rows that the file does not
state count as missed.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click
import msgspec

from mpsprobe import toml
from mpsprobe.knowledge import advisories
from mpsprobe.knowledge.advisories import Example, Match
from mpsprobe.knowledge.error_texts import by_id
from mpsprobe.knowledge.explain import explain

_SILENT = ("wrong", "nan")
_USES = Path(__file__).parent / "data" / "fault_uses.toml"


class Fault(msgspec.Struct, frozen=True):
    """A fault of the blind sample: the id of its row, and its symptom as in `Symptom`."""

    id: str
    symptom: str


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The input that mpsprobe is given for a row: an op use, or the text that the user saw."""

    use: Example | None = None
    text: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    fault: dict[str, Seen]


def grade(fault: Fault, seen: Seen | None) -> str:
    """Return how a fault is covered, as the module defines it: `strict`, `lenient` or `missed`."""
    if seen is None:
        return "missed"
    if seen.text and any(not by_id(found.message).generic for found in explain(seen.text).findings):
        return "strict"
    fitting = [match for match in _matches(seen.use) if match.advisory.symptom.value == fault.symptom]
    if not fitting:
        return "missed"
    open_range = [any(words.startswith("whether torch") for words in match.unknown) for match in fitting]
    return "strict" if not all(open_range) else "lenient"


def _matches(use: Example | None) -> list[Match]:
    if use is None:
        return []
    macos, chip = use.macos or None, use.chip or None
    if not use.op:
        return [match for match in advisories.applicable(use.torch, macos, chip) if not match.advisory.ops]
    modes = None if use.modes is None else frozenset(use.modes)
    return advisories.match(use.use(), use.torch, macos, chip, modes)


@click.command()
@click.argument("faults", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("uses", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=_USES)
def main(faults: Path, uses: Path) -> None:
    """Print how many rows are covered, strictly and leniently, and which are missed."""
    rows = [
        msgspec.json.decode(line, type=Fault) for line in faults.read_bytes().splitlines() if line.strip()
    ]
    known = toml.load(uses, _File).fault
    grades = {row.id: grade(row, known.get(row.id)) for row in rows}
    for name, chosen in (("all", rows), ("silent", [row for row in rows if row.symptom in _SILENT])):
        counted = Counter(grades[row.id] for row in chosen)
        strict, lenient = counted["strict"], counted["strict"] + counted["lenient"]
        click.echo(f"{name}: {strict} of {len(chosen)} strictly, {lenient} leniently")
    for row in rows:
        if grades[row.id] != "strict":
            click.echo(f"{grades[row.id]}: {row.id} ({row.symptom})")


if __name__ == "__main__":
    main()
