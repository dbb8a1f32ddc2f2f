"""`mpsprobe ops`: show how an op runs on MPS, in one torch release or in all, and what changed between two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import metadata

import click
import msgspec

from mpsprobe.cli.sink import Sink, pass_sink
from mpsprobe.errors import UsageError
from mpsprobe.knowledge import dtypes, ops
from mpsprobe.knowledge._pasted import macos_version
from mpsprobe.run import OpVerdict


class SupportRow(msgspec.Struct, frozen=True):
    """The support of one overload in one release.

    Attributes:
        op: The overload name.
        torch: The minor release.
        verdict: What a call does when PYTORCH_ENABLE_MPS_FALLBACK is unset.
        via: The op that is really missing, when that is another one.
        dtypes: The dtypes that it is not known to refuse; empty when it cannot run.
        macos: The oldest macOS on which this release offers MPS.
        source: The wheel from which this was read.
        note: What else matters: the workaround for an error, a restriction that may apply.
    """

    op: str
    torch: str
    verdict: str
    via: str
    dtypes: list[str]
    macos: str
    source: str
    note: str


class SupportChange(msgspec.Struct, frozen=True):
    """An op whose support differs between two releases; `via` names what the second one lacks."""

    op: str
    before: str
    after: str
    via: str


@click.command("ops")
@click.argument("names", metavar="OP...", nargs=-1)
@click.option(
    "--torch", "torch", metavar="REL", help="Release, or `all`; default: the installed one, or the newest."
)
@click.option("--dtype", metavar="D", help="Dtype of the tensors, e.g. bfloat16.")
@click.option("--macos", metavar="V", help="macOS version of the Mac, e.g. 13.6.")
@click.option(
    "--diff", nargs=2, metavar="OLD NEW", help="What changed between two releases (for OP..., or for all)."
)
@pass_sink
def command(
    sink: Sink,
    names: tuple[str, ...],
    torch: str | None,
    dtype: str | None,
    macos: str | None,
    diff: tuple[str, str] | None,
) -> None:
    """Describe how an op runs on MPS.

    OP is written as in an error or a trace (aten::add.Tensor, aten.add.Tensor) or as in code
    (torch.linalg.svd, softmax).
    """
    if macos is not None:
        macos_version(macos)  # reports a malformed version at once
    dtype = dtypes.dtype_name(dtype) if dtype is not None else None
    if diff:
        changes = compare(*diff, names=names)
        columns = ["op", diff[0], diff[1], "missing"]
        sink.table(columns, [[c.op, c.before, c.after, c.via] for c in changes], changes)
        return
    if not names:
        raise UsageError("No op given.", "For example: mpsprobe ops aten::linalg_eigh --torch all")
    releases = ops.releases() if torch == "all" else (ops.resolve_release(torch or default_release()),)
    asked = [op for name in names for op in ops.normalise(name)]
    rows = [row(op, release, dtype, macos) for op in asked for release in releases]
    if torch != "all":
        rows = [found for found in rows if found.note != _ABSENT] or rows
    columns = ["op", "torch", "verdict", "missing", "note"]
    cells = _timeline(rows) if torch == "all" else [[r.op, r.torch, r.verdict, r.via, r.note] for r in rows]
    sink.table(columns, cells, rows)


_ABSENT = "no such op in this release"
_MAY_SAY = "may say: "


def default_release() -> str:
    """Return the installed torch release, or the newest one with data."""
    try:
        return ops.resolve_release(metadata.version("torch"))
    except (metadata.PackageNotFoundError, ops.UnknownReleaseError):
        return ops.releases()[-1]


def row(op: str, torch: str, dtype: str | None = None, macos: str | None = None) -> SupportRow:
    """Return the support of one overload in one release.

    Args:
        op: The overload name.
        torch: The minor release.
        dtype: The dtype of the tensors; None for any.
        macos: The macOS version of the target Mac; None for one that is new enough.
    """
    release = ops.release(torch)
    support = release.lookup(op)
    verdict, via = support.verdict(fallback=False), support.via
    notes = [_way_out(support)]
    if macos is not None and macos_version(macos) < macos_version(release.minimum_macos):
        verdict = OpVerdict.RAISES
        notes = [f"torch {torch} offers MPS on macOS {release.minimum_macos} and newer"]
    elif dtype is not None and verdict is not OpVerdict.UNKNOWN:
        restriction = dtypes.check(op, [dtype], torch, macos)
        if restriction is not None:
            notes.append(f"{'' if restriction.certain else _MAY_SAY}{restriction.message}")
            if restriction.certain and verdict is not OpVerdict.RAISES:
                verdict = restriction.effect.verdict or verdict
    elif dtype is None:
        notes += [f"{_MAY_SAY}{message}" for message in support.messages]
    runs = verdict in {OpVerdict.NATIVE, OpVerdict.COMPOSITE, OpVerdict.FALLBACK}
    return SupportRow(
        op=op,
        torch=torch,
        verdict=verdict.value,
        via=via if via != op else "",
        dtypes=sorted(dtypes.usable(op, torch, macos)) if runs else [],
        macos=release.minimum_macos,
        source=release.wheel.file,
        note="; ".join(note for note in notes if note),
    )


def _way_out(support: ops.OpSupport) -> str:
    if support.support is ops.Support.ABSENT:
        return _ABSENT
    if support.support is ops.Support.FALLBACK:
        return "runs on the CPU, with a warning"
    if support.via and not support.certain:
        return "can reach the missing op on some path"
    if support.verdict(fallback=False) is not OpVerdict.RAISES:
        return ""
    if support.verdict(fallback=True) is OpVerdict.FALLBACK:
        return "PYTORCH_ENABLE_MPS_FALLBACK=1 runs it on the CPU"
    return "PYTORCH_ENABLE_MPS_FALLBACK=1 does not help"


def _timeline(rows: Sequence[SupportRow]) -> list[list[str]]:
    """Return the rows of each op, with equal neighbouring releases merged: `2.1-2.7`.

    Messages that a kernel may raise are left out, because they change with every release.
    """
    lines: list[list[str]] = []
    for found in rows:
        answer = [found.verdict, found.via, found.note.partition(_MAY_SAY)[0].removesuffix("; ")]
        if lines and lines[-1][0] == found.op and lines[-1][2:] == answer:
            lines[-1][1] = f"{lines[-1][1].partition('-')[0]}-{found.torch}"
        else:
            lines.append([found.op, found.torch, *answer])
    return lines


def compare(before: str, after: str, names: Iterable[str] = ()) -> list[SupportChange]:
    """Return the ops whose support, or whose missing helper op, differs between two releases.

    Args:
        before: The older release.
        after: The release to compare with it.
        names: The ops in any spelling; empty for all.
    """
    old, new = ops.release(before), ops.release(after)
    known = old.names | new.names
    wanted = {op for name in names for op in ops.normalise(name, known)} or known
    changes = []
    for op in sorted(wanted):
        was, now = old.lookup(op), new.lookup(op)
        if (was.support, was.via) != (now.support, now.via):
            changes.append(SupportChange(op, _label(was), _label(now), now.via))
    return changes


def _label(support: ops.OpSupport) -> str:
    """Return the word for a verdict; `composite (blocked)` is a composite op that cannot run."""
    blocked = support.support is ops.Support.COMPOSITE and support.via and support.certain
    return f"{support.support.value} (blocked)" if blocked else support.support.value
