"""Join op uses with knowledge: the verdict of each on a given Mac, and the known faults that it meets.

`judge` gives every op use its verdict. `hazards` summarises, for a whole target, the advisories that its op uses
meet, may meet, or would meet in a larger workload.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from mpsprobe.knowledge import advisories, dtypes, ops
from mpsprobe.knowledge.advisories import Advisory, Certainty, Match, Mode, Severity, Symptom
from mpsprobe.run import Hazard, Mac, OpUse, OpVerdict

_ON_GPU = (OpVerdict.NATIVE, OpVerdict.COMPOSITE)
_SEVERITIES = list(Severity)
#: The factor by which an ordinary workload may be larger than the recorded one.
_LARGER = 64

#: The verdict on an op use that meets an advisory, by symptom. A leak or a loss of speed does not change the verdict.
_VERDICTS = {
    Symptom.WRONG: OpVerdict.WRONG,
    Symptom.NAN: OpVerdict.WRONG,
    Symptom.ABORT: OpVerdict.RAISES,
    Symptom.HANG: OpVerdict.RAISES,
    Symptom.RAISES: OpVerdict.RAISES,
}


@dataclass(frozen=True)
class JudgedUse:
    """An op use with the table rows and advisories that decide its verdict.

    Attributes:
        use: The op use, with `verdict`, `via` and `advisories` filled in.
        reason: The reason why it is not plainly native, in one line; `""` for none.
        certain: False where the tables only show that it may be so.
        known: The ids of the advisories of which every condition is met. The others in `use.advisories` depend on
            something unknown (macOS, chip, a mode).
        matches: Every advisory that it meets, may meet, or would meet in a larger workload.
    """

    use: OpUse
    reason: str = ""
    certain: bool = True
    known: tuple[str, ...] = ()
    matches: tuple[Match, ...] = field(default=(), repr=False)


def judge(
    uses: Iterable[OpUse], mac: Mac, longest: int | None = None, autocast: bool | None = None
) -> list[JudgedUse]:
    """Return each op use with its verdict on that Mac.

    Registrations come first, then the rules for dtypes, ranks and sizes, then the advisories; each can only make a
    verdict worse.

    Args:
        uses: The distinct op uses of one target.
        mac: The target Mac.
        longest: The greatest number of tokens that the model takes; None when there is no such limit, or when
            unknown.
        autocast: Whether they ran under autocast; None when unknown.
    """
    every = list(uses)
    modes = _modes(every, autocast)
    return [_judge(use, mac, longest, modes) for use in every]


def hazards(judged: Sequence[JudgedUse], longest: int | None = None) -> list[Hazard]:
    """Return the known faults that the op uses meet, may meet, or would meet in a larger workload; the worst first.

    Args:
        judged: The results of `judge`.
        longest: The same number of tokens that `judge` got.
    """
    best: dict[str, tuple[tuple[int, int], Match, OpUse]] = {}
    calls: dict[tuple[str, int], int] = {}
    for one in judged:
        for match in one.matches:
            id_, rank = match.advisory.id, _rank(match, longest)
            calls[id_, rank[0]] = calls.get((id_, rank[0]), 0) + one.use.count
            if id_ not in best or rank < best[id_][0]:
                best[id_] = rank, match, one.use
    found = [_hazard(match, use, calls[id_, rank[0]], longest) for id_, (rank, match, use) in best.items()]
    return sorted(
        found, key=lambda one: (not one.is_met, _SEVERITIES.index(Severity(one.severity)), one.advisory)
    )


def acts(advisory: Advisory) -> bool:
    """Return whether an advisory that is met changes an op use's verdict: by its symptom, and unless it is minor."""
    return advisory.symptom in _VERDICTS and advisory.severity is not Severity.LOW


def _modes(uses: Sequence[OpUse], autocast: bool | None) -> frozenset[Mode]:
    """Return the modes of a run: training if an op is a backward one, else inference; and autocast if that is true."""
    training = any("backward" in use.op for use in uses)
    modes = {Mode.TRAINING if training else Mode.INFERENCE}
    return frozenset(modes | ({Mode.AUTOCAST} if autocast else set()))


