"""Compare forecasts with measurements, and fit the constants of forecasts, in one command.

    python benchmarks/forecast.py                 # both tables below, from committed measurements
    python benchmarks/forecast.py --fit           # fit the host's constants anew first, and print them
    OMP_NUM_THREADS=1 python benchmarks/forecast.py --live [--device cuda|cpu] [--only NAME ...]

- **H200**: the models of `zoo.py`, as they ran on an NVIDIA H200 in four sessions (`measured/h200.jsonl`,
  `h200_calibrated.jsonl`: the median), against a forecast from its specification. Half of them were fitted, the others
  held out. Then the same calibrated. Models that no constant has seen are in `unseen.py`.
- **Macs**: published measurements (`mac_points.jsonl` of the package): models that can be built from their config,
  and single ops, each against a forecast for its chip and its torch release. Half are held out.
- **--live**: calibrates the device at hand, forecasts the same models on it, runs them; calibrates once more.

Models have random weights: nothing is downloaded. Each is recorded on tensors without memory, which needs Linux, some
seconds a model; `--cache DIR` keeps the recordings.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pickle
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import msgspec
import torch

import zoo
from mpsprobe.forecast.host_cost import shared_out
from mpsprobe.forecast.kinds import host_kind
from mpsprobe.forecast.machine import Machine, of_gpu, of_mac
from mpsprobe.forecast.timing import Work, timing
from mpsprobe.forecast.trace import MODULE, WAIT, Trace, stages
from mpsprobe.knowledge import speed
from mpsprobe.mac import named
from mpsprobe.models import profile
from mpsprobe.models.adapter import Adapter, Batch, Outputs, Weights
from mpsprobe.models.training import TrainingAdapter, TrainingPlan
from mpsprobe.prediction.observed import WeightlessTarget, observe
from mpsprobe.run import Mac, OpUse, OpVerdict, TensorMeta
from mpsprobe.trace.formulas import add_costs
from zoo import Case

HERE = Path(__file__).parent
POINTS = Path(speed.__file__).parent / "data" / "mac_points.jsonl"
AIM = 1.3
#: The number of measurements of each model with `--live`, of which the fastest counts.
_ROUNDS = 3
#: The release for recordings for CUDA, where its rules do not matter.
_RELEASE = "2.13"
#: A recurrent layer is one kernel of cuDNN, but hundreds of ops on a Mac, from which it cannot be forecast. VITS
#: ends early without values.
_NOT_ON_CUDA = ("gru", "encodec", "vits")
_HALVES = ("fitted", "held out", "fitted, found later", "held out, found later")


@dataclass(frozen=True)
class Row:
    """A measured time in seconds, with its forecast and the range of that."""

    name: str
    group: str
    held_out: bool
    expected: float
    measured: float
    low: float
    high: float
    bound: str
    later: bool = False  #: found after the constants were set

    @property
    def half(self) -> str:
        """Return `fitted` or `held out`, and `, found later` for a measurement that was published after the fit."""
        return ("held out" if self.held_out else "fitted") + (", found later" if self.later else "")

    @property
    def ratio(self) -> float:
        """Return the measured time divided by the expected one."""
        return self.measured / self.expected

    @property
    def factor(self) -> float:
        """Return by what factor, at least 1, the measured time and the expected one differ."""
        return max(self.ratio, 1 / self.ratio)

    @property
    def inside(self) -> bool:
        """Return whether the measurement lies in the forecast's range, which must have an upper end."""
        return math.isfinite(self.high) and self.low <= self.measured <= self.high


class ZooAdapter(Adapter):
    """An adapter that builds and runs a case of the zoo, without weights where transformers has its class."""

    def __init__(self, case: Case) -> None:
        chosen = msgspec.structs.replace(profile.load("transformers"), autocast=case.autocast)
        super().__init__(Path("/nonexistent"), chosen)
        self.case = case
        self.weights = Weights.NONE

    def load(self, device: torch.device, dtype: str) -> torch.nn.Module:
        del dtype
        return zoo.build(self.case, device, weightless=self.case.cls.startswith("transformers"))

    def sample(self) -> dict[str, Any]:
        return {}

    def prepare(self, sample: dict[str, Any]) -> Batch:
        del sample
        return zoo.inputs(self.case)

    def forward(self, model: torch.nn.Module, batch: Batch) -> Outputs:
        return {"raw": self.infer(model, batch)}

    def infer(self, model: Any, batch: Batch) -> Any:
        return zoo.run(self.case, model, batch)

    def extract(self, raw: Any) -> Outputs:
        return {"raw": raw}


