"""Forecast models on an NVIDIA H200 that no constant has seen, measure them there, and compare.

    python benchmarks/unseen.py --first FILE [--only NAME ...]   # forecasts by specification, before any measurement
    python benchmarks/unseen.py --measure FILE --seconds N       # on the GPU at hand: calibrate, time, calibrate again
    python benchmarks/unseen.py                                  # the tables, from committed measurements

The models are those of `zoo_unseen.jsonl`: other classes, sizes and dtypes than those of `zoo.jsonl`, and training
steps. The first forecasts are kept with their commit (`measured/h200_unseen_first.jsonl`), so that a later change of a
constant cannot improve them. The measurements hold both calibrations, so that forecasts can be made anew from them.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import msgspec
import torch

import forecast
import zoo
from mpsprobe.forecast.calibration import Calibration
from mpsprobe.forecast.machine import Machine, of_gpu
from mpsprobe.knowledge import speed
from mpsprobe.models.training import TrainingAdapter, TrainingPlan
from zoo import Case

HERE = Path(__file__).parent / "measured"
FIRST, MEASURED = HERE / "h200_unseen_first.jsonl", HERE / "h200_unseen.jsonl"
#: The sets of `zoo_unseen.jsonl`: forecast before anything was corrected, and after.
SETS = ("unseen", "last")
_RELEASE = "2.13"
_TITLES = {"unseen": "models unseen until then", "last": "models unseen after the corrections"}
#: Models of at most this many bytes stay on the GPU between rounds.
_KEPT = 4 << 30


def machines(lines: list[dict[str, Any]]) -> list[tuple[str, Machine]]:
    """Return the H200 by its specification, and by each calibration of a session."""
    from mpsprobe.forecast import calibration

    found = [("by its specification", _specified())]
    earlier: Calibration | None = None
    for row in lines:
        if "calibration" in row:
            one = earlier = calibration.beside(msgspec.convert(row["calibration"], Calibration), earlier)
            title = f"calibrated {row['when']} the models, steady within {one.unsteady:.2f}"
            found.append((title, calibration.machine(one)))
    return found


def _specified() -> Machine:
    gpu = speed.find_gpu("h200")
    assert gpu is not None
    return of_gpu(gpu)


def first(file: Path, models: list[Case], cache: Path | None) -> None:
    """Write the forecast of each model by specification, with the commit whose constants made it."""
    machine = _specified()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    rows = []
    for case in models:
        begun = time.perf_counter()
        try:
            row = forecast.row_of(
                case.name, case.group, True, forecast.recorded(case, _RELEASE, cache), machine, 1.0
            )
        except Exception as problem:  # the others are still forecast
            sys.stderr.write(f"{case.name}: {type(problem).__name__}: {problem}\n")
            continue
        told = {key: float(f"{getattr(row, key):.4g}") for key in ("expected", "low", "high")}
        rows.append({"name": case.name, "set": case.set, "commit": commit, **told, "bound": row.bound})
        sys.stderr.write(f"{rows[-1]} {time.perf_counter() - begun:.0f} s\n")
        file.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")


def chosen(only: list[str], which: Iterable[str]) -> list[Case]:
    """Return the unseen cases of some sets whose name begins with one of `only`, or all."""
    cases = [case for one in which for case in zoo.cases(one)]
    return [case for case in cases if not only or any(case.name.startswith(one) for one in only)]


def measure(file: Path, seconds: float, models: list[Case]) -> None:
    """Calibrate the GPU at hand, time the models in rounds until `seconds` are over, and calibrate once more.

    Each row is written as soon as it is known. The fastest time counts, as in `forecast.py`: other guests of the
    machine make some seconds slower.
    """
    import transformers

    from mpsprobe.device.real import real_device
    from mpsprobe.forecast.calibrate import calibrate

    until = time.perf_counter() + seconds
    real = real_device("cuda")
    about = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    rows: list[dict[str, Any]] = [about]
    times: dict[str, dict[str, Any]] = {}

    def write() -> None:
        lines = [*rows, *times.values()]
        file.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")

    def calibrated(when: str) -> None:
        one = calibrate(real)
        forecast.tell_calibration(one)
        rows.append({"when": when, "calibration": msgspec.to_builtins(one)})
        write()

    calibrated("before")
    kept: dict[str, Callable[[], Any]] = {}
    for turn in range(4):
        for case in models:
            if time.perf_counter() > until or "failed" in times.get(case.name, {}):
                continue
            begun = time.perf_counter()
            run: Callable[[], Any] | None = None
            try:
                run = kept.get(case.name) or prepared(case, real.torch_device, kept)
                told = times.setdefault(case.name, {"name": case.name, "seconds": 0, "rounds": []})
                told["rounds"].append(round(timed(run, real, budget=1.0), 7))
                told["seconds"] = min(told["rounds"])
            except Exception as problem:  # the others are still measured
                times[case.name] = {"name": case.name, "failed": f"{type(problem).__name__}: {problem}"[:300]}
            run = None
            sys.stderr.write(f"{turn} {case.name} {time.perf_counter() - begun:.1f} s {times[case.name]}\n")
            if case.name not in kept:
                gc.collect()
                torch.cuda.empty_cache()
            write()
    kept.clear()
    gc.collect()
    torch.cuda.empty_cache()
    calibrated("after")


def prepared(case: Case, device: torch.device, kept: dict[str, Callable[[], Any]]) -> Callable[[], Any]:
    """Return a function that runs a case once on a device, and keep it if its model is small."""
    before = torch.cuda.memory_allocated()
    if case.train:
        adapter = TrainingAdapter(
            forecast.ZooAdapter(case), TrainingPlan(case.train, "adamw", accumulate=case.accumulate)
        )
        run = _step(case, adapter, device)
    else:
        with torch.inference_mode():
            model = zoo.build(case, device)
            batch = zoo.inputs(case, device)

        def run() -> Any:
            with torch.inference_mode():
                return zoo.run(case, model, batch)

    if torch.cuda.memory_allocated() - before <= _KEPT:
        kept[case.name] = run
    return run


def _step(case: Case, adapter: TrainingAdapter, device: torch.device) -> Callable[[], Any]:
    inner: Any = adapter.inner
    inner.load = lambda where, _: zoo.build(case, where)
    model = adapter.load(device, case.dtype)
    batch = {key: value.to(device) for key, value in adapter.prepare({}).items()}
    autocast = getattr(torch, case.autocast) if case.autocast else None

    def run() -> Any:
        with torch.enable_grad(), torch.autocast("cuda", autocast, enabled=autocast is not None):
            return adapter.infer(model, batch)

    return run


def timed(run: Callable[[], Any], real: Any, budget: float) -> float:
    """Return the fastest of 2 to 8 runs in seconds; two that warm up are left out, one if it takes over a second."""
    times: list[float] = []
    warm = 2
    begun = time.perf_counter()
    while len(times) < warm + 2 or (len(times) < 10 and time.perf_counter() - begun < budget):
        real.synchronize()
        start = time.perf_counter()
        run()
        real.synchronize()
        times.append(time.perf_counter() - start)
        if len(times) == 1 and times[0] > 1.0:
            warm = 1
    return min(times[warm:])


def tables(cache: Path | None, models: list[Case]) -> None:
    """Print the first forecasts beside the measurements, then today's by specification and by each calibration."""
    cases = {case.name: case for case in models}
    lines = [json.loads(line) for line in MEASURED.read_text(encoding="utf-8").splitlines()[1:]]
    told = {row["name"]: row for row in map(json.loads, FIRST.read_text(encoding="utf-8").splitlines())}
    traces = {name: forecast.recorded(case, _RELEASE, cache) for name, case in cases.items()}
    for session, which in product(sorted({line["session"] for line in lines}), SETS):
        mine = [line for line in lines if line["session"] == session]
        names = [
            line["name"]
            for line in mine
            if "seconds" in line and line["name"] in cases and cases[line["name"]].set == which
        ]
        measured = {line["name"]: line["seconds"] for line in mine if line.get("name") in names}
        if not measured:
            continue
        made = [
            forecast.Row(
                name, cases[name].group, True, one["expected"], measured[name], one["low"], one["high"], ""
            )
            for name, one in told.items()
            if name in measured
        ]
        what = f"H200, session {session}, {_TITLES[which]}"
        forecast.show(f"{what}: the first forecasts, by its specification", made, details=False)
        for title, machine in machines(mine):
            rows = [
                forecast.row_of(name, cases[name].group, True, traces[name], machine, seconds)
                for name, seconds in measured.items()
            ]
            forecast.show(f"{what}, today: {title}", rows)
            forecast.spread(rows)


def main() -> None:
    """Forecast, measure or compare, as the options say."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--first", type=Path, metavar="FILE", help="write forecasts by specification there")
    options.add_argument(
        "--measure", type=Path, metavar="FILE", help="measure on the GPU at hand, write there"
    )
    options.add_argument("--seconds", type=float, default=400, help="with --measure: the time for all rounds")
    options.add_argument("--only", nargs="*", default=[], help="rows whose name begins so")
    options.add_argument(
        "--set", nargs="*", default=SETS, choices=SETS, help="sets of models (default: both)"
    )
    options.add_argument("--cache", type=Path, help="folder that keeps recordings between runs")
    told = options.parse_args()
    warnings.simplefilter("ignore")
    if told.first:
        first(told.first, chosen(told.only, told.set), told.cache)
    elif told.measure:
        measure(told.measure, told.seconds, chosen(told.only, told.set))
    else:
        tables(told.cache, chosen(told.only, told.set))


if __name__ == "__main__":
    main()
