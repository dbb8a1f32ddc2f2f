"""The site's hook publishes the schema that the types make, under the version that run.json states."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from mpsprobe.run import SCHEMA_VERSION, json_schema
from tests.docs.test_commands import CHECKOUT


def test_the_schema_is_published_under_its_version(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("hooks", CHECKOUT / "tools" / "mkdocs_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    hooks.on_post_build({"site_dir": str(tmp_path)})
    assert json.loads((tmp_path / "schema" / f"run-{SCHEMA_VERSION}.json").read_text()) == json_schema()


def test_the_site_asks_no_other_host() -> None:
    config = (CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "\n  font: false" in config
    assert (
        "\nrepo_url:" not in config
    )  # mkdocs-material then asks GitHub for stars and releases, on every page