def recorded(case: Case, release: str, cache: Path | None) -> Trace:
    """Return the trace of a case on memoryless tensors by the rules of a release, from `cache` where it has one.

    Raises:
        RuntimeError: The run stopped before its end.
    """
    file = cache / f"{case.name}-{release}.pkl".replace(" ", "_") if cache else None
    if file is not None and file.is_file():
        kept: Trace = pickle.loads(file.read_bytes())
        return kept
    adapter: Adapter = ZooAdapter(case)
    if case.train:
        adapter = TrainingAdapter(
            adapter, TrainingPlan(case.train, case.optimizer, accumulate=case.accumulate)
        )
    seen = observe(WeightlessTarget(case.name, adapter, case.dtype), Mac(release))
    if seen.stopped:
        raise RuntimeError(f"{case.name}: {seen.stopped}")
    trace = seen.trace
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pickle.dumps(trace))
    return trace


# ---------------------------------------------------------------------------------------------------------------- H200


def h200(cache: Path | None, fit: bool) -> list[Row]:
    """Return a row for each model measured on an H200; with `fit`, print host constants fitted on half of them.

    The time of a model is the median of four sessions, since a rented host is a third slower on some days.
    """
    lines = (HERE / "measured" / "h200.jsonl").read_text().splitlines()
    measured = {row["name"]: row for row in map(json.loads, lines[1:])}
    since: dict[str, list[float]] = {}
    for _, session in h200_calibrated()[::2]:
        for one in session:
            since.setdefault(one.name, []).append(one.measured)
    gpu = speed.find_gpu("h200")
    assert gpu is not None
    machine = of_gpu(gpu)
    rows: list[Row] = []
    counted: list[tuple[Counter[str], float]] = []
    for case in zoo.cases():
        if case.name.startswith(_NOT_ON_CUDA):
            continue
        trace = recorded(case, _RELEASE, cache)
        seconds = statistics.median([measured[case.name]["seconds"], *since.get(case.name, [])])
        rows.append(row_of(case.name, case.group, not case.fit, trace, machine, seconds))
        if case.fit and measured[case.name]["kernel_seconds"] < 0.7 * measured[case.name]["host"]:
            counted.append((calls_of(trace), measured[case.name]["host"]))
    if fit:
        row = speed.host_cost("cuda")
        assert row is not None
        found = shared_out(counted, {kind: us * 1e-6 for kind, us in row.us.items()})
        print(f"host constants from {len(counted)} fitted models bound by the host, us:")  # noqa: T201
        print("  " + ", ".join(f"{kind} = {cost * 1e6:.3g}" for kind, cost in found.items()) + "\n")  # noqa: T201
    return rows


def h200_calibrated() -> list[tuple[str, list[Row]]]:
    """Return a title and rows for each stored calibration: `--live` made one before the models ran and one after."""
    lines = (HERE / "measured" / "h200_calibrated.jsonl").read_text().splitlines()
    sets: list[tuple[str, list[Row]]] = []
    for told in map(json.loads, lines[1:]):
        if "calibration" in told:
            steady = told["calibration"]["unsteady"]
            title = f"H200, session {told['session']}, calibrated {told['when']} the models, steady within {steady:.2f}"
            sets.append((title, []))
        else:
            rest = {key: value for key, value in told.items() if key not in ("session", "when")}
            sets[-1][1].append(Row(**rest))
    return sets


def calls_of(trace: Trace) -> Counter[str]:
    """Return the number of calls of a run by kind, as `shared_out` takes them."""
    kinds = [host_kind(use.op) for use in trace.uses]
    names = {WAIT: "wait", MODULE: "module"}
    return Counter(kinds[at] if at >= 0 else names.get(at, "stream") for at in trace.order)


