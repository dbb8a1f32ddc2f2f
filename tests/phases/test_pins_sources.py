"""Requirements that come from a target's config and code, and what packages of CUDA mean on a Mac."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mpsprobe.knowledge import environment
from mpsprobe.models.profile import Profile
from mpsprobe.phases import known_bad, pins, requirements
from mpsprobe.run import Mac, Status


def profile(*requires: str) -> Profile:
    return Profile(name="x", title="x", adapter="a:b", requires=list(requires))


def code(folder: Path, text: str) -> list[Path]:
    path = folder / "modeling_own.py"
    path.write_text(text)
    return [path]


@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        ("import flash_attn\n", Status.FAIL, "replace it"),
        ("from triton import language\n", Status.FAIL, "blocks"),
        (
            "try:\n    import flash_attn\nexcept ImportError:\n    flash_attn = None\n",
            Status.PASS,
            "optional",
        ),
        ("import torch\nif torch.cuda.is_available():\n    import xformers\n", Status.PASS, "optional"),
        ("def fast():\n    import apex\n", Status.PASS, "optional"),
        ("import json, os\nimport torch\nfrom . import other\n", Status.PASS, ""),
        ("import no_such_module_here\n", Status.FAIL, "missing"),
    ],
)
def test_imports_of_code_are_judged_by_their_guard(
    tmp_path: Path, text: str, status: Status, says: str
) -> None:
    result = pins.verdict(
        requirements.resolve(profile(), lambda _: None, lambda _: [], "3.12.1", code=code(tmp_path, text))
    )
    assert result.status is status
    assert says in " ".join(str(row[-1]) for row in (result.table.rows if result.table else []))
    assert not any(one.name in result.remedy for one in environment.cuda_packages())


def test_a_cuda_package_in_metadata_is_never_to_be_installed() -> None:
    """alpamayo_r1 requires flash-attn, which no Mac can install: the rest is still checked."""
    own = Profile(name="x", title="x", adapter="a:b", package="own")
    found = requirements.resolve(
        own, {"own": "1.0"}.get, lambda _: ["flash-attn>=2.8", "einops>=0.8"], "3.12.1"
    )
    result = pins.verdict(found)
    assert "--no-deps" in result.message
    assert result.remedy == "python -m pip install 'einops>=0.8'"


@pytest.mark.parametrize(
    ("saved", "installed", "status"),
    [
        ("4.57.0", "4.55.4", Status.WARN),
        ("4.57.0.dev0", "4.57.1", Status.PASS),
        ("nonsense", "4.0", Status.PASS),
    ],
)
def test_an_older_transformers_than_the_config_is_a_warning(
    saved: str, installed: str, status: Status
) -> None:
    found = requirements.resolve(profile(), {"transformers": installed}.get, lambda _: [], "3.12.1",
                         config={"transformers_version": saved})  # fmt: skip
    assert found.status is status


def test_a_quantisation_that_cannot_be_loaded_fails() -> None:
    config = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    found = requirements.resolve(
        profile(), {"transformers": "4.57.1"}.get, lambda _: [], "3.12.1", config=config
    )
    assert found.status is Status.FAIL
    assert "loading raises" in pins.verdict(found).message


def test_a_quantisation_that_is_skipped_fails() -> None:
    """transformers warns of a method that it does not know, and reads packed tensors as plain ones."""
    config = {"quantization_config": {"quant_method": "exl2", "bits": 4.25}}
    found = requirements.resolve(
        profile(), {"transformers": "4.57.1"}.get, lambda _: [], "3.12.1", config=config
    )
    assert found.status is Status.FAIL
    assert "does not know ExLlama" in pins.verdict(found).message


@pytest.mark.parametrize(("machine", "notes"), [("x86_64", 1), ("arm64", 0)])
def test_an_intel_mac_is_told_what_it_gets(machine: str, notes: int) -> None:
    said = pins._of_machine("Darwin", machine, lambda _: "2.2.2")
    assert len(said) == notes
    assert all("2.2.2" in one and "numpy<2" in one for one in said)


def test_nothing_is_said_of_torch_without_earlier_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mpsprobe.models import targets
    from mpsprobe.options import Settings

    monkeypatch.setenv("MPSPROBE_CACHE", str(tmp_path))
    ref = targets.resolve(Settings())
    assert known_bad.notes(ref, requirements.Pins([]), Mac("2.8.0")) == []


def _gqa(folder: Path) -> Path:
    """Write the config of a Llama with grouped heads in half precision."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "vocab_size": 64,
        "max_position_embeddings": 2048, "torch_dtype": "float16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_prediction_tells_later_pins_what_torch_gets_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pytorch issue 174861: torch 2.8 to 2.10 decode over 1,024 half-precision keys wrongly, 2.7.1 and 2.11 do not."""
    from mpsprobe.models import targets
    from mpsprobe.options import Settings
    from mpsprobe.prediction.command import predict

    monkeypatch.setenv("MPSPROBE_CACHE", str(tmp_path / "cache"))
    asked = Settings(model=str(_gqa(tmp_path)), dtype="float16", prompt_tokens=1100, torch="2.8", mac="m1-max-64",
                     random_init=True)  # fmt: skip
    predict(asked, routes=False)
    mac = Mac("2.8.0", chip="M1 Max", macos="15.5", memory_gb=64)

    def told(settings: Settings, mac: Mac = mac, requires: str = "torch>=2.1") -> list[str]:
        ref = targets.resolve(settings)
        return known_bad.notes(
            ref, requirements.resolve(profile(requires), lambda _: "2.8.0", lambda _: []), mac
        )

    (note,) = told(asked)
    assert "torch 2.8.0 is known wrong for aten::_scaled_dot_product_attention" in note
    assert note.endswith("nearest good: 2.7.1.") or note.endswith("nearest good: 2.7.0.")
    (pinned,) = told(asked, requires="torch==2.8.0")
    assert "torch 2.8.0 is pinned by profile and is known wrong" in pinned
    assert "no release that the requirements allow is better" in pinned
    assert told(asked, Mac("2.11.0", chip="M1 Max", macos="15.5", memory_gb=64)) == []
    assert told(asked.replace(prompt_tokens=16)) == [], "another length was never seen"


