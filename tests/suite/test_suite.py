"""Adopts the shipped suite, as any repository would: one line."""

import pytest

from mpsprobe.suite import *  # noqa: F403

pytestmark = pytest.mark.own_process
