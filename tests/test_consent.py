"""What of a model folder would run: listed from its files, refused without consent, stopped by the interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpsprobe import consent
from mpsprobe.errors import ConsentError, TargetError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    return made


def config(folder: Path, **values: Any) -> None:
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("values", "setting"),
    [
        ({"_attn_implementation": "someone/kernel"}, "_attn_implementation"),
        ({"_attn_implementation_internal": "a/b@main:forward"}, "_attn_implementation_internal"),
        ({"attn_implementation": {"text": "a/b"}}, "attn_implementation"),
        ({"vision_config": {"_attn_implementation": "paged|a/b"}}, "vision_config._attn_implementation"),
        ({"_experts_implementation": "a/b"}, "_experts_implementation"),
        ({"parts": [{"_attn_implementation": "a/b"}]}, "parts._attn_implementation"),
    ],
)
def test_kernel_of_the_hub_is_a_door(folder: Path, values: dict[str, Any], setting: str) -> None:
    config(folder, **values)
    (door,) = consent.code_to_run(folder)
    assert door.reason == f"{setting} of config.json"
    with pytest.raises(ConsentError, match="trust-remote-code"):
        consent.require(folder, "m", trusted=False)
    consent.require(folder, "m", trusted=True)


def test_names_of_kernels_are_those_of_transformers(folder: Path) -> None:
    """transformers' own rule says which values are kernels."""
    from transformers.integrations.hub_kernels import is_kernel

    for value in (
        "sdpa",
        "eager",
        "flash_attention_2",
        "a/b",
        "a/b@v1",
        "a/b:f",
        "a/b@v1:f",
        "a/b/c",
        "/a",
        "a/",
    ):
        config(folder, _attn_implementation=value)
        assert bool(consent.code_to_run(folder)) == bool(is_kernel(value)), value


def test_generation_code_counts_where_weights_are_loaded(folder: Path) -> None:
    config(folder)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text("")
    assert [door.what for door in consent.code_to_run(folder)] == ["custom_generate/generate.py"]
    assert not consent.code_to_run(folder, stored=False)


def test_ordinary_model_has_no_door(folder: Path) -> None:
    config(folder, _attn_implementation="sdpa", auto_map={"AutoTokenizer": ["tok.T", None]})
    assert not consent.code_to_run(folder)


@pytest.mark.parametrize("place", ["config.json", "tokenizer.json", "unet/config.json"])
def test_pipe_among_the_files_is_refused(folder: Path, place: str) -> None:
    (folder / place).parent.mkdir(exist_ok=True)
    os.mkfifo(folder / place)
    with pytest.raises(TargetError, match="is a pipe"):
        consent.require(folder, "m", trusted=True)


def test_device_behind_a_link_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").symlink_to("/dev/zero")
    with pytest.raises(TargetError, match="is a device"):
        consent.require(folder, "m", trusted=True)


def test_interpreter_refuses_code_of_an_unlisted_door(folder: Path) -> None:
    """In a process of its own: an audit hook stays."""
    config(folder)
    (folder / "evil.py").write_text("print('ran')")
    program = (
        "import sys\nfrom pathlib import Path\nfrom mpsprobe import consent\nfolder = Path(sys.argv[1])\n"
        "sys.path.append(str(folder))\n"
        "consent.require(folder, 'm', trusted=False)\n"
        "try:\n    import evil\nexcept consent.ConsentError as problem:\n    print('refused')\n"
        "consent.require(folder, 'm', trusted=True)\nimport evil\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["refused", "ran"]
