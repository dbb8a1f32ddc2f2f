"""Decide when a difference is more than rounding: limits from a noise run, and the verdict on modules and results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from mpsprobe.layers.capture import Distance, distance, sketch
from mpsprobe.layers.compared import Compared
from mpsprobe.layers.module_calls import leaves
from mpsprobe.layers.result import OUTSIDE, Judged, Layer, OutputRow, Verdict
from mpsprobe.models.adapter import Outputs
from mpsprobe.phases.parity import DEFAULT_PARITY

#: A difference may be this many times the noise. Two correct runs that round independently differ by sqrt(2)
#: times the noise of either; a sketch is accurate to 9 %, and pooling over calls omits little.
FACTOR = 3.0
#: With few elements the size of a random difference is itself random, so the factor grows by this many elements'
#: worth (3 for many elements, 27 for a single one, whose noise may be almost nothing by chance).
_FEW = 8
#: The floor of a limit, in float32's machine epsilons: sums of some thousand terms in another order differ by
#: about sqrt(terms) / 2 of it. Half precisions sum in float32 too, then round once more: half their epsilon.
_FLOOR_EPSILONS = 32
#: Where every module's own error was looked at and is within its limit, the errors that add up on the way are those
#: of sound modules, and they need not be independent: only past this many times its limit is a sum an alarm. (MiniLM
#: with eager attention on a CPU without bfloat16 instructions reaches 1.06, each module at most 0.57.)
_SOUND_SUM = 2.0
#: The worst of 64 parts of evenly spread noise is about this many times the whole.
_WORST_PART = 3.0

#: The key of tensors whose noise is pooled: the module that makes a tensor, and its place.
Pool = tuple[str, str]


@dataclass
class Noise:
    """How far rounding alone moves each tensor of a stage, in the call where it moves most.

    Attributes:
        errors: The largest relative error, and the largest error of a part, by tensor.
        problems: Differences that are no number, such as a NaN because of the dtype's range, by tensor.
    """

    errors: dict[Pool, tuple[float, float]] = field(default_factory=dict)
    problems: dict[Pool, str] = field(default_factory=dict)

    @classmethod
    def of(cls, compared: Iterable[Compared]) -> Noise:
        """Return the noise of a compared pass: the largest distances of each tensor over its calls."""
        noise = cls()
        for one in compared:
            noise.add(pool(one), one.distance)
        return noise

    def add(self, key: Pool, distance: Distance) -> None:
        """Include the distance of one more call in a tensor's noise."""
        if distance.problem:
            self.problems[key] = distance.problem
            return
        error, worst = self.errors.get(key, (0.0, 0.0))
        self.errors[key] = (max(error, distance.error), max(worst, distance.worst_part))


def pool(one: Compared) -> Pool:
    """Return the key under which the calls of a module share the noise of one tensor: module path and place."""
    return (one.call.path, f"{'>' if one.call.entering else ''}{one.place}")


