"""Every advisory about an op is met by a recording of that op on a memoryless Mac of its release."""

from __future__ import annotations

import functools

import pytest

from mpsprobe.knowledge import advisories
from mpsprobe.knowledge.advisories import Advisory, Certainty, Example, Mode
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
    "max-pool-empty-output-unchecked": "the installed torch refuses it before a kernel is called",
}


def _sessions() -> dict[tuple[str, str], list[tuple[Advisory, Example]]]:
    """Group the examples that lie inside by release and system: entering a virtual Mac takes a second."""
    groups: dict[tuple[str, str], list[tuple[Advisory, Example]]] = {}
    for advisory in advisories.load_all():
        inside = [example for example in advisory.examples if example.expect and example.op]
        if inside and advisory.id not in NOT_PLANTED:
            release = ".".join(inside[0].torch.split(".")[:2])
            groups.setdefault((release, inside[0].macos or "15.5"), []).append((advisory, inside[0]))
    return groups


@functools.cache
def _answers(release: str, macos: str) -> dict[str, tuple[Certainty | None, str]]:
    """Plant an example of each advisory; return what matching says of the recording, and what that holds."""
    answers: dict[str, tuple[Certainty | None, str]] = {}
    with field(release, macos) as mac:
        for advisory, example in _sessions()[release, macos]:
            try:
                uses = mac.plant(example)
            except Exception as problem:
                answers[advisory.id] = None, f"{type(problem).__name__}: {problem}"
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
            answers[advisory.id] = best, "recorded: " + ", ".join(use.op for use in uses)
    return answers


PLANTED = [
    pytest.param(advisory, example, *session, id=advisory.id)
    for session, planted in _sessions().items()
    for advisory, example in planted
]


@pytest.mark.parametrize(("advisory", "example", "release", "macos"), PLANTED)
def test_recording_of_the_example_meets(
    advisory: Advisory, example: Example, release: str, macos: str
) -> None:
    certainty, happened = _answers(release, macos)[advisory.id]
    assert certainty is example.expect, happened


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
