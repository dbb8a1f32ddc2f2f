"""Time the reader of the release files: `python -m op_support.bench` (loading cold, looking up warm)."""

from __future__ import annotations

import subprocess
import sys
import time

from mpsprobe.knowledge import ops

_COLD = """
import time
from mpsprobe.knowledge import ops
ops.releases()
start = time.perf_counter()
ops.release({release!r})
print((time.perf_counter() - start) * 1e3)
"""
_OPS = ("aten::add.Tensor", "aten::linalg_eigh", "aten::_linalg_svd.U", "aten::scaled_dot_product_attention")
_ROUNDS = 200


def main() -> None:
    """Print the time of loading each release in a fresh process, and of looking ops up in loaded ones."""
    for release in ops.releases():
        code = _COLD.format(release=release)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        print(f"load {release}: {float(done.stdout):.1f} ms in a fresh process")  # noqa: T201
    start = time.perf_counter()
    ops.known_ops()
    print(f"load all: {(time.perf_counter() - start) * 1e3:.1f} ms")  # noqa: T201
    for release in ops.releases():
        ops.release(release).lookup(_OPS[0])
    start = time.perf_counter()
    for _ in range(_ROUNDS):
        for op in _OPS:
            for release in ops.releases():
                ops.release(release).lookup(op)
    per_op = (time.perf_counter() - start) / _ROUNDS / len(_OPS)
    print(f"look one op up over all releases: {per_op * 1e3:.3f} ms")  # noqa: T201


if __name__ == "__main__":
    main()
