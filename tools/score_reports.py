"""Score how many reported failures mpsprobe would have foreseen or explained, and what it wrongly refuses.

    python tools/score_reports.py REPORTS.jsonl --positives POSITIVES.jsonl [--list]

Two questions, kept apart (docs/scores.md says what counts):

* foreseen: from only the facts that were known before the run (torch, macOS, chip, ops, dtypes), there is an op
  verdict, a dtype rule, an advisory or an environment rule that names the op or the condition and predicts the kind
  of failure that occurred. `certain`, or `possible` where a fact was not stated (shapes never are).
* explained: `mpsprobe explain` on the error line, with a cause that fits the class; a generic answer does not count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from packaging.version import Version

from mpsprobe.errors import UsageError
from mpsprobe.knowledge import advisories, dtypes, environment, ops
from mpsprobe.knowledge.advisories import Advisory, Symptom
from mpsprobe.knowledge.error_texts import Cause, by_id
from mpsprobe.knowledge.explain import explain
from mpsprobe.knowledge.history import library_op, op_history
from mpsprobe.run import OpVerdict


class Report(msgspec.Struct, frozen=True):
    """A failure that was reported in a public thread; a field is None where the thread does not state it."""

    id: str
    url: str
    failure_class: str
    ops: list[str]
    dtypes: list[str]
    date: str | None = None
    torch: str | None = None
    torch_resolved: str | None = None
    macos: str | None = None
    chip: str | None = None
    error_first_line: str | None = None


class Positive(msgspec.Struct, frozen=True):
    """A statement in a public thread that something works."""

    id: str
    subject: str
    kind: str
    dtypes: list[str]
    statement: str = ""
    since_torch: str | None = None
    tested_torch: str | None = None
    macos: str | None = None
    chip: str | None = None
    caveat: str | None = None


class Foresight(msgspec.Struct, frozen=True):
    """Something that mpsprobe would have said before the run.

    Attributes:
        channel: `op verdict`, `dtype rule`, `advisory` or `environment`.
        what: The op, dtype, advisory or rule.
        certain: False when a decisive fact was not stated.
        same_thread: Whether it is an advisory that has the thread of the report among its sources.
    """

    channel: str
    what: str
    certain: bool
    same_thread: bool = False


#: The newest release by date, for reports that name none. From 2.10 on the month comes from threads, not from PyPI.
_RELEASED = {
    "2.1": "2023-10-04",
    "2.2": "2024-01-30",
    "2.3": "2024-04-24",
    "2.4": "2024-07-24",
    "2.5": "2024-10-17",
    "2.6": "2025-01-29",
    "2.7": "2025-04-23",
    "2.8": "2025-08-06",
    "2.9": "2025-10-15",
    "2.10": "2026-01-21",
    "2.11": "2026-03-20",
    "2.12": "2026-05-15",
    "2.13": "2026-07-08",
    "2.14": "2026-09-02",
    "2.15": "2026-11-01",
}

_RAISING = {"unimplemented_op", "dtype_unsupported", "size_limit", "autocast", "other"}

#: The failure classes of the reports that an advisory's symptom covers.
_CLASSES_OF_SYMPTOM = {
    Symptom.WRONG: {"wrong_result"},
    Symptom.NAN: {"nan", "wrong_result"},
    Symptom.ABORT: {"crash_abort", "size_limit"},
    Symptom.HANG: {"hang"},
    Symptom.LEAK: {"oom"},
    Symptom.RAISES: _RAISING | {"device_mismatch", "oom"},
    Symptom.SLOW: {"slow"},
}

#: The causes that explain each failure class. `other` accepts any that is not generic.
_CAUSES_OF_CLASS = {
    "unimplemented_op": {Cause.MISSING_OP, Cause.FALLBACK, Cause.THIRD_PARTY},
    "dtype_unsupported": {Cause.DTYPE},
    "oom": {Cause.OUT_OF_MEMORY, Cause.WATERMARK},
    "size_limit": {Cause.RANK_OR_SIZE},
    "crash_abort": {Cause.METAL_ASSERTION, Cause.LLVM, Cause.COMMAND_BUFFER, Cause.RANK_OR_SIZE, Cause.CRASH},
    "device_mismatch": {Cause.DEVICE_MISMATCH, Cause.PLACEHOLDER_STORAGE},
    "autocast": {Cause.AUTOCAST},
    "nan": {Cause.NUMERICS},
    "wrong_result": {Cause.NUMERICS},
    "hang": {Cause.HANG},
    "dependency_conflict": {Cause.INSTALL, Cause.CUDA_ONLY},
    "runner_virtualised": {Cause.OUT_OF_MEMORY, Cause.SHADER, Cause.NOT_AVAILABLE},
}


def main_torch(report: Report) -> tuple[str | None, bool]:
    """Return the minor release to judge by (None without data), and whether the report does not state it."""
    stated = report.torch_resolved or _leading_version(report.torch)
    if stated is not None:
        try:
            return ops.resolve_release(stated), False
        except UsageError:
            return None, False  # older than the data
    if not report.date:
        return None, True
    before = [minor for minor, day in _RELEASED.items() if day <= report.date]
    return (before[-1] if before else None), True


def _leading_version(text: str | None) -> str | None:
    found = re.match(r"(\d+\.\d+(?:\.\d+)?)", text or "")
    return found[1] if found else None


def _macos(text: str | None) -> str | None:
    return _leading_version(text) or (text if text and text.isdigit() else None)


def foresee(report: Report) -> list[Foresight]:
    """Return what mpsprobe would have said before the run about the kind of failure that occurred."""
    torch, assumed = main_torch(report)
    found = [*_by_environment(report, torch)]
    if torch is not None:
        found += _by_ops(report, torch, assumed)
        found += _by_dtypes(report, torch, assumed)
        found += _by_advisories(report, torch, assumed)
    elif assumed:
        found += _by_any_release(report)
    return found


def _by_any_release(report: Report) -> Iterator[Foresight]:
    """Yield, for a report with neither release nor date, what would be said for older releases."""
    for name in _names(report):
        history = op_history(name) if report.failure_class == "unimplemented_op" else None
        if history is not None and not history.oldest:
            yield Foresight(
                "op verdict", f"{name} missing before {history.first_good or 'every release'}", False
            )
    for dtype in report.dtypes if report.failure_class == "dtype_unsupported" else ():
        if all(_restriction("aten::_to_copy", dtype, minor, None) for minor in ops.releases()[:-1]):
            yield Foresight("dtype rule", f"{dtype} is refused", False)


def _names(report: Report) -> Iterator[str]:
    """Yield the names of a report's ops, without remarks in parentheses."""
    for op in report.ops:
        yield op.partition(" (")[0].strip()


