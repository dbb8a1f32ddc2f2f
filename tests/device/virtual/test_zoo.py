"""Architectures from transformers in both engines."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.device.virtual.engines import check_both_engines
from tests.device.virtual.zoo import ZOO, Entry

pytestmark = [
    pytest.mark.own_process,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # those of transformers about options of tiny configs
]


@pytest.mark.parametrize("entry", ZOO, ids=[entry.name for entry in ZOO])
def test_both_engines(entry: Entry, record_property: Callable[[str, object], None]) -> None:
    check_both_engines(entry.build, entry.run, record_property)
