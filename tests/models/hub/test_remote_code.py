"""A repository's own code: exactly the files that would run are named, and none outside of a repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mpsprobe.errors import TargetError
from mpsprobe.models.hub import remote_code

_MAP = {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}


def _config(auto_map: Any = _MAP) -> dict[str, Any]:
    return {"architectures": ["OwnModel"], "model_type": "own", "auto_map": auto_map}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "repository"
    (made / "parts").mkdir(parents=True)
    (made / "config.json").write_text(json.dumps(_config()))
    (made / "configuration_own.py").write_text("from transformers import PretrainedConfig\n")
    (made / "modeling_own.py").write_text(
        "import numpy as np\nfrom .layers import A\nfrom .configuration_own import B\n"
    )
    (made / "layers.py").write_text("import torch\nfrom .deeper import C\n")
    (made / "deeper.py").write_text("")
    (made / "unused.py").write_text("")
    return made


def _names(folder: Path, auto_map: Any = _MAP) -> list[str]:
    return [file.name for file in remote_code.files(folder, _config(auto_map))]


def test_files_that_are_imported_are_named_and_no_others(folder: Path) -> None:
    found = {file.name: file for file in remote_code.files(folder, _config())}
    assert sorted(found) == ["configuration_own.py", "deeper.py", "layers.py", "modeling_own.py"]
    assert found["modeling_own.py"].imports == ("numpy",)
    assert found["layers.py"].lines == 2
    hint = remote_code.refusal(folder, _config()).hint
    assert str(folder) in hint
    assert all(name in hint for name in found)
    assert "unused.py" not in hint


def test_a_file_in_a_folder_of_the_repository_is_one_of_it(folder: Path) -> None:
    (folder / "parts" / "modeling.py").write_text("from .layers import A\n")
    (folder / "parts" / "layers.py").write_text("")
    table = {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": "parts/modeling.OwnModel"}
    assert _names(folder, table) == ["configuration_own.py", "parts/modeling.py", "parts/layers.py"]


@pytest.mark.parametrize(
    "text",
    ["../outside.OwnModel", "..outside.OwnModel", "{outside}.OwnModel", "parts/../../outside.OwnModel", "OwnModel",
     "own/--modeling_own.OwnModel", "../own--modeling_own.OwnModel", "/own--modeling_own.OwnModel", ".OwnModel", ""],
)  # fmt: skip
def test_no_file_outside_of_a_repository_is_run(folder: Path, text: str) -> None:
    ran = folder.parent / "ran"
    (folder.parent / "outside.py").write_text(f"open({str(ran)!r}, 'w')\nclass OwnModel: pass\n")
    table = {**_MAP, "AutoModel": text.format(outside=folder.parent / "outside")}
    for ask in (remote_code.files, remote_code.refusal, remote_code.load):
        with pytest.raises(TargetError, match="is no class in a file of a repository") as caught:
            ask(folder, _config(table))
        assert "\n" not in str(caught.value)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("layers.py", None, "not complete: no layers.py"),
        ("modeling_own.py", None, "not complete: no modeling_own.py"),
        ("modeling_own.py", b"from .../../outside import x\n", r"modeling_own.py:1: not what Python"),
        ("modeling_own.py", b"'''\nfrom ./../outside import x\n'''\n", "not complete: no .*outside.py"),
        ("modeling_own.py", b"from ..outside import x\n", "not complete: no .outside.py"),
        ("modeling_own.py", b"x = 1\ndef (:\n", "modeling_own.py:2: not what Python"),
        ("modeling_own.py", b"# \xff\n", "modeling_own.py: not what Python can read"),
        ("modeling_own.py", b"x = '\0'\n", "modeling_own.py.*: not what Python"),
    ],
)
def test_code_that_is_not_whole_is_one_line(
    folder: Path, name: str, content: bytes | None, says: str
) -> None:
    (folder.parent / "outside.py").write_text("")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(TargetError, match=says) as caught:
        remote_code.files(folder, _config())
    assert "\n" not in str(caught.value)


def test_a_link_says_where_it_leads(folder: Path) -> None:
    (folder.parent / "elsewhere.py").write_text("")
    (folder / "layers.py").unlink()
    (folder / "layers.py").symlink_to(folder.parent / "elsewhere.py")
    assert f"layers.py -> {folder.parent}/elsewhere.py (" in remote_code.refusal(folder, _config()).hint
    (folder.parent / "elsewhere.py").unlink()
    with pytest.raises(TargetError, match=r"no layers\.py"):
        remote_code.files(folder, _config())


@pytest.mark.parametrize("table", [{}, {"AutoConfig": 3, "AutoModel": ["modeling_own.OwnModel"]}])
def test_a_map_that_names_no_code_says_so(folder: Path, table: Any) -> None:
    assert "names no code for OwnModel" in remote_code.refusal(folder, _config(table)).what


def test_a_map_that_is_none_is_not_one() -> None:
    assert remote_code.is_needed(_config())
    tables: list[Any] = [None, [], "x"]
    for table in tables:
        assert not remote_code.is_needed(_config(table))
    assert not remote_code.is_needed({**_config(), "architectures": ["LlamaForCausalLM"]})
