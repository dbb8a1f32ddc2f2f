"""A recording on a memoryless Mac meets the advisory it was planted for, and one of an example outside does not."""

from __future__ import annotations

import functools
from typing import NamedTuple

import pytest
import torch
from packaging.version import Version

from mpsprobe.knowledge import _calls, advisories, ops
from mpsprobe.knowledge.advisories import Advisory, Certainty, Mode
from tests.device.virtual.zoo import ZOO

from .planting import field

#: Advisories that no recording on this machine can meet, each with the reason.
NOT_PLANTED = {
    "float64-unsupported": "the virtual device refuses float64 itself and goes on with float32",
    "stft-half": "the installed torch has no transform of half precision to compute it with",
    "gru-nan": "below autograd a GRU is linear layers and pointwise ops",
    "gru-slow": "below autograd a GRU is linear layers and pointwise ops",
    "matrix-norm-float32": "below autograd it is a singular value decomposition and a reduction",
    "resize-uninitialised": "the virtual device resizes storage without a kernel; a recording on a Mac holds the op",
    "sdpa-mask-and-causal-abort": "the virtual device refuses the pair before a kernel is called",
    "norm-complex-dtype-raises": "the installed torch refuses it before a kernel is called",
    "torchvision-deform-conv2d-missing": "torchvision's op is not installed",
    "cross-entropy-float-target-unchecked": "the installed torch refuses it before a kernel is called",
    "nll-loss-backward-mixed-dtype-abort": "the installed torch refuses it before a kernel is called",
    "mm-mixed-dtype-abort": "the installed torch refuses it before a kernel is called",
    "fused-sgd-tensor-lr-raises": "planting gives each list of tensors a length of its own",
    "roi-align-slow": "torchvision's op is not installed",
    "roi-pool-slow": "torchvision's op is not installed",
    "roi-backward-overcounts": "torchvision's op is not installed",
    "max-pool-empty-output-unchecked": "the installed torch refuses it before a kernel is called",
}


#: Examples outside their advisory that no recording can be compared with, by advisory and number, with the reason.
NOT_PLANTED_OUTSIDE: dict[tuple[str, int], str] = {
    **dict.fromkeys(
        (
            ("histogram-near-edge-counted", 1),
            ("max-unpool-unchecked", 1),
            ("nll-loss-target-unchecked", 1),
            ("sdpa-varlen-leak", 1),
            ("index-reduce-unchecked", 1),
            ("index-copy-unchecked", 1),
            ("index-fill-unchecked", 1),
            ("randperm-not-uniform", 1),
            ("bce-range-unchecked", 1),
        ),
        "any call of the op may meet it, and no release is known to be right",
    ),
    ("conj-imag-not-negated", 1): "a real tensor has no imaginary part",
    (
        "bitshift-scalar-left-wrong",
        2,
    ): "a recording holds a number; the schema of this overload takes a tensor",
    ("sdpa-dropout-raises", 2): "with dropout, releases before 2.13 decompose attention",
    ("sdpa-2-5-slow-and-large", 1): "2.4 decomposes attention",
}


class Planted(NamedTuple):
    """What a recording of an example holds, and what matching says of it."""

    certainty: Certainty | None
    recorded: bool  # whether a use of an op of the advisory was recorded
    happened: str


def _sessions() -> dict[tuple[str, str], list[tuple[Advisory, int]]]:
    """Group the examples by release and system: entering a virtual Mac takes a second."""
    groups: dict[tuple[str, str], list[tuple[Advisory, int]]] = {}
    for advisory in advisories.load_all():
        inside = [one for one in advisory.examples if one.expect and one.op]
        if not inside or advisory.id in NOT_PLANTED:
            continue
        for number, example in enumerate(advisory.examples):
            if example is inside[0] or (
                not example.expect and (advisory.id, number) not in NOT_PLANTED_OUTSIDE
            ):
                release = ".".join(example.torch.split(".")[:2])
                macos = example.macos or (inside[0].macos if example is inside[0] else "") or "15.5"
                if Version(macos) < Version(ops.release(release).minimum_macos):
                    macos = "15.5"  # no such Mac: the example is of the matcher, the recording of a Mac that can be
                groups.setdefault((release, macos), []).append((advisory, number))
    return groups


