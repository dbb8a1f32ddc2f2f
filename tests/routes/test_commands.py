"""Commands that follow a route: of this target, workload and release."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from mpsprobe.knowledge import mlx
from mpsprobe.models.targets import resolve
from mpsprobe.options import Settings
from mpsprobe.routes import commands
from mpsprobe.routes.case import Case, UnrecordedRefusal
from mpsprobe.routes.recommend import outlook
from mpsprobe.run import OpVerdict, Outlook, Target
from tests.routes.cases import case, timing, use

REPO = "meta-llama/Llama-3.1-8B"
#: What the profile `transformers` requires besides torch, as a shell takes it.
STATED = "'transformers<6,>=4.57' 'safetensors>=0.4.3'"
H100 = (timing("NVIDIA H100 SXM", 1.0, 2.0),)


def _of(made: Outlook, name: str) -> list[str]:
    return next(one.commands for one in made.routes if one.name == name)


def _case(architecture: str = "llama", repo: str = REPO, verdict: OpVerdict = OpVerdict.NATIVE) -> Case:
    words = commands.words_of(Settings(model=repo, prompt_tokens=100, new_tokens=500, dtype="float16"))
    return case(
        [use(), use("aten::nonzero", verdict)],
        time=timing("M1 Max", 1.0, 2.0, share=1.0),
        elsewhere=H100,
        target=Target(name=repo, profile="transformers", weight_bytes=10**9),
        architecture=architecture,
        words=words,
    )


def test_a_workload_is_carried_into_the_command() -> None:
    made = outlook(_case())
    assert _of(made, "mps") == [
        f"pip install torch==2.8.0 {STATED}",
        f"mpsprobe run {REPO} --dtype float16 --prompt-tokens 100 --new-tokens 500 --device mps",
    ]


def test_the_words_are_options_of_the_command_line() -> None:
    from click.testing import CliRunner

    from mpsprobe.cli import cli

    shown = CliRunner().invoke(cli, ["run", "--help"]).output
    settings = Settings(
        model="x", batch=2, image_size=64, frames=3, steps=4, audio_seconds=5, revision="main"
    )
    words = commands.words_of(settings)
    assert words[0] == "x"
    assert [word for word in words if word.startswith("--") and word not in shown] == []


def test_the_advice_has_the_commands_of_its_route() -> None:
    made = outlook(_case())
    assert made.recommendation is not None
    assert made.recommendation.route == "mps"
    assert made.recommendation.commands == _of(made, "mps")


def test_a_fallback_is_switched_on_first() -> None:
    lines = _of(outlook(_case(verdict=OpVerdict.FALLBACK)), "mps")
    assert lines.index("export PYTORCH_ENABLE_MPS_FALLBACK=1") == len(lines) - 2


def test_what_mps_does_not_run_has_no_command_for_it() -> None:
    held = case([use(), use(verdict=OpVerdict.RAISES)], time=timing("M1 Max", 1.0, 2.0, share=0.1))
    made = outlook(held)
    assert made.routes[0].viability.value == "no"
    assert _of(made, "mps") == []


def test_a_rented_gpu_gets_the_target_and_the_hybrid_a_baseline() -> None:
    made = outlook(_case())
    cloud, hybrid = _of(made, "cloud"), _of(made, "hybrid")
    assert cloud[0].startswith("# on the rented ")
    assert cloud[-1].endswith("--device cuda")
    assert [shlex.split(line)[1] for line in hybrid if line.startswith("mpsprobe")] == [
        "run",
        "baseline",
        "diverge",
    ]


@pytest.mark.parametrize(
    ("architecture", "library", "runs"),
    [
        ("llama", "mlx-lm", f"mlx_lm.generate --model {REPO} --max-tokens 500"),
        ("qwen2_5_vl", "mlx-vlm", f"mlx_vlm.generate --model {REPO}"),
        ("bert", "mlx-embeddings", f'load("{REPO}")'),
        ("xlm-roberta", "mlx-embeddings", f'load("{REPO}")'),
        ("whisper", "mlx-whisper", "mlx_whisper speech.wav"),
    ],
)
def test_the_library_that_holds_it_runs_it(architecture: str, library: str, runs: str) -> None:
    held = _case(architecture)
    if library == "mlx-vlm":
        held.run.op_uses.append(use(module="model.visual.blocks.0"))
    lines = commands.of_mlx(held, mlx.packages())
    assert lines[0] == f"pip install {library}"
    assert runs in lines[-1]


def test_no_command_of_mlx_for_what_no_library_loads(tmp_path: Path) -> None:
    assert commands.of_mlx(_case("no_such_model"), mlx.packages()) == []
    assert commands.of_mlx(_case(""), mlx.packages()) == []
    assert commands.of_mlx(_case(repo=str(tmp_path)), mlx.packages()) == []


MISSING = use("aten::_cholesky_solve_helper", OpVerdict.RAISES)
WRONG = use(
    "aten::_scaled_dot_product_attention_math_for_mps",
    OpVerdict.WRONG,
    advisories=["sdpa-decode-half-long-keys"],
)


def test_a_missing_op_sets_the_variable_and_names_a_release() -> None:
    made = outlook(case([use(), MISSING], torch="2.8.0", time=timing("M1", 1.0, 2.0, share=0.99)))
    lines = _of(made, "mps")
    assert "export PYTORCH_ENABLE_MPS_FALLBACK=1" in lines
    assert not [line for line in lines if line.startswith("# change first")]
    assert "2.12" in next(line for line in lines if line.startswith("# or "))


def test_one_release_for_all_that_stands_in_the_way() -> None:
    made = outlook(case([use(), MISSING, WRONG], torch="2.8.0", time=timing("M1", 1.0, 2.0, share=0.99)))
    assert _of(made, "mps")[0] == f"pip install 'torch==2.12.*' {STATED}"
    assert len(_of(made, "mps")) == 2
    assert made.recommendation is not None
    assert "with torch 2.12" in made.recommendation.sentence


def test_a_release_and_a_command_stand_beside_each_other() -> None:
    packages = UnrecordedRefusal("its weights need a package", fix="python -m pip install 'optimum>=1.24'")
    made = outlook(
        case([use(), WRONG], torch="2.8.0", time=timing("M1", 1.0, 2.0, share=0.99), refusals=[packages])
    )
    assert _of(made, "mps")[:2] == [f"pip install 'torch==2.11.*' {STATED}", packages.fix]
    assert made.recommendation is not None
    assert "with torch 2.11" in made.recommendation.sentence
    assert made.recommendation.sentence.partition(" (")[0].endswith(", after this: install optimum>=1.24.")


def test_a_fix_in_words_stays_a_remark() -> None:
    own = use("aten::mm", OpVerdict.RAISES)  # a kernel's own check, which no release is known to lift
    lines = _of(outlook(case([use(), own], time=timing("M1", 1.0, 2.0, share=0.99))), "mps")
    assert [line for line in lines if line.startswith("# change first: compute")]


def test_the_default_target_is_named_by_no_word() -> None:
    assert commands.words_of(Settings()) == ()
    lines = _of(outlook(case([use()], time=timing("M1", 1.0, 2.0, share=1.0), words=())), "mps")
    assert lines[-1] == "mpsprobe run --device mps"


def test_no_index_has_the_build_of_this_machine() -> None:
    lines = _of(outlook(case([use()], torch="2.13.0+cpu", time=timing("M1", 1.0, 2.0, share=1.0))), "mps")
    assert lines[0] == f"pip install torch==2.13.0 {STATED}"


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("mpsprobe run", ""),
        ("mpsprobe run --device emulated --output out --torch=2.8", ""),
        ("mpsprobe -q run ./m --phase 4 --batch 2 --keep-going --dtype=float16", "./m --batch 2 --dtype=float16"),
        ("/usr/bin/mpsprobe run --fallback --random-init --shrink a/b", "a/b"),
        ("mpsprobe run p.m:Net --config c.json --random-init --json", "p.m:Net --config c.json --random-init"),
        ("mpsprobe run --train full --optimizer sgd m --trust-remote-code", None),
    ],
)  # fmt: skip
def test_a_recorded_line_yields_its_target_and_workload(line: str, kept: str | None) -> None:
    wanted = tuple((kept if kept is not None else line.partition("run ")[2]).split())
    assert commands.words_of_line(line.split()) == wanted


def test_only_a_run_yields_words() -> None:
    assert commands.words_of_line(["pytest", "-m", "phase1"]) is None
    assert commands.words_of_line(["mpsprobe", "predict", "m"]) is None
    assert commands.words_of_line([]) is None


@pytest.mark.parametrize(
    ("fix", "words"),
    [
        (
            "python -m pip install 'optimum>=1.24' && python -m pip install 'gptqmodel<5.8' --no-build-isolation",
            "install optimum>=1.24 and gptqmodel<5.8",
        ),
        ("pip install --index-url https://example.org/simple torch", None),
        ("use torch 2.12", None),
    ],
)
def test_a_sentence_names_what_is_installed(fix: str, words: str | None) -> None:
    assert commands.in_words(fix) == (words or fix)


def test_a_path_below_the_working_directory_is_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    child = Settings(model=str(tmp_path / "here" / "tests" / "target.py"), profile=str(tmp_path / "own.toml"))
    assert commands.words_of(child) == ("tests/target.py", "--profile", str(tmp_path / "own.toml"))
    (tmp_path / "here" / "model").mkdir()
    (tmp_path / "here" / "model" / "config.json").write_text("{}")
    assert resolve(Settings(model=str(tmp_path / "here" / "model"))).name == "model"


def test_what_a_profile_requires_is_installed_too() -> None:
    """Alpamayo's package imports hydra and needs a transformers below 5: torch by itself would not run it."""
    stated = commands.required(case([use()], target=Target(name="x", profile="alpamayo-r1")))
    assert "transformers<5,>=4.57" in stated
    assert any(one.startswith("hydra-core") for one in stated)
    assert not any(one.startswith("torch") for one in stated)
    assert commands.required(case([use()], target=Target(name="x", profile="nobody's"))) == []
