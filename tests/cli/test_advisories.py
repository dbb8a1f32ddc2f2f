"""`mpsprobe advisories`: what users and scripts get from it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mpsprobe.cli.advisories import command, range_in_words
from mpsprobe.cli.sink import Sink
from mpsprobe.errors import UsageError
from mpsprobe.knowledge import advisories


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, obj=Sink(), catch_exceptions=False)


def rows(*arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(*arguments, "--json").stdout)
    return found


def ids(*arguments: str) -> set[str]:
    return {row["id"] for row in rows(*arguments)}


def test_lists_all_worst_first() -> None:
    listed = rows()
    assert len(listed) == len(advisories.load_all())
    order = ["critical", "high", "medium", "low"]
    ranks = [order.index(row["severity"]) for row in listed]
    assert ranks == sorted(ranks)


def test_a_release_shows_what_is_known_for_it() -> None:
    # sentence-transformers 3507: 2.8.0 is wrong, 2.7.1 and 2.9.0 are right.
    assert "linear-noncontiguous-wrong" in ids("--torch", "2.8.0")
    assert "linear-noncontiguous-wrong" not in ids("--torch", "2.7.1")
    assert "linear-noncontiguous-wrong" not in ids("--torch", "2.9.0")


def test_macos_and_chip_narrow_the_list() -> None:
    mac = ("--torch", "2.13.0", "--macos", "26.2", "--chip")
    assert "linear-bias-dropped-macos26" in ids(*mac, "M1")
    assert "linear-bias-dropped-macos26" not in ids(*mac, "M4")
    (row,) = [r for r in rows("--torch", "2.13.0") if r["id"] == "linear-bias-dropped-macos26"]
    assert row["certainty"] == "possible"
    assert set(row["unknown"]) == {"whether torch 2.13.0 has it", "the macOS version", "the chip"}


@pytest.mark.parametrize(
    "name", ["aten::linear", "aten.linear.default", "torch.nn.functional.linear", "linear"]
)
def test_ops_are_known_by_the_names_people_use(name: str) -> None:
    found = ids("--op", name)
    assert "linear-noncontiguous-wrong" in found
    assert "conv2d-strided-weight-wrong" not in found


def test_symptom_filters() -> None:
    assert {row["symptom"] for row in rows("--symptom", "hang")} == {"hang"}


def test_text_is_blocks_and_an_id_shows_all() -> None:
    blocks = run("--torch", "2.8.0", "--macos", "15.5", "--op", "linear").stdout.split("\n\n")
    block = next(block for block in blocks if block.startswith("linear-noncontiguous-wrong\n"))
    assert ", certain: torch " in block
    assert "\n    fix: " in block
    told = run("linear-noncontiguous-wrong").stdout
    assert "first good: 2.9.0" in told
    assert "https://github.com/pytorch/pytorch/issues/161640" in told


def test_nothing_found_is_not_called_good() -> None:
    said = run("--op", "aten::trapezoid").stdout.strip()
    assert said == "No known fault fits. That is no promise: a fault that nobody has reported is not here."
    assert rows("--op", "aten::trapezoid") == []


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("torch.linalg.svd", "linalg-svd-over-8192-raises"),
        ("torch.nn.Conv2d", "conv2d-strided-weight-wrong"),
        ("torch.nn.functional.conv2d", "conv2d-strided-weight-wrong"),
        ("torch.nn.LSTM", "lstm-steps-leak"),
        ("torch.nn.LayerNorm", "layer-norm-mixed-dtype-garbage"),
        ("torch.nn.MultiheadAttention", "sdpa-decode-half-long-keys"),
        ("F.layer_norm", "layer-norm-mixed-dtype-garbage"),
        ("torch.Tensor.masked_fill_", "masked-fill-inplace-strided-wrong"),
        ("F.embedding_bag", "embedding-bag-last-offset-ignored"),
        ("torch.max", "max-nan-lost"),
    ],
)
def test_functions_and_modules_lead_to_the_ops_that_they_run(name: str, known: str) -> None:
    found = ids("--op", name)
    assert known in found
    assert "cpu-scalar-view-ignored-offset" not in found  # about add, mul, sub and div


@pytest.mark.parametrize("name", ["nonsense", "torch.nn.Conv9d", "aten::liner"])
def test_unknown_op_is_refused_with_what_may_have_been_meant(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        run("--op", name)
    assert name in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such"], "no-such"),
        (["--torch", "newest"], "newest"),
        (["--macos", "15"], "need --torch"),
    ],
)
def test_what_cannot_be_understood_is_one_clear_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(*arguments)


@pytest.mark.parametrize(
    ("known", "maybe", "words"),
    [
        ("==2.13.*", None, "2.13.x only"),
        ("==2.13.*", "!=2.13.*", "2.13.x (possibly also others)"),
        (">=2.7,<2.9", ">=2.9", "2.7 to 2.8.x (possibly also 2.9 or newer)"),
        ("<2.6,>=2.1", None, "2.1 to 2.5.x"),
        (">=2.2,<2.3", None, "2.2.x only"),
        (">=26,<27", None, "26.x only"),
        ("!=2.10.*,!=2.11.*", None, "any but 2.10.x and 2.11.x"),
        ("<15.2", ">=15.2,<15.4", "older than 15.2 (possibly also 15.2 to 15.3.x)"),
        ("", None, "any"),
        (None, "", "possibly any"),
        (">=2.8,<2.9", ">=2.7,<2.8", "2.8.x (possibly also 2.7.x)"),
        (">=2.10,<2.11", ">=2.8,<2.13", "2.10.x (possibly also 2.8 to 2.12.x)"),
    ],
)
def test_ranges_are_written_in_words(known: str | None, maybe: str | None, words: str) -> None:
    assert range_in_words(known, maybe) == words


def test_blocks_are_at_most_80_columns_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    assert max(map(len, run().stdout.splitlines())) <= 80
