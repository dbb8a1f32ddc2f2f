"""The suite that ships: `from mpsprobe.suite import *` in one test file adopts it in any repository.

Each test makes one check of a phase on that phase's link; what is asserted lives in `mpsprobe.phases`.
"""

from mpsprobe.suite.test_benchmarks import test_benchmark
from mpsprobe.suite.test_ops import test_op_use, test_ops
from mpsprobe.suite.test_phase1_availability import test_availability
from mpsprobe.suite.test_phase2_pins import test_pins
from mpsprobe.suite.test_phase3_download import test_download
from mpsprobe.suite.test_phase4_transfer import test_transfer
from mpsprobe.suite.test_phase5_data import test_data
from mpsprobe.suite.test_phase6_inference import test_inference, test_mends

__all__ = [
    "test_availability",
    "test_benchmark",
    "test_data",
    "test_download",
    "test_inference",
    "test_mends",
    "test_op_use",
    "test_ops",
    "test_pins",
    "test_transfer",
]
