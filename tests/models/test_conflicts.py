"""Packages that do not fit each other, against distributions made here and texts of the packages themselves."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from mpsprobe.errors import UsageError
from mpsprobe.models import conflicts
from mpsprobe.models.weightless import from_config


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path that may hold the metadata of distributions; it hides those that are installed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def _installed(site: Path, name: str, version: str, *requires: str) -> None:
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (folder / "METADATA").write_text(
        "\n".join([*lines, *(f"Requires-Dist: {one}" for one in requires)]) + "\n"
    )


def test_hub_that_is_too_new_is_named_with_its_command(site: Path) -> None:
    """The text is that of transformers 4.57.1 beside huggingface-hub 2.4.0."""
    _installed(site, "huggingface-hub", "2.4.0")
    _installed(site, "transformers", "4.57.1", "huggingface-hub<1.0,>=0.34.0", "tokenizers<=0.23.0,>=0.22.0")
    problem = ImportError(
        "huggingface-hub>=0.34.0,<1.0 is required for a normal functioning of this module, but found "
        "huggingface-hub==2.4.0."
    )
    said, command = conflicts.explain(problem)
    assert "transformers 4.57.1 requires huggingface-hub <1.0,>=0.34.0, and 2.4.0 is installed" in said
    assert command.startswith("python -m pip install 'huggingface-hub<1.0,>=0.34.0")


def test_newcomer_gives_way_to_what_needs_the_old_hub(site: Path) -> None:
    """Kernels 0.17.2 requires huggingface-hub 1.10 or later, transformers 4.57.1 one below 1.0."""
    _installed(site, "huggingface-hub", "0.36.2")
    _installed(site, "transformers", "4.57.1", "huggingface-hub<1.0,>=0.34.0")
    _installed(site, "kernels", "0.17.2", "huggingface-hub>=1.10.0")
    found = conflicts.mismatches(["transformers", "kernels"])
    assert [one.by for one in found] == ["kernels 0.17.2"]
    assert conflicts.fix(found) == "python -m pip install 'huggingface-hub<1.0,>=0.34.0' kernels"


def test_package_that_raises_at_its_import_is_named(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As diffusers 0.35.2 beside torchao 0.18, whose module raises NameError after an ImportError."""
    _installed(site, "timm", "1.0.0")
    _installed(site, "oldpart", "0.18.0")
    packages = site / "site-packages"
    for name, code in {"timm": "import oldpart", "oldpart": "logger.warning('gone')"}.items():
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(packages)
    with pytest.raises(NameError) as raised:
        importlib.import_module("timm")
    said, command = conflicts.explain(raised.value)
    assert "The installed timm cannot be imported: NameError: name 'logger' is not defined" in said
    assert "oldpart 0.18.0, timm 1.0.0" in said
    assert command == "python -m pip install --upgrade timm"


def test_torchvision_of_another_torch_gives_way(site: Path) -> None:
    _installed(site, "torch", "2.13.0")
    _installed(site, "torchvision", "0.29.2", "torch==2.14.2")
    said, command = conflicts.explain(RuntimeError("operator torchvision::nms does not exist"))
    assert "torchvision 0.29.2 does not fit the installed torch 2.13.0" in said
    assert "torchvision==0.28.*" in command
    assert (
        conflicts.fix(conflicts.mismatches(["torchvision"])) == "python -m pip install 'torchvision==0.28.*'"
    )


def test_error_that_is_no_import_is_not_blamed_on_packages(site: Path) -> None:
    _installed(site, "huggingface-hub", "2.4.0")
    _installed(site, "transformers", "4.57.1", "huggingface-hub<1.0")
    assert conflicts.explain(ValueError("a shape is wrong")) == ("", "")
    assert conflicts.explain(ImportError("No module named 'flash_attn'"))[1] == ""


def test_packages_that_fit_are_no_mismatch(site: Path) -> None:
    _installed(site, "huggingface-hub", "0.36.0")
    _installed(site, "transformers", "4.57.1", "huggingface-hub<1.0,>=0.34.0", 'torch>=99; extra == "torch"')
    assert conflicts.mismatches(["transformers"]) == []


def test_a_missing_torchvision_is_named_with_its_release(site: Path) -> None:
    """torchvision 0.28 is the release built for torch 2.13 (pypi.org/project/torchvision)."""
    _installed(site, "torch", "2.13.0")
    assert conflicts.beside_torch("torchvision") == "python -m pip install 'torchvision==0.28.*'"
    assert conflicts.beside_torch("torchaudio") == "python -m pip install 'torchaudio==2.13.*'"


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("import bidi_of_nobody", "Install the package of 'bidi_of_nobody'"),
        ("from ocr.version import v", "project generates comes with python -m pip install -e"),
        ("import torch\ntorch.zeros(1).cuda()", "asks for CUDA while it is imported"),
        ("import os\nos.environ['OCR_DATA']", "It raised at"),
        ("from numpy import cached_download", "The installed numpy"),
    ],
)
def test_failed_imports_have_a_next_step(
    source: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OCR_DATA", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "ocr").mkdir()
    (tmp_path / "ocr" / "__init__.py").write_text(source)
    with pytest.raises(UsageError) as raised:
        from_config.of_class("ocr:Model", None)
    assert hint in raised.value.hint
    if "raised" in hint or "CUDA" in hint:
        assert str(tmp_path / "ocr" / "__init__.py:2") in raised.value.hint


def test_code_of_a_later_python_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As lerobot, whose functions have type parameters of Python 3.12."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "later.py").write_text("def first[T of](values):\n    pass\n")
    with pytest.raises(UsageError) as raised:
        from_config.of_class("later:Model", None)
    assert f"cannot read {tmp_path / 'later.py'}:1" in raised.value.hint
    (tmp_path / "pyproject.toml").write_text('[project]\nrequires-python = ">=3.99"\n')
    with pytest.raises(UsageError) as raised:
        from_config.of_class("later:Model", None)
    assert f"{tmp_path / 'later.py'}:1 is written for Python >=3.99" in raised.value.hint


def test_module_names_that_pypi_spells_otherwise() -> None:
    """pypi.org: the distributions that install cv2, google.protobuf and bidi."""
    for module, name in {"cv2": "opencv-python", "google": "protobuf", "bidi": "python-bidi"}.items():
        problem = ModuleNotFoundError(f"No module named {module!r}", name=module)
        assert conflicts.absent(problem) == f"python -m pip install {name}"


def test_installed_torchvision_is_not_installed_again(site: Path) -> None:
    """As RT-DETR, which imports torchvision.datapoints of 0.15: the release that fits torch lacks it."""
    (site / "torchvision").mkdir()
    (site / "torchvision" / "__init__.py").write_text("")
    problem = ImportError("cannot import name 'datapoints' from 'torchvision'", name="torchvision")
    assert "python -m pip install" not in conflicts.absent(problem)
