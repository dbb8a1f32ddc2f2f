"""Which files a target stands for, and that nothing of it is imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mpsprobe.errors import TargetError
from mpsprobe.scan import sources


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on the import path that raises when any part of it is imported."""
    folder = tmp_path / "lib" / "mpsprobe_explosive"
    (folder / "inner").mkdir(parents=True)
    for name in ("__init__.py", "inner/__init__.py", "inner/part.py", "other.py"):
        (folder / name).write_text("raise SystemExit('imported')\n")
    (folder / "tests").mkdir()
    (folder / "tests" / "helper.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    return folder


def names(found: sources.Sources, below: Path) -> list[str]:
    return sorted(file.relative_to(below).as_posix() for file in found.files)


def test_a_package_is_found_without_importing_it_or_its_parents(package: Path) -> None:
    whole = sources.of_package("mpsprobe_explosive")
    assert names(whole, package) == ["__init__.py", "inner/__init__.py", "inner/part.py", "other.py"]
    assert whole.tests_left_out == 1
    assert names(sources.of_package("mpsprobe_explosive.inner"), package) == [
        "inner/__init__.py",
        "inner/part.py",
    ]
    assert names(sources.of_package("mpsprobe_explosive.inner.part"), package) == ["inner/part.py"]
    assert not [name for name in sys.modules if name.startswith("mpsprobe_explosive")]


def test_a_namespace_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mpsprobe_space" / "deep").mkdir(parents=True)
    (tmp_path / "mpsprobe_space" / "deep" / "code.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert names(sources.of_package("mpsprobe_space.deep"), tmp_path) == ["mpsprobe_space/deep/code.py"]


@pytest.mark.parametrize(
    "name", ["mpsprobe_no_such", "sys", "mpsprobe_explosive.no", "a..b", "", "1x", "no/such.py"]
)
def test_what_cannot_be_found_is_one_clear_error(name: str, package: Path) -> None:
    with pytest.raises(TargetError):
        sources.of_package(name)


def test_a_folder_yields_no_environments_and_no_tests(tmp_path: Path) -> None:
    for name in (
        "a.py",
        "b/c.py",
        ".venv/x.py",
        "node_modules/y.py",
        "test_a.py",
        "b/a_test.py",
        "tests/z.py",
        "n.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("def test_it():\n    assert True\n" if "test" in name else "x = 1\n")
    assert names(sources.of_path(tmp_path), tmp_path) == ["a.py", "b/c.py"]
    assert len(sources.of_path(tmp_path, tests=True).files) == 5
    assert names(sources.of_path(tmp_path, exclude=["b/*"]), tmp_path) == ["a.py"]
    assert names(sources.of_path(tmp_path, exclude=["a.py"]), tmp_path) == ["b/c.py"]
    # Below a folder called tests that was asked for, nothing is a test's only because of that name.
    assert names(sources.of_path(tmp_path / "tests"), tmp_path) == ["tests/z.py"]
    assert sources.of_path(tmp_path / "n.txt").files == (tmp_path / "n.txt",)  # asked for by name


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert names(sources.of_path(tmp_path), tmp_path) == ["a.py"]


def test_a_models_own_code_or_that_of_its_type(tmp_path: Path) -> None:
    config = {"model_type": "xlm-roberta", "auto_map": {"AutoModel": "other/repo--modeling.Net"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert sources.is_model_folder(tmp_path)
    borrowed = sources.of_model(tmp_path, "owner/name")
    assert {file.parent.name for file in borrowed.files} == {"xlm_roberta"}
    assert any("transformers.models.xlm_roberta" in remark for remark in borrowed.remarks)
    assert any("other/repo" in remark for remark in borrowed.remarks)
    (tmp_path / "modeling.py").write_text("x = 1\n")
    assert names(sources.of_model(tmp_path, "owner/name"), tmp_path) == ["modeling.py"]
    (tmp_path / "modeling.py").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-type"}))
    with pytest.raises(TargetError, match="no-such-type"):
        sources.of_model(tmp_path, "owner/name")


def test_paths_are_shown_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sources.shown(tmp_path / "a" / "b.py") == "a/b.py"
    assert sources.shown(Path("a/b.py")) == "a/b.py"
    assert sources.shown(Path("/elsewhere/b.py")) == "/elsewhere/b.py"


def test_script_named_as_a_test_is_read(tmp_path: Path) -> None:
    """As alpamayo's test_inference.py: a program, while a file with tests stays out."""
    (tmp_path / "test_inference.py").write_text("import torch\nx = torch.zeros(1).cuda()\n")
    (tmp_path / "test_unit.py").write_text("def test_it():\n    assert True\n")
    found = sources.of_path(tmp_path)
    assert [file.name for file in found.files] == ["test_inference.py"]
    assert found.tests_left_out == 1
