"""Compare a forward pass on the device with one in float32 on the CPU.

A difference within the dtype's usual rounding passes at once. A larger one is compared with the noise floor of this
model on this input: how far the CPU is from float32 in the device's dtype, as a whole and module by module. A
tolerance that the profile states is final.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import torch

from mpsprobe.models.adapter import Outputs, Weights
from mpsprobe.options import split_autocast
from mpsprobe.phases import rounding, site
from mpsprobe.phases.check import Result
from mpsprobe.phases.data import Prepared, move, tensors
from mpsprobe.phases.target_code import target_code
from mpsprobe.phases.transfer import Loaded
from mpsprobe.run import Evidence, Measurement, MeasurementKey, Phase, Status, Table

#: The accepted max |difference| / max |reference| against float32 on the CPU, where the profile states none:
#: about 2 ** 4 units in the last place of the dtype, because errors add up over layers.
DEFAULT_PARITY = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1.5e-1}
#: With a noise floor above this, the factor would let an error of half the scale pass, so only modules are judged.
_TELLS_LITTLE = 0.5
_LAYERS = "Compare layer by layer; run the op checks: a known-bad kernel of this torch release is likely."
#: The seeds of the two reference passes that show whether an output is drawn at random.
_SEEDS = (0, 1)


def judged(prepared: Prepared, forward: Outputs) -> Result:
    """Judge the outputs of a forward pass on the device.

    Outputs that the target draws at random are not compared, because the generators of CPU, CUDA and MPS yield
    different numbers for the same seed.

    Args:
        prepared: The target and its input.
        forward: The outputs of the device, on the CPU.

    Returns:
        A pass or a failure; unknown where memory does not allow the comparison, or nothing can be compared.

    Raises:
        LinkFailed: The target raised on the CPU.
    """
    loaded = prepared.loaded
    if not site.fits(site.float32_bytes(loaded.model)):
        return Result(
            Status.UNKNOWN,
            site.no_room_for_reference(loaded.model),
            "Compare with a baseline written on a larger machine.",
        )
    reference = _reference(prepared)
    found = dict(tensors(forward))
    differences = _differences(loaded, found, reference)
    if all(one.within for one in differences) or loaded.profile.parity:
        return _stated(loaded, differences, reference, None)
    if not site.fits(2 * site.float32_bytes(loaded.model)):
        return Result(
            Status.UNKNOWN,
            f"{_listed(differences)}. Whether that is rounding is unknown: the CPU's own run in this dtype does "
            "not fit in memory beside the reference.",
            "Compare layer by layer: mpsprobe diverge.",
        )
    return _stated(loaded, differences, reference, _noise(prepared, reference))


@dataclass
class _Reference:
    """The outputs of the float32 run on the CPU, and which of them are random.

    Attributes:
        model: The model that ran.
        outputs: Its floating-point outputs by name.
        drawn: The names of those that depend on the seed.
    """

    model: torch.nn.Module
    outputs: dict[str, torch.Tensor]
    drawn: set[str]


@dataclass
class _Difference:
    """How far one output of the device is from the reference's.

    Attributes:
        name: The name of the output.
        relative: The quotient max |difference| / max |reference|; None when the output is missing or has another
            shape.
        limit: The largest accepted value.
    """

    name: str
    relative: float | None
    limit: float

    @property
    def within(self) -> bool:
        """Return whether the difference is accepted; NaN is not."""
        return self.relative is not None and self.relative <= self.limit

    def __str__(self) -> str:
        if self.relative is None:
            return f"{self.name} is missing or has another shape"
        return f"{self.name} is off by {self.relative:.2g} of its scale, accepted are {self.limit:.2g}"


@dataclass
class _Noise:
    """How far rounding on the CPU moves the outputs of this model on this input.

    Attributes:
        outputs: The difference of the CPU's run in the device's dtype from float32, by output.
        modules: The difference of each compared module from float32, on the device and on the CPU.
    """

    outputs: dict[str, float]
    modules: list[rounding.ModuleDifference]


def _outputs(prepared: Prepared, model: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    torch.default_generator.manual_seed(seed)
    adapter = prepared.loaded.adapter
    found = move(adapter.forward(model, adapter.prepare(prepared.sample)), torch.device("cpu"))
    return {name: value for name, value in tensors(found) if value.is_floating_point()}


def _reference(prepared: Prepared) -> _Reference:
    """Run the target in float32 on the CPU, and again with another seed if it draws random numbers.

    Raises:
        LinkFailed: The target raised.
    """
    loaded = prepared.loaded
    adapter, cpu = loaded.adapter, torch.device("cpu")
    guard = target_code(Phase.INFERENCE, "the float32 reference", loaded.device.evidence, "cpu")
    with guard, adapter.grad_mode, torch.random.fork_rng(devices=[]):
        model = adapter.load(cpu, "float32")
        outputs = _outputs(prepared, model, _SEEDS[0])
        begun = torch.Generator().manual_seed(_SEEDS[0]).get_state()
        if torch.equal(torch.get_rng_state(), begun):
            return _Reference(model, outputs, set())
        other = _outputs(prepared, model, _SEEDS[1])
    drawn = {name for name, value in outputs.items() if name not in other or not _close(value, other[name])}
    return _Reference(model, outputs, drawn)


def _noise(prepared: Prepared, reference: _Reference) -> _Noise:
    """Measure the effect of rounding by a run on the CPU: in the device's dtype, or in float32 with perturbed weights.

    Raises:
        LinkFailed: The target raised.
    """
    loaded = prepared.loaded
    adapter, cpu = loaded.adapter, torch.device("cpu")
    kind, cast = split_autocast(loaded.profile.autocast)

    def autocast(device: str) -> contextlib.AbstractContextManager[Any]:
        if not cast or kind == "parts":
            return contextlib.nullcontext()
        return torch.autocast(device, dtype=getattr(torch, cast))

    guard = target_code(Phase.INFERENCE, "the run in the device's dtype", loaded.device.evidence, "cpu")
    with guard, adapter.grad_mode, torch.random.fork_rng(devices=[]):
        model = adapter.load(cpu, loaded.profile.dtype)
        halves = cast or {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
        if not halves:
            rounding.perturbed(model)
        with rounding.RecordedCalls(model) as recorded, autocast("cpu"):
            outputs = _outputs(prepared, model, _SEEDS[0])
        if not halves:
            model = reference.model
        modules = rounding.module_differences(recorded.calls, loaded.model, model, reference.model, autocast)
    off = {
        name: rounding.relative_difference(value, reference.outputs[name])
        for name, value in outputs.items()
        if name in reference.outputs and value.shape == reference.outputs[name].shape
    }
    return _Noise(off, modules)


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two outputs are equal, NaN included; across seeds only random outputs differ."""
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def _differences(loaded: Loaded, found: dict[str, torch.Tensor], reference: _Reference) -> list[_Difference]:
    differences = []
    for name, expected in reference.outputs.items():
        if name in reference.drawn:
            continue
        same = name in found and found[name].shape == expected.shape
        relative = rounding.relative_difference(found[name], expected) if same else None
        differences.append(_Difference(name, relative, limit(loaded, name)))
    return differences