def _judge(use: OpUse, mac: Mac, longest: int | None, modes: frozenset[Mode]) -> JudgedUse:
    verdict, via = ops.verdict(use.op, mac.torch, fallback=mac.fallback)
    reason, certain = _of_support(use.op, verdict, via, mac)
    if verdict in _ON_GPU:
        restriction = dtypes.check_tensors(use.op, use.inputs, use.outputs, mac.torch, mac.macos)
        # Some rules do not refuse the call: the op falls back, or computes in another dtype.
        if restriction is not None and restriction.certain and restriction.effect.verdict is not None:
            verdict, reason = restriction.effect.verdict, restriction.message
    matches = advisories.match(use, mac.torch, mac.macos, mac.chip, modes)
    later = advisories.match_later(use, mac.torch, mac.macos, mac.chip, modes)
    known = [match for match in matches if match.certainty is Certainty.CERTAIN]
    reached = [match for match in later if match.is_reached(longest)]
    acting = [match for match in (*known, *reached) if acts(match.advisory)]
    if acting and verdict in _ON_GPU:
        worst = min(acting, key=lambda match: _SEVERITIES.index(match.advisory.severity))
        verdict, reason = _VERDICTS[worst.advisory.symptom], _reason(worst, longest)
    met = [match.advisory.id for match in (*matches, *reached)]
    return JudgedUse(
        msgspec.structs.replace(use, verdict=verdict, via=via, advisories=met),
        reason,
        certain,
        tuple(match.advisory.id for match in known),
        (*matches, *later),
    )


def _reason(match: Match, longest: int | None) -> str:
    title = match.advisory.title
    if not match.later:
        return title
    return f"{title}, from {match.later[0].needed:,} tokens on (the model takes up to {longest:,})"


def _rank(match: Match, longest: int | None) -> tuple[int, int]:
    """Return a sort key, smallest first: matches that are certain, reached, possible, met only by larger workloads.

    Within a group the smallest size that meets the advisory comes first, and then the fewest unknown conditions.
    """
    if match.certainty is Certainty.CERTAIN:
        return 0, 0
    needed = max((threshold.needed for threshold in match.later), default=0)
    if match.is_reached(longest):
        return 1, needed
    doubts = len(match.unknown) + 10 * len(match.circumstances)
    return (3 if match.later else 2), needed + doubts


def _hazard(match: Match, use: OpUse, calls: int, longest: int | None) -> Hazard:
    advisory, reached = match.advisory, match.is_reached(longest)
    tokens = [threshold.needed for threshold in match.later if threshold.unit == "tokens"]
    return Hazard(
        advisory=advisory.id,
        title=advisory.title,
        severity=advisory.severity.value,
        symptom=advisory.symptom.value,
        certainty=match.certainty.value,
        reached=reached,
        why=f"{match.why}; the model takes up to {longest:,}" if reached else match.why,
        from_tokens=max(tokens, default=None),
        fix=advisory.fix,
        calls=calls,
        op=use.op,
        source=use.source,
        listed=reached or (_is_listed(match) and _is_near(match, longest)),
    )


def _is_listed(match: Match) -> bool:
    """Return whether a match belongs in a short list: it is likely enough, and does harm."""
    severity = match.advisory.severity
    if match.certainty is Certainty.CERTAIN:
        return True
    if match.circumstances:  # values, earlier calls and so on, which most workloads do not have
        return severity is Severity.CRITICAL and not match.unknown
    return severity is not Severity.LOW


def _is_near(match: Match, longest: int | None) -> bool:
    """Return whether an ordinary workload may be large enough for an advisory's conditions.

    A size in tokens is compared with the model's own maximum. Where that is unknown, and for other units, it is
    compared with a workload that is 64 times as large.
    """
    return all(
        threshold.needed
        <= (longest if threshold.unit == "tokens" and longest is not None else _LARGER * threshold.now)
        for threshold in match.later
    )


def _of_support(op: str, verdict: OpVerdict, via: str, mac: Mac) -> tuple[str, bool]:
    """Return the reason why an op is not native (`""` if it is), and whether the table is certain of its support."""
    if verdict is OpVerdict.UNKNOWN:
        return "not an ATen op of any known release: a third party's, or a newer torch's", False
    support = ops.release(mac.torch).lookup(op)
    missing = f"{via or op} has no MPS kernel in torch {mac.torch}"
    if verdict is OpVerdict.FALLBACK:
        return f"{missing}: it runs on the CPU, with copies both ways", support.certain
    if verdict is OpVerdict.RAISES:
        return f"{missing}", support.certain
    return "", support.certain
