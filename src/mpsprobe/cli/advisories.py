"""`mpsprobe advisories`: list known faults for a torch release, macOS, chip or op."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from typing import Any

import click
import msgspec

from mpsprobe.cli.sink import Sink, pass_sink, width
from mpsprobe.errors import UsageError
from mpsprobe.knowledge import advisories
from mpsprobe.knowledge.advisories import Advisory, Certainty, Match, Severity, Symptom
from mpsprobe.quantities import enumerate_words, plural

_ORDER = list(Severity)


@click.command("advisories")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--torch", metavar="VERSION", help="Only those about this torch release.")
@click.option("--macos", metavar="VERSION", help="Only those about this macOS (needs --torch).")
@click.option("--chip", metavar="CHIP", help="Only those about this chip, e.g. M1 (needs --torch).")
@click.option(
    "--op", metavar="OP", help="Only those about this op: aten::linear, torch.matmul, torch.nn.Conv2d ..."
)
@click.option(
    "--symptom", type=click.Choice([s.value for s in Symptom]), help="Only those with this symptom."
)
@pass_sink
def command(
    sink: Sink,
    ids: tuple[str, ...],
    torch: str | None,
    macos: str | None,
    chip: str | None,
    op: str | None,
    symptom: str | None,
) -> None:
    """List known-bad combinations of torch, macOS, chip and op, worst first; with an ID, all about it."""
    if ids:
        chosen = [advisories.by_id(id_) for id_ in ids]
        text = "\n\n".join(_in_full(advisory) for advisory in chosen)
        sink.result(text, [_data(advisory) for advisory in chosen], verbatim=True)
        return
    if torch is None and (macos or chip):
        raise UsageError("--macos and --chip need --torch.", "Give the torch release, e.g. --torch 2.8.0.")
    found: list[tuple[Advisory, Match | None]]
    if torch is None:
        found = [(advisory, None) for advisory in advisories.load_all()]
    else:
        found = [(match.advisory, match) for match in advisories.applicable(torch, macos, chip)]
    if op is not None:
        about = {advisory.id for advisory in advisories.of_op(op)}
        found = [(advisory, match) for advisory, match in found if advisory.id in about]
    if symptom is not None:
        found = [(advisory, match) for advisory, match in found if advisory.symptom.value == symptom]
    found.sort(key=_rank)
    _list(sink, found)


def _rank(pair: tuple[Advisory, Match | None]) -> tuple[int, bool, str]:
    """Order the worst first and, among the equally bad, those that are certain before those that are possible."""
    advisory, match = pair
    possible = match is not None and match.certainty is not Certainty.CERTAIN
    return _ORDER.index(advisory.severity), possible, advisory.id


def _list(sink: Sink, found: list[tuple[Advisory, Match | None]]) -> None:
    data = [_data(advisory, match) for advisory, match in found]
    if not found:
        sink.result(
            "No known fault fits. That is no promise: a fault that nobody has reported is not here.", data
        )
        return
    blocks = [_in_full(*pair) if sink.verbose else _in_brief(*pair) for pair in found]
    answer = f"{_counted(found)}, worst first."
    more = "" if sink.verbose else " An ID, or -v, shows more."
    first, last = ("\n".join(_filled(text, "", "")) for text in (answer, answer + more))
    sink.result("\n\n".join([first, *blocks, last]), data, verbatim=True)


def _counted(found: list[tuple[Advisory, Match | None]]) -> str:
    """Return a sentence that counts the advisories and, where a release is named, those that are certain there."""
    total = plural(len(found), "known fault")
    matches = [match for _, match in found if match is not None]
    if not matches:
        return total
    certain = sum(match.certainty is Certainty.CERTAIN for match in matches)
    verb = "applies" if certain == 1 else "apply"
    return f"{total}: {certain} {verb} for certain to these versions, {len(matches) - certain} possibly"


def _in_brief(advisory: Advisory, match: Match | None) -> str:
    fits = f", {match.certainty.value}" if match else ""
    return _block(
        advisory,
        {
            f"{advisory.severity.value}, {advisory.symptom.value}{fits}": _where(advisory),
            "fix": advisory.fix,
        },
    )


def _in_full(advisory: Advisory, match: Match | None = None) -> str:
    return _block(
        advisory,
        {
            "symptom": f"{advisory.symptom.value}, severity {advisory.severity.value}",
            "fits": _fits(match),
            "torch": range_in_words(advisory.torch, advisory.torch_maybe),
            "macOS": range_in_words(advisory.macos, advisory.macos_maybe),
            "chips": ", ".join(advisory.chips) or "all",
            "ops": ", ".join(advisory.ops) or "none in particular",
            "fix": advisory.fix,
            "first good": advisory.first_good or "not known",
            "source": advisory.confirmed,
            "links": "\n".join(advisory.links),
        },
    )


def _fits(match: Match | None) -> str:
    if match is None:
        return ""
    unknown = enumerate_words(list(match.unknown))
    return f"{match.certainty.value}; not known: {unknown}" if unknown else match.certainty.value


def _where(advisory: Advisory) -> str:
    """Name the torch releases, macOS versions and chips of an advisory, unless it concerns all of them."""
    macos = range_in_words(advisory.macos, advisory.macos_maybe)
    parts = [
        f"torch {range_in_words(advisory.torch, advisory.torch_maybe)}",
        "" if macos == "any" else f"macOS {macos}",
        ", ".join(advisory.chips),
    ]
    return "; ".join(part for part in parts if part)


def _block(advisory: Advisory, fields: Mapping[str, str]) -> str:
    """Return an advisory as a block: its id, its title and its fields, wrapped."""
    lines = [advisory.id, *_filled(advisory.title, "  ", "  ")]
    for name, value in fields.items():
        for k, part in enumerate(value.splitlines()):
            lines += _filled(part, f"    {name}: " if k == 0 else "      ", "      ")
    return "\n".join(lines)


def _filled(text: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text, width(), initial_indent=first, subsequent_indent=rest, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def range_in_words(known: str | None, maybe: str | None) -> str:
    """Format the versions of an advisory: `2.13.x only`, `2.7 to 2.8.x (possibly also 2.9 or newer)`.

    Args:
        known: A version specifier; empty for all versions, None when the sources name none.
        maybe: A version specifier for versions that the sources do not cover; None when there are none.
    """
    if maybe is None:
        return "" if known is None else _in_words(known)
    if known is None:
        return f"possibly {_in_words(maybe)}"
    others = known and maybe in ("", known.replace("==", "!="))
    also = "others" if others else _in_words(maybe).removesuffix(" only")
    return f"{_in_words(known).removesuffix(' only')} (possibly also {also})"


def _in_words(specifier: str) -> str:
    clauses = dict.fromkeys(clause.strip() for clause in specifier.split(",") if clause.strip())
    least = next((clause[2:] for clause in clauses if clause.startswith(">=")), "")
    below = next((clause[1:] for clause in clauses if re.match(r"<\d", clause)), "")
    bounds = {f">={least}", f"<{below}"}
    words = []
    if least and below:
        last = _release_before(below)
        single = last == f"{least}.x"
        words.append(
            f"{last} only" if single else f"{least} to {last}" if last else f"{least} to before {below}"
        )
    elif least:
        words.append(f"{least} or newer")
    elif below:
        words.append(f"older than {below}")
    not_these = [clause[2:].replace(".*", ".x") for clause in clauses if clause.startswith("!=")]
    if not_these:
        words.append(f"any but {enumerate_words(not_these)}")
    for clause in clauses:
        if clause in bounds or clause.startswith("!="):
            continue
        sign, version = re.match(r"([=!<>~]*)(.*)", clause).groups()  # type: ignore[union-attr]
        words.append(_SIGNS.get(sign, f"{sign}{{}}").format(version.replace(".*", ".x")))
    return " and ".join(words) or "any"


_SIGNS = {"==": "{} only", "<=": "{} or older", ">": "newer than {}"}


def _release_before(version: str) -> str:
    """Return the minor release before `2.9` as `2.8.x`, a major macOS before `27` as `26.x`; empty where unclear."""
    match = re.fullmatch(r"(\d+)(?:\.(\d+))?", version)
    if match is None or match[2] == "0":
        return ""
    return f"{match[1]}.{int(match[2]) - 1}.x" if match[2] else f"{int(match[1]) - 1}.x"


def _data(advisory: Advisory, match: Match | None = None) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(advisory)
    del row["examples"]
    if match is not None:
        row["certainty"] = match.certainty.value
        row["unknown"] = list(match.unknown)
    return row