@dataclass(frozen=True)
class Criterion:
    """The limits beyond which a difference is more than rounding.

    Attributes:
        dtype: The coarsest floating-point dtype in which it computes.
        has_noise: Whether there was a noise run; otherwise the limits are those of the parity check.
        same_code: Whether the reference was made by the same release of the model's code. Another one may arrange
            an internal tensor differently (transformers 5 transposes Qwen3-VL's position indices), which is not an
            error.
    """

    dtype: torch.dtype
    has_noise: bool
    same_code: bool = True

    @property
    def floor(self) -> float:
        """Return the smallest limit, which holds even without noise."""
        accumulating = _FLOOR_EPSILONS * torch.finfo(torch.float32).eps
        return accumulating + (0.5 * torch.finfo(self.dtype).eps if self.dtype is not torch.float32 else 0.0)

    def limit(self, noise: float, size: int, floor: float) -> float:
        """Return the largest accepted error of a tensor of `size` elements by its noise; it is at least `floor`."""
        return max(floor, FACTOR * (1 + _FEW / max(size, 1)) * noise)

    def judge(
        self,
        distance: Distance,
        size: int,
        key: Pool,
        noise: Noise,
        *,
        call: int,
        place: str,
        slack: float = 1.0,
    ) -> Judged:
        """Judge one distance by its limits.

        Args:
            distance: The distance from the reference.
            size: The number of elements of the tensor.
            key: The key of the tensor in `noise`.
            noise: The noise of the stage; ignored without a noise run.
            call: The number of the module's call, for the result.
            place: The place of the tensor, for the result.
            slack: A factor of the limits.

        Returns:
            The judgement. A distance with a problem has no error and no ratio, and is excused if the noise run has a
            problem with the tensor too, or if only the shape differs and the code is that of another release.
        """
        if not self.has_noise:
            limit = DEFAULT_PARITY.get(self.dtype, DEFAULT_PARITY[torch.float32])
            limit *= slack
            ratio = distance.error / limit
            error, worst = None, 0.0
        else:
            error, worst = noise.errors.get(key, (0.0, 0.0))
            limit = slack * self.limit(error, size, self.floor)
            worst_limit = slack * self.limit(worst, size, _WORST_PART * self.floor)
            ratio = max(distance.error / limit, distance.worst_part / worst_limit)
        if distance.problem:
            reshaped = distance.reshaped and not self.same_code
            return Judged(
                call=call, place=place, error=None, noise=error, limit=limit, ratio=None,
                problem=distance.problem, excused=reshaped or key in noise.problems, reshaped=reshaped,
            )  # fmt: skip
        return Judged(call=call, place=place, error=distance.error, noise=error, limit=limit, ratio=ratio)

    def sentences(self, noise: str) -> list[str]:
        """Describe the criterion in sentences for readers.

        Args:
            noise: A description of the noise run.
        """
        dtype = str(self.dtype).removeprefix("torch.")
        measure = (
            "Error: root mean square of the difference over that of the reference, from 64 random projections "
            "of every tensor; judged for the whole tensor and for the worst of 64 parts."
        )
        if not self.has_noise:
            limit = DEFAULT_PARITY.get(self.dtype, DEFAULT_PARITY[torch.float32])
            return [
                measure,
                f"Limit: {limit:g}, that of the parity check for {dtype}: there is no noise run.",
            ]
        return [
            measure,
            f"Limit: {FACTOR:g} times the noise of the same tensor (more for tensors of few elements), and at "
            f"least {self.floor:.2g}, what {dtype} may lose by adding in another order. Where every module's own "
            f"error is within its limit, the sum of all before it may be {_SOUND_SUM:g} times its limit.",
            f"Noise: {noise}.",
        ]


def layers_of(
    stage: str,
    kinds: Mapping[str, str],
    criterion: Criterion,
    accumulated: tuple[Iterable[Compared], Noise],
    local: tuple[Iterable[Compared], Noise] | None,
) -> tuple[list[Layer], list[tuple[Compared, Judged]], list[tuple[Compared, Judged]]]:
    """Return every module's worst tensors, and all tensors that exceed their limits, in the order of the pass.

    Args:
        stage: The stage of the passes.
        kinds: The class names by module path.
        criterion: The limits.
        accumulated: The compared pass and its noise.
        local: The pass in which inputs and outputs were replaced by the reference's, and its noise; None without
            one.

    Returns:
        The modules in order of first appearance, the tensors that exceed the limit locally, and those that exceed
        it by accumulation.
    """
    layers: dict[str, Layer] = {}

    def layer(path: str | None) -> Layer:
        name = OUTSIDE if path is None else path
        kind = "" if path is None else kinds.get(path, "")
        return layers.setdefault(name, Layer(stage=stage, module=name, kind=kind, calls=0))

    calls: dict[str, set[int]] = {}
    beyond: dict[str, list[tuple[Compared, Judged]]] = {"accumulated": [], "local": []}

    def judged_pass(
        run: tuple[Iterable[Compared], Noise], slack: float = 1.0
    ) -> list[tuple[Compared, Judged]]:
        compared, noise = run
        return [
            (
                one,
                criterion.judge(
                    one.distance,
                    one.size,
                    pool(one),
                    noise,
                    call=one.call.nth,
                    place=_place(one),
                    slack=slack,
                ),
            )
            for one in compared
        ]

    own = judged_pass(local) if local is not None else None
    sound = own is not None and not any(judged.diverges for _, judged in own)
    summed = judged_pass(accumulated, _SOUND_SUM if sound else 1.0)
    for name, run in (("accumulated", summed), ("local", own or [])):
        for one, judged in run:
            row = layer(one.maker)
            calls.setdefault(row.module, set()).add(one.call.nth)
            known: Judged | None = getattr(row, name)
            if known is None or judged.rank > known.rank:
                setattr(row, name, judged)
            if judged.diverges:
                beyond[name].append((one, judged))
    for row in layers.values():
        row.calls = len(calls[row.module])
        row.verdict = _verdict(row)
    return list(layers.values()), beyond["local"], beyond["accumulated"]


