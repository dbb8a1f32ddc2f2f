"""Compare one recording of a target with every Mac of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence

from mpsprobe.forecast import ForecastOptions
from mpsprobe.forecast.build import carried_turns, epoch, rates, training_rates
from mpsprobe.forecast.machine import of_mac
from mpsprobe.forecast.memory import judge, memory
from mpsprobe.forecast.timing import Work, timing
from mpsprobe.forecast.trace import stages
from mpsprobe.knowledge import chips, engines
from mpsprobe.mac import NamedMac, named, names
from mpsprobe.models.adapter import Adapter
from mpsprobe.models.training import untrained
from mpsprobe.models.weightless.random_init import RandomInitAdapter
from mpsprobe.prediction.observed import Observed
from mpsprobe.run import Fit, MacFit, Rate, Timing, TrainingStep

_GIB = 2**30
#: Rates in the order of their importance; those of a prompt come last.
_ORDER = ("decode", "throughput", "real-time factor")
_OF_PROMPT = ("prefill", "time to first token")
#: Classes of chips, the largest first.
_CLASSES = ("Ultra", "Max", "Pro")


def every_mac(
    seen: Observed,
    torch: str,
    macos: str | None,
    wish: ForecastOptions,
    *,
    mlx: bool,
    training: TrainingStep | None = None,
    samples: int = 0,
) -> list[MacFit]:
    """Return the fit of a target on every Mac of the catalogue, in the catalogue's order.

    Args:
        seen: What the target did, with the verdicts of its op uses.
        torch: The torch release.
        macos: The macOS version; None for the smaller working set of older ones.
        wish: The workload.
        mlx: Whether MLX is known to support the target; only then are its quantised weights judged.
        training: The optimisation step that was judged; None for an inference.
        samples: The number of samples in an epoch of training; 0 or 1 when none is given, so that no epoch is timed.
    """
    found = stages(seen.trace)
    turns = carried_turns(found, wish)
    work = Work.of(seen.trace, found)
    times: dict[tuple[str, int], tuple[Timing, list[Rate]]] = {}
    # weights that are themselves trained are not quantised
    mlx = mlx and (training is None or training.method != "full")
    fits = []
    for name in names():
        mac = named(name, macos)
        need = memory(
            seen.trace,
            found,
            memory_bytes=mac.memory_bytes,
            macos=macos,
            dtypes=seen.dtypes,
            tokens=turns.get("decode", -1) + 1 or None,
            kv_dtype=wish.workload.kv_dtype,
        )
        key = (mac.chip, mac.gpu_cores)
        if need.fit is not Fit.NO and key not in times:
            timed = timing(work, of_mac(mac, torch), turns)
            times[key] = timed, _telling((training_rates if training else rates)(timed, seen.fed))
        # MLX does not use the heaps of PyTorch's allocator
        heaps = sum(part.bytes or 0 for part in need.parts if part.name == "allocator")
        rest = max(0, (need.needed_bytes or 0) - seen.weight_bytes - heaps)
        fitting = times[key] if need.fit is not Fit.NO else None
        fits.append(
            MacFit(
                mac=name,
                chip=mac.chip,
                gpu_cores=mac.gpu_cores,
                memory_gib=mac.memory_bytes // _GIB,
                fit=need.fit,
                needed_bytes=need.needed_bytes,
                working_set_bytes=mac.working_set_bytes,
                seconds=fitting[0].per_sample if fitting else None,
                rates=fitting[1] if fitting else [],
                quantised=_quantised(seen.parameters, rest, mac) if mlx else "",
                epoch=epoch(fitting[0], samples, training.rows)
                if fitting and training and samples > 1
                else None,
            )
        )
    return fits


def architecture(adapter: Adapter) -> str:
    """Return the `model_type` of the target's config; empty when it has none, or its adapter is not built from one."""
    inner = untrained(adapter)
    config = inner.blueprint.config if isinstance(inner, RandomInitAdapter) else None
    return str(getattr(config, "model_type", "") or "")


def smallest(macs: Sequence[MacFit]) -> str:
    """Return the name of the smallest Mac that fits easily: least memory, then lowest class, then newest chip.

    It is empty when none fits easily.
    """
    order = {chip.name: k for k, chip in enumerate(chips.all_chips())}

    def cost(mac: MacFit) -> tuple[int, int, int]:
        kind = next((len(_CLASSES) - k for k, word in enumerate(_CLASSES) if mac.chip.endswith(word)), 0)
        return mac.memory_gib, kind, -order[mac.chip]

    fitting = [mac for mac in macs if mac.fit is Fit.COMFORTABLE]
    return min(fitting, key=cost).mac if fitting else ""


def _quantised(parameters: int, rest: int, mac: NamedMac) -> str:
    """Return the name of MLX's widest quantisation with which the weights fit easily: `"8-bit"`; empty for none.

    Args:
        parameters: The number of parameters.
        rest: The bytes that are needed beside the weights.
        mac: The Mac.
    """
    for name, bits in sorted(engines.engine("MLX").bits.items(), key=lambda item: -item[1]):
        needed = round(parameters * bits / 8) + rest
        if judge(needed, mac.working_set_bytes, mac.memory_bytes)[0] is Fit.COMFORTABLE:
            return name
    return ""


def _telling(found: Sequence[Rate]) -> list[Rate]:
    return sorted(
        (one for one in found if one.expected is not None),
        key=lambda one: (
            one.name in _OF_PROMPT,
            _ORDER.index(one.name) if one.name in _ORDER else len(_ORDER),
        ),
    )
