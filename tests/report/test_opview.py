import pytest

from mpsprobe.report.opview import op_uses, signature
from mpsprobe.report.wording import VERDICT
from mpsprobe.run import OpUse, OpVerdict, TensorMeta
from tests.report import example_runs as examples


def test_every_verdict_has_a_word_and_a_place_in_the_order() -> None:
    assert set(VERDICT) == set(OpVerdict)


def test_shares_are_of_calls_and_fill_the_bar() -> None:
    view = op_uses(examples.emulated().op_uses)
    assert view is not None
    assert [share.verdict.key for share in view.shares] == [
        "raises",
        "fallback",
        "unknown",
        "composite",
        "native",
    ]
    assert [share.calls for share in view.shares] == ["1 call", "12 calls", "1 call", "30 calls", "12 calls"]
    assert sum(float(share.width) for share in view.shares) == pytest.approx(100, abs=0.01)
    assert float(view.shares[-1].left) + float(view.shares[-1].width) == pytest.approx(100, abs=0.01)


def test_the_summary_counts_only_what_has_a_formula() -> None:
    view = op_uses(examples.emulated().op_uses)
    assert view is not None
    # 4 layers x 3 calls x 2 * 128 * 64 * 64 operations
    assert "12.58 MFLOP, from the 4 uses with a known formula" in view.summary
    assert "(1 predicted and 7 emulated)" in view.summary


def test_uses_that_differ_in_anything_but_the_layer_stay_apart() -> None:
    uses = examples.emulated().op_uses[:4]
    uses[1].source = "elsewhere.py:1"
    uses[2].verdict = OpVerdict.UNKNOWN
    view = op_uses(uses)
    assert view is not None
    assert len(view.trouble) + len(view.rest) == 3


def test_signatures_are_dtype_and_shape() -> None:
    metas = [TensorMeta("bfloat16", (1, 128), (128, 1)), TensorMeta("int64", (), ())]
    assert signature([OpUse(op="aten::x", inputs=metas)]) == "bfloat16[1, 128], int64[]"


def test_sizes_that_grow_are_one_row_with_their_span() -> None:
    uses = [
        OpUse(op="aten::cat", inputs=[TensorMeta("float32", (1, length, 8), ())], count=2)
        for length in (230, 228, 229)
    ]
    other = OpUse(op="aten::cat", inputs=[TensorMeta("float16", (1, 228, 8), ())])
    view = op_uses([*uses, other])
    assert view is not None
    assert [(row.signature, row.count) for row in view.trouble] == [
        ("float32[1, 228..230, 8]", "6"),
        ("float16[1, 228, 8]", "1"),
    ]


def test_long_lists_are_cut_with_a_count() -> None:
    uses = [OpUse(op=f"aten::op{n}", inputs=[]) for n in range(50)]
    view = op_uses(uses, limit=40)
    assert view is not None
    assert (len(view.shown), view.left_out) == (40, "10 more rows in report.html and run.json")
    assert op_uses([]) is None


def test_each_fault_has_one_number_a_title_and_its_source() -> None:
    uses = [
        OpUse(
            op="aten::scaled_dot_product_attention",
            inputs=[],
            source=f"a.py:{line}",
            advisories=["sdpa-nan-swallowed", "of-later"],
        )
        for line in (1, 2)
    ]
    found = op_uses(uses)
    assert found is not None
    assert [(one.number, one.advisory) for one in found.faults] == [
        ("1", "sdpa-nan-swallowed"),
        ("2", "of-later"),
    ]
    known, unknown = found.faults
    assert known.link == "https://github.com/pytorch/pytorch/pull/188147"  # where its reporter wrote
    assert "NaN" in known.title
    assert not unknown.title
    assert not unknown.link
    assert [row.faults for row in (*found.trouble, *found.rest)] == [found.faults] * 2
