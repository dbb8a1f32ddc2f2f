"""Hooks of the documents' site: it publishes the JSON Schema of run.json under the version of the document.

`schema/run-1.json` of the site is `src/mpsprobe/run.schema.json`; the version is `SCHEMA_VERSION`, read without
an import.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SOURCE = Path(__file__).resolve().parents[1] / "src" / "mpsprobe"


def schema_version() -> int:
    """Return the version of run.json's schema that the sources state.

    Raises:
        LookupError: The sources state none.
    """
    tree = ast.parse((_SOURCE / "run" / "document.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SCHEMA_VERSION":
            return int(ast.literal_eval(node.value))
    raise LookupError("run/document.py names no SCHEMA_VERSION")


def on_post_build(config: Mapping[str, Any], **_: Any) -> None:
    """Copy the JSON Schema of run.json into the built site, under its version."""
    folder = Path(config["site_dir"]) / "schema"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(_SOURCE / "run.schema.json", folder / f"run-{schema_version()}.json")
