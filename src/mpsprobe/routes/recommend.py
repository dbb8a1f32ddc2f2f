"""Judge all routes of a prediction or a run, and recommend one, with the reasons and what would change it.

A recommendation is never better than its evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mpsprobe.errors import UsageError
from mpsprobe.forecast.build import ForecastOptions, build
from mpsprobe.forecast.machine import of_mac
from mpsprobe.forecast.timing import Work, timing
from mpsprobe.forecast.trace import Trace, stages
from mpsprobe.knowledge import chips, speed
from mpsprobe.knowledge.cloud_prices import Cloud, current
from mpsprobe.mac.catalogue import NamedMac, named
from mpsprobe.quantities import decimal_size, plural, rough, seconds
from mpsprobe.routes import alternatives, checklist, cloud, commands, hybrid, mps, tables
from mpsprobe.routes.case import Case
from mpsprobe.routes.cloud import Quote
from mpsprobe.routes.mlx import route as mlx
from mpsprobe.routes.mlx.route import Effort
from mpsprobe.routes.mps import Grade
from mpsprobe.run import (
    Evidence,
    Fit,
    Forecast,
    Mac,
    MeasurementKey,
    Memory,
    MemoryPart,
    OpVerdict,
    Outlook,
    Recommendation,
    RemedyKind,
    Route,
    Run,
    Viability,
)

#: What becomes of op calls whose time does not count as spent on the GPU, by verdict.
_OFF = {
    OpVerdict.FALLBACK: "run on the CPU",
    OpVerdict.RAISES: "raise",
    OpVerdict.WRONG: "give wrong values",
    OpVerdict.UNKNOWN: "are not known",
}
#: The longest time of a plan on the Mac in seconds before a rented GPU is suggested: a night.
_A_NIGHT_S = 12 * 3600.0


@dataclass(frozen=True)
class RouteFacts:
    """The facts from which the rules choose a route.

    Attributes:
        case: The target, the Mac and the forecast.
        judgement: The verdict on the MPS route.
        routes: The routes by name.
        work: The effort of the MLX route.
        quote: The rented GPU for this target; None when none holds it.
    """

    case: Case
    judgement: mps.Judgement
    routes: dict[str, Route]
    work: Effort
    quote: Quote | None

    @property
    def slow(self) -> bool:
        """Return whether a sample takes longer on the Mac than `checklist.ACCEPTABLE_S`; False when unknown."""
        per_sample = self.case.seconds_per_sample
        return per_sample is not None and per_sample > checklist.ACCEPTABLE_S

    @property
    def long(self) -> bool:
        """Return whether the plan takes longer on the Mac than a night of 12 hours; False when unknown."""
        per_sample = self.case.seconds_per_sample
        return per_sample is not None and per_sample * self.case.plan.inferences > _A_NIGHT_S


@dataclass(frozen=True)
class Advice:
    """What a rule advises: a route (empty for none), the sentence, and the decisive reason."""

    route: str
    sentence: str
    because: str


def recommend(grounds: RouteFacts) -> Recommendation:
    """Return the advice of the first rule that applies, with its reasons, commands and comparison tables."""
    advice = next(found for rule in _RULES if (found := rule(grounds)) is not None)
    case = grounds.case
    chosen = grounds.routes.get(advice.route)
    return Recommendation(
        route=advice.route,
        sentence=f"{advice.sentence} ({_known_as(case)})",
        reasons=list(
            dict.fromkeys(
                [
                    advice.because,
                    *(chosen.reasons[:3] if chosen else []),
                    *_may_apply(grounds, advice),
                    *_faster(grounds, advice),
                ]
            )
        ),
        would_change=_would_change(grounds),
        commands=list(chosen.commands) if chosen else [],
        evidence=case.evidence,
        matrix=tables.matrix(case, grounds.judgement, grounds.work, grounds.quote),
        checklist=checklist.table(case, grounds.judgement),
        timeline=tables.timeline(case),
        releases=tables.releases(case),
    )


# ------------------------------------------------------------------------------------------------------ rules


def _nothing_known(grounds: RouteFacts) -> Advice | None:
    if grounds.case.uses:
        return None
    return Advice(
        "", "No advice: nothing is known of the target's ops.", "A run or a prediction records them."
    )


def _unfed(grounds: RouteFacts) -> Advice | None:
    """Advise another input where the run ended on a made-up one, because it shows nothing about the rest."""
    case = grounds.case
    if not case.next_step or grounds.judgement.certain_stops:
        return None
    return Advice("", f"{case.next_step}.", f"The input that was made up did not fit: {case.stopped}.")


def _too_large(grounds: RouteFacts) -> Advice | None:
    """Advise against MPS when memory does not suffice; memory decides before the share of native ops does."""
    case = grounds.case
    if grounds.judgement.fit is not Fit.NO and not case.over_bytes:
        return None
    memory = case.forecast.memory if case.forecast else None
    remedies = [one for one in (memory.remedies if memory else []) if one.fit is not Fit.NO]
    because = f"In its own dtype it does not fit this Mac's GPU. {memory.reason if memory else ''}".rstrip()
    on_mps = next((one for one in remedies if one.kind is RemedyKind.PYTORCH), None)
    if grounds.judgement.viability is Viability.NO:  # memory is not all that stops it
        on_mps = None
    easily = next((one for one in remedies if one.fit is Fit.COMFORTABLE), None)
    quantised = [one for one in remedies if one.kind is RemedyKind.MLX]
    if on_mps is not None and on_mps is easily:
        return Advice("mps", f"Make it smaller first: {on_mps.sentence}", because)
    if grounds.work.reused and quantised:
        best = next((one for one in quantised if one.fit is Fit.COMFORTABLE), quantised[0])
        return Advice("mlx", f"Use {best.sentence}", because)
    if grounds.judgement.fit is not Fit.NO:
        smaller = f" Or: {remedies[0].sentence}" if remedies else ""
        return Advice("mps", f"MPS holds it, but only by swapping: expect it to be slow.{smaller}", because)
    if grounds.quote is not None:
        return Advice(
            "cloud", f"Rent a GPU ({grounds.quote.offer.name}): the target does not fit this Mac.", because
        )
    if on_mps is not None:
        return Advice("mps", f"Make it smaller first: {on_mps.sentence}", because)
    larger = next((one.sentence for one in remedies if one.kind is RemedyKind.LARGER_MAC), "")
    needed = larger or "A larger GPU or several are needed."
    return Advice("", f"No route of those looked at holds the target. {needed}", because)


def _unreadable(case: Case) -> bool:
    """Return whether the target is a quantised checkpoint that MLX cannot load in its present format."""
    found = case.run.predicted.quantisation if case.run.predicted is not None else None
    return found is not None and not found.mlx_loads


def _cannot(grounds: RouteFacts) -> Advice | None:
    if grounds.judgement.viability is not Viability.NO:
        return None
    stuck = [one for one in grounds.judgement.certain_stops if not one.fix]
    if stuck:
        because = f"MPS cannot run it: {stuck[0].what.rstrip('.')}."
    else:
        because = f"Less than {mps.PART:.0%} of the op time would be spent on the GPU."
    if grounds.work.reused and _unreadable(grounds.case):
        return Advice("mlx", "Use MLX with the model as it was before it was quantised.", because)
    if grounds.work.reused:
        return Advice("mlx", "Use MLX: its libraries hold the target, and MPS does not run it.", because)
    if grounds.quote is not None:
        later = "; a port to MLX pays only for extended work" if grounds.work.days else ""
        return Advice("cloud", f"Rent a GPU ({grounds.quote.offer.name}){later}.", because)
    return Advice("", "No route of those looked at is known to lead anywhere.", because)


def _packed(grounds: RouteFacts) -> Advice | None:
    """Promise nothing of MPS for weights that stay packed; advise MLX where it loads the checkpoint as it is."""
    made = grounds.case.run.predicted
    if made is None or made.quantisation is None or not grounds.case.packed:
        return None
    found, changes = made.quantisation, [one.fix for one in grounds.judgement.certain_stops]
    because = (
        f"The weights ({found.method}) stay packed, and the ops that compute with them are not predicted: what was "
        "predicted is the model with plain weights."
    )
    if grounds.work.reused and found.mlx_loads:
        return Advice("mlx", "Use MLX, which loads this checkpoint as it is; MPS is not predicted.", because)
    first = "; ".join(dict.fromkeys(map(commands.in_words, changes))).rstrip(".")
    after = f", after this: {first}" if first else ""
    return Advice("", f"No advice on MPS: a run on the Mac would show whether it works{after}.", because)


def _partly(grounds: RouteFacts) -> Advice | None:
    if grounds.judgement.grade is not Grade.PART:
        return None
    where = f" and {grounds.quote.offer.name} for the final runs" if grounds.quote else ""
    share = grounds.case.native_time or 0.0
    return Advice(
        "hybrid",
        f"Use the hybrid: MPS for development{where}.",
        f"{share:.0%} of the op time is spent on the GPU, between {mps.PART:.0%} and {mps.MOST:.0%}.",
    )


def _unknown(grounds: RouteFacts) -> Advice | None:
    if grounds.judgement.viability is not Viability.UNKNOWN:
        return None
    if grounds.judgement.fit is Fit.UNKNOWN:
        return Advice(
            "",
            "No advice yet: nothing certain speaks against MPS, but whether it fits is not known: name a Mac.",
            "Without a Mac's memory, as --mac m1-max-64 gives it, the routes cannot be compared.",
        )
    return Advice(
        "",
        "No advice yet: some of what the target does is not known on this torch release.",
        "Ops without a verdict, or without a forecast of their time, decide it.",
    )


def _mps(grounds: RouteFacts) -> Advice | None:
    case = grounds.case
    changes = [commands.in_words(one.fix) for one in grounds.judgement.certain_stops]
    fixes = "; ".join(dict.fromkeys(changes[:3])).rstrip(".")
    after = f", after this: {fixes}" if changes else ""
    if (release := grounds.judgement.release) and len(changes) > 1:
        after = f" with torch {release}, where all of its op calls run on the GPU"
        others = [commands.in_words(one.fix) for one in grounds.judgement.certain_stops if not one.release]
        after += f", after this: {'; '.join(dict.fromkeys(others))}".rstrip(".") if others else ""
    if grounds.judgement.grade is Grade.UNKNOWN and not changes:
        return None
    share = case.native_time
    known = f"{share:.0%} of the op time is spent on the GPU" if share is not None else "Its ops run there"
    if share == 1:
        known = "All of its ops run on the GPU"
    if changes:
        known = "Each thing that blocks MPS has a known fix"
    if (grounds.slow or grounds.long) and grounds.quote is not None:
        per_sample = case.seconds_per_sample
        assert per_sample is not None
        whole = rough(per_sample * case.plan.inferences)
        whole += f" ({case.plan.counted}, each {case.workload})" if case.workload else ""
        renting = f"rent {grounds.quote.offer.name} for the plan, which takes this Mac {whole}"
        because = f"{known}, and a {case.one} takes {seconds(per_sample)}."
        return Advice("hybrid", f"Develop on MPS{after}; {renting}.", because)
    tight = " Memory is tight: close other programs." if grounds.judgement.fit is Fit.TIGHT else ""
    left = len(grounds.judgement.possible_stops)
    still = f" {plural(left, 'known fault')} may still apply." if left else ""
    return Advice("mps", f"Use MPS{after}.{tight}{still}", f"{known}.")


def _may_apply(grounds: RouteFacts, advice: Advice) -> list[str]:
    """Return a sentence that names the first fault that advice for MPS leaves possible, with its fix."""
    left = grounds.judgement.possible_stops
    if advice.route != "mps" or not left:
        return []
    first = f"{left[0].what.rstrip('.')}{f': {left[0].fix}' if left[0].fix else ''}".rstrip(".")
    more = f" (and {len(left) - 1} more below)" if len(left) > 1 else ""
    return [f"May still apply: {first}{more}."]


def _in_mlx(grounds: RouteFacts) -> alternatives.Speed | None:
    """Return the first speed expected in MLX; None where none is, and for training."""
    if grounds.case.run.target.training is not None:
        return None
    return next((one for one in alternatives.speeds(grounds.case, "MLX") if one.expected is not None), None)


def _with_bits(speed_there: alternatives.Speed) -> str:
    """Format a speed with its quantisation: `87.2 tokens/s (68.1 - 105) with 4-bit weights`."""
    return f"{speed_there.words} with {speed_there.quantisation} weights"


def _faster(grounds: RouteFacts, advice: Advice) -> list[str]:
    """Return a sentence that sets MPS beside MLX, where MLX's libraries hold the target and its speed is known."""
    if advice.route != "mps" or not grounds.work.reused or (there := _in_mlx(grounds)) is None:
        return []
    time = grounds.case.forecast.time if grounds.case.forecast else None
    rate = next(
        (one for one in (time.rates if time else []) if one.unit == there.unit and one.name != "prefill"),
        None,
    )
    here = f", against {rate.expected:.3g} {there.unit} on MPS" if rate is not None and rate.expected else ""
    return [f"MLX is set up in minutes, and {_with_bits(there)} are expected there{here}."]


