"""The smallest recipe: what helps against PyTorch's own texts, and how few settings cover all."""

from __future__ import annotations

from mpsprobe.phases.recipe import Helped, Recipe, Setting, Tried, helped, judged, smallest
from mpsprobe.phases.refusals import Refusal
from mpsprobe.run import Evidence, Mac, Status

_FALLBACK = Setting("fallback", "1")
_GENERATOR = "Expected a 'mps' device type for generator but found 'cpu'"


def _missing(op: str) -> str:
    return f"The operator '{op}' is not currently implemented for the MPS device. If you want this op to be added"


def _ways(
    text: str, mac: Mac, kind: str = "missing-op", dtype: str = "float32", autocast: str = ""
) -> set[str]:
    found = helped([Refusal(kind, "", text, "certain", "model.py:3")], mac, dtype, autocast)
    return {str(way) for way in found[0].ways}


def _of(*ways: Setting, source: str = "model.py:3") -> Helped:
    return Helped(Refusal("dtype", "aten::mul", "text", "certain", source), frozenset(ways), "mend it")


def test_a_missing_op_is_helped_by_the_variable_and_by_the_first_torch_that_has_it() -> None:
    # torch 2.12's wheel is the first with a kernel for _cholesky_solve_helper (docs/op-support.md)
    assert _ways(_missing("aten::_cholesky_solve_helper"), Mac("2.8")) == {
        "PYTORCH_ENABLE_MPS_FALLBACK=1 before Python starts",
        "torch 2.12 or newer",
    }


def test_what_no_setting_helps_is_left_to_the_code() -> None:
    assert not _ways(_GENERATOR, Mac("2.8"), "generator")
    assert not _ways("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
                     "Please use float32 instead.", Mac("2.8"), "dtype")  # fmt: skip


def test_weights_of_a_refused_dtype_can_be_loaded_in_another() -> None:
    ways = _ways("BFloat16 is not supported on MPS", Mac("2.2"), "dtype", dtype="bfloat16")
    assert ways == {"weights in float16", "torch 2.3 or newer"}
    assert _ways("BFloat16 is not supported on MPS", Mac("2.2"), "dtype") == {"torch 2.3 or newer"}


def test_a_torch_that_the_macos_cannot_run_is_no_way() -> None:
    text = _missing("aten::_cholesky_solve_helper")
    assert "torch 2.12 or newer" in _ways(text, Mac("2.8", macos="15.5"))
    assert "torch 2.12 or newer" not in _ways(text, Mac("2.8", macos="13.3"))  # 2.9 and newer need macOS 14


def test_the_harness_s_own_autocast_can_be_left_out_but_not_the_model_s() -> None:
    text = "User specified an unsupported autocast device_type 'mps'"
    assert "no autocast around inference" in _ways(text, Mac("2.4"), "autocast", autocast="bfloat16")
    assert _ways(text, Mac("2.4"), "autocast") == {"torch 2.5 or newer"}


def test_one_setting_that_covers_all_beats_two_and_the_variable_beats_another_torch() -> None:
    new, newer = Setting("torch", "2.9"), Setting("torch", "2.12")
    assert smallest([_of(_FALLBACK, new), _of(_FALLBACK, newer)]).settings == (_FALLBACK,)
    assert smallest([_of(_FALLBACK, new), _of(newer)]).settings == (newer,)  # 2.12 is newer than 2.9
    assert smallest([_of(_FALLBACK), _of(newer)]).settings == (_FALLBACK, newer)
    both = smallest([_of(_FALLBACK, new)])
    assert (both.settings, both.others) == ((_FALLBACK,), [(new,)])


def test_what_is_left_does_not_spoil_what_can_be_helped() -> None:
    recipe = smallest([_of(_FALLBACK), _of(source="model.py:9")])
    assert recipe.settings == (_FALLBACK,)
    assert [one.refusal.source for one in recipe.left] == ["model.py:9"]
    assert smallest([_of()]).settings == ()


def test_only_a_second_run_verifies() -> None:
    recipe = Recipe((_FALLBACK,), helps=[_of(_FALLBACK)])
    verified = judged(recipe, Tried([]), "emulated")
    assert (verified.status, verified.evidence) == (Status.PASS, Evidence.EMULATED)
    for tried in (None, Tried([], "no memory")):
        unsure = judged(recipe, tried, "emulated")
        assert (unsure.status, unsure.evidence) == (Status.UNKNOWN, Evidence.PREDICTED)
        assert "not verified" in unsure.message
    left = judged(recipe, Tried(["dtype aten::mul at model.py:3"]), "emulated")
    assert left.status is Status.FAIL
    assert "model.py:3" in left.remedy


def test_code_to_be_mended_is_named_by_its_line() -> None:
    result = judged(smallest([_of(source="model.py:9")]), None, "emulated")
    assert result.status is Status.FAIL
    assert "model.py:9: mend it" in result.remedy