def row_of(
    name: str,
    group: str,
    held_out: bool,
    trace: Trace,
    machine: Machine,
    seconds: float,
    stage: str = "whole",
    later: bool = False,
) -> Row:
    """Forecast a recorded run on a machine, and return it beside its measurement.

    Args:
        name: The name of the row.
        group: The class of the model.
        held_out: Whether no constant was fitted on the measurement.
        trace: The recorded run.
        machine: The machine.
        seconds: The measured time in seconds.
        stage: The stage that was measured, once; `"whole"` for a whole sample.
        later: Whether the measurement was found after the constants were fitted.
    """
    told = timing(Work.of(trace, stages(trace)), machine)
    part = next((one for one in told.parts if one.name == stage), None)
    span = part.seconds if part is not None else told.per_sample
    turns = part.repeats if part is not None else 1
    assert span is not None
    assert span.expected is not None
    low, high = span.low or 0.0, span.high or math.inf
    bound = max(told.parts, key=lambda one: one.seconds.expected or 0).bound
    return Row(name, group, held_out, span.expected / turns, seconds, low / turns, high / turns, bound, later)


# ---------------------------------------------------------------------------------------------------------------- Macs


def points() -> list[dict[str, Any]]:
    """Return the measurements of Macs that others published, as the package's data files hold them."""
    return [json.loads(line) for line in POINTS.read_text(encoding="utf-8").splitlines()]


def macs(cache: Path | None) -> list[Row]:
    """Return a row for each published measurement of a Mac that can be replayed as a case of the zoo."""
    cases = {case.name: (case, release) for case, release in zoo.mac_cases()}
    rows = []
    for point in points():
        if "replay" not in point:
            continue
        replay = point["replay"]
        case, release = cases[replay["case"]]
        if package := zoo.missing(case):
            print(f"Not forecast anew: {case.name}, which needs the package {package}.")  # noqa: T201
            continue
        trace = recorded(case, release, cache)
        machine = of_mac(named(replay["mac"], "15.5"), release)
        name = f"{case.name}, {point['chip']}, {release}"
        group = _group(case, replay["stage"])
        seconds, stage = replay["seconds"], replay["stage"]
        later = "added" in point
        row = row_of(name, group, replay["held_out"], trace, machine, seconds, stage, later)
        if replay.get("back_to_back"):  # nobody waited for each run
            wait = machine.host.wait
            spans = {key: getattr(row, key) - wait for key in ("expected", "low", "high")}
            row = dataclasses.replace(row, **spans)
        rows.append(row)
    return rows


def _group(case: Case, stage: str) -> str:
    """Return the class of a replayed measurement in the tables: `training`, `decode` or the case's own group."""
    return "training" if case.train else "decode" if stage == "decode" else case.group


def ops_of_macs() -> list[Row]:
    """Return a row for each published measurement of a single op on a Mac: one call and the wait for it."""
    rows = []
    for point in points():
        if "op" not in point:
            continue
        use = op_use(point["model"], point["workload"], point["dtype"])
        if use is None:
            continue
        release = point["torch"].split()[0]
        machine = of_mac(named(point["op"]["mac"], "15.5"), ".".join(release.split(".")[:2]))
        if not machine.complete:
            continue
        trace = Trace([use], [0, WAIT])
        name = f"{point['model']} {point['workload']}, {point['chip']}"
        group, told = f"op: {point['model']}", point["op"]
        later = "added" in point
        rows.append(row_of(name, group, told["held_out"], trace, machine, told["seconds"], "whole", later))
    return rows


def first_forecasts(added: str) -> list[Row]:
    """Return rows of the points added on a day, with the forecasts that were made before any of them was used.

    These forecasts are stored with the points (`first`), because the constants have changed since.
    """
    cases = {case.name: case for case, _ in zoo.mac_cases()}
    rows = []
    for point in points():
        told = point.get("replay") or point.get("op")
        if told is None or "first" not in told or point["added"] != added:
            continue
        group = f"op: {point['model']}"
        if "replay" in point:
            group = _group(cases[told["case"]], told["stage"])
        first = told["first"]
        name = f"{point['model']}, {point['chip']}"
        rows.append(
            Row(name, group, True, first["expected"], told["seconds"], first["low"], first["high"], "", True)
        )
    return rows


