"""Build the outlook of a run that took place from its op uses, checks and measurements."""

from __future__ import annotations

from mpsprobe.errors import UsageError
from mpsprobe.forecast.build import Wish, build
from mpsprobe.forecast.machine import of_mac
from mpsprobe.forecast.timing import Work, timing
from mpsprobe.forecast.trace import Trace, stages
from mpsprobe.knowledge import chips, speed
from mpsprobe.knowledge.cloud_prices import Cloud, current
from mpsprobe.mac.catalogue import NamedMac, named
from mpsprobe.quantities import decimal_size
from mpsprobe.routes.case import Case, weakest
from mpsprobe.routes.recommend import outlook
from mpsprobe.run import Evidence, Fit, Forecast, Mac, MeasurementKey, Memory, MemoryPart, Outlook, Run

_ORDER = (
    "The order of the calls was not recorded: nothing overlaps in this forecast, and waits are not counted."
)


def of_run(run: Run, offers: Cloud | None = None, words: tuple[str, ...] | None = None) -> Outlook | None:
    """Return routes and recommendation of a run; None for a run without op uses or without a target Mac.

    Do not call this for a shrunk target, whose op uses are not those of the target.

    Args:
        run: The run with its checks and op uses.
        offers: The GPUs for rent; None for the price file in use.
        words: The command-line words that name the target; None when only its name is known.
    """
    if run.mac is None or not run.op_uses:
        return None
    prices = offers or current()
    return outlook(Case(run=run, forecast=_forecast(run, run.mac, prices), cloud=prices, words=words))


def _forecast(run: Run, asked: Mac, prices: Cloud) -> Forecast:
    trace = Trace(run.op_uses, [at for at, use in enumerate(run.op_uses) for _ in range(use.count)])
    gpus = (speed.find_gpu(offer.hardware) for offer in prices.offers)
    wish = Wish(elsewhere=tuple(dict.fromkeys(gpu.name for gpu in gpus if gpu is not None)))
    evidence = weakest(use.evidence for use in run.op_uses)
    forecast = build(trace, asked, wish, dtypes={}, evidence=evidence)
    mac = _named(asked)
    forecast.memory = _memory(run, mac)
    if mac is not None:
        forecast.time = timing(Work.of(trace, stages(trace)), of_mac(mac, asked.torch))
    forecast.limits.append(_ORDER)
    return forecast


def _named(asked: Mac) -> NamedMac | None:
    """Return the target Mac from the catalogue; None when its chip or memory is unknown or not sold together."""
    chip = chips.find(asked.chip) if asked.chip else None
    if chip is None or asked.memory_gb is None:
        return None
    try:
        return named(f"{chip.key}-{round(asked.memory_gb)}", asked.macos)
    except UsageError:
        return None


def _memory(run: Run, mac: NamedMac | None) -> Memory | None:
    """Return the memory that was measured on MPS; elsewhere the weights, which can only show that it does not fit."""
    peak, limit = (
        _measured(run, quantity) for quantity in (MeasurementKey.PEAK_MEMORY, MeasurementKey.MEMORY_LIMIT)
    )
    available = mac.memory_bytes if mac is not None else run.host.memory_bytes
    if peak is not None:
        working_set = run.host.working_set_bytes or (mac.working_set_bytes if mac is not None else None)
        return Memory(
            parts=[MemoryPart("peak of inference", peak, "measured on mps", Evidence.MEASURED)],
            needed_bytes=peak,
            available_bytes=available,
            working_set_bytes=working_set,
            limit_bytes=limit,
            fit=_fit(peak, working_set, limit),
            reason="Measured in this run.",
        )
    weights = run.target.weight_bytes
    if mac is None or weights is None:
        return None
    part = MemoryPart("weights", weights, "in the dtypes of their files", Evidence.PREDICTED)
    too_large = weights > mac.memory_bytes
    reason = "What inference takes beside the weights was not forecast: `mpsprobe predict` does that."
    if too_large:
        reason = f"The weights alone, {decimal_size(weights)}, are more than the Mac's memory."
    return Memory(
        parts=[part],
        needed_bytes=None,
        available_bytes=mac.memory_bytes,
        working_set_bytes=mac.working_set_bytes,
        fit=Fit.NO if too_large else Fit.UNKNOWN,
        reason=reason,
    )


def _measured(run: Run, quantity: MeasurementKey) -> int | None:
    for check in run.checks:
        for each in check.measurements:
            on_mps = each.device == "mps" and each.evidence is Evidence.MEASURED
            if on_mps and each.key == quantity.value and isinstance(each.value, int):
                return each.value
    return None


def _fit(peak: int, working_set: int | None, limit: int | None) -> Fit:
    """Return whether a peak fits within Metal's recommendation and the allocator's limit, as far as they are known."""
    if limit is not None and peak > limit:
        return Fit.NO
    if working_set is None:
        return Fit.UNKNOWN
    return Fit.COMFORTABLE if peak <= working_set else Fit.TIGHT
