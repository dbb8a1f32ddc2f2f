"""Record which ATen ops PyTorch's own operator tests (OpInfo) run, on the CPU with the installed torch.

`python -m op_support.opinfo_ops` writes `data/ops/opinfo.json`: OpInfo name, a colon, its variant -> the
overloads that compute something in its samples (views and factories are left out). Needs torch and
expecttest; the committed file is from torch 2.13.0. Takes a few minutes.
"""

from __future__ import annotations

import json
import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

_TARGET = (
    Path(__file__).resolve().parents[2] / "src" / "mpsprobe" / "knowledge" / "data" / "ops" / "opinfo.json"
)
_SAMPLES = 8  # the first ones cover the signatures; later ones vary shapes
_SECONDS = 8  # a few samples are built to be slow
_log = logging.getLogger("op_support.opinfo_ops")


def main() -> None:
    """Run the samples of every OpInfo in the first dtype that it has, and write what they called."""
    import torch
    from torch.testing._internal.common_methods_invocations import op_db

    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    called: dict[str, list[str]] = {}
    for info in op_db:
        dtypes = (torch.float32, torch.int64, torch.bool, torch.complex64)
        dtype = next((dtype for dtype in dtypes if dtype in info.dtypes), None)
        if dtype is not None:
            called[f"{info.name}:{info.variant_test_name}"] = sorted(_called(info, dtype))
    lines = [
        f"{json.dumps(name)}:{json.dumps(called[name], separators=(',', ':'))}" for name in sorted(called)
    ]
    _TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def _called(info: Any, dtype: Any) -> set[str]:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace == "aten" and _computes(func._schema):
                found.add(func.name().removeprefix("aten::"))
            return func(*args, **(kwargs or {}))

    found: set[str] = set()
    try:
        with _at_most(_SECONDS):
            for index, sample in enumerate(info.sample_inputs("cpu", dtype)):
                if index == _SAMPLES:
                    break
                with Recorder():  # type: ignore[no-untyped-call]
                    info(sample.input, *sample.args, **sample.kwargs)
    except Exception as problem:  # one OpInfo that the CPU cannot run must not end the rest
        _log.info("%s:%s: %s: %.100s", info.name, info.variant_test_name, type(problem).__name__, problem)
    return found


def _computes(schema: Any) -> bool:
    """Return whether an op computes from tensors: it is neither a view nor a factory."""
    is_view = any(
        result.alias_info is not None and not result.alias_info.is_write for result in schema.returns
    )
    return not is_view and any("Tensor" in str(argument.type) for argument in schema.arguments)


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


if __name__ == "__main__":
    main()
