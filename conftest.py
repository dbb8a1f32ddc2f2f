"""Short options for this checkout: `pytest -m phase4 --device emulated --model PATH`.

Other repositories use the prefixed ones (`--mpsprobe-device`), which cannot collide with their own.
"""

from __future__ import annotations

import pytest

from mpsprobe.models import late_imports


def pytest_addoption(parser: pytest.Parser) -> None:
    """Short names of the plugin's options."""
    parser.addoption("--model", dest="mpsprobe_model", help="same as --mpsprobe-model")
    parser.addoption("--device", dest="mpsprobe_device", help="same as --mpsprobe-device")
    parser.addoption("--profile", dest="mpsprobe_profile", help="same as --mpsprobe-profile")


def pytest_configure() -> None:
    """Import what mpsprobe's own processes import, and no more: two seconds of each of some thirty processes."""
    late_imports.postpone()
