"""Commands that take longer run only where they are asked for: `pytest -m docs_commands tests/docs`."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip them unless the marker is named."""
    if "docs_commands" in (config.option.markexpr or ""):
        return
    for item in items:
        if item.get_closest_marker("docs_commands"):
            item.add_marker(pytest.mark.skip(reason="asked for with -m docs_commands"))
