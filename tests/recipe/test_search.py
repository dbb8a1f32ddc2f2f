"""The smallest recipe: what helps against PyTorch's own texts, and how few settings cover all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from mpsprobe.recipe.search import Recipe, RefusalFixes, Setting, Trial, helped, judged, seek, smallest
from mpsprobe.run import Evidence, Mac, Phase, Refusal, Status

_FALLBACK = Setting("fallback", "1")
_GENERATOR = "Expected a 'mps' device type for generator but found 'cpu'"


def _missing(op: str) -> str:
    return f"The operator '{op}' is not currently implemented for the MPS device. If you want this op to be added"


def _ways(
    text: str,
    mac: Mac,
    kind: str = "missing-op",
    *,
    phase: Phase = Phase.INFERENCE,
    dtype: str = "float32",
    autocast: str = "",
    own: Setting | None = None,
) -> set[str]:
    found = helped([Refusal(phase, kind, "", text, "certain", "model.py:3")], mac, dtype, autocast, own)
    return {str(way) for way in found[0].ways}


def _refused(kind: str = "dtype", source: str = "model.py:3") -> Refusal:
    return Refusal(Phase.INFERENCE, kind, "aten::mul", "text", "certain", source)


def _no_help(refusals: list[Refusal]) -> list[RefusalFixes]:
    return [RefusalFixes(one, frozenset(), "") for one in refusals]


def _of(*ways: Setting, source: str = "model.py:3") -> RefusalFixes:
    return RefusalFixes(_refused(source=source), frozenset(ways), "fix it")


def test_a_missing_op_is_fixed_by_variable_or_release() -> None:
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
    assert ways == {"weights in float16", "weights in float32", "torch 2.3 or newer"}
    assert _ways("BFloat16 is not supported on MPS", Mac("2.2"), "dtype") == {"torch 2.3 or newer"}


def test_a_torch_that_the_macos_cannot_run_is_no_way() -> None:
    text = _missing("aten::_cholesky_solve_helper")
    assert "torch 2.12 or newer" in _ways(text, Mac("2.8", macos="15.5"))
    assert "torch 2.12 or newer" not in _ways(text, Mac("2.8", macos="13.3"))  # 2.9 and newer need macOS 14


def test_only_the_harness_autocast_can_be_left_out() -> None:
    text = "User specified an unsupported autocast device_type 'mps'"
    assert "no autocast around inference" in _ways(text, Mac("2.4"), "autocast", autocast="bfloat16")
    assert _ways(text, Mac("2.4"), "autocast") == {"torch 2.5 or newer"}


_PARTS = Setting("autocast", "parts:bfloat16", "autocast to bfloat16 around the flow")


_OPS: list[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = [
    torch.mm,
    torch.nn.functional.linear,
    torch.cholesky_solve,
    lambda x, weight: torch.nn.functional.conv1d(x[None], weight[:, :, None]),
    lambda x, weight: torch.baddbmm(x[None], weight[None], weight[None]),
    lambda x, weight: torch.nn.functional.scaled_dot_product_attention(x[None], weight[None], weight[None]),
    lambda x, weight: x.index_put_((torch.tensor([0]),), weight[0]),
]


@pytest.mark.parametrize(("left", "right"), [("float32", "bfloat16"), ("float16", "float32")])
@pytest.mark.parametrize("op", range(len(_OPS)))
def test_the_profiles_autocast_may_help_mixed_dtypes(op: int, left: str, right: str) -> None:
    square = torch.zeros(3, 3)
    with pytest.raises(RuntimeError) as raised:  # PyTorch's own words
        _OPS[op](square.to(getattr(torch, left)), square.to(getattr(torch, right)))
    text = str(raised.value)
    assert _ways(text, Mac("2.8"), "mixed-dtypes", own=_PARTS) == {"autocast to bfloat16 around the flow"}
    assert not _ways(text, Mac("2.8"), "mixed-dtypes")  # the profile has no other choice


@pytest.mark.parametrize(
    "text",
    [
        "mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)",
        "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use "
        "float32 instead.",
        "expected scalar type Float but found Double",
        "Input type is float and output type is float32",
    ],
)
def test_autocast_is_no_way_where_no_two_of_its_dtypes_meet(text: str) -> None:
    assert "autocast to bfloat16 around the flow" not in _ways(text, Mac("2.8"), "error", own=_PARTS)


def test_what_a_try_shows_first_is_helped_by_the_next() -> None:
    tries: list[tuple[Setting, ...]] = []

    def retry(settings: Sequence[Setting]) -> Trial:
        tries.append(tuple(settings))
        return Trial([] if _FALLBACK in settings else [_refused("missing-op", "model.py:9")])

    def learn(refusals: list[Refusal]) -> list[RefusalFixes]:
        return [RefusalFixes(one, frozenset({_FALLBACK}), "") for one in refusals]

    mixed = RefusalFixes(_refused("mixed-dtypes"), frozenset({_PARTS}), "")
    recipe, tried = seek([mixed], retry, learn)
    assert tries == [(_PARTS,), (_FALLBACK, _PARTS)]
    assert recipe.settings == (_FALLBACK, _PARTS)
    assert tried == Trial([])


def test_refusals_beat_an_error_that_hides_the_rest() -> None:
    newer = Setting("torch", "2.9")

    def retry(settings: Sequence[Setting]) -> Trial:
        if settings == (_FALLBACK,):
            return Trial([_refused("error")])
        return Trial([_refused("dtype", "model.py:4"), _refused("dtype", "model.py:5")])

    recipe, _ = seek(
        [_of(_FALLBACK, newer), RefusalFixes(_refused("error"), frozenset(), "")], retry, _no_help
    )
    assert recipe.settings == (_FALLBACK,)  # nothing teaches that another setting would do better


def test_the_same_settings_are_not_tried_twice() -> None:
    tries: list[tuple[Setting, ...]] = []

    def retry(settings: Sequence[Setting]) -> Trial:
        tries.append(tuple(settings))
        return Trial([_refused("device", "model.py:9")])  # new, and nothing helps

    recipe, tried = seek([_of(_FALLBACK)], retry, _no_help)
    assert tries == [(_FALLBACK,)]
    result = judged(recipe, tried, "emulated")
    assert result.status is Status.FAIL
    assert "device at model.py:9" in result.remedy


def test_one_setting_that_covers_all_beats_two() -> None:
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
    verified = judged(recipe, Trial([]), "emulated")
    assert (verified.status, verified.evidence) == (Status.PASS, Evidence.EMULATED)
    for tried in (None, Trial([], "no memory")):
        unsure = judged(recipe, tried, "emulated")
        assert (unsure.status, unsure.evidence) == (Status.UNKNOWN, Evidence.PREDICTED)
        assert "not verified" in unsure.message
    left = judged(recipe, Trial([_refused()]), "emulated")
    assert left.status is Status.FAIL
    assert "model.py:3" in left.remedy


def test_code_to_fix_is_named_by_its_line() -> None:
    result = judged(smallest([_of(source="model.py:9")]), None, "emulated")
    assert result.status is Status.FAIL
    assert "model.py:9: fix it" in result.remedy


def test_unloadable_weights_load_in_another_dtype() -> None:
    text = "BFloat16 is not supported on MPS"
    # collected, they are float32 by now; macOS 13 has no bfloat16 in any torch
    ways = _ways(text, Mac("2.2", macos="13.5"), "dtype", phase=Phase.TRANSFER)
    assert ways == {"weights in float16", "weights in float32"}


def test_what_a_try_shows_to_be_no_help_is_not_tried_again() -> None:
    old, new = Setting("torch", "2.6"), Setting("torch", "2.9")
    tries: list[tuple[Setting, ...]] = []

    def retry(settings: Sequence[Setting]) -> Trial:
        tries.append(tuple(settings))
        return Trial([] if new in settings else [_refused()])

    recipe, tried = seek([_of(_FALLBACK, old, new)], retry, _no_help)
    assert tries == [(_FALLBACK,), (old,), (new,)]
    assert recipe.settings == (new,)
    assert tried == Trial([])


def test_when_no_try_helps_the_one_that_left_least_is_told() -> None:
    def retry(settings: Sequence[Setting]) -> Trial:
        return Trial([_refused()] + [_refused(source="model.py:4")] * (_FALLBACK in settings))

    newer = Setting("torch", "2.9")
    recipe, tried = seek([_of(_FALLBACK, newer)], retry, _no_help)
    assert recipe.settings == (newer,)
    assert tried == Trial([_refused()])


def test_exclusive_settings_help_as_many_as_they_can() -> None:
    half, full = Setting("dtype", "float16"), Setting("dtype", "float32")
    recipe = smallest([_of(half), _of(full, source="model.py:4"), _of(full, source="model.py:5")])
    assert recipe.settings == (full,)
    assert [one.refusal.source for one in recipe.left] == ["model.py:3"]
