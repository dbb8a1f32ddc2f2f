import json
from pathlib import Path

import pytest

from mpsprobe.errors import ProfileError
from mpsprobe.models import choose, profile
from mpsprobe.models.adapter import Adapter
from mpsprobe.models.hub.snapshot import ConfigError
from mpsprobe.models.profile import Profile


def folder(tmp_path: Path, architecture: str, *files: str) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    for name in files:
        (tmp_path / name).write_text("[]")
    return tmp_path


def test_architecture_decides(tmp_path: Path) -> None:
    assert choose.for_config(folder(tmp_path, "TinyDrive")).name == "tiny-drive"


def test_marker_outranks_architecture(tmp_path: Path) -> None:
    assert choose.for_config(folder(tmp_path, "BertModel", "modules.json")).name == "sentence-encoder"


def test_generic_profile_for_the_rest(tmp_path: Path) -> None:
    assert choose.for_config(folder(tmp_path, "LlamaForCausalLM")).name == choose.GENERIC


def test_broken_config_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError):
        choose.for_config(tmp_path)


def test_repo_id_is_read_from_the_hubs_cache() -> None:
    assert choose.repo_of(Path("/hub/models--org--my--name/snapshots/abc")) == "org/my--name"
    assert choose.repo_of(Path("/hub/models--gpt2/snapshots/abc")) == "gpt2"
    assert choose.repo_of(Path("/home/me/model")) is None
    assert choose.repo_of(Path("/")) is None


def test_unknown_repo_has_no_profile() -> None:
    assert choose.for_repo("nobody/nothing") is None


def test_no_two_profiles_claim_the_same() -> None:
    everyone = [profile.load(name) for name in profile.names()]
    for key in ("models", "architectures", "markers"):
        claims = [claim for one in everyone for claim in getattr(one, key)]
        assert len(claims) == len(set(claims)), key
    assert {choose.GENERIC, choose.DEFAULT} <= set(profile.names())


@pytest.mark.parametrize("name", profile.names())
def test_every_profile_names_an_adapter(name: str, tmp_path: Path) -> None:
    chosen = profile.load(name)
    assert chosen.name == name
    adapter = choose.make_adapter(chosen, folder(tmp_path, "BertModel"))
    assert isinstance(adapter, Adapter)
    if chosen.builder:
        assert callable(choose.resolve(chosen, "builder", chosen.builder))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nonsense", "not of the form"),
        ("package:", "not of the form"),
        ("no_such_package.module:Class", "cannot be imported: No module named"),
        ("mpsprobe.errors:Nothing", "mpsprobe.errors has no Nothing"),
        ("mpsprobe.errors:UsageError", "not a subclass of"),
        ("mpsprobe.errors:__doc__", "not a subclass of"),
        ("mpsprobe.models.adapter:Adapter", "lacks extract, forward"),
    ],
)
def test_adapter_that_cannot_be_used(spec: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=said):
        choose.make_adapter(Profile(name="mine", title="", adapter=spec), tmp_path)