def _by_ops(report: Report, torch: str, assumed: bool) -> Iterator[Foresight]:
    if report.failure_class not in {"unimplemented_op", "slow"}:
        return
    for name in _names(report):
        library = library_op(name)
        if library is not None and library.since:
            yield Foresight("op verdict", f"{name} before {library.library} {library.since}", False)
        for verdict in sorted(_verdicts(name, torch)):
            if verdict in (OpVerdict.RAISES, OpVerdict.FALLBACK):
                yield Foresight("op verdict", f"{name} {verdict.value} in {torch}", not assumed)


def _verdicts(name: str, torch: str) -> set[OpVerdict]:
    """Return the known verdicts of the overloads that a name covers, without the fallback variable; empty for none."""
    try:
        overloads = ops.normalise(name)
    except UsageError:
        return set()
    found = {ops.verdict(op, torch, fallback=False)[0] for op in overloads}
    return found - {OpVerdict.UNKNOWN}


def _by_dtypes(report: Report, torch: str, assumed: bool) -> Iterator[Foresight]:
    if report.failure_class != "dtype_unsupported":
        return
    names = [name for name in _names(report) if _verdicts(name, torch)] or ["aten::_to_copy"]
    for name in names:
        for op in ops.normalise(name):
            for dtype in report.dtypes:
                rule = _restriction(op, dtype, torch, _macos(report.macos))
                if rule is not None:
                    everywhere = all(
                        _restriction(op, dtype, minor, None) is not None for minor in ops.releases()
                    )
                    yield Foresight("dtype rule", f"{dtype}: {rule.message}", everywhere or not assumed)


def _restriction(op: str, dtype: str, torch: str, macos: str | None) -> dtypes.Restriction | None:
    try:
        found = dtypes.check(op, [dtype], torch, macos)
    except (UsageError, KeyError):
        return None
    return found if found is not None and found.effect is not dtypes.Effect.CASTS else None


def _by_advisories(report: Report, torch: str, assumed: bool) -> Iterator[Foresight]:
    version = report.torch_resolved or torch
    for name in dict.fromkeys(_names(report)):
        if "::" not in name:
            continue
        try:
            about = advisories.of_op(name)
        except UsageError:
            continue  # an op of another library
        for advisory in about:
            if report.failure_class not in _CLASSES_OF_SYMPTOM[advisory.symptom]:
                continue
            concerns = advisory.concerns(version, _macos(report.macos), report.chip)
            if concerns is True and _dtypes_agree(advisory, report.dtypes):
                certain = not assumed and not advisory.when
                yield Foresight("advisory", advisory.id, certain, report.url in advisory.links)


