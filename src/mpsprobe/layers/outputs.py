"""Compare the named results of two passes."""

from __future__ import annotations

from typing import Any

import torch

from mpsprobe.layers.criterion import Criterion, Noise, Pool
from mpsprobe.layers.leaves import leaves
from mpsprobe.layers.result import OutputRow
from mpsprobe.layers.sketch import distance, sketch
from mpsprobe.models.adapter import Outputs


def tensors(outputs: Outputs) -> dict[str, torch.Tensor]:
    """Return the tensors by name: `logits`, `boxes[0]`."""
    return {place.removeprefix("."): tensor for place, tensor in leaves(outputs)}


def texts(outputs: Outputs) -> dict[str, Any]:
    """Return the results that hold no tensor, by name."""
    return {name: value for name, value in outputs.items() if not any(True for _ in leaves(value))}


def key(name: str) -> Pool:
    """Return the key of the noise of a result, which no module path equals."""
    return ("(outputs)", name)


def add_noise(noise: Noise, found: Outputs, expected: Outputs) -> None:
    """Add the differences between the noise run's results and the reference's to the noise."""
    known = tensors(expected)
    for name, tensor in tensors(found).items():
        if name in known:
            noise.add(key(name), distance(sketch(tensor), sketch(known[name])))


def rows(
    stage: str, found: Outputs, expected: Outputs, criterion: Criterion, noise: Noise, *, judged: bool
) -> list[OutputRow]:
    """Return one row for each result of the reference.

    Only floating-point tensors are judged: an index or a word is either equal or not, and rounding may decide that.
    """
    result = []
    mine = tensors(found)
    for name, tensor in tensors(expected).items():
        other = mine.get(name)
        if other is None:
            result.append(_row(stage, name, problem="not there", judged=judged))
            continue
        apart = distance(sketch(other), sketch(tensor))
        verdict = criterion.judge(apart, tensor.numel(), key(name), noise, call=0, place=name)
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
    said = texts(found)
    result += [
        _row(stage, name, same=said.get(name) == text, judged=False) for name, text in texts(expected).items()
    ]
    return result


def _row(stage: str, name: str, *, problem: str = "", same: bool = False, judged: bool) -> OutputRow:
    return OutputRow(
        stage=stage, name=name, error=None, limit=None, same=same, judged=judged, problem=problem
    )
