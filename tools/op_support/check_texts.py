"""List the texts of the checks in PyTorch's MPS sources, with their ops and releases, from its macOS wheels.

    PYTHONPATH=src:tools python -m op_support.check_texts --wheels FOLDER

writes `src/mpsprobe/knowledge/data/check_texts.json`. `TORCH_CHECK` passes its file, its function and its text to
one function of c10, so the machine code of a check refers to all three: texts near a reference to a file below
`mps/` are the texts of that check. A text to which code outside the MPS sources refers as well belongs to a check
of every device.
"""

from __future__ import annotations

import argparse
import functools
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from mpsprobe.knowledge import ops
from mpsprobe.knowledge.check_messages import CheckText
from op_support import wheel
from op_support.macho import Image, Section

_DATA = Path(__file__).resolve().parents[2] / "src" / "mpsprobe" / "knowledge" / "data"
#: Instructions before and after a reference to the file's name that belong to one check, at most.
_BEFORE, _AFTER = 90, 40
_FAILS = re.compile(
    r"torchCheckFail|torchInternalAssertFail|c105Error|c104warn|_ZN3c107Warning|cxa_throw|\w+ErrorC"
)
_FILE = re.compile(r"(?:/mps/|MPS)[^ ]*\.(?:mm|cpp|h)$")
_PATH = re.compile(r"^.*/pytorch/(?=aten/|torch/|c10/|build/)")
_OF_MPS = re.compile(r"mps|MPS|[Mm]etal")
#: Strings that are not messages: names, formats, notes of the assertion macros, logs of allocator and profiler.
_NO_MESSAGE = re.compile(
    r"INTERNAL ASSERT|^[\w:./]*$|\{[:}]|#|\n|^Releas|^Reus|^Allocated |^Garbage|^Initializing|Profiling"
    r"|pool \(|symbolic shape|please report a bug|current allocated"
)
_WORDS = re.compile(r"[A-Za-z][\w']+")


@dataclass
class _Found:
    """A message: the MPS files and functions that refer to it, and whether code outside the MPS sources does."""

    files: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    elsewhere: bool = False


def read(image: Image) -> dict[str, _Found]:
    """Return the messages of checks in a library's MPS sources, with the files and functions that refer to each."""
    places, targets = _references(image)
    strings = {int(address): _string(image, int(address)) for address in np.unique(targets)}
    files = {at: text for at, text in strings.items() if text and _FILE.search(text)}
    fails = _calls(image)
    base = image.text.address
    starts = np.array(image.addresses)
    of_file = np.nonzero(np.isin(targets, np.array(sorted(files))))[0]
    found: dict[str, _Found] = defaultdict(_Found)
    addresses: dict[int, str] = {}
    for index in of_file.tolist():
        place = int(places[index])
        symbol = int(np.searchsorted(starts, base + 4 * place, side="right")) - 1
        path = _PATH.sub("", files[int(targets[index])])
        if not _OF_MPS.search(image.names[symbol]) or "Register" in path:
            continue
        after = int(np.searchsorted(fails, place))
        last = min(int(fails[after]) if after < len(fails) else place, place + _AFTER)
        first = max(
            int(fails[after - 1]) + 1 if after else 0,
            place - _BEFORE,
            (image.addresses[symbol] - base) // 4,
        )
        for near in range(int(np.searchsorted(places, first)), int(np.searchsorted(places, last, "right"))):
            text = (strings[int(targets[near])] or "").partition("  (Could this error")[0]
            if is_message(text):
                found[text].files.add(path)
                found[text].functions.add(image.names[symbol])
                addresses[int(targets[near])] = text
    for index in np.nonzero(np.isin(targets, np.array(sorted(addresses))))[0].tolist():
        symbol = int(np.searchsorted(starts, base + 4 * int(places[index]), side="right")) - 1
        name = image.names[symbol]
        if not _OF_MPS.search(name) and "OUTLINED" not in name:
            found[addresses[int(targets[index])]].elsewhere = True
    return found


def is_message(text: str) -> bool:
    """Return whether a string is a message: 18 characters, three words, and no name, format or log."""
    return len(text) >= 18 and len(_WORDS.findall(text)) >= 3 and not _NO_MESSAGE.search(text)


