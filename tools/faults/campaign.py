"""Run the cases of the fault campaign, a few at a time, and print a table of the outcomes."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from faults.case import Case, Outcome
from faults.judge import problem

#: Modules of this package, in the order of the table, with their titles.
GROUPS = {
    "consent": "Consent",
    "hub": "Hub",
    "files": "Local files",
    "injected": "Faults injected in each phase",
    "process": "Process and signals",
    "environment": "Environment",
    "command_line": "Command line",
    "documents": "Documents",
    "concurrency": "Concurrency",
    "odd": "Odd processes",
}
_CHECKOUT = Path(__file__).parents[2]
_BEGIN, _END = "<!-- faults: begin -->", "<!-- faults: end -->"
#: A variable that marks every process of a case, so that remaining ones are found.
_MARK = "FAULTS_CASE"
#: Variables that would let one campaign differ from another.
_DROPPED = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTHONSTARTUP", "PYTHONSAFEPATH", "HF_TOKEN", "DEBUG")


@dataclass(frozen=True)
class Judged:
    """A case with the outcome of its call and what is wrong with it.

    Attributes:
        group: The module of the group.
        case: The case.
        wrong: What is wrong with the outcome; `""` when it is as expected.
        outcome: The outcome.
    """

    group: str
    case: Case
    wrong: str
    outcome: Outcome


def hear_signals() -> None:
    """Reset the dispositions of signals to those of a terminal, however the campaign was started.

    A shell's background job and `nohup` ignore SIGINT, SIGQUIT or SIGHUP, which every child would inherit, so that
    the cases of signals would test nothing. A handler does not outlive `exec`, so children get the default, while this
    process still ignores the signals.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def play(case: Case, surroundings: Mapping[str, str], folder: Path) -> Outcome:
    """Run one case in `folder` until it ends, or kill it when its time limit passes, and return the outcome.

    Args:
        case: The case.
        surroundings: The environment variables that its group provides.
        folder: An empty folder, in which the call runs.
    """
    case.prepare(folder)
    name = f"{case.name}-{os.getpid()}-{time.monotonic_ns()}"
    env = {key: value for key, value in os.environ.items() if key not in _DROPPED}
    env |= {"OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(_CHECKOUT / "src")}
    # no request leaves the campaign, because the proxy never answers
    env |= {"HF_HOME": str(folder / "hf"), "HF_ENDPOINT": "http://127.0.0.1:9", "NO_COLOR": "1"}
    env |= {"FAULTS_FOLDER": str(folder), _MARK: name, **surroundings}
    for key, value in case.env.items():
        if value is None:
            env.pop(key, None)
        else:
            env[key] = value.replace("{folder}", str(folder))
    argv = [word.replace("{folder}", str(folder)) for word in case.argv]
    if argv[:1] == ["run"] and "--output" not in argv:
        argv += ["--output", "out"]
    begun = time.monotonic()
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mpsprobe", *argv] if sys.version_info >= (3, 11)
            else [str(Path(sys.executable).with_name("mpsprobe")), *argv],
            cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
        )  # fmt: skip
        try:
            if case.during is not None:
                case.during(process, folder)
            process.wait(timeout=max(1.0, case.limit_s - (time.monotonic() - begun)))
        except subprocess.TimeoutExpired:
            pass
        finally:
            seconds = time.monotonic() - begun
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return Outcome(
        process.returncode,
        (folder / "stdout").read_text(encoding="utf-8", errors="replace"),
        (folder / "stderr").read_text(encoding="utf-8", errors="replace"),
        folder,
        seconds,
        _survivors(name),
    )


def _survivors(name: str) -> tuple[str, ...]:
    """Return the command lines of the processes that still have a case's mark 5 s after its end, and kill them."""
    found: list[str] = []
    deadline = time.monotonic() + 5.0
    while True:
        alive = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == name and process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(process)
        if not alive or time.monotonic() > deadline:
            break
        time.sleep(0.25)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            found.append(" ".join(process.cmdline())[:200])
            process.kill()
    return tuple(found)


def cases_of(group: str, *, short: bool) -> list[Case]:
    """Return the cases of a group, or only those that CI runs if `short` is set; names must be unique."""
    module = importlib.import_module(f"faults.{group}")
    found = [case for case in module.cases() if case.short or not short]
    names = [case.name for case in found]
    assert len(names) == len(set(names)), f"{group}: a name is used twice"
    return found


