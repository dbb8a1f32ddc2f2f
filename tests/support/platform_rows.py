"""Predict small models of many architectures and print what reached the MPS key, for comparison between platforms.

    python -m tests.support.platform_rows 30

prints one JSON object: for each model its findings and its op uses (op, verdict, flags, dtypes, shapes and strides),
with how often each occurs.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mpsprobe.device.virtual.memoryless.engine import MemorylessKernels
from mpsprobe.device.virtual.observer import Quiet
from mpsprobe.device.virtual.session import predict
from mpsprobe.knowledge import ops
from tests.device.virtual.zoo import ZOO, Entry

#: Whose rules apply: older than what is installed, so that some ops of the installed one are not there.
RELEASE = "2.8"


class _Uses(Quiet):
    """Counts op uses with their verdicts."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self._release = ops.release(RELEASE)

    def op(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, flags: int) -> None:
        name = func._schema.name + (f".{func._schema.overload_name}" if func._schema.overload_name else "")
        try:
            verdict = self._release.lookup(name).verdict(fallback=False).value
        except ops.UnknownOpError:
            verdict = "unknown"
        forms = [f"{one.dtype} {list(one.shape)} {list(one.stride())}" for one in _tensors((*args, result))]
        self.seen[f"{name} {verdict} {int(flags)} {' | '.join(forms)}"] += 1


def _tensors(values: Any) -> list[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, (list, tuple)):
        return [one for value in values for one in _tensors(value)]
    return []


def row(entry: Entry) -> dict[str, Any]:
    """Predict one use of a model."""
    uses = _Uses()
    with predict(RELEASE, fallback=False, observer=uses) as session:
        assert isinstance(session.kernels, MemorylessKernels)
        session.kernels.float_limit = 256  # the models are small, and tensors without memory are meant
        torch.manual_seed(0)
        with torch.device("mps"):
            model = entry.build().to("mps")
        uses.seen.clear()
        entry.run(model, "mps")
        del model
        findings = sorted(f"{one.kind} {one.op} {one.message}" for one in session.findings)
    return {"uses": dict(sorted(uses.seen.items())), "findings": findings}


def main() -> None:
    """Print the rows of the first N models."""
    warnings.simplefilter("ignore")
    rows = {entry.name: row(entry) for entry in ZOO[: int(sys.argv[1])]}
    json.dump(rows, sys.stdout)


if __name__ == "__main__":
    main()
