"""The cloud route: which rented GPU holds the target, how long the plan takes there, and what that costs."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass

from mpsprobe.knowledge.cloud_prices import Offer
from mpsprobe.quantities import decimal_size, enumerate_words, plural, rough, seconds
from mpsprobe.routes import commands
from mpsprobe.routes.case import Case
from mpsprobe.run import Evidence, Fit, Route, Table, Viability

_GIB = 2**30
_MONTH_H = 30 * 24
#: The age in months above which reports warn about a price.
_OLD_MONTHS = 6.0
#: The share of a GPU's memory beyond which the fit is tight, because the CUDA context and cuDNN need memory too.
_TIGHT = 0.90


@dataclass(frozen=True)
class Quote:
    """The time and the price of a plan (`Case.plan`) on one offer.

    Attributes:
        offer: The offer, with its GPU.
        fit: Whether the target fits into the GPU's memory.
        per_sample: The time of an inference there in seconds; None when nothing was forecast for it.
        least: Whether `per_sample` is a floor, so that hours, cost and break-even are lower bounds.
        start: The time before the first inference in seconds: boot, installing packages, transferring and loading
            the weights; None when unknown.
        hours: The time of the whole plan in hours, transfers included; None when `per_sample` is.
        cost: The cost of the plan in US dollars; None when `hours` is. A subscription counts by started months.
        one_sample: The cost of one inference in US dollars, once the target is loaded; None for a subscription.
        break_even: The fewest inferences with which the GPU finishes sooner than the Mac; None when it never does, or
            when that is unknown.
    """

    offer: Offer
    fit: Fit
    per_sample: float | None
    least: bool
    start: float | None
    hours: float | None
    cost: float | None
    one_sample: float | None
    break_even: int | None


def quotes(case: Case) -> list[Quote]:
    """Return the quote of every offer in the price file, in its order."""
    return [_quote(case, offer) for offer in case.cloud.offers]


def best(found: list[Quote]) -> Quote | None:
    """Return the offer to recommend; None when the target is not known to fit any.

    It is the cheapest of those in which the target fits easily, else of those in which it fits tightly. Where none
    of these has a cost, it is the first of them.
    """
    for wanted in (Fit.COMFORTABLE, Fit.TIGHT):
        fitting = [one for one in found if one.fit is wanted]
        priced = [one for one in fitting if one.cost is not None]
        if priced:
            return min(priced, key=lambda one: (one.cost or 0.0, one.hours or 0.0))
        if fitting:
            return fitting[0]
    return None


def route(case: Case, found: list[Quote]) -> Route:
    """Return the cloud route as a report shows it, with a table of the quotes."""
    chosen = best(found)
    plan = case.plan
    return Route(
        name="cloud",
        viability=_viability(found, chosen),
        sentence=_sentence(case, found, chosen),
        reasons=_reasons(case, found, chosen),
        evidence=Evidence.PREDICTED,
        tables={f"Rented GPUs, for {plan.counted}": _table(found)} if found else {},
        commands=commands.of_cloud(case, chosen.offer.name) if chosen is not None else [],
    )


def needed_bytes(case: Case) -> int | None:
    """Return the peak memory of the target in bytes as forecast, else the size of its weights; None when unknown."""
    memory = case.forecast.memory if case.forecast else None
    if memory is not None and memory.needed_bytes is not None:
        return memory.needed_bytes
    return case.run.target.weight_bytes


def _quote(case: Case, offer: Offer) -> Quote:
    plan, network = case.plan, case.cloud.network
    per_sample, least = _per_sample(case, offer)
    weights = case.run.target.weight_bytes
    fetching = weights / network.rented_down if weights is not None else None
    if fetching is not None:
        fetching += offer.install_min * 60
    start = offer.setup_min * 60 + fetching if fetching is not None else None
    hours = cost = one = None
    if per_sample is not None and fetching is not None:
        rented = fetching + plan.inferences * per_sample
        hours = (offer.setup_min * 60 + rented) / 3600
        if offer.per_hour is not None:
            cost = rented / 3600 * offer.per_hour
            one = per_sample / 3600 * offer.per_hour
        else:
            cost = (offer.per_month or 0.0) * math.ceil(hours / _MONTH_H)
    return Quote(
        offer=offer,
        fit=_fit(needed_bytes(case), offer),
        per_sample=per_sample,
        least=least,
        start=start,
        hours=hours,
        cost=cost,
        one_sample=one,
        break_even=_break_even(case, start, per_sample),
    )


def _per_sample(case: Case, offer: Offer) -> tuple[float | None, bool]:
    """Return the seconds of a sample on an offer's GPU (None without a forecast), and whether they are only a floor."""
    for timing in case.forecast.elsewhere if case.forecast else ():
        if offer.hardware and timing.hardware == offer.hardware and timing.per_sample is not None:
            expected = timing.per_sample.expected
            return (timing.per_sample.floor, True) if expected is None else (expected, False)
    return None, False


