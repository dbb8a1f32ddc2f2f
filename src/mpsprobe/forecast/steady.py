"""Check whether a host kept its speed during a calibration, by timing the same work in rounds that are far apart.

Other programs, other guests of a rented machine, heat and power saving make a host slower for seconds to hours. Work
that is timed once cannot tell; work that is timed again and again, with other measurements in between, can: a round
that takes longer than the fastest one says that the host changed, not the work.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

#: A round that takes this much longer than the fastest has run on a slower host: timing itself is good to some 5 %.
STILL = 1.1
#: TimedRounds that must be as fast as the fastest, within `STILL`; else there are more, up to `MOST_ROUNDS`.
AGREEING = 3
MOST_ROUNDS = 9
#: Past this no forecast is worth its range: the calibration of a GPU is refused.
REFUSED = 2.0


@dataclass
class TimedRounds:
    """Pieces of work, each of which is timed once in every round.

    Attributes:
        work: The pieces of work by name; a call returns its time in seconds.
        taken: The times in seconds of each round, in the order of `work`.
    """

    work: dict[str, Callable[[], float]]
    taken: list[list[float]] = field(default_factory=list)

    def once(self) -> None:
        """Time each piece of work once more."""
        self.taken.append([time() for time in self.work.values()])

    def until_still(self) -> None:
        """Time more rounds until enough of them agree with the fastest, or there are too many."""
        while len(self.taken) < MOST_ROUNDS and sum(f <= STILL for f in factors(self.taken)) < AGREEING:
            self.once()

    def typical(self) -> dict[str, float]:
        """Return the time in seconds of each piece of work: the median of the rounds that agree with the fastest."""
        agreeing = [
            times for times, slower in zip(self.taken, factors(self.taken), strict=True) if slower <= STILL
        ]
        return dict(zip(self.work, map(statistics.median, zip(*agreeing, strict=True)), strict=True))

    def unsteady(self) -> float:
        """Return how many times as long the slowest round took as the fastest, one outlier in five rounds left out."""
        return unsteadiness(factors(self.taken))


def factors(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Return the slowdown of each round relative to the fastest round, 1 for that one.

    A round's slowdown is the median over its pieces of work of the time relative to the best time of that piece.

    Args:
        rounds: The times in seconds of the pieces of work of each round, all in one order.
    """
    if not rounds or not rounds[0]:
        return [1.0] * len(rounds)
    best = [min(times) for times in zip(*rounds, strict=True)]
    medians = [
        statistics.median(took / least for took, least in zip(times, best, strict=True)) for times in rounds
    ]
    return [one / min(medians) for one in medians]


def unsteadiness(found: Sequence[float]) -> float:
    """Return the largest factor without one outlier in five, because a momentary disturbance is no drift."""
    kept = sorted(found)[: len(found) - len(found) // 5]
    return kept[-1] if kept else 1.0


def remark(unsteady: float) -> str:
    """Return one line about a host that did not keep its speed; empty for one that did."""
    if unsteady <= STILL:
        return ""
    return (
        f"The machine was not still: the same work took up to {unsteady:.1f} times as long in one round as in another. "
        "The ranges of forecasts are wider by that; close other programs and calibrate again."
    )
