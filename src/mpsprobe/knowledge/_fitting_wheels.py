"""Say which Python, macOS or processor the wheels of a package are for, where the text of an installer names them.

Read by `_installation.py`, whose messages of pip, uv and Poetry have one pattern a class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from mpsprobe.knowledge import _pasted
from mpsprobe.knowledge.error_texts import Advice

#: The Pythons that a Mac can have today, the most useful first.
_PYTHONS = ("3.12", "3.11", "3.10", "3.13", "3.14", "3.9", "3.8", "3.7")


def python_range(values: Mapping[str, str]) -> Advice | None:
    """Compare a release of Python with what a package takes, and name the best one that fits."""
    have, wanted = values.get("have", ""), values.get("wanted", "")
    spec = _specifier(wanted)
    if spec is None:
        return None
    fitting = [version for version in _PYTHONS if version in spec or f"{version}.9" in spec]
    best = fitting[0] if fitting else ""
    who = "PACKAGE" if values.get("package") else "The package or project"
    which = ""
    if have:
        newest = max((Version(version) for version in fitting), default=None)
        which = "too new" if newest and Version(have) > newest else "too old"
        which = f", and this Python is {have}: {which}" if fitting else f", and this Python is {have}"
    means = f"{who} takes Python {wanted}{which}."
    if not best:
        return means, "No Python of today fits: a newer release of PACKAGE, or a maintained fork."
    fix = (
        f"Python {best} in a fresh environment (uv venv --python {best}; python{best} -m venv .venv; conda "
        f"create -n NAME python={best}); or another release of it"
    )
    return means, fix + (" that takes the newer Python." if "new" in which else ".")


def _specifier(text: str) -> SpecifierSet | None:
    """Return a range of versions; Poetry's `^3.10` is read as `>=3.10,<4`. None when it cannot be read."""
    caret = re.fullmatch(r"[\^~](3\.\d+)(?:\.\d+)?", text.strip())
    try:
        return SpecifierSet(f">={caret[1]},<4" if caret else re.sub(r"^(\d)", r"==\1", text.strip()))
    except InvalidSpecifier:
        return None


def wheel_tags(values: Mapping[str, str]) -> Advice | None:
    """Explain uv's hint: which Pythons, or which systems, the wheels of a package are for."""
    tags = re.findall(r"[`'](\w+)[`']", values.get("tags", ""))
    release = f" {values['release']}" if values.get("release") else ""
    pythons = sorted({(int(a), int(b)) for tag in tags for a, b in re.findall(r"^(?:cp|pp)(\d)(\d+)", tag)})
    if pythons:
        names = [f"{major}.{minor}" for major, minor in pythons]
        best = next((name for name in _PYTHONS if name in names), names[-1])
        return (
            f"PACKAGE{release} has wheels for Python {', '.join(names)} only, and this one is another.",
            f"uv python pin {best} (uv venv --python {best}), then again; or another release of PACKAGE.",
        )
    if not tags:
        return None
    macs = [tag for tag in tags if tag.startswith("macosx")]
    mine = values.get("tag", "")
    systems = ", ".join(
        dict.fromkeys("Windows" if tag.startswith("win") else "Linux" for tag in tags if tag not in macs)
    )
    if not macs:
        return (
            f"PACKAGE{release} has wheels for {systems} only, none for a Mac and this Python, and no source that could "
            "be built.",
            "Look at its files on PyPI: where another Python has one for macOS, take that Python (uv python pin 3.12, "
            "uv venv --python 3.12). Else leave it out, or bind it to its system (PACKAGE ; sys_platform == 'linux'); "
            "another release of it or a fork may have one for macOS.",
        )
    processors = {
        "universal2" if tag.endswith("universal2") else tag.partition("_")[2].split("_", 2)[-1]
        for tag in macs
    }
    have = "x86_64" if "x86_64" in mine else "arm64" if "arm64" in mine else ""
    oldest = min(tuple(int(n) for n in re.findall(r"_(\d+)", tag)[:2]) for tag in macs)
    needs = f"{oldest[0]}" if oldest[0] > 10 else f"{oldest[0]}.{oldest[1]}"
    if have == "x86_64" and "x86_64" not in processors and "universal2" not in processors:
        return (
            f"PACKAGE{release} has no wheel for Intel Macs, and this Python is an x86-64 one (an Intel Mac, "
            "or Rosetta on Apple silicon).",
            "On Apple silicon an arm64 Python: uv python install cpython-3.12-macos-aarch64 and a new "
            ".venv; a uv or Homebrew of /usr/local is an Intel one. On an Intel Mac an older release of it "
            "(torch: 2.2.2).",
        )
    if have == "arm64" and "arm64" not in processors and "universal2" not in processors:
        return (
            f"PACKAGE{release} has a wheel for Intel Macs, none for Apple silicon.",
            "A newer release of it, or its source; else an x86-64 Python under Rosetta, in which nothing "
            "runs on the GPU.",
        )
    return (
        f"The wheels of PACKAGE{release} want macOS {needs} or newer, and this Python says "
        f"{mine or 'an older one'}; 10_16 is what a Python says that was built with an old SDK.",
        f"Update macOS to {needs} or newer; where it is: a newer build of Python (uv python install 3.12), "
        "or an older release of PACKAGE.",
    )


