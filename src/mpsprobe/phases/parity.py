"""Whether a forward pass on the device agrees with one in float32 on the CPU."""

from __future__ import annotations

import torch

from mpsprobe.models.adapter import Outputs
from mpsprobe.phases import memory
from mpsprobe.phases.check import Result
from mpsprobe.phases.data import Prepared, move, tensors
from mpsprobe.phases.target_code import target_code
from mpsprobe.phases.transfer import Loaded
from mpsprobe.run import Evidence, Measurement, MeasurementKey, Phase, Status, Table

#: Largest |difference| / largest |reference| accepted of a float32 CPU reference where a profile names none:
#: about 2 ** 4 units in the last place of the dtype, for errors that add up over layers.
DEFAULT_PARITY = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1.5e-1}
#: Of the two reference passes that show whether an output is drawn at random.
_SEEDS = (0, 1)


def judged(prepared: Prepared, forward: Outputs) -> Result:
    """What a check says of the outputs of a forward pass on the device.

    Outputs that the target draws at random are not compared: the generators of CPU, CUDA and MPS give other numbers
    for the same seed.

    Args:
        prepared: the target and its input.
        forward: outputs of the device, on the CPU.

    Raises:
        LinkFailed: the target raised on the CPU.
    """
    loaded = prepared.loaded
    if not memory.fits(memory.float32_bytes(loaded.model)):
        return Result(
            Status.UNKNOWN,
            memory.no_room_for_reference(loaded.model),
            "Compare with a baseline written on a larger machine.",
        )
    reference, drawn = _reference(prepared)
    return _compared(loaded, dict(tensors(forward)), reference, drawn)


def _reference(prepared: Prepared) -> tuple[dict[str, torch.Tensor], set[str]]:
    """The floating outputs in float32 on the CPU, and which of them depend on the state of the generator."""
    loaded = prepared.loaded
    adapter, cpu = loaded.adapter, torch.device("cpu")
    guard = target_code(Phase.INFERENCE, "the float32 reference", loaded.device.evidence, "cpu")
    with guard, adapter.grad_mode, torch.random.fork_rng(devices=[]):
        model = adapter.load(cpu, "float32")

        def outputs(seed: int) -> dict[str, torch.Tensor]:
            torch.default_generator.manual_seed(seed)
            found = move(adapter.forward(model, adapter.prepare(prepared.sample)), cpu)
            return {name: value for name, value in tensors(found) if value.is_floating_point()}

        reference = outputs(_SEEDS[0])
        begun = torch.Generator().manual_seed(_SEEDS[0]).get_state()
        if torch.equal(torch.get_rng_state(), begun):
            return reference, set()
        other = outputs(_SEEDS[1])
    drawn = {name for name, value in reference.items() if name not in other or not _close(value, other[name])}
    return reference, drawn


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two references are one and the same: on the CPU no float32 kernel adds in varying order."""
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def _compared(
    loaded: Loaded, found: dict[str, torch.Tensor], reference: dict[str, torch.Tensor], drawn: set[str]
) -> Result:
    rows: list[list[str | int | float | bool | None]] = []
    failed = []
    for name, expected in reference.items():
        if name in drawn:
            continue
        if name not in found or found[name].shape != expected.shape:
            failed.append(f"{name} is missing or has another shape")
            continue
        actual = found[name]
        difference = (actual.double() - expected.double()).abs().max().item()
        scale = expected.double().abs().max().item()
        relative = difference / scale if scale else difference
        limit = _limit(loaded, name)
        rows.append([name, float(f"{relative:.3g}"), float(f"{limit:.3g}"), relative <= limit])
        if not relative <= limit:  # also true for NaN
            failed.append(f"{name} is off by {relative:.2g} of its scale, accepted are {limit:.2g}")
    left_out = f" Drawn at random, so not compared: {', '.join(sorted(drawn))}." if drawn else ""
    if failed:
        result = loaded.result(
            Status.FAIL,
            f"{'; '.join(failed)}.{left_out}",
            "Compare layer by layer; run the op checks: a known-bad kernel of this torch release is likely.",
        )
    elif rows:
        worst = max(rows, key=lambda row: float(row[1] or 0) / float(row[2] or 1))
        message = f"Largest difference {worst[1]:.2g} of the scale ({worst[0]}).{left_out}"
        result = loaded.result(Status.PASS, message)
    elif drawn:
        return Result(
            Status.UNKNOWN,
            f"No output can be compared.{left_out}",
            "Draw the noise outside of the model, or compare layer by layer with mpsprobe diverge.",
        )
    else:
        return Result(Status.UNKNOWN, "The forward pass yields no floating tensor to compare.")
    result.table = Table(columns=["output", "difference / scale", "accepted", "within"], rows=rows)
    result.measurements = [_measurement(loaded, str(row[0]), float(row[1] or 0)) for row in rows]
    return result


def _measurement(loaded: Loaded, name: str, difference: float) -> Measurement:
    evidence: Evidence = loaded.device.evidence
    unit, device = "of the reference's scale", loaded.device.name
    return Measurement.of(MeasurementKey.PARITY, difference, unit, evidence, device, subject=name)


def _limit(loaded: Loaded, name: str) -> float:
    stated = loaded.profile.parity
    if name in stated or "*" in stated:
        return stated.get(name, stated.get("*", 0.0))
    dtypes = {p.dtype for p in loaded.model.parameters() if p.is_floating_point()} or {torch.float32}
    return max(DEFAULT_PARITY.get(dtype, DEFAULT_PARITY[torch.float32]) for dtype in dtypes)
