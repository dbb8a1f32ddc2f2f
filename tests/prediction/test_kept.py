"""A prediction is used again only while nothing that it depends on has changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

import mpsprobe
from mpsprobe import mac
from mpsprobe.cli import cli
from mpsprobe.cli.sink import Sink
from mpsprobe.options import Settings
from mpsprobe.prediction import command, kept
from mpsprobe.prediction.ingredients import ingredients
from mpsprobe.run import DeviceChoice, Host, Mac, OpVerdict, Predicted, ReleaseSummary, Run, Target
from tests.support.hub_server import COMMIT, Repository, environment, serve
from tests.test_options import SET

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers about options of tiny configs

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500,
}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MPSPROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv(
        "TORCHINDUCTOR_CACHE_DIR", str(tmp_path)
    )  # torch sets it, in a process that may live on
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return folder


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Answers at once, with little, and lists what was not taken from the cache."""
    found: list[Settings] = []

    def answer(settings: Settings, **_: Any) -> Run:
        found.append(settings)
        return _answer()

    monkeypatch.setattr(command, "predict", answer)
    return found


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Lists the predictions that were made, and not taken from the cache."""
    found: list[Settings] = []
    real = command.predict

    def counted(settings: Settings, **options: Any) -> Run:
        found.append(settings)
        return real(settings, **options)

    monkeypatch.setattr(command, "predict", counted)
    return found


def predicted(*arguments: str | Path) -> Result:
    words = ["--json", "predict", *map(str, arguments)]
    return CliRunner().invoke(cli, words, obj=Sink(ends_process=True), catch_exceptions=True)


def test_the_second_answer_is_the_first(model: Path, made: list[Settings]) -> None:
    first, second = predicted(model, "--mac", "m1-max-64"), predicted(model, "--mac", "m1-max-64")
    assert len(made) == 1
    assert (first.exit_code, second.exit_code) == (0, 0)
    one, two = json.loads(first.stdout), json.loads(second.stdout)
    assert one["predicted"].get("kept_since", "") == ""
    assert two["predicted"].pop("kept_since") == one["ended"]
    assert two["limits"].pop(0).startswith("From the cache of predictions, made 20")
    one["predicted"].pop("kept_since", None)
    one.pop("command"), two.pop("command")
    assert one == two


def test_people_and_reports_read_when_it_was_made(model: Path, tmp_path: Path) -> None:
    words = ["predict", str(model), "--output", str(tmp_path / "out")]
    first, said = (CliRunner().invoke(cli, words, obj=Sink(ends_process=True)).stdout for _ in range(2))
    assert "taken from the cache" not in first
    assert "UTC, taken from the cache: --no-cache makes it anew" in said
    for name in ("report.md", "report.html"):
        assert "From the cache of predictions, made 20" in (tmp_path / "out" / name).read_text()


def test_no_cache_makes_it_anew_and_clear_deletes(model: Path, answered: list[Settings]) -> None:
    for _ in range(2):
        predicted(model, "--no-cache")
    assert len(answered) == 2
    assert kept.content().entries == 0
    predicted(model)
    assert kept.content().entries == 1
    cleared = CliRunner().invoke(cli, ["cache", "--clear"])
    assert "Deleted: 1 prediction" in cleared.stdout
    predicted(model)
    assert len(answered) == 4


def test_the_library_in_a_process_keeps_nothing(model: Path, answered: list[Settings]) -> None:
    mpsprobe.predict(str(model))
    CliRunner().invoke(cli, ["predict", str(model)])  # a caller's own process
    assert len(answered) == 2
    assert kept.content().entries == 0


# ------------------------------------------------------------------------------------------------ what it depends on


def asked(model: Path, **changes: Any) -> dict[str, str]:
    options = {name: changes.pop(name) for name in list(changes) if name in Settings.__dataclass_fields__}
    rest = {"every_release": False, "tokens": None, "calibration": None, "routes": False, **changes}
    settings = Settings(**{"model": str(model), "random_init": True, **options})
    found = ingredients(settings, **{"environment": dict(os.environ), **rest})
    assert found is not None
    return found


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


_NEVER_KEPT = {"model", "random_init", "config", "trust_remote_code"}


@pytest.mark.parametrize("name", sorted(set(SET) - _NEVER_KEPT))
def test_every_option_counts(model: Path, name: str) -> None:
    training = name in ("optimizer", "gradient_checkpointing", "accumulate")
    needed: dict[str, Any] = {"train": "full"} if training else {}
    before = asked(model, **needed)
    assert "options" in changed(before, asked(model, **{**needed, name: SET[name]}))


@pytest.mark.parametrize("change", [{"every_release": True}, {"tokens": 4096}, {"routes": True}])
def test_what_the_command_adds_counts(model: Path, change: dict[str, Any]) -> None:
    assert changed(asked(model), asked(model, **change)) == {"options"}


def _config(model: Path, _: pytest.MonkeyPatch) -> None:
    """The same size and the same times: only the content differs."""
    file = model / "config.json"
    times = file.stat()
    file.write_text(file.read_text().replace("500", "600"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def _further_file(model: Path, _: pytest.MonkeyPatch) -> None:
    (model / "generation_config.json").write_text("{}")


def _file_below(model: Path, _: pytest.MonkeyPatch) -> None:
    (model / "tokenizer").mkdir()
    (model / "tokenizer" / "vocab.txt").write_text("a")


def _source(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = model.parent / "package" / "mpsprobe"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(mpsprobe, "__file__", str(package / "__init__.py"))


def _version(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpsprobe, "__version__", "0.1.1")


def _installed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model.parent / "site" / "kernels-0.9.dist-info").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(model.parent / "site")])


def _archive(model: Path, _: pytest.MonkeyPatch) -> None:
    (model.parent / "modules.zip").write_text("another")


def _python(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version", sys.version.replace("(", "(another ", 1))


def _watermark(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_MPS_HIGH_WATERMARK_RATIO", "0.7")


def _any_variable(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_LIBRARY_MODE", "legacy")


def _machine(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = mac.host()
    monkeypatch.setattr(mac, "host", lambda: msgspec.structs.replace(host, os_version="26.1"))


def _calibrated(model: Path, _: pytest.MonkeyPatch) -> None:
    file = model.parent / "xdg" / "mpsprobe" / "calibration-cpu.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")


def _prices(model: Path, _: pytest.MonkeyPatch) -> None:
    (model.parent / "prices.toml").write_text("# others")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (_config, "files"), (_further_file, "files"), (_file_below, "files"), (_source, "mpsprobe"),
        (_version, "mpsprobe"), (_installed, "packages"), (_archive, "packages"), (_python, "python"),
        (_watermark, "environment"),
        (_any_variable, "environment"), (_machine, "machine"), (_calibrated, "named files"), (_prices, "named files"),
    ],
    ids=lambda one: getattr(one, "__name__", one).strip("_"),
)  # fmt: skip
def test_each_ingredient_counts(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, pytest.MonkeyPatch], None],
    name: str,
) -> None:
    monkeypatch.setenv("MPSPROBE_CLOUD", str(model.parent / "prices.toml"))
    (model.parent / "modules.zip").write_text("one")
    monkeypatch.setattr(sys, "path", [*sys.path, str(model.parent / "modules.zip")])
    before = asked(model)
    assert asked(model) == before
    change(model, monkeypatch)
    assert name in changed(before, asked(model))


def test_the_look_of_a_terminal_does_not_count(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = asked(model)
    for name in ("TERM", "COLUMNS", "SHLVL", "SSH_TTY", "NO_COLOR"):
        monkeypatch.setenv(name, "7")
    assert asked(model) == before


def test_an_edit_of_an_imported_module_counts(model: Path, answered: list[Settings], tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "installed_in_place.py").write_text("layers = 1\n")
    sys.path.append(str(place))
    try:
        import installed_in_place  # type: ignore[import-not-found]

        predicted(model)
        predicted(model)
        assert len(answered) == 1
        (place / "installed_in_place.py").write_text("layers = 2\n")
        predicted(model)
        assert len(answered) == 2
        del installed_in_place
    finally:
        sys.path.remove(str(place))
        sys.modules.pop("installed_in_place", None)


# --------------------------------------------------------------------------------------------------- what is not kept


def test_what_runs_code_or_reads_elsewhere_is_not_kept(model: Path, tmp_path: Path) -> None:
    (tmp_path / "target.py").write_text("")
    (tmp_path / "own.toml").write_text('name = "own"\ntitle = "own"\nadapter = "target.py"\n')
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    (tmp_path / "file.gguf").write_text("")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "config.json").write_text(json.dumps(LLAMA))
    (linked / "tokenizer").symlink_to(tmp_path)
    kinds: list[dict[str, Any]] = [
        {"model": str(linked)},
        {"model": str(model), "trust_remote_code": True},
        {"model": "package.module:Class"},
        {"model": str(tmp_path / "target.py")},
        {"model": str(tmp_path / "adapter")},
        {"model": str(tmp_path / "file.gguf")},
        {"model": str(tmp_path / "nothing-there")},
        {"model": str(model), "profile": str(tmp_path / "own.toml")},
        {"model": str(model), "profile": "alpamayo-r1"},
        {"model": None},
    ]
    for kind in kinds:
        settings = Settings(**{"random_init": True, **kind})
        rest: dict[str, Any] = {"every_release": False, "tokens": None, "calibration": None, "routes": False}
        assert ingredients(settings, **rest, environment={}) is None, kind


def test_a_refusal_is_not_kept_and_comes_back(model: Path, made: list[Settings]) -> None:
    assert predicted(model).exit_code == 0
    (model / "config.json").write_text(json.dumps({**LLAMA, "attn_implementation": "org/kernel"}))
    for _ in range(2):
        refused = predicted(model)
        assert "would run code that nobody agreed to" in str(refused.exception)
    assert len(made) == 3
    assert kept.content().entries == 1


def test_consent_is_asked_for_whatever_was_kept(model: Path, made: list[Settings]) -> None:
    own = {**LLAMA, "architectures": ["Mine"], "auto_map": {"AutoModelForCausalLM": "mine.Mine"}}
    (model / "config.json").write_text(json.dumps(own))
    (model / "mine.py").write_text("raise SystemExit('ran')\n")
    for _ in range(2):
        assert "trust-remote-code" in getattr(predicted(model).exception, "hint", "")
    assert len(made) == 2
    assert kept.content().entries == 0


def _answer(**predicted_: Any) -> Run:
    made = Predicted(doing="", inputs=[], notes=[], dtypes={}, **predicted_)
    return Run(
        mpsprobe="0", id="0", started="", ended="2026-11-29T12:00:00Z", command=[], predicted=made, mac=Mac("2.8"),
        target=Target(name="", profile=""), host=Host(system="", machine="", os_version=""),
        device=DeviceChoice("", "", ""), op_uses=[],
    )  # fmt: skip


def test_what_was_cut_off_is_not_kept(model: Path) -> None:
    now = asked(model)
    row = ReleaseSummary(
        torch="2.8",
        op_uses={OpVerdict.NATIVE.value: 1},
        calls={},
        findings={},
        not_native={},
        fully_native=False,
    )
    closed = msgspec.structs.replace(row, op_uses={}, stopped="torch 2.14 needs macOS 14")
    assert kept.keep(now, now, _answer(releases=[row, closed]))
    assert not kept.keep(now, now, _answer(stopped="ValueError: x"))
    assert not kept.keep(now, now, _answer(releases=[msgspec.structs.replace(row, stopped="ValueError: x")]))


def test_what_changed_while_it_was_made_is_not_kept(model: Path) -> None:
    now = asked(model)
    for name in now:
        assert not kept.keep(now, {**now, name: "another"}, _answer()), name
    assert not kept.keep(now, None, _answer())
    assert kept.content().entries == 0


# --------------------------------------------------------------------------------------------------------- the folder


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "others may write", "link"])
def test_a_damaged_or_foreign_entry_is_no_answer(model: Path, damage: str) -> None:
    now = asked(model)
    assert kept.keep(now, now, _answer())
    assert kept.find(now) is not None
    (file,) = kept.folder().iterdir()
    data = file.read_bytes()
    if damage == "others may write":
        kept.folder().chmod(0o777)
    elif damage == "link":
        file.rename(model.parent / "elsewhere")
        file.symlink_to(model.parent / "elsewhere")
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        file.write_bytes({"cut": data[:-9], "flipped": flipped, "empty": b""}[damage])
    assert kept.find(now) is None


def test_the_folder_is_bounded(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_ENTRIES", 3)
    several = [asked(model, new_tokens=count) for count in range(1, 6)]
    for age, one in enumerate(several):
        assert kept.keep(one, one, _answer())
        for file in kept.folder().iterdir():
            os.utime(file, (file.stat().st_mtime - 10 + age, file.stat().st_mtime - 10))
    assert kept.content().entries == 3
    assert [kept.find(one) is not None for one in several] == [False, False, True, True, True]
    monkeypatch.setattr(kept, "MOST_BYTES", 1)
    assert kept.keep(several[0], several[0], _answer())
    assert kept.content().entries == 0


def test_a_cache_that_cannot_be_written_is_no_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPSPROBE_CACHE", str(model / "config.json" / "below a file"))
    now = asked(model)
    assert kept.find(now) is None
    assert not kept.keep(now, now, _answer())
    assert kept.content().entries == 0


@pytest.mark.slow
def test_a_branch_that_moves_is_predicted_anew(tmp_path: Path) -> None:
    def config(layers: int) -> dict[str, bytes]:
        return {"config.json": json.dumps({**LLAMA, "num_hidden_layers": layers}).encode()}

    other = "b" * 40
    assert other != COMMIT
    repository = Repository(config(1), commits={other: config(2)}, refs={"stable": COMMIT})
    with serve({"org/model": repository}) as hub:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}

        def ask() -> dict[str, Any]:
            done = subprocess.run(
                [sys.executable, "-m", "mpsprobe", "--json", "predict", "org/model", "--revision", "stable"],
                env={**variables, **environment(hub.url, tmp_path)}, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            found: dict[str, Any] = json.loads(done.stdout)
            return found

        first, second = ask(), ask()
        repository.refs["stable"] = other
        third = ask()
    assert [bool(one["predicted"].get("kept_since")) for one in (first, second, third)] == [
        False,
        True,
        False,
    ]
    assert third["target"]["parameters"] > second["target"]["parameters"] == first["target"]["parameters"]


@pytest.mark.slow
def test_the_real_command_takes_it_without_torch(model: Path) -> None:
    code = (
        "import sys\nfrom mpsprobe.cli import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)\n"
    )
    for torch in ("True", "False"):
        ran = subprocess.run(
            [sys.executable, "-c", code, "predict", str(model)], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stderr.split()[-1] == torch
