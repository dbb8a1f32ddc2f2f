"""The campaign: its targets can be written and found, and its page keeps failures as rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

import campaign_table
import campaign_target
from campaign import said
from mpsprobe.models.targets import resolve
from mpsprobe.models.weightless import from_config
from mpsprobe.models.weightless.weights_dtype import dtype_of
from mpsprobe.options import Settings

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers and torch on import

_TARGETS = campaign_target.read()


def test_names_are_unique_and_breadth_is_as_said() -> None:
    assert len({target.name for target in _TARGETS}) == len(_TARGETS)
    assert len({target.cls for target in _TARGETS if not (target.pipeline or target.repository)}) >= 40
    assert sum(bool(target.pipeline) for target in _TARGETS) >= 5
    assert len({target.repository for target in _TARGETS if target.repository}) >= 3


@pytest.mark.parametrize(
    "target", [one for one in _TARGETS if not one.repository], ids=lambda target: str(target.name)
)
def test_each_target_is_a_folder_that_is_found(
    target: campaign_target.CampaignTarget, tmp_path: Path
) -> None:
    target.write(tmp_path)
    ref = resolve(Settings(target.model(tmp_path, small=False)[0], random_init=True))
    assert ref.profile.name == ("diffusers" if target.pipeline else "transformers")
    if not target.pipeline:
        blueprint = from_config.of_folder(tmp_path)
        assert blueprint.model_class is getattr(transformers, target.cls)
        assert str(dtype_of(blueprint.config)) == f"torch.{target.weights_dtype}"


def test_an_error_is_a_row_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "err").write_text("Some warning\nmpsprobe: it cannot be built | at all\n  Do this.\n")
    result: dict[str, Any] = {"cpu_s": 1.0, "rss_bytes": 2e9, "wall_s": 1.5, "timed_out": False, "code": 1}
    row = said("predict", result, tmp_path)
    assert row["error"] == "it cannot be built | at all"
    target = campaign_target.CampaignTarget("one", "encoder", "somewhere", cls="BertModel")
    page = campaign_table.page([target], {"4.57.1": {"one": {"predict": row}}})
    line = next(line for line in page.splitlines() if line.startswith("| one |"))
    assert "it cannot be built \\| at all" in line
    assert line.replace("\\|", "").count("|") == 13  # twelve columns
    assert "0 of 1 to the end" in page


def test_releases_are_counted_by_task() -> None:
    native = {"fully_native": True, "not_native": {}, "findings": {}, "stopped": ""}
    missing = {**native, "fully_native": False, "not_native": {"raises": ["aten::angle"]}}
    targets = [
        campaign_target.CampaignTarget(name, task, "somewhere", cls="BertModel")
        for name, task in (("one", "encoder"), ("two", "speech"))
    ]
    results = {
        "4.57.1": {
            "one": {"releases": {"releases": {"2.0": native, "2.1": native}}},
            "two": {"releases": {"releases": {"2.0": missing, "2.1": native}}},
        }
    }
    page = campaign_table.page(targets, results)
    assert "| speech | 1 | 0 | 1 |" in page
    assert "| all | 2 | 1 | 2 |" in page
    assert "| 2.0 | `aten::angle` raises (1) |" in page
