"""The join of op uses with knowledge: what becomes of each on a given Mac, and through what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from mpsprobe.knowledge import advisories, dtypes, ops
from mpsprobe.run import Mac, OpUse, OpVerdict


@dataclass(frozen=True)
class Judged:
    """One op use with what the tables say.

    Attributes:
        use: with `verdict`, `via` and `advisories` filled in.
        reason: why it is not plainly native: one line, `""` when there is nothing to say.
        certain: False where the tables can only say that it may be so.
        known: ids of the advisories whose every condition is met; the other ones of `use.advisories` may be
            met: something that they ask about (macOS, chip, a mode) is not known.
    """

    use: OpUse
    reason: str = ""
    certain: bool = True
    known: tuple[str, ...] = ()


def judge(uses: Iterable[OpUse], mac: Mac) -> list[Judged]:
    """Give each op use its verdict on that Mac.

    Registrations come first, then the rules for dtypes, ranks and sizes, then the advisories: each may only
    make a verdict worse.
    """
    return [_judge(use, mac) for use in uses]


def _judge(use: OpUse, mac: Mac) -> Judged:
    verdict, via = ops.verdict(use.op, mac.torch, fallback=mac.fallback)
    reason, certain = _of_support(use.op, verdict, via, mac)
    if verdict in (OpVerdict.NATIVE, OpVerdict.COMPOSITE):
        restriction = dtypes.check_tensors(use.op, use.inputs, use.outputs, mac.torch, mac.macos)
        # Some rules do not refuse: the op falls back, or computes in another dtype.
        if restriction is not None and restriction.certain and restriction.effect.verdict is not None:
            verdict, reason = restriction.effect.verdict, restriction.message
    matches = advisories.match(use, mac.torch, mac.macos, mac.chip)
    known = [match for match in matches if match.certainty is advisories.Certainty.CERTAIN]
    if known and verdict in (OpVerdict.NATIVE, OpVerdict.COMPOSITE):
        symptoms = {match.advisory.symptom for match in known}
        if symptoms & {advisories.Symptom.WRONG, advisories.Symptom.NAN}:
            verdict, reason = OpVerdict.WRONG, known[0].advisory.title
    return Judged(
        msgspec.structs.replace(
            use, verdict=verdict, via=via, advisories=[match.advisory.id for match in matches]
        ),
        reason,
        certain,
        tuple(match.advisory.id for match in known),
    )


def _of_support(op: str, verdict: OpVerdict, via: str, mac: Mac) -> tuple[str, bool]:
    """Why an op is not native, and whether that is certain."""
    if verdict is OpVerdict.UNKNOWN:
        return "not an ATen op of any known release: a third party's, or a newer torch's", False
    support = ops.release(mac.torch).lookup(op)
    missing = f"{via or op} has no MPS kernel in torch {mac.torch}"
    if verdict is OpVerdict.FALLBACK:
        return f"{missing}: it runs on the CPU, with copies both ways", support.certain
    if verdict is OpVerdict.RAISES:
        return f"{missing}", support.certain
    return "", support.certain