def _listed(differences: list[_Difference]) -> str:
    return "; ".join(str(one) for one in differences if not one.within)


def _stated(
    loaded: Loaded, differences: list[_Difference], reference: _Reference, noise: _Noise | None
) -> Result:
    drawn = (
        f" Drawn at random, so not compared: {', '.join(sorted(reference.drawn))}." if reference.drawn else ""
    )
    if not differences:
        if reference.drawn:
            return Result(
                Status.UNKNOWN,
                f"No output can be compared.{drawn}",
                "Draw the noise outside of the model, or compare layer by layer with mpsprobe diverge.",
            )
        return Result(Status.UNKNOWN, "The forward pass yields no floating tensor to compare.")
    if noise is not None:
        result = _against_noise(loaded, differences, noise, drawn)
    elif all(one.within for one in differences):
        worst = max(differences, key=lambda one: (one.relative or 0.0) / (one.limit or 1.0))
        message = f"Largest difference {worst.relative:.2g} of the scale ({worst.name}).{drawn}"
        result = loaded.result(Status.PASS, message)
    else:
        result = loaded.result(Status.FAIL, f"{_listed(differences)}.{drawn}", _LAYERS)
    columns: list[str] = ["output", "difference / scale", "accepted", "within"]
    rows: list[list[str | int | float | bool | None]] = []
    for one in differences:
        if one.relative is None:
            continue
        row: list[str | int | float | bool | None] = [one.name, float(f"{one.relative:.3g}")]
        row += [float(f"{one.limit:.3g}"), one.within]
        if noise is not None:
            off = noise.outputs.get(one.name)
            row.append(None if off is None else float(f"{off:.3g}"))
        rows.append(row)
    if noise is not None:
        columns.append("the CPU in this dtype")
    result.table = Table(columns=columns, rows=rows)
    result.measurements = [_measurement(loaded, str(row[0]), float(row[1] or 0)) for row in rows]
    return result