def op_use(model: str, workload: str, dtype: str = "float32") -> OpUse | None:
    """Return one call of an op that mlx-benchmark describes by name and shapes; None for an op not handled here."""
    shapes = [
        tuple(map(int, word.removeprefix("dim=").split("x")))
        for word in workload.split()
        if word.startswith("dim=")
    ]

    def tensor(*shape: int) -> TensorMeta:
        return TensorMeta(dtype, shape, tuple(math.prod(shape[k + 1 :]) for k in range(len(shape))), "mps:0")

    if model == "MatMul" and len(shapes[0]) == len(shapes[1]):
        op = "aten::bmm" if len(shapes[0]) == 3 else "aten::mm"
        inputs, output = shapes, (*shapes[0][:-1], shapes[1][-1])
    elif model == "MatMul":
        op, inputs = "aten::mm", [(math.prod(shapes[0][:-1]), shapes[0][-1]), shapes[1]]
        output = (inputs[0][0], shapes[1][-1])
    elif model == "Linear":
        op, inputs = "aten::linear", [shapes[0], (shapes[1][1], shapes[1][0]), shapes[2]]
        output = (*shapes[0][:-1], shapes[1][1])
    elif model in ("Softmax", "Sigmoid"):
        op, inputs, output = (
            ("aten::_softmax", shapes, shapes[0])
            if model == "Softmax"
            else ("aten::sigmoid", shapes, shapes[0])
        )
    else:
        return None
    use = OpUse(
        op=op,
        inputs=[tensor(*one) for one in inputs],
        outputs=[tensor(*output)],
        count=1,
        verdict=OpVerdict.NATIVE,
    )
    add_costs(use)
    return use


# --------------------------------------------------------------------------------------------------------------- tables


def show(title: str, rows: list[Row], details: bool = True) -> None:
    """Print each row (unless `details` is False), then a summary by class, fitted and held-out rows apart."""
    print(f"## {title}\n")  # noqa: T201
    if details:
        print("| model | class | half | expected (range) | measured | measured / expected | bound by |")  # noqa: T201
        print("|---|---|---|---|---|---|---|")  # noqa: T201
        for row in rows:
            span = f"{_ms(row.expected)} ({_ms(row.low)} - {_ms(row.high)})"
            print(  # noqa: T201
                f"| {row.name} | {row.group} | {row.half} | {span} | {_ms(row.measured)} | {row.ratio:.2f} "
                f"| {row.bound} |"
            )
        print()  # noqa: T201
    print("| class | half | points | median factor | within 1.3 | in the range |\n|---|---|---|---|---|---|")  # noqa: T201
    groups = [*dict.fromkeys(row.group for row in rows), "all"]
    for group in groups:
        for half in _HALVES:
            chosen = [row for row in rows if row.half == half and group in (row.group, "all")]
            if chosen:
                print(f"| {group} | {half} | {summary(chosen)} |")  # noqa: T201
    print()  # noqa: T201


def summary(rows: Iterable[Row]) -> str:
    """Return the cells of a class: rows, median factor, rows within `AIM`, rows within the forecast's range."""
    chosen = list(rows)
    within = sum(row.factor <= AIM for row in chosen)
    inside = sum(row.inside for row in chosen)
    median = statistics.median(row.factor for row in chosen)
    return f"{len(chosen)} | {median:.2f} | {within} | {inside}"


def spread(rows: list[Row]) -> None:
    """Print the ratios between which four in five held-out points lie, for `speed.toml`; nothing for fewer than 5."""
    held = sorted(math.log(row.ratio) for row in rows if row.held_out)
    if len(held) < 5:
        return
    centre = statistics.median(held)
    reach = sorted(abs(one - centre) for one in held)[
        min(len(held) - 1, math.ceil(0.8 * (len(held) + 1)) - 1)
    ]
    low, high = math.exp(centre - reach), math.exp(centre + reach)
    print(f"four in five of {len(held)} held-out points: {low:.2f} to {high:.2f}\n")  # noqa: T201


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


# ----------------------------------------------------------------------------------------------------------------- live