def _left(_: RouteFacts) -> Advice | None:
    return Advice(
        "", "No advice: what is known does not decide between the routes.", "See each route's reasons."
    )


_RULES: tuple[Callable[[RouteFacts], Advice | None], ...] = (
    _unfed,
    _nothing_known,
    _too_large,
    _cannot,
    _packed,
    _partly,
    _unknown,
    _mps,
    _left,
)


def _known_as(case: Case) -> str:
    if case.ops_evidence is Evidence.PREDICTED:
        return "predicted: nothing was run"
    ops = case.ops_evidence.value
    parts = f"ops {ops}, memory and time predicted" if case.evidence is Evidence.PREDICTED else ops
    return f"{parts}: not run on a Mac" if case.ops_evidence is Evidence.EMULATED else parts


def _would_change(grounds: RouteFacts) -> list[str]:
    case, judgement = grounds.case, grounds.judgement
    texts: list[str] = []
    if case.evidence is not Evidence.MEASURED:
        texts.append("A run on the Mac itself: `mpsprobe run` there measures what is only predicted here.")
    memory = case.forecast.memory if case.forecast else None
    if memory is not None and memory.needed_bytes is not None and memory.working_set_bytes is not None:
        room = memory.working_set_bytes - memory.needed_bytes
        if room >= 0:
            texts.append(
                f"{decimal_size(room)} more memory in use, by longer prompts or more samples at once: that is the "
                "margin to Metal's recommended working set."
            )
        else:
            texts.append(
                f"A Mac whose recommended working set is {decimal_size(-room)} larger, or a smaller dtype."
            )
    share = case.native_time
    if share is not None and judgement.grade is Grade.MOST and share < 1:
        now = f"{1 - share:.1%}" if 1 - share >= 0.001 else "less than 0.1%"
        off = [word for verdict, word in _OFF.items() if case.calls.get(verdict)]
        texts.append(
            f"Ops that {' or '.join(off) or 'are not known'} taking more than {1 - mps.MOST:.0%} of "
            f"the time; without any change it is {now}."
        )
    if (first := tables.first_native(case.releases)) is not None and first != case.mac.torch:
        texts.append(f"torch {first}: everything is native from there on.")
    if (
        judgement.viability is not Viability.NO
        and grounds.quote is not None
        and grounds.quote.break_even is not None
    ):
        count = f"{'some ' if grounds.quote.least else ''}{grounds.quote.break_even:,}"
        of = f" ({case.workload})" if case.workload else ""
        texts.append(f"From {count} {case.plan.unit}s{of} on, {grounds.quote.offer.name} finishes sooner.")
    if grounds.work.reused and (found := _in_mlx(grounds)) is not None:
        texts.append(
            f"Use of MLX, whose libraries hold it, set up in minutes: {_with_bits(found)} expected there."
        )
    if not grounds.work.reused and grounds.work.days is not None:
        low, high = grounds.work.days
        texts.append(f"A port to MLX, which takes {low:g} to {high:g} days.")
    return texts