def _fit(needed: int | None, offer: Offer) -> Fit:
    if needed is None:
        return Fit.UNKNOWN
    share = needed / (offer.memory_gib * _GIB)
    return Fit.NO if share > 1 else Fit.TIGHT if share > _TIGHT else Fit.COMFORTABLE


def _break_even(case: Case, start: float | None, per_sample: float | None) -> int | None:
    """Return the fewest inferences with which the GPU finishes sooner than the Mac; None for never or unknown.

    The download of the weights to the Mac is not counted.
    """
    on_mac = case.seconds_per_sample
    if on_mac is None or start is None or per_sample is None:
        return None
    return int(start / (on_mac - per_sample)) + 1 if on_mac > per_sample else None


def _viability(found: list[Quote], chosen: Quote | None) -> Viability:
    if chosen is not None:
        return Viability.YES
    if not found or any(one.fit is Fit.UNKNOWN for one in found):
        return Viability.UNKNOWN
    return Viability.NO


def _sentence(case: Case, found: list[Quote], chosen: Quote | None) -> str:
    if chosen is None:
        if any(one.fit is Fit.UNKNOWN for one in found) or not found:
            return "Whether a rented GPU holds it is not known."
        return "No GPU of the price list holds it."
    text = f"{chosen.offer.name} fits it without code changes"
    if chosen.cost is None or chosen.hours is None:
        return f"{text}; how long it takes there was not forecast."
    count = case.plan.counted
    least = "at least " if chosen.least else ""
    return f"{text}: {least}{rough(chosen.hours * 3600)} and ${chosen.cost:,.2f} for {count}."


def _reasons(case: Case, found: list[Quote], chosen: Quote | None) -> list[str]:
    plan, network = case.plan, case.cloud.network
    needed = needed_bytes(case)
    reasons = [
        f"The plan: {plan.words}.",
    ]
    if needed is not None:
        small = [one.offer.name for one in found if one.fit is Fit.NO]
        reasons.append(
            f"It takes {decimal_size(needed)} of GPU memory"
            + (f": too much for {', '.join(small)}." if small else ".")
        )
    if chosen is not None and chosen.break_even is not None:
        reasons.append(
            f"It finishes sooner there than on the Mac from {plural(chosen.break_even, plan.unit)} on."
        )
    elif chosen is not None and chosen.per_sample is not None and case.seconds_per_sample is not None:
        reasons.append("The Mac is not slower, once transfers count.")
    reasons.append(
        "Starting the machine, installing packages, and moving the weights there and into the GPU count: "
        f"{network.rented_down / 1e6:g} MB/s, "
        f"an assumption ({network.source})."
    )
    if case.data_bytes is None:
        reasons.append("The size of a sample's data is not known; sending it there is not counted.")
    elif (took := case.data_bytes / network.home_up) >= 1:
        reasons.append(
            f"Sent as it is prepared, a sample's {decimal_size(case.data_bytes)} take {seconds(took)} at "
            f"{network.home_up / 1e6:g} MB/s: not counted, since data goes compressed, or is fetched from there."
        )
    dates = sorted({one.offer.date for one in found})
    if dates:
        reasons.append(
            f"Prices are of {enumerate_words(dates)}; MPSPROBE_CLOUD=FILE names a file with your own."
        )
    ages = [age for one in found if (age := one.offer.months_old(datetime.date.today())) is not None]
    if ages and max(ages) > _OLD_MONTHS:
        reasons.append(f"Some prices are {max(ages):.0f} months old: look them up before you rent.")
    return reasons


def _table(found: list[Quote]) -> Table:
    rows: list[list[str | int | float | bool | None]] = [
        [
            one.offer.name,
            f"{one.offer.memory_gib:g} GiB",
            one.fit.label,
            f"${one.offer.per_hour:.2f}/h"
            if one.offer.per_hour is not None
            else f"${one.offer.per_month:.2f}/month",
            _bounded(one, seconds(one.per_sample) if one.per_sample is not None else None),
            rough(one.start) if one.start is not None else None,
            _bounded(one, rough(one.hours * 3600) if one.hours is not None else None),
            _bounded(one, f"${one.cost:,.2f}" if one.cost is not None else None),
            one.break_even if one.fit is not Fit.NO else None,
        ]
        for one in found
    ]
    return Table(
        ["GPU", "memory", "fits", "price", "a sample", "until the first", "the plan", "cost", "break-even"],
        rows,
    )


def _bounded(quote: Quote, text: str | None) -> str | None:
    """Return a figure of an offer as text, marked where it is only a floor; None when the target does not fit."""
    if text is None or quote.fit is Fit.NO:
        return None
    return f"at least {text}" if quote.least else text