def _dtypes_agree(advisory: Advisory, stated: list[str]) -> bool:
    if not stated or not advisory.when:
        return True
    return any(
        not tensor_dtypes or tensor_dtypes.intersection(stated)
        for case in advisory.when
        for tensor_dtypes in [{dtype for tensor in case.tensors for dtype in tensor.dtype or ()}]
    )


def _by_environment(report: Report, torch: str | None) -> Iterator[Foresight]:
    wanted = report.torch_resolved or _leading_version(report.torch)
    macos = _macos(report.macos)
    if wanted and macos and report.failure_class in {"other", "autocast"}:
        answer = environment.macos_allows(wanted, macos)
        if answer.ok is False:
            yield Foresight("environment", answer.message, True)
    chip = report.chip or ""
    if wanted and "Intel" in chip and report.failure_class == "dependency_conflict":
        answer = environment.intel(wanted)
        if answer.ok is False:
            yield Foresight("environment", answer.message, True)
    on_runner = "runner" in f"{chip} {report.macos or ''}".lower()
    if on_runner and report.failure_class == "runner_virtualised":
        yield Foresight("environment", "hosted runners have a virtual GPU: no evidence for a Mac", True)
    for name in _names(report):
        package = environment.package(name)
        if package is not None and report.failure_class == "dependency_conflict":
            yield Foresight("environment", f"{name}: {package.why}", True)
        call = "torch.compile on mps" if name == "torch.compile" else name
        stated = wanted or torch
        if stated and report.failure_class == "other" and environment.api(call, stated).ok is False:
            yield Foresight("environment", f"{call} in {stated}", wanted is not None)


def explained(report: Report) -> str:
    """Return the id of the message that explains the error line with a fitting cause; "" when none does."""
    if not report.error_first_line:
        return ""
    wanted = _CAUSES_OF_CLASS.get(report.failure_class)
    for finding in explain(report.error_first_line).findings:
        if not by_id(finding.message).generic and (wanted is None or finding.cause in wanted):
            return finding.message
    return ""


def judge(positive: Positive) -> tuple[str, str]:
    """Return whether mpsprobe's data agrees with a statement (`agrees`, `contradicted`, `not checkable`), and why."""
    torch = positive.since_torch or positive.tested_torch
    if positive.kind in {"op", "dtype"} and torch and _is_release(torch):
        return _judge_op(positive, ops.resolve_release(torch))
    if positive.kind == "feature" and torch and _is_release(torch):
        return _judge_feature(positive, torch)
    if positive.kind == "op":
        library = library_op(positive.subject)
        since = (positive.since_torch or "").rpartition(" ")[2]
        if library is not None and since:
            return ("agrees" if library.since == since else "contradicted"), f"since {library.since}"
    if positive.kind in {"op", "dtype"} and torch is None:
        return _judge_op(positive, ops.releases()[-1])
    return "not checkable", positive.kind


def _is_release(text: str) -> bool:
    try:
        ops.resolve_release(text)
    except UsageError:
        return False
    return True


def _judge_op(positive: Positive, torch: str) -> tuple[str, str]:
    reasons = []
    for subject in _subjects(positive.subject):
        verdicts = _verdicts(subject, torch)
        if not verdicts:
            if op_history(subject) is not None:
                reasons.append(f"{torch} has no op {subject}")
            elif positive.kind == "op":
                return "not checkable", f"{subject} is no op"
            continue
        if not verdicts & {OpVerdict.NATIVE, OpVerdict.COMPOSITE}:
            reasons.append(f"{subject} {'/'.join(sorted(verdicts))} in {torch}")
        if positive.kind == "dtype":
            for op in ops.normalise(subject):
                for dtype in _dtypes_of(positive):
                    rule = _restriction(op, dtype, torch, _macos((positive.macos or "").rstrip("+")))
                    if rule is not None and rule.certain:
                        reasons.append(f"{op} {dtype}: {rule.message}")
    if positive.kind == "dtype" and positive.subject.endswith("tensors"):
        macos = _macos((positive.macos or "").rstrip("+"))
        missing = [dtype for dtype in positive.dtypes if dtype not in dtypes.accepted(torch, macos)]
        reasons += [f"{dtype} is not accepted in {torch}" for dtype in missing]
    return ("contradicted", "; ".join(reasons)) if reasons else ("agrees", f"in {torch}")


