"""The suite that ships: `from mpsprobe.suite import *` in one test file adopts it in any repository.

Each test makes one check of a phase on that phase's link; the assertions are in `mpsprobe.phases`. The tests are
imported on first use, because every pytest of an environment loads `mpsprobe.suite.plugin`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpsprobe.suite.test_benchmarks import test_benchmark
    from mpsprobe.suite.test_op_uses import test_op_use, test_ops
    from mpsprobe.suite.test_phase1_availability import test_availability
    from mpsprobe.suite.test_phase2_pins import test_pins
    from mpsprobe.suite.test_phase3_download import test_download
    from mpsprobe.suite.test_phase4_transfer import test_transfer
    from mpsprobe.suite.test_phase5_data import test_data
    from mpsprobe.suite.test_phase6_inference import test_inference, test_refusals
    from mpsprobe.suite.test_training_steps import test_training

#: The module of each test. No module has the name of a test, or the package attribute would be the module.
_TESTS = {
    "test_availability": "test_phase1_availability",
    "test_benchmark": "test_benchmarks",
    "test_data": "test_phase5_data",
    "test_download": "test_phase3_download",
    "test_inference": "test_phase6_inference",
    "test_op_use": "test_op_uses",
    "test_ops": "test_op_uses",
    "test_pins": "test_phase2_pins",
    "test_refusals": "test_phase6_inference",
    "test_training": "test_training_steps",
    "test_transfer": "test_phase4_transfer",
}

__all__ = [
    "test_availability",
    "test_benchmark",
    "test_data",
    "test_download",
    "test_inference",
    "test_op_use",
    "test_ops",
    "test_pins",
    "test_refusals",
    "test_training",
    "test_transfer",
]


def __getattr__(name: str) -> Any:
    """Import a test of the suite on first use.

    Raises:
        AttributeError: The suite has no such test.
    """
    if name not in _TESTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_TESTS[name]}"), name)
