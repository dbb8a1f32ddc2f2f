"""Many models, one after the other, through `mpsprobe predict` and `mpsprobe run --random-init`.

    python tools/campaign.py run --work DIR [--stage predict|releases|run] [--only NAME]
    python tools/campaign.py table

`run` takes the targets of tools/campaign_targets.toml and adds the result of each command, with the CPU time and
the peak memory of its process tree, to docs/coverage.json. Results that this file has already for the installed
transformers are kept, so that the campaign can be stopped and started again; `--again` measures them anew. `table`
writes docs/coverage.md from it. Code of other people (`repository` in a target) is expected in a checkout under
`--code DIR`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import campaign_table
import campaign_target
from campaign_target import CampaignTarget

RESULTS = Path(__file__).parent.parent / "docs" / "coverage.json"
_LOCK = Path(tempfile.gettempdir()) / "mpsprobe-campaign.lock"
#: The time limit of one command in seconds of wall time.
LIMIT = 900
STAGES = ("predict", "releases", "run")
#: The torch that predictions are for.
RELEASE = "2.13"


def arguments_of(target: CampaignTarget, stage: str, folder: Path, output: Path) -> list[str]:
    """Return the arguments of `mpsprobe` for a target in a stage of the campaign."""
    what = target.model(folder, small=stage != "predict")
    if stage == "run":
        device = ["--random-init", "--device", "emulated", "--phase", "6", "--output", str(output)]
        return ["run", *what, *device, "--json"]
    return ["predict", *what, "--torch", "all" if stage == "releases" else RELEASE, "--json"]


def measured(arguments: list[str], output: Path, code_path: str) -> dict[str, Any]:
    """Run `mpsprobe`; return exit code, CPU and wall seconds, peak memory, and whether the time limit ended it.

    CPU seconds and memory include its children's. A prediction runs in a fork of this process, which has already
    imported torch, transformers and mpsprobe, so its seconds exclude imports. A run starts its own processes, which
    import everything again.
    """
    output.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _become(arguments, output, code_path)
    with _killed_after(pid, LIMIT) as killed:
        _, status, used = os.wait4(pid, 0)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "rss_bytes": used.ru_maxrss * 1024,
        "wall_s": round(time.monotonic() - begun, 1),
        "timed_out": bool(killed),
    }


def _become(arguments: list[str], output: Path, code_path: str) -> NoReturn:
    """Become `mpsprobe` in a forked child, with stdout and stderr in files of `output`; this never returns."""
    code = 4
    try:
        os.setsid()
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), stream)
        if code_path:
            sys.path.insert(0, code_path)
            os.environ["PYTHONPATH"] = os.pathsep.join(
                filter(None, (code_path, os.environ.get("PYTHONPATH")))
            )
        if arguments[0] == "run":
            os.execv(sys.executable, [sys.executable, "-m", "mpsprobe", *arguments])
        from mpsprobe.cli import main

        sys.argv = ["mpsprobe", *arguments]
        main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:  # the parent reads the error
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextlib.contextmanager
def _killed_after(pid: int, seconds: float) -> Iterator[list[int]]:
    """Kill a process and its children after `seconds`; the yielded list is empty unless that happened."""
    killed: list[int] = []

    def kill() -> None:
        killed.append(pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        yield killed
    finally:
        timer.cancel()


def said(stage: str, result: dict[str, Any], output: Path) -> dict[str, Any]:
    """Return a short record of a command's costs and result, which is `error` where it left no usable document."""
    costs = {name: result[name] for name in ("cpu_s", "rss_bytes", "wall_s")} | {"host": _host()}
    if result["timed_out"]:
        return {**costs, "error": f"stopped after {LIMIT} s"}
    document = None
    file = output / ("run.json" if stage == "run" else "out")
    with contextlib.suppress(ValueError, OSError):
        document = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or "target" not in document:
        lines = [line for line in (output / "err").read_text(encoding="utf-8").splitlines() if line.strip()]
        told = next((line for line in lines if line.startswith("mpsprobe: ")), lines[-1] if lines else "")
        return {**costs, "error": told.removeprefix("mpsprobe: ")[:300] or f"exit code {result['code']}"}
    read = {"predict": _of_prediction, "releases": _of_releases, "run": _of_run}[stage]
    return {**costs, **read(document)}


def _host() -> str:
    """Return a description of this machine for the head of the table."""
    torch = metadata.version("torch").partition("+")[0]
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch}"


def _of_prediction(document: dict[str, Any]) -> dict[str, Any]:
    uses, made = document["op_uses"], document["predicted"]
    other = Counter(use["verdict"] for use in uses if use["verdict"] not in ("native", "composite"))
    return {
        "parameters": document["target"]["parameters"],
        "op_uses": len(uses),
        "ops": len({use["op"] for use in uses}),
        "calls": sum(use["count"] for use in uses),
        "other": dict(other),
        "findings": len(made["refusals"]),
        "finding": made["refusals"][0]["message"][:200] if made["refusals"] else "",
        "stopped": made["stopped"][:200],
        "torch": document["mac"]["torch"],
    }