def _dtypes_of(positive: Positive) -> list[str]:
    return ["int32", "int64"] if positive.dtypes == ["integral"] else positive.dtypes


def _judge_feature(positive: Positive, torch: str) -> tuple[str, str]:
    if positive.subject.startswith("torch.autocast"):
        answers = [environment.autocast(torch, dtype) for dtype in positive.dtypes]
    else:
        name = "torch.compile on mps" if positive.subject.startswith("torch.compile") else positive.subject
        answers = [environment.api(name, torch)]
    if any(answer.ok is None for answer in answers):
        return "not checkable", positive.subject
    bad = [answer.message for answer in answers if not answer.ok]
    return ("contradicted", "; ".join(bad)) if bad else ("agrees", f"in {torch}")


def _subjects(text: str) -> list[str]:
    """Return the ops of a subject, without remarks: `angle` and `atan2` for `angle, atan2`."""
    plain = re.sub(r"\([^)]*\)", "", text).partition(" on ")[0].partition(" with ")[0]
    parts = [part.strip() for part in plain.split(",")]
    return [part if "::" in part else _op_name(part.replace("F.", "")) for part in parts]


def _op_name(subject: str) -> str:
    """Return the op for a name in release notes, which may lack the namespace or the leading underscore."""
    joined = subject.replace(".", "_")
    for name in (joined, subject.rpartition(".")[2], f"_{joined}"):
        if op_history(name) is not None:
            return name
    return joined


@click.command()
@click.argument("reports", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--positives", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--list", "listed", is_flag=True, help="Every report with what would have been said.")
def main(reports: Path, positives: Path | None, listed: bool) -> None:
    """Score REPORTS (JSON lines), and the statements that something works."""
    rows = [msgspec.json.decode(line, type=Report) for line in reports.read_bytes().splitlines() if line]
    _score_reports(rows, listed)
    if positives is not None:
        lines = positives.read_bytes().splitlines()
        _score_positives([msgspec.json.decode(line, type=Positive) for line in lines if line], listed)


#: Rows about releases without data in mpsprobe, which are not in the total.
_OLDER = "torch older than 2.1"


def _is_older(report: Report) -> bool:
    stated = report.torch_resolved or _leading_version(report.torch) or ""
    if stated:
        return Version(stated) < Version("2.1.dev0")
    return bool(report.date) and (report.date or "") < _RELEASED["2.1"]


def _score_reports(rows: list[Report], listed: bool) -> None:
    table: dict[str, Counter[str]] = {}
    channels: Counter[str] = Counter()
    for report in rows:
        seen, said = foresee(report), explained(report)
        row = table.setdefault(_OLDER if _is_older(report) else report.failure_class, Counter())
        row["n"] += 1
        row["with error"] += bool(report.error_first_line)
        certain = any(one.certain for one in seen)
        row["foreseen, certain"] += certain
        row["foreseen, possible"] += bool(seen) and not certain
        row["explained"] += bool(said)
        row["either"] += bool(seen) or bool(said)
        row["neither"] += not seen and not said
        row["own thread only"] += bool(seen) and not said and all(one.same_thread for one in seen)
        channels.update({one.channel for one in seen} | ({"message"} if said else set()))
        if listed:
            words = "; ".join(
                f"{one.channel}: {one.what}{'' if one.certain else ' (possible)'}" for one in seen
            )
            click.echo(f"{report.failure_class:20} {report.id:18} foreseen [{words}] explained [{said}]")
    columns = [
        "n",
        "foreseen, certain",
        "foreseen, possible",
        "with error",
        "explained",
        "either",
        "neither",
        "own thread only",
    ]
    total: Counter[str] = sum((row for name, row in table.items() if name != _OLDER), Counter())
    click.echo(f"| class | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for name, row in [*sorted(table.items(), key=lambda item: -item[1]["n"]), ("total without older", total)]:
        click.echo(f"| {name} | {' | '.join(str(row[column]) for column in columns)} |")
    click.echo("\nReports by channel (a report may have several): " + _words(channels))


def _score_positives(rows: list[Positive], listed: bool) -> None:
    counts: Counter[str] = Counter()
    for positive in rows:
        answer, why = judge(positive)
        counts[answer] += 1
        if listed or answer == "contradicted":
            caveat = f" (caveat there: {positive.caveat})" if positive.caveat else ""
            click.echo(f"{answer}: {positive.id}: {positive.subject}: {why}{caveat}")
    click.echo(f"\nWorks-natively statements ({len(rows)}): " + _words(counts))


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


if __name__ == "__main__":
    main()