def _against_noise(loaded: Loaded, differences: list[_Difference], noise: _Noise, drawn: str) -> Result:
    """Judge outputs beyond the usual rounding, by the error of each module and by the CPU's own difference."""
    wrong = sorted((one for one in noise.modules if not one.within), key=lambda one: -one.device / one.limit)
    if wrong:
        first = wrong[0]
        return loaded.result(
            Status.FAIL,
            f"{_listed(differences)}. The module {first.path} ({first.kind}) is the furthest off by itself: "
            f"{first.device:.2g} of its result's norm, the CPU in this dtype {first.cpu:.2g}; so are "
            f"{len(wrong) - 1} more of {len(noise.modules)}.{drawn}",
            _LAYERS,
        )
    beyond = [
        one
        for one in differences
        if not one.within and not _explained(one.relative, noise.outputs.get(one.name))
    ]
    if beyond:
        floor = ", ".join(f"{one.name} {noise.outputs.get(one.name, math.nan):.2g}" for one in beyond)
        return loaded.result(
            Status.FAIL,
            f"{_listed(beyond)}; the CPU in this dtype is off by less than a third of that ({floor}).{drawn}",
            _LAYERS,
        )
    worst = max((one for one in differences if not one.within), key=lambda one: one.relative or 0.0)
    noise_floor = noise.outputs[worst.name]
    off = f"{worst.relative:.2g} of its scale"
    summary = f"{worst.name} is off by {off}, and the CPU in this dtype by {noise_floor:.2g}: rounding."
    if rounding.FACTOR * noise_floor > _TELLS_LITTLE:
        if not noise.modules:
            return Result(
                Status.UNKNOWN,
                f"{summary} So large a floor hides an error, and no module could be compared by itself.{drawn}",
                "Compare layer by layer: mpsprobe diverge.",
            )
        cause = (
            "Random weights: this initialisation"
            if loaded.adapter.weights is Weights.RANDOM
            else "This model"
        )
        summary += f" {cause} lets rounding errors grow to the size of its outputs."
    most = max((one.device for one in noise.modules), default=0.0)
    each = (
        f" {len(noise.modules)} modules compared by themselves: {most:.2g} at most." if noise.modules else ""
    )
    return loaded.result(Status.PASS, f"{summary}{each}{drawn}")


def _explained(relative: float | None, floor: float | None) -> bool:
    return relative is not None and floor is not None and relative <= rounding.FACTOR * floor


def _measurement(loaded: Loaded, name: str, difference: float) -> Measurement:
    evidence: Evidence = loaded.device.evidence
    unit, device = "of the reference's scale", loaded.device.name
    return Measurement.of(MeasurementKey.PARITY, difference, unit, evidence, device, subject=name)


def limit(loaded: Loaded, name: str) -> float:
    """Return the largest accepted difference of an output, as max |difference| / max |reference|.

    It is the profile's; where the profile states none, it follows from the dtypes of the model's parameters.
    """
    stated = loaded.profile.parity
    if name in stated or "*" in stated:
        return stated.get(name, stated.get("*", 0.0))
    dtypes = {p.dtype for p in loaded.model.parameters() if p.is_floating_point()} or {torch.float32}
    return max(DEFAULT_PARITY.get(dtype, DEFAULT_PARITY[torch.float32]) for dtype in dtypes)