@functools.cache
def _answers(release: str, macos: str) -> dict[tuple[str, int], Planted]:
    """Plant the examples of a session; return what matching says of each recording, and what that holds."""
    answers: dict[tuple[str, int], Planted] = {}
    with field(release, macos) as mac:
        for advisory, number in _sessions()[release, macos]:
            example = advisory.examples[number]
            try:
                uses = mac.plant(example)
            except Exception as problem:
                answers[advisory.id, number] = Planted(None, False, f"{type(problem).__name__}: {problem}")
                continue
            modes = None if example.modes is None else frozenset(example.modes)
            where = example.torch, example.macos or None, example.chip or None, modes
            found = {
                match.certainty
                for use in uses
                for match in advisories.match(use, *where)
                if match.advisory.id == advisory.id
            }
            best = Certainty.CERTAIN if Certainty.CERTAIN in found else next(iter(found), None)
            about = {advisories.base_name(op) for op in advisory.ops}
            seen = any(about & _calls.names(advisories.base_name(use.op)) for use in uses)
            happened = "recorded: " + ", ".join(use.op for use in uses)
            answers[advisory.id, number] = Planted(best, seen, happened)
    return answers


PLANTED = [
    pytest.param(advisory, number, *session, id=f"{advisory.id}-{number}")
    for session, planted in _sessions().items()
    for advisory, number in planted
]


@pytest.mark.parametrize(("advisory", "number", "release", "macos"), PLANTED)
def test_recording_of_an_example_is_answered_as_stated(
    advisory: Advisory, number: int, release: str, macos: str
) -> None:
    """The first example inside must be met, and one outside must be recorded and not met."""
    planted = _answers(release, macos)[advisory.id, number]
    assert planted.certainty is advisory.examples[number].expect, planted.happened
    assert planted.recorded, planted.happened


@pytest.mark.parametrize("release", ["2.6", "2.7", "2.15"])
def test_causal_mask_of_four_dimensions_is_not_certainly_wrong(release: str) -> None:
    """Every decoder builds one; the triangular solver of 2.6 is what fails above three dimensions."""
    with field(release, "15.5") as mac:
        uses = mac.record(_causal_masks)
    assert {"aten::triu", "aten::tril"} <= {advisories.base_name(use.op) for use in uses}
    where = f"{release}.0", "15.5", "Apple M3", frozenset({Mode.INFERENCE})
    found = [match for use in uses for match in advisories.match(use, *where)]
    assert [match.advisory.id for match in found if match.certainty is Certainty.CERTAIN] == []


def _causal_masks() -> None:
    """Build a causal mask in each of the two ways that attention layers do, a batch and heads in front."""
    torch.full((2, 4, 8, 8), float("-inf"), device="mps").triu(1)
    torch.ones((2, 4, 8, 8), dtype=torch.bool, device="mps").tril()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of transformers about options of tiny configs
@pytest.mark.parametrize("name", ["llama", "vit", "whisper", "qwen2", "bert", "clip"])
def test_ordinary_models_meet_few_advisories(name: str) -> None:
    """A loose condition shows here first: the newest release must not warn of everything."""
    entry = next(one for one in ZOO if one.name == name)
    where = "2.15.0", "15.5", "Apple M3", frozenset({Mode.INFERENCE})
    with field("2.15", "15.5") as mac:
        uses = mac.record(lambda: entry.run(entry.build(), "mps"))
    found = [match for use in uses for match in advisories.match(use, *where)]
    assert [match.advisory.id for match in found if match.certainty is Certainty.CERTAIN] == []
    assert len({match.advisory.id for match in found}) <= 3
