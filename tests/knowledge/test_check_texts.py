"""The texts of PyTorch's own checks, against PyTorch itself and against what the wheels hold."""

from collections.abc import Callable

import pytest
import torch

from mpsprobe.knowledge import check_messages, ops
from mpsprobe.knowledge.check_messages import EVERY_DEVICE, LIMIT
from mpsprobe.knowledge.error_texts import messages
from mpsprobe.knowledge.explain import explain


def test_every_check_of_every_release_is_explained() -> None:
    """The list is what the wheels of 2.1 to 2.15 hold; whoever reads this failure sees which are unanswered."""
    vague = {message.id for message in messages() if message.generic}
    unanswered = []
    for check in check_messages.load_all():
        findings = explain(f"RuntimeError: {check.text}").findings
        if not findings or findings[0].message in vague:
            unanswered.append(f"{check.file} ({check.first} to {check.last}): {check.text}")
    assert unanswered == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: torch.bmm(torch.ones(2, 2), torch.ones(2, 2, 2)),
        lambda: torch.ones(3).repeat_interleave(torch.tensor([-1, 1, 1])),
        lambda: torch.arange(0, 5, 0),
        lambda: torch.nn.functional.glu(torch.ones(3)),
        lambda: torch.eye(-1),
        lambda: torch.bincount(torch.ones(2, 2).long()),
        lambda: bool(torch.ones(2)),
        lambda: torch.ones(2, 2).repeat(2),
        lambda: torch.linspace(0, 1, -1),
        lambda: torch.nn.functional.huber_loss(torch.ones(2), torch.ones(2), delta=-1),
    ],
)
def test_what_the_cpu_raises_too_is_no_fault_of_mps(wrong: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError) as raised:
        wrong()
    (finding,) = explain(f"RuntimeError: {raised.value}").findings
    assert finding.message == EVERY_DEVICE


@pytest.mark.parametrize(
    ("text", "works", "op"),
    [
        # each was raised on MPS by the releases that hold the text; the same call is taken by the CPU
        ("norm ops are not supported for complex yet", lambda: torch.ones(2, dtype=torch.cfloat).norm(), ""),
        ("GELU is only implemented for floating types", None, "aten::gelu"),
        ("index_fill_(): Complex types are yet not supported",
         lambda: torch.ones(2, dtype=torch.cfloat).index_fill(0, torch.tensor([0]), 1), "aten::index_fill"),
    ],
)  # fmt: skip
def test_what_mps_alone_refuses_is_a_limit(text: str, works: Callable[[], object] | None, op: str) -> None:
    if works:
        works()
    (finding,) = explain(f"RuntimeError: {text}").findings
    assert (finding.message, finding.op, finding.fallback) == (LIMIT, op, "no")


def test_a_check_names_the_releases_that_have_it() -> None:
    (finding,) = explain("RuntimeError: sdpa prefill:key last-dim must be contiguous").findings
    assert finding.releases == "2.13 to 2.15"
    for check in check_messages.load_all():
        assert ops.releases().index(check.first) <= ops.releases().index(check.last)


def test_the_catalogue_goes_before_the_checks() -> None:
    for text in (
        "Placeholder storage has not been allocated on MPS device!",
        "float64 is not supported on MPS",
    ):
        (finding,) = explain(f"RuntimeError: {text}").findings
        assert finding.message in {"placeholder-storage", "float64"}


def test_a_sentence_that_quotes_no_check_finds_none() -> None:
    assert explain("We use it while the input has 3 channels, and other has size 4.").findings == ()
