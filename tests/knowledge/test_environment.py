"""Environment rules, against users' reports, the allocator's own check and the tags of PyPI's wheels."""

import pytest
from packaging.version import Version

from mpsprobe.errors import UsageError
from mpsprobe.knowledge import environment, ops

HIGH = "PYTORCH_MPS_HIGH_WATERMARK_RATIO"
LOW = "PYTORCH_MPS_LOW_WATERMARK_RATIO"


def allocator_accepts(high: float, low: float) -> str:
    """MPSAllocator.mm, `setHighWatermarkRatio` then `setLowWatermarkRatio`: what it raises, or nothing."""
    if not 0.0 <= high <= 2.0:
        return f"invalid high watermark ratio {high:g}"
    if not 0.0 <= low <= (2.0 if high == 0.0 else high):
        return f"invalid low watermark ratio {low:g}"
    return ""


@pytest.mark.parametrize("high", [None, "0", "0.0", "0.7", "1.4", "1.39", "1.7", "2", "2.1", "-1"])
@pytest.mark.parametrize("low", [None, "0", "0.5", "1.4", "1.7", "1.8", "2.0", "3", "-0.1"])
def test_watermarks_fail_when_the_allocator_refuses_them(high: str | None, low: str | None) -> None:
    env = {name: text for name, text in ((HIGH, high), (LOW, low)) if text is not None}
    refused = allocator_accepts(float(high or 1.7), float(low or 1.4))
    errors = [p for p in environment.check_variables(env, "2.8") if p.severity == "error"]
    assert bool(errors) == bool(refused)
    assert all(refused in p.what for p in errors)


def test_sd_scripts_603_is_foreseen_with_its_fix() -> None:
    # github.com/kohya-ss/sd-scripts/issues/603: HIGH=0.7 -> "RuntimeError: invalid low watermark ratio 1.4"
    (problem,) = environment.check_variables({HIGH: "0.7"}, "2.0.1")
    assert "invalid low watermark ratio 1.4" in problem.what
    assert LOW in problem.fix
    assert environment.check_variables({HIGH: "0.7", LOW: "0.7"}, "2.8") == []


@pytest.mark.parametrize(
    ("text", "read"),
    [("0,7", "0 = no limit"), ("half", "0 = no limit"), ("70%", "reads 70"), ("", "0 = no limit")],
)
def test_a_ratio_that_is_no_number_says_what_strtod_makes_of_it(text: str, read: str) -> None:
    assert read in environment.check_variables({HIGH: text}, "2.8")[0].what


@pytest.mark.parametrize(("text", "bad"), [("1", False), ("0", False), ("1.0", False), (" 2", False)])
def test_a_fallback_flag_that_stoi_reads_is_fine(text: str, bad: bool) -> None:
    assert bool(environment.check_variables({"PYTORCH_ENABLE_MPS_FALLBACK": text}, "2.8")) is bad


@pytest.mark.parametrize("text", ["true", "", "yes", "99999999999"])
def test_a_fallback_flag_that_stoi_refuses_is_an_error(text: str) -> None:
    (problem,) = environment.check_variables({"PYTORCH_ENABLE_MPS_FALLBACK": text}, "2.8")
    assert problem.severity == "error"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PYTORCH_MPS_FALLBACK", "PYTORCH_ENABLE_MPS_FALLBACK"),
        ("PYTORCH_MPS_ENABLE_FALLBACK", "PYTORCH_ENABLE_MPS_FALLBACK"),
        ("pytorch_enable_mps_fallback", "PYTORCH_ENABLE_MPS_FALLBACK"),
        ("PYTORCH_MPS_HIGH_WATERMARK", HIGH),
        ("PYTORCH_MPS_FASTMATH", "PYTORCH_MPS_FAST_MATH"),
    ],
)
def test_an_unknown_name_is_told_with_the_one_meant(name: str, meant: str) -> None:
    (problem,) = environment.check_variables({name: "1"}, "2.8")
    assert "no effect" in problem.what
    assert problem.fix == f"Did you mean {meant}?"


def test_names_that_are_not_ours_are_left_alone() -> None:
    env = {"PATH": "/bin", "PYTORCH_CUDA_ALLOC_CONF": "x", "PYTORCH_TEST_WITH_MPS": "1", "DISABLE_MPS": "1"}
    assert environment.check_variables(env, "2.8") == []


def test_a_variable_of_a_later_release_has_no_effect() -> None:
    (problem,) = environment.check_variables({"PYTORCH_MPS_METAL_VERSION": "3.1"}, "2.14.0")
    assert "2.15" in problem.what
    assert environment.check_variables({"PYTORCH_MPS_METAL_VERSION": "3.1"}, "2.15") == []
    (problem,) = environment.check_variables({"PYTORCH_MPS_METAL_VERSION": "3"}, "2.15")
    assert "3.1, 3.2, 4.0" in problem.fix


def test_prefer_metal_set_to_zero_is_on() -> None:
    # LinearAlgebra.mm: `c10::utils::has_env("PYTORCH_MPS_PREFER_METAL")`
    (problem,) = environment.check_variables({"PYTORCH_MPS_PREFER_METAL": "0"}, "2.8")
    assert "turns it on" in problem.what


