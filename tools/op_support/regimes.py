"""Read how each MPS kernel of each torch release computes: with MPSGraph, with a Metal kernel of PyTorch, or neither.

    python -m op_support.regimes --wheels DIR 2.1 2.2 ... 2.15

This is read in the machine code of the macOS wheels, as the op table is: calls are followed from the function that
the library registers for an op, to see which of these three ways to the GPU they reach:

- `at::native::mps::runMPSGraph`: a graph, which the host has to look up, feed and encode;
- `MetalShaderLibrary` (or `dispatchThreads` itself, or a `DispatchStub`: PyTorch registers those for MPS only with
  its own Metal kernels);
- an `encodeToCommandBuffer` of a matrix kernel of Metal Performance Shaders.

Calls that only prepare an input (gathering a strided view, copying a scalar) are not followed. The command writes
`src/mpsprobe/knowledge/data/regimes.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import deque
from pathlib import Path

import msgspec

from mpsprobe.knowledge._opfile import Kernel
from op_support import schemas, wheel
from op_support.callgraph import CallGraph
from op_support.machine import Machine
from op_support.macho import Image
from op_support.registrations import read as read_registrations
from op_support.resolve import dispatch

_DATA = Path(__file__).resolve().parents[2] / "src" / "mpsprobe" / "knowledge" / "data"
#: Parts of names of functions that prepare an input or submit a command buffer, and do nothing specific to the op.
_PREPARES = (
    "11Placeholder",
    "gatherViewTensor",
    "scatterViewTensor",
    "ViewTensor",
    "mps_copy",
    "copy_",
    "MPSDevice",
    "MPSStream",
)
_DEPTH, _WIDTH = 9, 3000


def _way(name: str) -> str:
    """Return the letter of the way to the GPU (`G`, `M` or `K`) that a function's name shows; `""` for none."""
    if "11runMPSGraph" in name:
        return "G"
    if "DispatchStub" in name or "MetalKernelFunction" in name or "objc_msgSend$dispatchThread" in name:
        return "M"
    if "MetalShaderLibrary" in name and "getFunctionNames" not in name:
        return "M"
    return "K" if "encodeToCommandBuffer:" in name and "feeds:" not in name else ""


def ways(graph: CallGraph, kernel: int) -> set[str]:
    """Return the letters of the ways to the GPU that a kernel reaches: `G` (MPSGraph), `M` (Metal), `K` (matrix)."""
    start = graph._code.start_of(kernel)
    depths, queue, found = {start: 0}, deque([start]), set[str]()
    while queue:
        function = queue.popleft()
        found |= {_way(graph._name(target)) for target in graph._code.function(function).callees}
        if depths[function] >= _DEPTH or len(depths) > _WIDTH:
            continue
        for callee in graph._local(function).callees:
            name = graph._name(callee)
            if callee not in depths and not _way(name) and not any(part in name for part in _PREPARES):
                depths[callee] = depths[function] + 1
                queue.append(callee)
    return found - {""}


def letter(found: set[str]) -> str:
    """Return the letter of an op's `Regime` (`M`, `G`, `B`, `K` or `o`) for the ways to the GPU that it reaches."""
    if "G" in found:
        return "G" if found == {"G"} else "B"
    return "M" if "M" in found else "K" if "K" in found else "o"


def of_wheel(path: Path, root: Path) -> dict[str, str]:
    """Return the letter of the regime of every op with its own MPS kernel; the wheel is unpacked below `root`."""
    unpacked = wheel.unpack(path, root)
    image = Image(root / wheel.LIBRARY)
    registrations = read_registrations(Machine(image))
    parsed = schemas.read(root)
    ops = {f"aten::{name}" for name in parsed.names}
    ops |= {one.op for one in registrations if one.op.startswith("aten::")}
    views = {f"aten::{name}" for name in parsed.views}
    kernels = dispatch(ops, views, unpacked.python_kernels, registrations)
    graph = CallGraph(image)
    return {
        op.removeprefix("aten::"): letter(ways(graph, entry.address))
        for op, entry in kernels.items()
        if entry.kernel is Kernel.MPS and entry.address is not None
    }


def main(arguments: list[str]) -> int:
    """Read the wheels of all releases, and write `regimes.json`."""
    parser = argparse.ArgumentParser(prog="op_support.regimes", description=__doc__)
    parser.add_argument("release", nargs="+", help="minor releases, oldest first")
    parser.add_argument(
        "--wheels", type=Path, required=True, help="folder that keeps the wheels between runs"
    )
    parser.add_argument("--output", type=Path, default=_DATA / "regimes.json")
    options = parser.parse_args(arguments)
    sys.setrecursionlimit(20_000)
    table: dict[str, dict[str, str]] = {}
    files: list[str] = []
    for release in options.release:
        pinned = json.loads((_DATA / "ops" / f"{release}.json").read_bytes())["wheel"]
        path = options.wheels / pinned["file"]
        if not path.is_file():
            path = wheel.fetch(f"torch=={pinned['version']}", options.wheels)
        files.append(path.name)
        with tempfile.TemporaryDirectory(prefix="op_support-") as scratch:
            for op, found in of_wheel(path, Path(scratch)).items():
                table.setdefault(op, {})[release] = found
        print(f"{release}: {sum(release in row for row in table.values())} ops", flush=True)  # noqa: T201
    write(options.output, options.release, files, table)
    return 0


def write(output: Path, releases: list[str], files: list[str], table: dict[str, dict[str, str]]) -> None:
    """Write the data file, with one line for each op."""
    ops = {op: "".join(row.get(release, "-") for release in releases) for op, row in sorted(table.items())}
    head = {"source": "tools/op_support/regimes.py", "wheels": files, "releases": releases}
    lines = [f"  {json.dumps(op)}: {json.dumps(row)}" for op, row in ops.items()]
    text = json.dumps(head)[:-1] + ', "ops": {\n' + ",\n".join(lines) + "\n}}\n"
    msgspec.json.decode(text.encode())
    output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