def live(device: str, only: list[str], cache: Path | None, out: Path | None) -> list[Row]:
    """Calibrate the device at hand before and after timing the models, and return the rows of the first calibration."""
    from mpsprobe.device.real import real_device
    from mpsprobe.forecast import calibration as calibrations
    from mpsprobe.forecast.calibrate import calibrate

    real = real_device(device)
    calibrated = calibrate(real)
    tell_calibration(calibrated)
    chosen = [
        case
        for case in zoo.cases()
        if not case.name.startswith(_NOT_ON_CUDA)
        and (not only or any(case.name.startswith(one) for one in only))
    ]
    # other guests of the machine slow some minutes down, so every model is timed several times, far apart
    fastest: dict[str, float] = {}
    for _ in range(_ROUNDS):
        for case in chosen:
            fastest[case.name] = min(fastest.get(case.name, math.inf), measured_here(case, real))
    again = calibrate(real)
    tell_calibration(again)
    traces = {case.name: recorded(case, _RELEASE, cache) for case in chosen}
    sets = []
    for one in (calibrated, again):
        machine = calibrations.machine(one)
        sets.append(
            [
                row_of(case.name, case.group, not case.fit, traces[case.name], machine, fastest[case.name])
                for case in chosen
            ]
        )
    show(f"{device}, calibrated once more after the models", sets[1], details=False)
    if out is not None:
        made = [
            {"calibration": msgspec.to_builtins(one), "rows": [vars(row) for row in rows]}
            for one, rows in zip((calibrated, again), sets, strict=True)
        ]
        out.write_text(json.dumps(made), encoding="utf-8")
    return sets[0]


def tell_calibration(calibrated: Any) -> None:
    """Print in one line how steady a calibration was and what a call of each kind costs its host, in microseconds."""
    shown = ", ".join(f"{kind} {cost * 1e6:.3g}" for kind, cost in calibrated.host_seconds.items())
    took = f"calibrated in {calibrated.took_seconds:.0f} s, steady within {calibrated.unsteady:.2f}"
    print(f"{calibrated.name}, torch {calibrated.torch}, {took}; host, us: {shown}\n")  # noqa: T201


def measured_here(case: Case, real: Any) -> float:
    """Return the time of a case on a real device in seconds: the fastest of 3 to 10 runs after two that warm up."""
    times: list[float] = []
    with torch.inference_mode():
        model = zoo.build(case, real.torch_device)
        batch = zoo.inputs(case, real.torch_device)
        begun = time.perf_counter()
        while len(times) < 5 or (len(times) < 12 and time.perf_counter() - begun < 2.0):
            real.synchronize()
            start = time.perf_counter()
            zoo.run(case, model, batch)
            real.synchronize()
            times.append(time.perf_counter() - start)
    return min(times[2:])


def main() -> None:
    """Print the forecasts beside the measurements, as tables by class."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--fit", action="store_true", help="fit the host's constants anew and print them")
    options.add_argument("--live", action="store_true", help="measure the device at hand")
    options.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"]
    )
    options.add_argument("--only", nargs="*", default=[], help="with --live: rows whose name begins so")
    options.add_argument("--macs", action="store_true", help="the published measurements of Macs alone")
    options.add_argument("--cache", type=Path, help="folder that keeps recordings between runs")
    options.add_argument(
        "--json", type=Path, help="with --live: write all figures, and the calibration, there"
    )
    chosen = options.parse_args()
    warnings.simplefilter("ignore")
    if chosen.live:
        rows = live(chosen.device, chosen.only, chosen.cache, chosen.json)
        show(f"{chosen.device}, calibrated", rows)
        spread(rows)
        return
    if not chosen.macs:
        rows = h200(chosen.cache, chosen.fit)
        show("H200, by its specification", rows)
        spread(rows)
        for title, rows in h200_calibrated():
            show(title, rows, details=False)
    rows = macs(chosen.cache)
    show("Macs: published measurements of models, torch 2.1 and later", rows)
    spread(rows)
    for added in dict.fromkeys(point["added"] for point in points() if "added" in point):
        show(f"Macs: first forecasts of points added {added}", first_forecasts(added), details=False)
    rows = ops_of_macs()
    show("Macs: published measurements of single ops, torch 2.4 and later", rows, details=False)
    spread(rows)


if __name__ == "__main__":
    main()
