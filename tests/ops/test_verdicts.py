"""The join of op uses with advisories: verdicts, and the list of known faults of a target."""

from __future__ import annotations

import pytest

from mpsprobe.knowledge._calls import tensor
from mpsprobe.ops import checks
from mpsprobe.ops.verdicts import hazards, judge
from mpsprobe.run import Evidence, Mac, OpUse, OpVerdict, Status

SDPA = "aten::scaled_dot_product_attention"
DECODE = "sdpa-decode-half-long-keys"


def _decode(keys: int, dtype: str = "bfloat16") -> OpUse:
    cache = f"{dtype}[1,8,{keys},128]"
    return OpUse(op=SDPA, inputs=[tensor(text) for text in (f"{dtype}[1,8,1,128]", cache, cache)])


@pytest.mark.parametrize("torch", ["2.8", "2.9", "2.10"])
def test_half_precision_decode_over_1024_keys_is_wrong(torch: str) -> None:
    # pytorch issue 174861, PR 174945; the keys are repeated before the call, as transformers does
    judged = judge([_decode(1500)], Mac(torch))
    assert judged[0].use.verdict is OpVerdict.WRONG
    assert judged[0].known == (DECODE,)
    assert [one.advisory for one in hazards(judged) if one.is_met] == [DECODE]


@pytest.mark.parametrize(("torch", "dtype"), [("2.7", "bfloat16"), ("2.11", "bfloat16"), ("2.9", "float32")])
def test_half_precision_decode_is_clean_elsewhere(torch: str, dtype: str) -> None:
    judged = judge([_decode(1500, dtype)], Mac(torch))
    assert judged[0].use.verdict in (OpVerdict.NATIVE, OpVerdict.COMPOSITE)
    assert not any(one.is_met for one in hazards(judged))


def test_short_workload_counts_by_the_models_own_maximum() -> None:
    short = [_decode(56)]
    (named,) = [one for one in hazards(judge(short, Mac("2.9"))) if one.advisory == DECODE]
    assert (named.certainty, named.reached, named.from_tokens) == ("possible", False, 1024)
    assert judge(short, Mac("2.9"))[0].use.verdict is not OpVerdict.WRONG
    reached = judge(short, Mac("2.9"), longest=4096)
    assert reached[0].use.verdict is OpVerdict.WRONG
    assert "from 1,024 tokens on (the model takes up to 4,096)" in reached[0].reason
    assert judge(short, Mac("2.9"), longest=512)[0].use.verdict is not OpVerdict.WRONG


def test_advisory_of_low_severity_leaves_the_verdict() -> None:
    step = OpUse(op="aten::nextafter", inputs=[tensor("bfloat16[4]")] * 2)
    judged = judge([step], Mac("2.13"))
    assert "nextafter-bfloat16-noop" in judged[0].known
    assert judged[0].use.verdict is OpVerdict.NATIVE


def test_circumstances_keep_an_advisory_out_of_the_short_list() -> None:
    nan = OpUse(op="aten::maximum", inputs=[tensor("float32[8]")] * 2)
    (found,) = hazards(judge([nan], Mac("2.5")))
    assert (found.advisory, found.certainty, found.listed) == ("maximum-nan-lost", "possible", False)
    # a critical one is worth its line: every language model that samples meets it
    draw = OpUse(op="aten::multinomial", inputs=[tensor("float32[1,32000]")], scalars={"num_samples": 1})
    listed = [one for one in hazards(judge([draw], Mac("2.13"))) if one.listed]
    assert [one.advisory for one in listed] == ["multinomial-zero-probability-drawn"]


@pytest.mark.parametrize(("torch", "good"), [("2.8", "2.7"), ("2.10", "2.11")])
def test_a_wrong_op_names_the_nearest_release_that_is_right(torch: str, good: str) -> None:
    """pytorch issue 174861: torch 2.8 to 2.10 are wrong, 2.7.1 and 2.11 are not."""
    mac = Mac(torch, "15.5", "Apple M1")
    link = checks.Recorded(judge([_decode(1500)], mac), mac, "mps", Evidence.PREDICTED, bench=None)  # type: ignore[arg-type]
    result = next(one for one in checks.CHECKS if one.name == "wrong").function(link)
    assert result.status is Status.FAIL
    assert f"torch {good}" in result.remedy


def test_a_critical_fault_that_a_longer_run_meets_is_a_warning() -> None:
    mac = Mac("2.9", "15.5", "Apple M1")
    check = next(one for one in checks.CHECKS if one.name == "advisories").function
    for keys, status in (
        (823, Status.WARN),
        (12, Status.PASS),
    ):  # a workload 64 times as large does not reach it
        judged = judge([_decode(keys)], mac)
        link = checks.Recorded(judged, mac, "mps", Evidence.PREDICTED, None, hazards=hazards(judged))  # type: ignore[arg-type]
        result = check(link)
        assert result.status is status
        assert ("from 1,024 tokens on (this call has 823)" in result.message) is (status is Status.WARN)
