"""Make a prediction from options, for one torch release or for all, as `mpsprobe predict` and `mpsprobe.predict` do.

For all releases, the model runs once for each group of releases whose rules give it the same answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import torch as installed_torch

from mpsprobe import mac as facts
from mpsprobe import mac as machines
from mpsprobe.device.virtual.rules.contract import parse_macos
from mpsprobe.device.virtual.support import FALLBACK_AT_START, require
from mpsprobe.errors import UsageError
from mpsprobe.forecast import ForecastOptions
from mpsprobe.forecast.calibration import machines as calibrated
from mpsprobe.knowledge import environment, ops
from mpsprobe.mac.catalogue import named, target_mac
from mpsprobe.models import late_imports
from mpsprobe.models.weightless.config_only import source_findings
from mpsprobe.options import Settings
from mpsprobe.prediction import assemble
from mpsprobe.prediction.assemble import no_collection, run_of
from mpsprobe.prediction.observed import WeightlessTarget, observe, resolve
from mpsprobe.run import Mac, OpVerdict, Predicted, ReleaseSummary, Run

#: Verdicts of ops that run in kernels of the release, directly or through other ops.
_NATIVE = (OpVerdict.NATIVE, OpVerdict.COMPOSITE)


def predict_releases(target: WeightlessTarget, mac: Mac, step: Callable[[str], None] = lambda _: None) -> Run:
    """Predict the target for every torch release with data; the release of `mac` is ignored.

    Args:
        target: The target to build and run.
        mac: The target Mac.
        step: A function that is called with the name of each long step when it begins.

    Returns:
        A run whose `predicted.releases` has a row for each release. It holds no op uses, which would take 200 MB
        for each release of a large model.

    Raises:
        MpsprobeError: The target cannot be predicted (see `predict`).
        UsageError: No release with data supports MPS on that macOS.
    """
    every = ops.releases()
    closed = {release: row for release in every if (row := _closed(release, mac.macos)) is not None}
    found: dict[str, ReleaseSummary] = {}
    last: Run | None = None
    unknown: list[list[str]] = []
    opened = [release for release in every if release not in closed]
    for release, run in predict_each(target, mac, opened, step):
        assert run.predicted is not None
        found[release] = _row(release, run, run.predicted)
        unknown.append(run.predicted.unknowns)
        run.op_uses = []
        if release == opened[-1]:
            last = run
    rows = [closed.get(release) or found[release] for release in every]
    if last is None or last.predicted is None:
        raise UsageError(f"No torch release has MPS on macOS {mac.macos}.", "Update macOS.")
    first = None
    for row in reversed(rows):
        if not row.fully_native:
            break
        first = row.torch
    last.mac = mac
    last.predicted = Predicted(
        doing=last.predicted.doing,
        inputs=last.predicted.inputs,
        notes=last.predicted.notes,
        source=source_findings(target.adapter.profile.package) if target.adapter.profile.package else [],
        dtypes=last.predicted.dtypes,
        quantisation=last.predicted.quantisation,
        unknowns=[text for text in last.predicted.unknowns if all(text in texts for texts in unknown)],
        releases=rows,
        first_fully_native=first,
    )
    return last


def predict_each(
    target: WeightlessTarget,
    mac: Mac,
    releases: Sequence[str],
    step: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[str, Run]]:
    """Predict the target for each release; the model runs once for all releases that give it the same answers.

    A run of the model asks the rules of its release one question after another, and depends on the release only
    through the answers. While it runs, the other releases are asked too. A release that gives the same answers
    would have had the same run, call by call, and is judged by its own tables; the remaining ones take another run.

    Args:
        target: The target to build and run.
        mac: The target Mac, whose release is ignored.
        releases: Releases that support MPS on its macOS.
        step: A function that is called with the name of each long step when it begins.

    Yields:
        Each release with its run, in no particular order. The next run overwrites the op uses, so read them
        first.

    Raises:
        MpsprobeError: The target cannot be predicted; see `predict`.
    """
    # the newest release has the most kernels, so it leaves the fewest ops that only other releases know
    waiting = list(reversed(releases))
    host = facts.host()
    while waiting:
        release, *others = waiting
        done = len(releases) - len(waiting)
        step(
            f"torch {release}, and all that it shares with older ones: {done} of {len(releases)} releases done"
        )
        with no_collection():
            first = observe(target, msgspec.structs.replace(mac, torch=release), others)
            for name, seen in {release: first, **first.alike}.items():
                yield name, run_of(target, seen, msgspec.structs.replace(mac, torch=name), host)
        waiting = [name for name in others if name not in first.alike]


def _closed(release: str, macos: str | None) -> ReleaseSummary | None:
    """Return the row of a release without MPS on that macOS; None when it supports MPS there, or nothing is known."""
    answer = environment.macos_allows(release, macos) if macos is not None else None
    if answer is None or answer.ok is not False:
        return None
    return ReleaseSummary(
        torch=release,
        op_uses={},
        calls={},
        findings={},
        not_native={},
        fully_native=False,
        stopped=answer.message,
    )


def _row(release: str, run: Run, made: Predicted) -> ReleaseSummary:
    op_uses, calls = Counter[str](), Counter[str]()
    not_native: dict[str, dict[str, None]] = {}
    for use in run.op_uses:
        op_uses[use.verdict.value] += 1
        calls[use.verdict.value] += use.count
        if use.verdict not in _NATIVE:
            not_native.setdefault(use.verdict.value, {})[use.op] = None
    return ReleaseSummary(
        torch=release,
        op_uses=dict(op_uses),
        calls=dict(calls),
        findings=dict(Counter(one.kind for one in made.refusals)),
        not_native={verdict: list(names) for verdict, names in not_native.items()},
        fully_native=run.fully_native,
        stopped=made.stopped,
    )


def predict(
    settings: Settings,
    *,
    every_release: bool = False,
    tokens: int | None = None,
    calibration: Path | None = None,
    routes: bool = True,
    say: Callable[[str], None] = lambda _: None,
    step: Callable[[str], None] = lambda _: None,
) -> Run:
    """Predict what a Mac does with the target that the settings name.

    Args:
        settings: The target and the target Mac.
        every_release: Whether to predict for every torch release; the run then has `predicted.releases`.
        tokens: The number of new tokens for which memory and time are forecast; None for that of the settings, or
            else those that were run.
        calibration: A file of `mpsprobe calibrate`; None for the one in its usual place, if there is one.
        routes: Whether to judge the routes; with `every_release`, the release of the settings is then
            predicted for them.
        say: A function that is called with a line for each file of foreign code, before it runs.
        step: A function that is called with the name of each long step when it begins.

    Raises:
        MpsprobeError: The options cannot be used, the target cannot be built or given an input, or this machine
            cannot run the emulated device.
    """
    require(memoryless=True)  # before the installed torch stands for that of the target Mac
    macos, mac = settings.macos, settings.mac
    if macos is not None:
        parse_macos(macos)
    meant = target_mac(
        machines.host(),
        str(installed_torch.__version__),  # a subclass of str, which JSON cannot encode
        name=mac,
        torch=settings.torch,
        macos=macos,
        fallback=FALLBACK_AT_START if settings.fallback is None else settings.fallback,
    )
    late_imports.postpone()
    step("find the model and its config")
    target = resolve(settings, say)
    releases = predict_releases(target, meant, step) if every_release else None
    if releases is not None and not routes:
        return releases
    wish = ForecastOptions(
        mac=named(mac, macos) if mac is not None else None,
        tokens=tokens if tokens is not None else settings.new_tokens,
        workload=settings.workload,
        calibrated=calibrated(calibration),
    )
    return assemble.predict(target, meant, wish, routes=routes, releases=releases, step=step)
