"""Host costs, speeds of hosts, shares of kernels: what the data file must hold."""

from __future__ import annotations

import pytest

from mpsprobe.knowledge import chips, speed


@pytest.mark.parametrize("kind", ["mps", "cuda"])
def test_costs_of_the_host_are_known_for_every_kind_of_call(kind: str) -> None:
    row = speed.host_cost(kind)
    assert row is not None
    kinds = {
        "matmul",
        "attention",
        "conv",
        "reduction",
        "math",
        "stream",
        "copy",
        "view",
        "alloc",
        "module",
        "wait",
    }
    assert kinds <= set(row.us)
    assert all(value >= 0 for value in row.us.values())


def test_newer_generations_have_faster_threads() -> None:
    scores = {row.name: found.score for row in chips.all_chips() if (found := speed.single_thread(row.name))}
    order = [scores[f"Apple M{n}"] for n in range(1, 6)]
    assert order == sorted(order)


def test_a_score_comes_from_a_page_or_says_that_it_is_inferred() -> None:
    rows = [speed.single_thread(chip.name) for chip in chips.all_chips()]
    assert None not in rows
    for row in rows:
        assert row is not None
        assert row.inferred is not row.source.startswith("https://")
        assert "recalled from" not in row.source
    assert sum(not row.inferred for row in rows if row is not None) >= 10


def test_a_share_holds_from_a_release_up_to_another() -> None:
    before, after = (
        speed.kernel_share("gemv", family="apple9", dtype="float16", release=release)
        for release in ("2.13", "2.14")
    )
    assert before is not None
    assert after is not None
    assert before.share < after.share
    assert speed.kernel_share("nothing", family="apple9", dtype="float16", release="2.8") is None


def test_coverage_of_an_unlisted_class_is_that_of_all() -> None:
    assert speed.coverage("mps", "specification", "no such bound") == speed.coverage(
        "mps", "specification", ""
    )
    assert speed.coverage("tpu", "specification", "") is None
