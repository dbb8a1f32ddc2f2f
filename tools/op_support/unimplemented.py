"""Compare the op support data with PyTorch's own list, the `UNIMPLEMENTED_XFAILLIST` of wheels from 2.8 on.

`python -m op_support.unimplemented` compares, release by release, the operator tests (OpInfo) that PyTorch expects
to fail on MPS in every dtype with this data on the ops that those tests run. Each disagreement must be explained in
`unimplemented.toml`; an unexplained one makes the command end with 1.

What this data says of an OpInfo is decided by the ATen op of its name, if that has a kernel on MPS or certainly
calls a missing op, else by the ops that its samples run on a CPU (`data/ops/opinfo.json`).
"""

from __future__ import annotations

import argparse
import enum
import functools
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mpsprobe import toml
from mpsprobe.knowledge import _pasted, ops
from mpsprobe.run import OpVerdict

EXPLANATIONS = Path(__file__).parent / "unimplemented.toml"
#: Names of kernels of the CPU, which MPS does not run.
_CPU_ONLY = re.compile(r"mkldnn|_for_cpu|_thnn_fused|slow_conv|native_dropout|_nnpack")


class Side(str, enum.Enum):
    """Which of two sources says that a test fails: PyTorch's list, or this data."""

    PYTORCH = "pytorch"  #: its tests expect a failure, this data says that the op runs
    OURS = "ours"  #: this data says that it raises, PyTorch's tests expect success


class Explanation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why the two sources disagree about some tests.

    Attributes:
        why: The explanation in one or two sentences.
        side: The side that says that the test fails.
        names: The OpInfo names with variant.
        since: The first release; empty for any.
        until: The last release; empty for any.
    """

    why: str
    side: Side
    names: list[str]
    since: str = ""
    until: str = ""

    def covers(self, found: Disagreement) -> bool:
        order = ops.releases().index
        return (
            found.side is self.side
            and found.name in self.names
            and (not self.since or order(found.torch) >= order(self.since))
            and (not self.until or order(found.torch) <= order(self.until))
        )


class Explanations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The schema of `unimplemented.toml`."""

    explanation: list[Explanation]


@dataclass(frozen=True)
class Disagreement:
    """An OpInfo on which the sources disagree in one release; `ours` holds the ops that this data calls missing."""

    torch: str
    name: str
    side: Side
    ours: tuple[str, ...]


@functools.cache
def compare(torch: str) -> tuple[int, list[Disagreement]]:
    """Return the number of OpInfos on which both sources agree in a release, and the disagreements."""
    listed = ops.release(torch).unimplemented
    agree = 0
    differ = []
    for key, called in _pasted.opinfo_ops().items():
        name = key.replace(":", "")
        fails_in = listed.get(name, [])  # None: in every dtype
        certain, possible = _missing(key.partition(":")[0], called, torch)
        if fails_in is None and not certain and not possible:
            differ.append(Disagreement(torch, name, Side.PYTORCH, ()))
        elif not fails_in and fails_in is not None and certain:
            differ.append(Disagreement(torch, name, Side.OURS, tuple(sorted(certain))))
        else:
            agree += 1
    return agree, differ


@functools.cache
def _overloads(torch: str) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for op in sorted(ops.release(torch).names):
        found.setdefault(_pasted.base(op), []).append(op)
    return found


def _missing(name: str, called: Iterable[str], torch: str) -> tuple[set[str], set[str]]:
    """Return the missing ops that an OpInfo calls by this data: those that it certainly calls, and possible ones."""
    release = ops.release(torch)
    own = _pasted.python_name(f"torch.{name}")
    functional = [op for op in _overloads(torch).get(own or "", ()) if not op.endswith("out")]
    found = [release.lookup(op) for op in functional]
    if any(support.kernel in _HAS_KERNEL for support in found):
        return set(), set()
    if found and all(support.verdict(fallback=False) is OpVerdict.RAISES for support in found):
        return {support.via or support.op for support in found}, set()
    run = [release.lookup(op) for op in called if not _CPU_ONLY.search(op)]
    certain = {s.via or s.op for s in run if s.verdict(fallback=False) is OpVerdict.RAISES}
    return certain, {s.via for s in run if not s.certain}


_HAS_KERNEL = frozenset({ops.Kernel.MPS, ops.Kernel.PYTHON, ops.Kernel.CPU_FALLBACK})


def unexplained(found: list[Disagreement]) -> Iterator[Disagreement]:
    """Yield the disagreements that no explanation covers."""
    explanations = toml.load(EXPLANATIONS, Explanations).explanation
    return (item for item in found if not any(explanation.covers(item) for explanation in explanations))


def main(arguments: list[str]) -> int:
    """Print the agreement of each release and every unexplained disagreement; return 1 when there is one."""
    parser = argparse.ArgumentParser(prog="op_support.unimplemented", description=__doc__)
    parser.add_argument("release", nargs="*", help="default: all that ship the list")
    shipping = [torch for torch in ops.releases() if ops.release(torch).unimplemented]
    failed = False
    for torch in parser.parse_args(arguments).release or shipping:
        agree, differ = compare(torch)
        left = list(unexplained(differ))
        sides = Counter(item.side.value for item in differ)
        print(f"{torch}: {agree} agree, {dict(sides)} differ, {len(left)} unexplained")  # noqa: T201
        for item in left:
            print(f"  {item.side.value}: {item.name} {' '.join(item.ours)}")  # noqa: T201
        failed = failed or bool(left)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
