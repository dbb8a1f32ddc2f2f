"""The folder that stands in where the hub does not give the repository's own config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mpsprobe.models import targets
from mpsprobe.models.alpamayo import published
from mpsprobe.models.hub import client
from mpsprobe.models.weightless import config_only
from mpsprobe.options import Settings


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(repo: str, *_: object, **__: object) -> None:
        raise client.HubUnreachableError(f"{repo}: the hub cannot be reached.")

    monkeypatch.setattr(client, "fetch_file", refuse)
    monkeypatch.setenv("MPSPROBE_CACHE", str(tmp_path))


@pytest.mark.usefixtures("unreachable")
def test_a_config_of_the_package_stands_in_without_a_hub() -> None:
    ref = targets.resolve(Settings("NVIDIA/Alpamayo-R1-10B", random_init=True))
    snapshot = config_only.obtain(ref)
    assert snapshot.architecture == "AlpamayoR1"
    assert (snapshot.path / published.MARK).is_file()
    vlm = json.loads((snapshot.path / "vlm" / "config.json").read_text(encoding="utf-8"))
    assert vlm["text_config"]["num_hidden_layers"] == 36


@pytest.mark.usefixtures("unreachable")
@pytest.mark.parametrize(
    "wanted",
    [
        Settings("nvidia/Alpamayo-R1-10B", random_init=True, revision="0123abc"),
        Settings("someone/else", random_init=True, profile="alpamayo-r1"),
    ],
    ids=["a revision", "another repository"],
)
def test_nothing_stands_in_for_what_it_may_not_be(wanted: Settings) -> None:
    with pytest.raises(client.HubUnreachableError):
        config_only.obtain(targets.resolve(wanted))
