"""The scorer must count what is specific and refuse what is not; the reports are excerpts of public threads."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner


def _tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "score_reports.py"
    spec = importlib.util.spec_from_file_location("score_reports", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["score_reports"] = module
    spec.loader.exec_module(module)
    return module


score = _tool()


def report(**facts: Any) -> Any:
    return msgspec.convert(
        {"id": "x", "url": "https://x", "failure_class": "other", "ops": [], "dtypes": [], **facts},
        score.Report,
    )


def positive(**facts: Any) -> Any:
    return msgspec.convert({"id": "x", "subject": "x", "kind": "op", "dtypes": [], **facts}, score.Positive)


def test_a_missing_op_of_the_release_is_certain() -> None:
    # pytorch issue 158723, torch 2.7.1
    seen = score.foresee(
        report(
            failure_class="unimplemented_op", torch_resolved="2.7.1", ops=["aten::max_pool3d_with_indices"]
        )
    )
    assert [(one.channel, one.certain) for one in seen] == [("op verdict", True)]


def test_the_same_op_in_a_release_that_has_it_is_not_foreseen() -> None:
    facts = {"failure_class": "unimplemented_op", "ops": ["aten::max_pool3d_with_indices"]}
    assert score.foresee(report(torch_resolved="2.13.0", **facts)) == []


def test_a_release_taken_from_the_date_is_never_certain() -> None:
    # transformers PR 31695 of 2024-06-28 names no torch release
    seen = score.foresee(
        report(failure_class="unimplemented_op", date="2024-06-28", ops=["aten::isin.Tensor_Tensor_out"])
    )
    assert [one.certain for one in seen] == [False]


def test_a_prediction_of_another_kind_of_failure_does_not_count() -> None:
    facts = {"torch_resolved": "2.7.1", "ops": ["aten::max_pool3d_with_indices"]}
    assert score.foresee(report(failure_class="wrong_result", **facts)) == []


def test_no_facts_give_no_foresight() -> None:
    for failure_class in ("wrong_result", "crash_abort", "hang", "nan", "slow", "oom", "other"):
        assert score.foresee(report(failure_class=failure_class, torch_resolved="2.8.0")) == []


def test_float64_is_foreseen_for_certain_whatever_the_release() -> None:
    seen = score.foresee(report(failure_class="dtype_unsupported", dtypes=["float64"], date="2024-05-28"))
    assert [(one.channel, one.certain) for one in seen] == [("dtype rule", True)]


def test_unstated_conditions_make_an_advisory_possible() -> None:
    # sentence-transformers 3507: 2.8.0, F.linear on non-contiguous tensors
    seen = score.foresee(
        report(
            failure_class="wrong_result", torch_resolved="2.8.0", macos="15.6", ops=["aten::linear (cause)"]
        )
    )
    assert ("linear-noncontiguous-wrong", False) in [(one.what, one.certain) for one in seen]


@pytest.mark.parametrize(
    ("facts", "seen"),
    [
        ({"torch_resolved": "2.10.0.dev20251008", "macos": "13.7.4"}, True),  # pytorch issue 164943
        ({"torch_resolved": "2.10.0", "macos": "15.1"}, False),
        ({"failure_class": "dependency_conflict", "torch": "2.5.1 (wanted)", "chip": "Intel Mac"}, True),
        ({"failure_class": "dependency_conflict", "torch": "2.5.1 (wanted)", "chip": "M1"}, False),
        ({"torch_resolved": "2.4.0", "ops": ["torch.mps.is_available"]}, True),
        ({"torch_resolved": "2.6.0", "ops": ["torch.mps.is_available"]}, False),
    ],
)
def test_environment_rules(facts: dict[str, Any], seen: bool) -> None:
    assert bool(score.foresee(report(**facts))) is seen


def test_only_a_cause_that_fits_the_class_explains() -> None:
    line = "RuntimeError: invalid low watermark ratio 1.4"
    assert score.explained(report(failure_class="oom", error_first_line=line)) == "watermark"
    assert score.explained(report(failure_class="hang", error_first_line=line)) == ""


def test_a_generic_answer_does_not_count() -> None:
    line = "RuntimeError: frobnicate is not supported on MPS"
    assert score.explained(report(failure_class="other", error_first_line=line)) == ""


@pytest.mark.parametrize(
    ("facts", "answer"),
    [
        ({"subject": "aten::_unique", "since_torch": "2.11.0"}, "agrees"),
        ({"subject": "aten::_unique", "since_torch": "2.9.0"}, "contradicted"),
        ({"subject": "special.entr", "since_torch": "2.7.0"}, "agrees"),
        ({"subject": "mm, bmm", "kind": "dtype", "dtypes": ["integral"], "since_torch": "2.7.0"}, "agrees"),
        (
            {"subject": "bfloat16 tensors", "kind": "dtype", "dtypes": ["bfloat16"], "since_torch": "2.2.0"},
            "contradicted",
        ),
        (
            {
                "subject": 'torch.autocast("mps", bfloat16)',
                "kind": "feature",
                "dtypes": ["bfloat16"],
                "since_torch": "2.5",
            },
            "contradicted",
        ),
        ({"subject": "SomeModel", "kind": "model", "tested_torch": "2.10"}, "not checkable"),
    ],
)
def test_statements_that_something_works(facts: dict[str, Any], answer: str) -> None:
    assert score.judge(positive(**facts))[0] == answer


def test_the_table_adds_up(tmp_path: Path) -> None:
    rows = [
        report(id="a", failure_class="oom", error_first_line="RuntimeError: invalid low watermark ratio 1.4"),
        report(id="b", failure_class="hang"),
    ]
    file = tmp_path / "reports.jsonl"
    file.write_bytes(b"\n".join(msgspec.json.encode(row) for row in rows))
    result = CliRunner().invoke(score.main, [str(file)])
    assert result.exit_code == 0, result.output
    assert "| total without older | 2 | 0 | 0 | 1 | 1 | 1 | 1 | 0 |" in result.output