def conflict(values: Mapping[str, str]) -> Advice | None:
    """Explain pip's closing remark that an installed package wants another version of one that is installed."""
    wanted, package, other = (values.get(name, "") for name in ("wanted", "package", "other"))
    if not wanted:
        return None
    have = (
        f"{values['have']} is installed"
        if values.get("have")
        else "another version of it, or none, is installed"
    )
    have = "it is not installed" if values.get("absent") else have
    means = (
        f"PACKAGE asks for {wanted}, and {have}. pip says so after it has installed the rest, and leaves it so: it "
        "matters only where PACKAGE is used."
    )
    if package in {"torchvision", "torchaudio", "torchtext"} and other == "torch":
        return (
            means,
            "Install them together, as each belongs to one torch: pip install -U torch torchvision torchaudio.",
        )
    if values.get("absent"):
        return means, f"pip install '{wanted}', where PACKAGE is used."
    fix = (
        f"Nothing must be done where PACKAGE is not used (or pip uninstall PACKAGE). Where it is: a newer PACKAGE "
        f"(pip install -U PACKAGE), whose demands are newer, or pip install '{wanted}' where nothing else wants the "
        "newer one; two programs that contradict are best kept in two environments."
    )
    if other in {"torch", "numpy", "tensorflow", "tokenizers"}:
        fix += f" An old {other} may have no wheel for Apple silicon or for this Python."
    return means, fix


def no_version(values: Mapping[str, str]) -> Advice | None:
    """Say of what pip did not find whether it is older or newer than the releases that it sees, which it lists."""
    wanted = values.get("wanted", "")
    listed = values.get("versions", "")
    seen = sorted(filter(None, map(_version, listed.rstrip(")").split(","))))
    if not seen:
        return None
    pinned = _version(wanted.lstrip("=<>!~").partition(",")[0])
    if not listed.endswith(")"):
        return (
            f"pip has no file of PACKAGE that fits {wanted or 'the rest'} for this Python and this Mac; the list of "
            "those that it sees is cut off here.",
            "Take one that the whole list names (pip index versions PACKAGE shows it too): mostly a newer release, as "
            "old ones have no wheel for Apple silicon or for this Python; or an arm64 Python of another release (3.10 "
            "to 3.12 have most).",
        )
    near = next((version for version in seen if pinned and version > pinned), seen[-1])
    means = (
        f"pip sees PACKAGE {seen[0]} to {seen[-1]} for this Python and this Mac, and none that fits "
        f"{wanted or 'the rest'}"
    )
    python = "an arm64 Python of another release (3.10 to 3.12 have most)"
    if pinned and pinned > seen[-1]:
        means += ": newer releases want another Python or macOS, have files for other systems only, or do not exist."
    elif pinned and pinned < seen[0]:
        means += ": older releases have no file for this Mac, or for so new a Python."
    else:
        means += ": that release has files for other systems or Pythons only, or was withdrawn."
    return (
        means,
        f"Loosen the version to one that it lists (PACKAGE=={near} is the nearest), or {python}; look at the release's "
        "files on PyPI.",
    )


def _version(text: str) -> Version | None:
    try:
        return Version(text.strip())
    except InvalidVersion:
        return None


def wheel_file(values: Mapping[str, str]) -> Advice | None:
    """Explain what the name of a wheel says that does not fit here."""
    means, fix = _pasted.wheel_advice(values.get("wheel", ""))
    return (means, fix) if means else None