def run_group(group: str, cases: Sequence[Case], jobs: int) -> Iterator[Judged]:
    """Run the cases of a group, `jobs` at a time, and yield them judged, in their order.

    The folder of a case that ended as expected is deleted.
    """
    module = importlib.import_module(f"faults.{group}")
    surroundings: Callable[[], contextlib.AbstractContextManager[dict[str, str]]]
    surroundings = getattr(module, "surroundings", lambda: contextlib.nullcontext({}))

    def one(case: Case) -> Judged:
        folder = Path(tempfile.mkdtemp(prefix=f"faults-{group}-"))
        try:
            outcome = play(case, env, folder)
            wrong = problem(case, outcome)
        except Exception as error:  # the case itself is at fault, which must not end the campaign
            outcome = Outcome(-1, "", "", folder, 0.0)
            wrong = f"the case could not be played: {type(error).__name__}: {error}"
        if not wrong:
            _remove(folder)
        return Judged(group, case, wrong, outcome)

    with surroundings() as env, ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(one, cases)


def _remove(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)


def _note(path: Path, one: Judged) -> None:
    """Append a judged case to a file as one JSON line, so that an interrupted campaign keeps its results."""
    row = {"group": one.group, "case": one.case.name, "code": one.outcome.code, "wrong": one.wrong}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _noted(paths: Sequence[Path]) -> list[Judged]:
    """Return the judged cases in files that `_note` wrote; a later line of the same case replaces an earlier one."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows[row["group"], row["case"]] = row
    return [
        Judged(
            row["group"],
            Case(row["case"], (), set()),
            row["wrong"],
            Outcome(row["code"], "", "", Path(), 0.0),
        )
        for row in rows.values()
    ]


def table(judged: Sequence[Judged]) -> str:
    """Return a campaign's outcomes as a Markdown table, with a row for each group and one for all."""
    lines = ["| group | tried | right | wrong | the promise |", "|---|--:|--:|--:|---|"]
    for group, title in GROUPS.items():
        ours = [one for one in judged if one.group == group]
        if not ours:
            continue
        wrong = sum(1 for one in ours if one.wrong)
        promise = importlib.import_module(f"faults.{group}").PROMISE
        lines.append(f"| {title} | {len(ours)} | {len(ours) - wrong} | {wrong} | {promise} |")
    wrong = sum(1 for one in judged if one.wrong)
    lines.append(f"| all | {len(judged)} | {len(judged) - wrong} | {wrong} | |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fault campaign with these command-line arguments; return 1 when a case ended wrong, else 0."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--group", action="append", choices=list(GROUPS), help="only this one; repeatable")
    parser.add_argument("--case", help="only cases whose name has this in it (a regular expression)")
    parser.add_argument("--short", action="store_true", help="only the cases that CI runs")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time (2)")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--json", type=Path, help="append each case with its end to this file")
    parser.add_argument("--table", type=Path, nargs="+", help="play nothing: draw the table of such files")
    parser.add_argument("--resume", action="store_true", help="leave out what --json has as right already")
    parser.add_argument("--write", type=Path, help="put the table between the marks of this Markdown file")
    asked = parser.parse_args(arguments)
    hear_signals()
    judged: list[Judged] = []
    if asked.table:
        judged = _noted(asked.table)
    done = _noted([asked.json]) if asked.resume and asked.json and asked.json.is_file() else []
    right = {(one.group, one.case.name) for one in done if not one.wrong}
    for group in asked.group or GROUPS if not asked.table else ():
        if not (Path(__file__).parent / f"{group}.py").is_file():
            continue
        cases = [
            case for case in cases_of(group, short=asked.short) if re.search(asked.case or "", case.name)
        ]
        cases = [case for case in cases if (group, case.name) not in right]
        if asked.list:
            print(*(f"{group}/{case.name}" for case in cases), sep="\n")
            continue
        for one in run_group(group, cases, asked.jobs):
            judged.append(one)
            if asked.json:
                _note(asked.json, one)
            mark = f"WRONG: {one.wrong} ({one.outcome.folder})" if one.wrong else "right"
            print(f"{group}/{one.case.name} [{one.outcome.seconds:.0f} s] {mark}", flush=True)
    if asked.list:
        return 0
    print(f"\n{table(judged)}")
    if asked.write:
        text = asked.write.read_text(encoding="utf-8")
        before, _, rest = text.partition(_BEGIN)
        _, _, after = rest.partition(_END)
        asked.write.write_text(f"{before}{_BEGIN}\n{table(judged)}\n{_END}{after}", encoding="utf-8")
    return 1 if any(one.wrong for one in judged) else 0
