"""Every `mpsprobe` and `pytest` line of the documents is run, on small stand-ins for what its reader has.

What cannot run offline stands in `ELSEWHERE` with its reason. What takes longer than a few seconds carries the marker
`docs_commands`: `pytest -m docs_commands tests/docs`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mpsprobe.cli import cli
from mpsprobe.models.tiny_drive import repository
from tests.docs.test_commands import CHECKOUT, command_lines
from tests.report import example_runs

#: Commands that cannot run here, by how they begin, and why.
ELSEWHERE = {
    "mpsprobe run org/model": "a repository of the hub",
    "mpsprobe run Qwen/Qwen3-0.6B": "weights of the hub",
    "mpsprobe run Qwen/Qwen3-VL-8B-Instruct": "a config of the hub",
    "mpsprobe run MODEL --device emulated --torch 2.8 --keep-going": "weights of the hub",
    "mpsprobe predict nvidia/Alpamayo-R1-10B": "the package alpamayo_r1, which is not ours",
    "mpsprobe run nvidia/Alpamayo-R1-10B": "the package alpamayo_r1, which is not ours",
    "mpsprobe diverge ./my-model --device mps": "a Mac",
    "mpsprobe diverge MODEL --device mps": "a Mac",
    "mpsprobe diverge MODEL --against base.safetensors": "a baseline of another machine",
    "mpsprobe baseline MODEL --device cuda": "a CUDA GPU",
    "mpsprobe baseline MODEL --random-init --device cuda": "a CUDA GPU",
    "mpsprobe run ./model --profile model.toml --phase 2 --fix": "installs packages: the page states its story",
    "mpsprobe scan owner/name": "a repository of the hub",
    "pytest -m phase6 --device emulated --model ./my-model": "the checkout, whose conftest.py has the short options",
    "pytest -m ops --mpsprobe-ops core": "minutes: tests/ops runs a part of it",
}

#: What a reader has in the place of what a page names.
STAND_INS = {
    "MODEL": "./my-model",
    "Qwen/Qwen3-0.6B": "./my-model",
    "RUN.json": "run.json",
}

#: Commands that end within seconds, without a model.
QUICK = ("doctor", "explain", "ops", "advisories", "report", "merge", "compare", "scan")

#: Commands that write a file and do not replace one unasked.
_REPLACES = ("expect", "target")

#: Exit codes that are answers: of a check that failed, of ops that fall back, of findings.
ANSWERS = (0, 1)


def _lines() -> list[tuple[str, str]]:
    found = set(command_lines())
    for page in (CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))):
        text = page.read_text(encoding="utf-8")
        found |= {(page.name, one.strip()) for one in re.findall(r"^(?: {4})?(pytest .*)$", text, re.M)}
        found |= {
            (page.name, one) for one in re.findall(r"^ {4}(mpsprobe [a-z].*)$", text, re.M) if "[-" not in one
        }
    return sorted(found)


def _command(line: str) -> str:
    return re.sub(r"\s+#.*$", "", line).strip()


def _elsewhere(line: str) -> str | None:
    command = _command(line)
    return next((why for begin, why in ELSEWHERE.items() if command.startswith(begin)), None)


LINES = [(page, line) for page, line in _lines() if _elsewhere(line) is None]
_IS_QUICK = [line.split()[1] in QUICK for _, line in LINES]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the documents' reader has but for a model: a target, packages, a log, runs."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copy(CHECKOUT / "examples/adopt/tests/target.py", folder / "target.py")
    shutil.copytree(CHECKOUT / "examples/adopt/tests", folder / "tests")
    shutil.copy(CHECKOUT / "examples/adopt/pyproject.toml", folder)
    for name in ("my-package", "my_model"):
        (folder / name).mkdir()
        (folder / name / "hazard.py").write_text('import torch\n\nx = torch.zeros(2, device="cuda")\n')
    shutil.copy(CHECKOUT / "src/mpsprobe/models/profiles/transformers.toml", folder / "model.toml")
    (folder / "run.log").write_text(
        "RuntimeError: Placeholder storage has not been allocated on MPS device!\n"
    )
    made = example_runs.emulated()
    for name in ("before", "after", "reports/latest", "collected/linux", "."):
        (folder / name).mkdir(parents=True, exist_ok=True)
        made.save(folder / name / "run.json")
    for name in ("xfails.toml", "skips.toml"):
        (folder / name).write_text("")
    return folder


@pytest.fixture(scope="session")
def modelled(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of it with a small Llama of random weights and a tokenizer, and without a run's own folder."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("modelled") / "reader"
    shutil.copytree(place, folder, ignore=shutil.ignore_patterns("reports"))
    words = repository.build_tokenizer()
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=words.get_vocab_size(),
        max_position_embeddings=512,
        architectures=["LlamaForCausalLM"],
    )
    LlamaForCausalLM(config).save_pretrained(folder / "my-model")
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=end, pad_token=end)
    tokenizer.save_pretrained(folder / "my-model")
    config.save_pretrained(folder / "config-folder")
    return folder


def _words(line: str, place: Path) -> list[str]:
    """Return the words of a command, with stand-ins, and with the files that a pattern names."""
    command = _command(line)
    for name, stand_in in STAND_INS.items():
        command = re.sub(rf"(?<![\w/]){re.escape(name)}(?![\w/])", stand_in, command)
    words: list[str] = []
    for word in shlex.split(command):
        words += sorted(str(one.relative_to(place)) for one in place.glob(word)) if "*" in word else [word]
    return words


def _ids(lines: list[tuple[str, str]]) -> list[str]:
    return [f"{page}:{_command(line)[:44]}" for page, line in lines]


_FAST = [one for one, quick in zip(LINES, _IS_QUICK, strict=True) if quick]
_SLOW = [one for one, quick in zip(LINES, _IS_QUICK, strict=True) if not quick]


@pytest.mark.parametrize(("page", "line"), _FAST, ids=_ids(_FAST))
def test_a_documented_command_answers(
    page: str, line: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    done = CliRunner().invoke(cli, _words(line, place)[1:])
    assert done.exit_code in ANSWERS, (page, done.output[-1500:])
    assert done.exception is None or isinstance(done.exception, SystemExit), page


@pytest.mark.docs_commands
@pytest.mark.parametrize(("page", "line"), _SLOW, ids=_ids(_SLOW))
def test_a_documented_command_that_takes_longer_answers(page: str, line: str, modelled: Path) -> None:
    if line.startswith("mpsprobe parity") and importlib.util.find_spec("mlx_lm") is None:
        pytest.skip("the extra `mlx` and mlx-lm are not installed")
    program, *rest = _words(line, modelled)
    if rest[0] in _REPLACES:  # its output stands here already, for other commands
        rest.append("--force")
    done = subprocess.run(
        [sys.executable, "-m", program, *rest],
        cwd=modelled,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    nothing_selected = program == "pytest" and done.returncode == 5 and "-k" in rest
    assert done.returncode in ANSWERS or nothing_selected, (page, done.stdout[-1500:], done.stderr[-800:])


@pytest.mark.slow
def test_the_printed_answer_is_todays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    line = "mpsprobe predict --mac m1-max-64 --torch 2.8 --macos 15.5"
    answer = CliRunner().invoke(cli, shlex.split(line)[1:]).stdout.partition("\n\n")[0]
    for page in ("README.md", "docs/tutorial.md"):
        text = (CHECKOUT / page).read_text(encoding="utf-8")
        assert line in text, page
        assert f"\n{answer}\n```" in text, page


def test_no_reason_outlives_its_command() -> None:
    commands = [_command(line) for _, line in _lines()]
    left = [begin for begin in ELSEWHERE if not any(command.startswith(begin) for command in commands)]
    assert left == []
