"""`mpsprobe advisories`: what is known to go wrong, for one torch, macOS, chip or op."""

from __future__ import annotations

import textwrap
from typing import Any

import click
import msgspec

from mpsprobe.cli.sink import Sink, json_flag, pass_sink
from mpsprobe.errors import UsageError
from mpsprobe.knowledge import advisories
from mpsprobe.knowledge.advisories import Advisory, Match, Severity, Symptom

_ORDER = list(Severity)


@click.command("advisories")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--torch", metavar="VERSION", help="Only those about this torch release.")
@click.option("--macos", metavar="VERSION", help="Only those about this macOS (needs --torch).")
@click.option("--chip", metavar="CHIP", help="Only those about this chip, e.g. M1 (needs --torch).")
@click.option(
    "--op", metavar="OP", help="Only those about this op: aten::linear, torch.matmul, torch.nn.Conv2d ..."
)
@click.option("--symptom", type=click.Choice([s.value for s in Symptom]), help="Only those that show so.")
@json_flag
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
        sink.result("\n\n".join(_in_full(advisory) for advisory in chosen), [_data(a) for a in chosen])
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
    found.sort(key=lambda pair: (_ORDER.index(pair[0].severity), pair[0].id))
    _list(sink, found)


def _list(sink: Sink, found: list[tuple[Advisory, Match | None]]) -> None:
    data = [_data(advisory, match) for advisory, match in found]
    if not found:
        sink.result("None is known here that fits. That is no promise: nobody may have reported one.", data)
        return
    rows = [
        [
            advisory.severity.value,
            advisory.symptom.value,
            advisory.id,
            _range(advisory.torch, advisory.torch_maybe, "?"),
            _range(advisory.macos, advisory.macos_maybe, "?"),
            match.certainty.value if match else "",
            advisory.title,
        ]
        for advisory, match in found
    ]
    columns = ["severity", "symptom", "id", "torch", "macOS", "fits", "what goes wrong"]
    if not any(match for _, match in found):
        del columns[5]
        for row in rows:
            del row[5]
    sink.table(columns, rows, data)


def _in_full(advisory: Advisory) -> str:
    fields = {
        "symptom": f"{advisory.symptom.value}, severity {advisory.severity.value}",
        "torch": _range(advisory.torch, advisory.torch_maybe),
        "macOS": _range(advisory.macos, advisory.macos_maybe),
        "chips": ", ".join(advisory.chips) or "all",
        "ops": ", ".join(advisory.ops) or "none in particular",
        "what to do": advisory.fix,
        "first good": advisory.first_good or "not known",
        "read": advisory.confirmed,
        "links": "\n".join(advisory.links),
    }
    lines = [f"{advisory.id}: {advisory.title}"]
    for name, value in fields.items():
        wrapped = [textwrap.wrap(part, 96, break_long_words=False) or [""] for part in value.splitlines()]
        first, *rest = [line for part in wrapped for line in part]
        lines.append(f"  {name + ':':<12}{first}")
        lines.extend(" " * 14 + line for line in rest)
    return "\n".join(lines)


def _range(known: str | None, maybe: str | None, doubt: str = " (not known)") -> str:
    """Format the releases of an advisory: `">=2.7,<2.9; >=2.9 (not known)"`."""
    parts = [] if known is None else [known or "any"]
    if maybe is not None:
        parts.append(f"{maybe or 'any'}{doubt}")
    return "; ".join(parts)


def _data(advisory: Advisory, match: Match | None = None) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(advisory)
    del row["examples"]
    if match is not None:
        row["certainty"] = match.certainty.value
        row["unknown"] = list(match.unknown)
    return row