def _verdict(row: Layer) -> Verdict:
    if row.local is not None and row.local.diverges:
        return Verdict.MAKES
    if row.accumulated is not None and row.accumulated.diverges:
        return Verdict.CARRIES
    known = [judged for judged in (row.local, row.accumulated) if judged is not None and not judged.reshaped]
    return Verdict.SOUND if known else Verdict.UNKNOWN


def _place(one: Compared) -> str:
    """Describe the place of a tensor: `output`, `output.logits`, `argument hidden_states of model.norm`."""
    if not one.call.entering:
        return f"output{one.place}"
    place = one.place.removeprefix(".kwargs.").removeprefix(".args")
    return f"argument {place} of {one.call.path or 'the model'}"


def output_tensors(outputs: Outputs) -> dict[str, torch.Tensor]:
    """Return the tensors in named results by result and place: `logits`, `boxes[0]`."""
    return {place.removeprefix("."): tensor for place, tensor in leaves(outputs)}


def output_texts(outputs: Outputs) -> dict[str, Any]:
    """Return the results that hold no tensor, by name."""
    return {name: value for name, value in outputs.items() if not any(True for _ in leaves(value))}


def output_pool(name: str) -> Pool:
    """Return the key of a result's noise, whose first part, `(outputs)`, is no module's path."""
    return ("(outputs)", name)


def add_output_noise(noise: Noise, found: Outputs, expected: Outputs) -> None:
    """Add to the noise how far the results of the noise run are from the reference's."""
    known = output_tensors(expected)
    for name, tensor in output_tensors(found).items():
        if name in known:
            noise.add(output_pool(name), distance(sketch(tensor), sketch(known[name])))


def output_rows(
    stage: str, found: Outputs, expected: Outputs, criterion: Criterion, noise: Noise, *, judged: bool
) -> list[OutputRow]:
    """Return one row for each named result of the reference.

    Only floating-point tensors are judged: an index or a word is either equal or not, and rounding may decide that.

    Args:
        stage: The stage.
        found: The results of the run that is judged.
        expected: The results of the reference.
        criterion: The limits.
        noise: The noise of the stage.
        judged: Whether the run can be judged, because it does not feed on its own outputs.
    """
    result = []
    mine = output_tensors(found)
    for name, tensor in output_tensors(expected).items():
        other = mine.get(name)
        if other is None:
            result.append(_row(stage, name, problem="not there", judged=judged))
            continue
        apart = distance(sketch(other), sketch(tensor))
        verdict = criterion.judge(apart, tensor.numel(), output_pool(name), noise, call=0, place=name)
        result.append(
            OutputRow(
                stage=stage,
                name=name,
                error=verdict.error,
                limit=verdict.limit,
                same=other.shape == tensor.shape and bool(torch.equal(other, tensor)),
                judged=judged and tensor.is_floating_point() and not verdict.excused,
                problem=verdict.problem,
            )
        )
    said = output_texts(found)
    result += [
        _row(stage, name, same=said.get(name) == text, judged=False)
        for name, text in output_texts(expected).items()
    ]
    return result


def _row(stage: str, name: str, *, problem: str = "", same: bool = False, judged: bool) -> OutputRow:
    return OutputRow(
        stage=stage, name=name, error=None, limit=None, same=same, judged=judged, problem=problem
    )