def _references(image: Image) -> tuple[np.ndarray, np.ndarray]:
    """Return, in order, instruction numbers and addresses of the `adrp` and `add` pairs that address strings."""
    code = _code(image)
    sections = _strings(image)
    adrp = np.nonzero((code & 0x9F000000) == 0x90000000)[0]
    word = code[adrp].astype(np.int64)
    immediate = (((word >> 5) & 0x7FFFF) << 2) | ((word >> 29) & 3)
    immediate = np.where(immediate >= 1 << 20, immediate - (1 << 21), immediate)
    page = ((image.text.address + adrp * 4) & ~0xFFF) + (immediate << 12)
    low = min(section.address for section in sections)
    high = max(section.address + section.size for section in sections)
    near = (page >= low - 0x1000) & (page < high)
    adrp, page, register = adrp[near], page[near], (word & 31)[near]
    places, targets = [], []
    for distance in range(1, 12):
        at = np.minimum(adrp + distance, len(code) - 1)
        add = code[at].astype(np.int64)
        pair = ((add & 0xFFC00000) == 0x91000000) & (((add >> 5) & 31) == register)
        places.append(at[pair])
        targets.append((page + ((add >> 10) & 0xFFF))[pair])
    place, target = np.concatenate(places), np.concatenate(targets)
    inside = np.zeros(len(target), bool)
    for section in sections:
        inside |= (target >= section.address) & (target < section.address + section.size)
    order = np.argsort(place[inside], kind="stable")
    return place[inside][order], target[inside][order]


def _code(image: Image) -> np.ndarray:
    return np.frombuffer(image.data, dtype="<u4", count=image.text.size // 4, offset=image.text.offset)


def _strings(image: Image) -> list[Section]:
    return [s for s in image.sections if s.name in ("__cstring", "__const") and s.segment == "__TEXT"]


def _string(image: Image, address: int) -> str | None:
    """Return the string that begins at `address`; None where none begins."""
    start = image.offset(address)
    return image.c_string(address, 1500) if start and image.data[start - 1] == 0 else None


def _calls(image: Image) -> np.ndarray:
    """Return the indices of the instructions that call a function that raises or warns, in order."""
    code = _code(image)
    branch = np.nonzero((code & 0xFC000000) == 0x94000000)[0]
    offset = code[branch].astype(np.int64) & 0x3FFFFFF
    offset = np.where(offset >= 1 << 25, offset - (1 << 26), offset)
    raising = [address for address, name in image.stubs.items() if _FAILS.search(name)]
    return branch[np.isin(image.text.address + branch * 4 + offset * 4, np.array(raising))]


def op_of(function: str) -> str:
    """Return the op that a C++ function computes, such as `aten::softmax`; empty where its name is not an op's."""
    for part in reversed(re.findall(r"\w+", function.partition("(")[0])):
        name = re.sub(r"^structured_|_kernel$|_impl$|_template$", "", part)
        for _ in range(3):
            name = re.sub(
                r"_(?:out_)?(?:mps|metal)(?:_out|_impl_|_kernel|_impl|_v2_out)?$|_out$|_mps_?$|_impl$|_template$",
                "",
                name,
            )
        name = re.sub(r"^mps_(?!conv)", "", name)
        if f"aten::{name}" in _op_names():
            return f"aten::{name}"
    return ""


@functools.cache
def _op_names() -> frozenset[str]:
    return frozenset(
        name.partition(".")[0] for release in ops.releases() for name in ops.release(release).names
    )


def merge(by_release: dict[str, dict[str, _Found]]) -> Iterator[CheckText]:
    """Yield each message with the releases, ops and devices that have it, ordered by file and text."""
    order = list(by_release)
    texts = sorted({text for found in by_release.values() for text in found})
    mangled = sorted({f for found in by_release.values() for one in found.values() for f in one.functions})
    shown = subprocess.run(
        ["c++filt", "-_"], input="\n".join(mangled), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    op = {name: op_of(plain) for name, plain in zip(mangled, shown, strict=True)}
    rows = []
    for text in texts:
        having = [release for release in order if text in by_release[release]]
        found = [by_release[release][text] for release in having]
        named = sorted({op[name] for one in found for name in one.functions} - {""})
        rows.append(
            CheckText(
                text=text,
                file=min(found[-1].files),
                ops=tuple(named) if len(named) <= 4 else (),
                first=having[0],
                last=having[-1],
                every_device=any(one.elsewhere for one in found),
            )
        )
    yield from sorted(rows, key=lambda row: (row.file, row.text))


def main(arguments: list[str]) -> int:
    """Read one wheel of each release that has an op table, and write the file."""
    parser = argparse.ArgumentParser(prog="op_support.check_texts", description=__doc__)
    parser.add_argument("--wheels", type=Path, help="folder that keeps the wheels (100 MB each) between runs")
    options = parser.parse_args(arguments)
    by_release = {}
    with tempfile.TemporaryDirectory(prefix="op_support-") as scratch:
        folder = options.wheels or Path(scratch)
        for release in ops.releases():
            kept = sorted(folder.glob(f"torch-{release}.*.whl"))
            path = kept[-1] if kept else wheel.fetch(f"torch=={release}.*", folder)
            root = Path(scratch) / release
            wheel.unpack(path, root)
            by_release[release] = read(Image(root / wheel.LIBRARY))
            (root / wheel.LIBRARY).unlink()
    rows = list(merge(by_release))
    lines = b",\n".join(msgspec.json.encode(row) for row in rows)
    (_DATA / "check_texts.json").write_bytes(b"[\n" + lines + b"\n]\n")
    sys.stdout.write(f"{len(rows)} texts\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
