"""What MODEL means, before anything runs: folders, class paths, options that do not go together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpsprobe.errors import ProfileError, UsageError
from mpsprobe.models import profile as profiles
from mpsprobe.models import targets
from mpsprobe.models.targets import resolve
from mpsprobe.options import Settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    return tmp_path


def test_a_folder_and_its_config_are_the_same_target(folder: Path) -> None:
    by_folder, by_file = (resolve(Settings(str(path))) for path in (folder, folder / "config.json"))
    assert by_folder.folder == by_file.folder == folder.resolve()
    assert by_folder.profile.name == by_file.profile.name == "transformers"


def test_a_class_keeps_its_path_and_config(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text("{}")
    ref = resolve(Settings("package.module:Class", config=str(tmp_path / "own.json"), random_init=True))
    assert (ref.class_path, ref.config) == ("package.module:Class", tmp_path / "own.json")


def test_the_name_and_the_limits_say_that_weights_are_random(folder: Path) -> None:
    whole = resolve(Settings(str(folder)))
    assert (whole.title, whole.limits) == (str(folder), [])
    random = resolve(Settings(str(folder), random_init=True, shrink=True))
    assert random.title == f"{folder} (random weights, shrunk)"
    assert "random" in random.limits[0]


def test_wishes_replace_what_the_profile_says(folder: Path) -> None:
    profile = resolve(Settings(str(folder), dtype="float16", new_tokens=3)).profile
    assert (profile.dtype, profile.inference["max_new_tokens"]) == ("float16", 3)
    assert (
        resolve(Settings(str(folder), random_init=True)).profile.inference["max_new_tokens"]
        == targets.NEW_TOKENS
    )
    assert resolve(Settings(dtype="float32")).profile.dtype == "float32"


def test_autocast_is_the_profile_s_unless_another_is_asked_for() -> None:
    def chosen(autocast: str | None) -> str:
        ref = resolve(Settings(profile="alpamayo-r1", autocast=autocast, offline=True))
        return ref.profile.autocast_words(ref.profile.autocast)

    assert chosen(None) == "autocast to bfloat16 around generation and the flow, each by itself"
    assert chosen("parts:float16") == "autocast to float16 around generation and the flow, each by itself"
    assert chosen("bfloat16") == "autocast to bfloat16 around inference"
    assert chosen("cpu:bfloat16") == "autocast of the CPU to bfloat16 around inference"
    assert chosen("none") == "no autocast around inference"


@pytest.mark.parametrize("line", ['requires = ["torch >>> 2"]', 'package = "two words"', 'python = "abc"'])
def test_a_profile_with_a_broken_requirement_is_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(f'name = "own"\ntitle = "Own"\nadapter = "own:Own"\n{line}\n')
    with pytest.raises(ProfileError, match=r"own.toml: .*'(torch >>> 2|two words|abc)': no "):
        profiles.load(file)


@pytest.mark.parametrize("choice", ["none", "float32", "parts", "gpu:bfloat16", "bfloat16:parts"])
def test_a_profile_with_an_unknown_autocast_is_refused(tmp_path: Path, choice: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(f'name = "own"\ntitle = "Own"\nadapter = "own:Own"\nautocast = "{choice}"\n')
    with pytest.raises(ProfileError, match=f"own.toml: autocast '{choice}': no such choice"):
        profiles.load(file)


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"model": "./nowhere"}, "no such folder"),
        ({"model": "package:Class"}, "a class has no weights"),
        ({"model": "not a class:x y", "random_init": True}, "not a class path"),
        ({"model": "org/model", "shrink": True}, "--random-init"),
        ({"model": "org/model", "config": "x.json"}, "--config goes with a class"),
        ({"model": "package:Class", "config": "/nowhere.json", "random_init": True}, "/nowhere.json"),
        ({"new_tokens": 3}, "tiny-drive"),
    ],
)
def test_what_does_not_go_together_is_one_line(wishes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        resolve(Settings(**wishes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_broken_config_names_its_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"own\.json"):
        resolve(Settings("package:Class", config=str(path), random_init=True))


def test_nothing_of_torch_is_needed_to_resolve(folder: Path) -> None:
    code = (
        "import sys\nfrom mpsprobe.models.targets import resolve\nfrom mpsprobe.options import Settings\n"
        f"resolve(Settings({str(folder)!r}, random_init=True))\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