@pytest.mark.parametrize(
    ("torch", "macos", "says"),
    [("2.13.0", "13.6", "needs macOS 14.0"), ("2.13.0", "15.5", ""), ("2.8.0", "12.1", "needs macOS")],
)
def test_a_macos_too_old_for_its_torch_is_told(torch: str, macos: str, says: str) -> None:
    said = pins._of_macos(Mac(torch, macos=macos))
    assert says in "".join(said)
    assert bool(said) == bool(says)


needs_uv = pytest.mark.skipif(pins.find_uv() is None, reason="uv is not installed")


def _index_answers() -> bool:
    uv = pins.find_uv() or shutil.which("uv")
    done = subprocess.run([str(uv), "pip", "compile", "-q", "-"], input="packaging", text=True, capture_output=True,
                          timeout=60, check=False)  # fmt: skip
    return done.returncode == 0


@needs_uv
def test_the_solver_finds_versions_or_words_the_conflict() -> None:
    if not _index_answers():
        pytest.skip("no package index can be reached")
    found = requirements.resolve(profile("transformers==4.57.1", "huggingface-hub<1.0"),
                         {"transformers": "4.55.4", "huggingface-hub": "1.3.2"}.get, lambda _: [],
                         ".".join(map(str, sys.version_info[:3])))  # fmt: skip
    solution = pins.solve(found)
    assert solution is not None
    wanted = {r.name: r for r in map(Requirement, solution.command.split()[4:])}
    assert wanted["transformers"].specifier.contains("4.57.1")
    assert wanted["huggingface-hub"].specifier.contains("0.36.0") or "0." in str(wanted["huggingface-hub"])
    impossible = requirements.resolve(
        profile("transformers==4.57.1", "huggingface-hub>=1.0"), lambda _name: None, lambda _: [], "3.12.1"
    )
    refused = pins.solve(impossible)
    assert refused is not None
    assert "transformers" in refused.conflict


@needs_uv
def test_the_solver_runs_no_setup_py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A requirement of a stranger's repository may name a package that has only source."""
    marker = tmp_path / "ran"
    with tarfile.open(tmp_path / "planted-1.0.tar.gz", "w:gz") as archive:
        for name, text in (
            ("PKG-INFO", "Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n"),
            (
                "setup.py",
                f"open({str(marker)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='planted')\n",
            ),
        ):
            found = tarfile.TarInfo(f"planted-1.0/{name}")
            found.size = len(text)
            archive.addfile(found, io.BytesIO(text.encode()))
    (tmp_path / "uv.toml").write_text("no-binary = true\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    unmet = requirements.resolve(profile("planted==1.0"), lambda _name: None, lambda _: [], "3.12.1")
    assert pins.solve(unmet) is None
    assert not marker.exists()