def _of_releases(document: dict[str, Any]) -> dict[str, Any]:
    return {
        "first_fully_native": document["predicted"]["first_fully_native"],
        "releases": {
            row["torch"]: {
                "fully_native": row["fully_native"],
                "not_native": row["not_native"],
                "findings": row["findings"],
                "stopped": row["stopped"][:200],
            }
            for row in document["predicted"]["releases"]
        },
    }


def _of_run(document: dict[str, Any]) -> dict[str, Any]:
    bad = [check for check in document["checks"] if check["status"] in _BAD]
    statuses: dict[str, int] = {}
    for check in document["checks"]:
        statuses[check["status"]] = statuses.get(check["status"], 0) + 1
    return {
        "statuses": statuses,
        "worst": next((status for status in _BAD if status in statuses), "pass"),
        "problems": [f"{check['id']}: {check['message']}"[:300] for check in bad],
        "parameters": document["target"]["parameters"],
        "limits": document["limits"][:1],
    }


#: The statuses of checks that the table counts, worst first; passes and warnings are not among them.
_BAD = ("error", "crashed", "timeout", "fail", "blocked")


def run(arguments: argparse.Namespace) -> None:
    """Run every command of the campaign that has no result yet."""
    # without a GPU: CUDA, once initialised here, cannot be used in a fork
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    import transformers.modeling_utils  # noqa: F401  (shared by all forks)

    import mpsprobe.prediction.command  # noqa: F401

    version = metadata.version("transformers")
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    rows = results.get(version, {})
    for stage in arguments.stage or STAGES:
        for target in campaign_target.read():
            name = target.name
            if arguments.only and name not in arguments.only:
                continue
            if stage in rows.get(name, {}) and not arguments.again:
                continue
            output = Path(arguments.work) / version / stage / name
            result = _one(target, stage, output, arguments.code)
            _add(version, name, stage, result)
            told = result.get("error") or result.get("stopped") or result.get("worst") or "done"
            print(f"{name:24} {stage:9} {result.get('cpu_s', 0):7.1f} s  {told}", flush=True)  # noqa: T201


def _one(target: CampaignTarget, stage: str, output: Path, code: str) -> dict[str, Any]:
    folder, reports = output / "config", output / "reports"
    try:
        target.write(folder)
    except (AttributeError, ImportError) as problem:
        return {"error": f"transformers {metadata.version('transformers')}: {problem}"[:300]}
    path = str(Path(code) / target.repository.rpartition("/")[2] / target.path) if target.repository else ""
    shutil.rmtree(reports, ignore_errors=True)
    return said(stage, measured(arguments_of(target, stage, folder, reports), reports, path), reports)


def _add(version: str, name: str, stage: str, result: dict[str, Any]) -> None:
    """Add a result to the file, which another campaign may be writing too."""
    with _LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _write(version, name, stage, result)


def _write(version: str, name: str, stage: str, result: dict[str, Any]) -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    results.setdefault(version, {}).setdefault(name, {})[stage] = result
    order = {target.name: place for place, target in enumerate(campaign_target.read())}
    rows = results[version]
    results[version] = {
        name: rows[name] for name in sorted(rows, key=lambda name: order.get(name, len(order)))
    }
    whole = RESULTS.with_suffix(".new")
    whole.write_text(_compact(results), encoding="utf-8")
    whole.replace(RESULTS)


def _compact(results: dict[str, dict[str, Any]]) -> str:
    """Return the results as JSON with one line for each target."""
    releases = [
        f"{json.dumps(version)}: {{\n"
        + ",\n".join(
            f"{json.dumps(name)}: {json.dumps(row, separators=(',', ':'))}" for name, row in rows.items()
        )
        + "\n}"
        for version, rows in results.items()
    ]
    return "{" + ",\n".join(releases) + "}\n"


def main() -> None:
    """Run the campaign or draw its page, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    running = commands.add_parser("run")
    running.add_argument("--work", required=True, help="folder for configs and reports")
    running.add_argument("--code", default=".", help="folder of checkouts of other people's code")
    running.add_argument("--stage", action="append", choices=STAGES)
    running.add_argument("--only", action="append", help="name of a target")
    running.add_argument("--again", action="store_true", help="measure what is there already")
    commands.add_parser("table")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments)
        return
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    whole = RESULTS.with_suffix(".md")
    _, found, others = whole.read_text(encoding="utf-8").partition(campaign_table.OTHERS)
    made = campaign_table.page(campaign_target.read(), results)
    whole.write_text(f"{made.rstrip()}\n\n{found}{others}" if found else made, encoding="utf-8")


if __name__ == "__main__":
    main()
