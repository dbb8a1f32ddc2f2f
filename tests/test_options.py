"""Options mean the same on the command line, in pytest, in files and in a child process."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import click
import pytest

from mpsprobe.cli.options import takes
from mpsprobe.cli.sink import Sink
from mpsprobe.errors import UsageError
from mpsprobe.options import OPTIONS, Group, Option, OptionSource, Settings, in_groups, of_project, settings
from mpsprobe.suite import plugin

pytest_plugins = ["pytester"]


def test_a_child_process_gets_every_option(pytester: pytest.Pytester, tmp_path: Path) -> None:
    config = tmp_path / "own.json"
    config.write_text("{}")
    own = {
        "model": "package.module:Class",
        "config": str(config),
        "autocast": "cpu:bfloat16",
        "fallback": False,
    }
    given = Settings(**{**SET, **own})  # type: ignore[arg-type]
    untouched = [field.name for field in fields(Settings) if getattr(given, field.name) == field.default]
    assert not untouched, "the test must set every field"
    assert plugin.settings_of(pytester.parseconfig(*given.arguments())) == given
    assert plugin.settings_of(pytester.parseconfig(*Settings().arguments())) == Settings()


def test_files_are_named_by_their_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    words = Settings(model="./model").arguments()
    assert words[words.index("--mpsprobe-model") + 1] == str(tmp_path / "model")
    assert "org/name" in Settings(model="org/name").arguments()


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"device": "tpu"}, "tpu"),
        ({"dtype": "int8"}, "int8"),
        ({"shrink": True}, "--random-init"),
        ({"autocast": "int8"}, "--autocast int8"),
        ({"keep_going": True, "device": "cpu"}, "--device emulated"),
        ({"model": "package:Class"}, "no weights"),
    ],
)
def test_bad_wishes_are_refused(wishes: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Settings(**wishes)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- three doors

#: A value of each option that is not its default.
SET = {
    "model": "org/name", "device": "emulated", "profile": "transformers", "revision": "main", "offline": True,
    "config": "own.json", "random_init": True, "shrink": True, "trust_remote_code": True, "dtype": "float16",
    "new_tokens": 3, "autocast": "none", "mac": "m1-max-64", "torch": "2.8", "macos": "15.5", "fallback": True,
    "ignore_pins": True, "keep_going": True, "prompt_tokens": 9, "batch": 2, "image_size": 224, "frames": 3,
    "steps": 4, "audio_seconds": 5, "kv_dtype": "float16", "samples": 6, "train": "lora", "optimizer": "sgd",
    "gradient_checkpointing": True, "accumulate": 2,
}  # fmt: skip


def test_each_option_has_a_value_here() -> None:
    assert {one.name for one in OPTIONS} <= set(SET), (
        "give the new option a value, so that every door is tried"
    )


@pytest.mark.parametrize("command", ["run", "predict", "diverge", "baseline", "parity"])
def test_a_command_with_a_target_takes_all_its_options(command: str) -> None:
    from mpsprobe.cli import cli

    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    flags = {flag for one in found.params for flag in (*one.opts, *one.secondary_opts)}
    for one in in_groups(Group.TARGET):
        assert one.name == "model" or f"--{one.dashed}" in flags, one.name


@pytest.mark.parametrize("option", [one for one in OPTIONS if one.from_files], ids=lambda one: one.name)
@pytest.mark.parametrize("file", ["pytest.ini", "pyproject.toml"])
def test_a_file_sets_an_option_of_pytest(pytester: pytest.Pytester, option: Option, file: str) -> None:
    value = SET[option.name]
    given = ["--mpsprobe-random-init"]
    if option.name in ("optimizer", "gradient_checkpointing", "accumulate"):
        given += ["--mpsprobe-train", "lora"]
    if option.name != "model":
        given += ["--mpsprobe-model", "package.module:Class" if option.name == "config" else "org/name"]
    if file == "pytest.ini":
        pytester.makeini(f"[pytest]\nmpsprobe_{option.name} = {value}\n")
    else:
        text = str(value).lower() if isinstance(value, bool) else repr(value)
        pytester.makepyprojecttoml(f"[tool.mpsprobe]\n{option.dashed} = {text}\n")
    assert getattr(plugin.settings_of(pytester.parseconfig(*given)), option.name) == value


def test_the_command_line_wins_over_ini_over_project(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmpsprobe_torch = 2.7\nmpsprobe_macos = 14.0\n")
    pytester.makepyprojecttoml('[tool.mpsprobe]\ntorch = "2.6"\nmacos = "13.0"\nmac = "m1-max-64"\n')
    found = plugin.settings_of(pytester.parseconfig("--mpsprobe-torch", "2.8"))
    assert (found.torch, found.macos, found.mac) == ("2.8", "14.0", "m1-max-64")
    child = plugin.settings_of(pytester.parseconfig("--mpsprobe-journal", "journal"))
    assert child == Settings()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('devise = "mps"', "devise: no such option. Did you mean device"),
        ('device = "tpu"', "'tpu' is not a choice"),
        ("torch = 2.8", "torch: expected text"),
        ("new-tokens = 0", "new-tokens: 0 is less than 1"),
        ("shrink = 1", "shrink: expected true or false"),
        ("trust-remote-code = true", "consent is not read from a file"),
        ("device = ", "not valid TOML"),
    ],
)
def test_a_bad_line_of_a_project_is_named(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[tool.mpsprobe]\n{line}\n")
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        of_project(tmp_path / "below", code=True)
    assert "pyproject.toml" in str(caught.value)


@pytest.mark.parametrize("line", ['model = "./mine.py"', 'model = "mine:Model"', 'profile = "mine.toml"'])
def test_a_checkout_does_not_make_its_code_run(tmp_path: Path, line: str) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[tool.mpsprobe]\n{line}\n")
    for name in ("mine.py", "mine.toml"):
        (tmp_path / name).write_text("")
    with pytest.raises(UsageError, match="would run code of this project"):
        of_project(tmp_path, code=False)
    assert of_project(tmp_path, code=True).values


def test_a_contradiction_names_the_file_behind_it(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.mpsprobe]\nshrink = true\n")
    with pytest.raises(UsageError, match=r"--random-init.*pyproject\.toml.* sets shrink = True"):
        settings(OptionSource("", {}), of_project(tmp_path, code=False))
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'theirs'\nbroken = [\n")
    assert of_project(tmp_path, code=False).values == {}


def test_a_command_reads_the_project_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Settings] = []

    @click.command()
    @takes(Group.TARGET, Group.MAC, every_release=True, implied={"random_init": True})
    def command(settings: Settings, every_release: bool) -> None:
        seen.append(settings)
        seen.append(settings.replace(torch="2.8") if every_release else settings)

    (tmp_path / "pyproject.toml").write_text('[tool.mpsprobe]\nshrink = true\nmac = "m4-16"\n')
    monkeypatch.chdir(tmp_path)
    command.main(["org/name", "--torch", "all"], standalone_mode=False, obj=Sink())
    assert seen[0] == Settings(model="org/name", mac="m4-16", shrink=True, random_init=True)
    assert seen[1].torch == "2.8"
    assert "[tool.mpsprobe]: shrink = True, mac = m4-16" in capsys.readouterr().out
    command.main(["--no-shrink", "--mac", "m1-max-64"], standalone_mode=False, obj=Sink())
    assert seen[2] == Settings(mac="m1-max-64", random_init=True)