def outlook(case: Case) -> Outlook:
    """Return the outlook of a case: its forecast, the verdict on each route, and the recommendation."""
    judgement = mps.judge(case)
    quotes = cloud.quotes(case)
    quote = cloud.best(quotes)
    mlx_route, work = mlx.route(case)
    routes = [
        mps.route(case, judgement),
        hybrid.route(case, judgement, quote),
        mlx_route,
        cloud.route(case, quotes),
    ]
    grounds = RouteFacts(case, judgement, {one.name: one for one in routes}, work, quote)
    return Outlook(forecast=case.forecast, routes=routes, recommendation=recommend(grounds))


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
    wish = ForecastOptions(elsewhere=tuple(dict.fromkeys(gpu.name for gpu in gpus if gpu is not None)))
    forecast = build(trace, asked, wish, dtypes={})
    mac = _named(asked)
    forecast.memory = _memory(run, mac)
    if mac is not None:
        forecast.time = timing(Work.of(trace, stages(trace)), of_mac(mac, asked.torch))
    forecast.limits.append(_ORDER)
    return forecast


def _named(asked: Mac) -> NamedMac | None:
    """Return the target Mac from the catalogue; None when chip or memory is unknown, or they are not sold together."""
    chip = chips.find(asked.chip) if asked.chip else None
    if chip is None or asked.memory_gb is None:
        return None
    try:
        return named(f"{chip.key}-{round(asked.memory_gb)}", asked.macos)
    except UsageError:
        return None


def _memory(run: Run, mac: NamedMac | None) -> Memory | None:
    """Return the peak memory measured on MPS, else the weights, which only show whether they exceed the Mac's."""
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
    """Return how a peak fits: easily within Metal's recommended working set, not above the allocator's limit."""
    if limit is not None and peak > limit:
        return Fit.NO
    if working_set is None:
        return Fit.UNKNOWN
    return Fit.COMFORTABLE if peak <= working_set else Fit.TIGHT
