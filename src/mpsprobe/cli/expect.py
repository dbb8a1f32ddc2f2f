"""`mpsprobe expect`: write expectation files for op checks from a run."""

from __future__ import annotations

import re
from pathlib import Path

import click
import msgspec

from mpsprobe.cli.sink import Sink, pass_sink
from mpsprobe.errors import DataError, UsageError
from mpsprobe.run import Check, Phase, Replays, Run, Status

_XFAILS, _SKIPS = "xfails.toml", "skips.toml"
#: Outcomes of a replay, copied from `ops.protocol.ReplayOutcome`, because importing that would import torch.
_FAILS = frozenset({"wrong", "nan", "raises", "fault"})
_KILLS = frozenset({"crashed", "hangs"})


@click.command("expect")
@click.argument("run", metavar="RUN.json", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help=f"Folder of {_XFAILS} and {_SKIPS}.",
)
@click.option("--force", is_flag=True, help="Replace files that are there.")
@pass_sink
def command(sink: Sink, run: Path, output: Path, force: bool) -> None:
    """Write down which op checks of a run failed, and which crashed or hung.

    Both files hold only for the torch release, macOS and chip of the run. Pass them to the suite with
    --mpsprobe-xfails-file and --mpsprobe-skips-file.
    """
    document = Run.load(run)
    found = {_XFAILS: _ids(document, Status.FAIL), _SKIPS: _ids(document, Status.CRASHED, Status.TIMEOUT)}
    paths = {name: output / name for name in found}
    present = [path for path in paths.values() if path.exists()]
    if present and not force:
        raise UsageError(f"{present[0]}: is there already.", "Give --force to replace it.")
    output.mkdir(parents=True, exist_ok=True)
    for name, failures in found.items():
        paths[name].write_text(_toml(document, failures), encoding="utf-8")
    lines = [f"{paths[name]}: {len(failures)} checks" for name, failures in found.items()]
    sink.result("\n".join(lines), {name: list(failures) for name, failures in found.items()})


def _ids(run: Run, *statuses: Status) -> dict[str, str]:
    """Return the op checks with one of these statuses and their messages, including replays of the combined check."""
    found = {}
    for check in run.of_phase(Phase.OPS):
        if check.id == "ops.replay":
            found.update(_rows(check, _FAILS if Status.FAIL in statuses else _KILLS))
        elif check.status in statuses and check.id.count(".") > 1:  # ops.aten.mm-...: one op use
            found[check.id] = check.message
    return found


def _rows(check: Check, outcomes: frozenset[str]) -> dict[str, str]:
    if isinstance(check.data, Replays):
        return {one.id: one.message for one in check.data.replays if one.outcome in outcomes}
    if check.table is not None:
        raise DataError(
            "The run was written by an older mpsprobe, without its replays.", "Run the ops stage again."
        )
    return {}


def _toml(run: Run, failures: dict[str, str]) -> str:
    """Return the text of the file (`ops.expectations` reads it)."""
    lines = [f"# From run {run.id} of {run.target.name}, on {run.device.used}."]
    if not failures:
        return f"{lines[0]}\n# Nothing to expect.\n"
    torch = re.match(r"[\d.]+\d", run.host.packages.get("torch", ""))
    lines += ["", "[[expect]]"]
    if torch:
        lines.append(f'torch = "=={torch[0]}"')
    # Another system's version says nothing about macOS.
    if run.host.system == "Darwin":
        lines.append(f'macos = "=={run.host.os_version}"')
        chip = (run.host.chip or "").removeprefix("Apple ")
        lines += [f"chip = {_quoted(chip)}"] if chip else []
    lines.append("ids = [")
    for id_, message in failures.items():
        lines += [f"  # {_comment(message)}"] if message else []
        lines.append(f"  {_quoted(id_)},")
    return "\n".join([*lines, "]", ""])


def _quoted(text: str) -> str:
    """Quote a text as a basic string of TOML, for which JSON's strings are valid."""
    return msgspec.json.encode(text).decode()


def _comment(text: str) -> str:
    """Return a text as one line without control characters, for a comment in TOML."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)[:160]