@pytest.mark.parametrize(
    ("torch", "dtype", "macos", "ok"),
    [
        ("2.4.1", "float16", None, False),
        ("2.5.1", "float16", None, True),
        ("2.5.1", "bfloat16", None, False),
        ("2.6.0", "bfloat16", "14.0", True),
        ("2.6.0", "bfloat16", "13.7", False),
        ("2.6.0", "torch.float16", "13.7", True),
        ("2.13.0+cpu", "float32", None, False),
        ("2.10.0.dev20251008", "bfloat16", "26.1", True),
    ],
)
def test_autocast_by_release_dtype_and_macos(torch: str, dtype: str, macos: str | None, ok: bool) -> None:
    answer = environment.autocast(torch, dtype, macos)
    assert answer.ok is ok
    assert answer.source


@pytest.mark.parametrize(("torch", "ok"), [("2.7.1", False), ("2.8.0", False), ("2.13.0", True)])
def test_grad_scaler(torch: str, ok: bool) -> None:
    assert environment.grad_scaler(torch).ok is ok


@pytest.mark.parametrize(
    ("name", "torch", "ok"),
    [
        # github.com/microsoft/OmniParser/pull/195: 2.4.0 has no torch.mps.is_available
        ("torch.mps.is_available", "2.4.0", False),
        ("torch.mps.is_available", "2.6.0", True),
        ("torch.profiler.ProfilerActivity.MPS", "2.15", False),
        ("torch.mps.no_such_name", "2.15", None),
    ],
)
def test_calls_by_release(name: str, torch: str, ok: bool | None) -> None:
    assert environment.api(name, torch).ok is ok


def test_names_said_to_exist_are_in_the_installed_torch() -> None:
    torch = pytest.importorskip("torch")
    release = Version(torch.__version__).base_version
    for name in ("torch.mps.compile_shader", "torch.mps.load_metallib", "torch.backends.mps.get_core_count"):
        if environment.api(name, release).ok:
            owner, _, attribute = name.rpartition(".")
            module = __import__(owner, fromlist=[attribute])
            assert hasattr(module, attribute)


@pytest.mark.parametrize(
    ("torch", "macos", "ok"),
    [
        ("2.10.0.dev20251008", "13.7.4", False),  # pytorch issue 164943
        ("2.5.1", "12.7.6", False),  # pytorch issue 139425
        ("2.4.1", "12.7.6", True),
        ("2.8.0", "13.0", True),
        ("2.15.0", "14.7", False),
        ("2.15.0", "26.1", True),
        ("3.0", "26.1", None),
    ],
)
def test_macos_minimum(torch: str, macos: str, ok: bool | None) -> None:
    assert environment.macos_allows(torch, macos).ok is ok


def test_the_op_tables_give_the_same_minimum() -> None:
    # the binary of 2.5 still asks for 12.3 in its text; its code needs 13.0 (pytorch pull request 133141)
    assert {one: ops.release(one).minimum_macos for one in ops.releases()} == {
        entry.torch: entry.macos for entry in environment.releases()
    }
    assert ops.release("2.5").minimum_macos == "13.0"


def test_an_old_macos_is_told_its_last_release() -> None:
    assert "torch 2.8" in environment.macos_allows("2.13", "13.6").message


def test_python_versions_of_the_wheels() -> None:
    assert "3.13" not in environment.pythons("2.5.1")
    assert "3.13" in environment.pythons("2.6.0")
    assert "3.9" not in environment.pythons("2.9")
    assert environment.pythons("9.9") == ()


def test_macos_never_falls_from_one_release_to_the_next() -> None:
    floors = [Version(entry.macos) for entry in environment.releases()]
    assert floors == sorted(floors)
    numbers = [Version(entry.torch) for entry in environment.releases()]
    assert numbers == sorted(numbers)


def test_intel_ends_at_2_2_2() -> None:
    assert environment.intel("2.2.2").ok
    assert environment.intel("2.5.1").ok is False


def test_a_commit_of_an_error_text_names_its_release() -> None:
    # pytorch issue 158723 gives this commit; its thread says 2.7.1
    assert environment.release_of_commit("e2d141dbde55c2a4370fac5165b0561b6af4798b") == "2.7.1"
    assert environment.release_of_commit("e2d141d") == "2.7.1"
    assert environment.release_of_commit("0" * 40) is None
    assert environment.release_of_commit("") is None


def test_runners() -> None:
    macos15 = environment.runner("macos-15")
    assert macos15 is not None
    assert macos15.computes == "yes"
    macos14 = environment.runner("macos-14")
    assert macos14 is not None
    assert macos14.computes == "no"
    assert environment.runner("ubuntu-latest") is None
    labels = [label for entry in environment.runners() for label in entry.labels]
    assert len(labels) == len(set(labels))
    assert all(entry.sources for entry in environment.runners())


def test_a_text_that_is_no_version_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="not a torch version"):
        environment.minimum_macos("latest")
    with pytest.raises(UsageError, match="not a macOS version"):
        environment.macos_allows("2.8", "Sonoma")
