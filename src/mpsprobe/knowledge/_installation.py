"""Say more of a failed installation than its class: the package, the library and the Python that the text names.

The messages of loaders, compilers and package managers have one pattern a class (`data/messages_install.toml`); what
they name is looked up in `data/installs.toml`, and compared (a release of Python with what a package takes).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from mpsprobe import toml
from mpsprobe.knowledge import _pasted

#: What a message says: its meaning and its fix.
Advice = tuple[str, str]

#: Words in capitals that stand for a part of the text, where the text names it.
_PLACES = re.compile(
    r"\b(?:PACKAGE|SYMBOL|LIBRARY|HEADER|FLAG|CRATE|HAVE|WANTED|FORMULA|PROGRAM|MODULE|ATTRIBUTE|NODE)\b"
)

#: What a meaning says where the text does not name it.
_UNNAMED = {
    "PACKAGE": "the package",
    "LIBRARY": "that library",
    "SYMBOL": "that function",
    "MODULE": "that module",
}

#: From how many letters on a function's name is cut.
_LONG = 80

#: The Pythons that a Mac can have today, the most useful first.
_PYTHONS = ("3.12", "3.11", "3.10", "3.13", "3.14", "3.9", "3.8", "3.7")


class _Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pattern: str
    fix: str
    library: str = ""
    what: str = ""
    formulae: dict[str, str] = {}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    symbol: tuple[_Named, ...]
    undefined: tuple[_Named, ...]
    library: tuple[_Named, ...]
    header: tuple[_Named, ...]
    renamed: tuple[_Named, ...]
    module: dict[str, str]
    conda: dict[str, str]
    source: dict[str, str]
    distribution: dict[str, str]
    build: dict[str, str]


@functools.cache
def _data() -> _File:
    return toml.load(Path(__file__).parent / "data" / "installs.toml", _File)


def advice(message: str, values: Mapping[str, str], means: str, fix: str) -> Advice:
    """Return the meaning and the fix of a message, made for what its text names; as they are where it names nothing.

    Args:
        message: The id of the message.
        values: The named parts of the text.
        means: The meaning in the data file.
        fix: The fix in the data file.
    """
    # each alternative of a pattern needs a name of its own: package, package2 ...
    named = next((values[name] for name in sorted(values) if name.startswith("package") and values[name]), "")
    values = {**values, "package": named} if named else values
    made = _MADE[message](values) if message in _MADE else None
    said, done = made or (means, fix)
    said = _filled(said, values)
    for place, words in _UNNAMED.items():
        said = re.sub(rf"\b{place}\b", words, said)
    return said, _filled(done, values)


def package_of(path: str) -> str:
    """Return the package on PyPI that a file below `site-packages` belongs to; empty for any other file."""
    found = re.search(r"(?:site|dist)-packages/(?P<name>\w+)", path)
    return _data().distribution.get(found["name"], found["name"]) if found else ""


def _filled(text: str, values: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        given = values.get(match[0].lower(), "")
        return _name(given) if match[0] == "PACKAGE" else given or match[0]

    return _PLACES.sub(value, text)


def _name(text: str) -> str:
    """Return the first package that a text names, without its version; PACKAGE when it names none."""
    found = re.match(r"[\s'\"`(]*(?P<name>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)", text)
    return found["name"] if found else "PACKAGE"


def _owner(values: Mapping[str, str]) -> dict[str, str]:
    """Return the values with the package that the file which needs something belongs to, where its path says so."""
    file = values.get("user") or values.get("file") or ""
    package = package_of(file) or package_of(values.get("file", ""))
    return {**values, "package": package} if package else dict(values)


def _missing_symbol(values: Mapping[str, str]) -> Advice | None:
    symbol, provider = values.get("symbol", ""), values.get("provider", "")
    named = _owner(values)
    file = (values.get("user") or values.get("file") or "").rpartition("/")[2]
    of = f"{file or 'The file'}{' (of PACKAGE)' if 'package' in named else ''}"
    if re.match(r"/usr/lib/|/System/", provider):
        built = f" (for {values['built']})" if values.get("built") else ""
        means = (
            f"{of} was built for a newer macOS{built} than this one: its {provider.rpartition('/')[2]} has "
            f"no {symbol}."
        )
        fix = (
            "Update macOS; or an older release of PACKAGE, whose wheel names this macOS (pip install "
            "'PACKAGE<...'), or conda-forge's build of it. An app: its older version."
        )
    else:
        entry = next((one for one in _data().symbol if re.match(one.pattern, symbol)), None)
        if entry is None and "package" not in named:
            return None
        library = f" of {entry.library}" if entry else ""
        have = provider.rpartition("/")[2] if "/" in provider else ""
        means = (
            f"{of} wants a function{library} ({symbol}) that {have or 'what is loaded here'} does not have: "
            "it was built for another release of that library, or without it."
        )
        fix = (
            entry.fix
            if entry
            else (
                "pip install --force-reinstall --no-cache-dir PACKAGE, for the wheel of this Python and "
                "processor "
                "(platform.machine() should say arm64); one that was compiled here: build it again, with "
                "the library that holds the function in LDFLAGS."
            )
        )
    return _filled(means, named), _filled(fix, named)


def _not_linked(values: Mapping[str, str]) -> Advice | None:
    """Name the library of a function that the linker misses."""
    symbol = next((values[name] for name in ("symbol", "symbol2", "symbol3") if values.get(name)), "")
    entry = next((one for one in _data().undefined if re.match(one.pattern, symbol)), None)
    if entry is None:
        return None
    short = symbol if len(symbol) <= _LONG else f"{symbol[:_LONG]}..."
    return (
        f"The linker misses {short} of {entry.library}: it is not in the link, or in another release, build or "
        "architecture than the headers that were compiled (then a line says: ignoring file ..., building for ...).",
        entry.fix,
    )


def _missing_library(values: Mapping[str, str]) -> Advice | None:
    library = values.get("library", "")
    named = _owner(values)
    file = (values.get("user") or values.get("file") or "").rpartition("/")[2]
    of = f"{file or 'A compiled file'}{' (of PACKAGE)' if 'package' in named else ''}"
    if re.match(r"/usr/lib/|/System/", library):
        means = (
            f"{of} wants {library} of macOS itself, which this macOS does not have: it was built for a "
            "newer one (or for one that still had it)."
        )
        fix = (
            "Update macOS, or an older release of PACKAGE; where macOS is newer than the program: a newer "
            "release of it."
        )
        return _filled(means, named), _filled(fix, named)
    name = library.rpartition("/")[2]
    for entry in _data().library:
        found = re.search(entry.pattern, library)
        if found:
            what = f" (it belongs to {entry.what})" if entry.what else ""
            named |= {"formula": found.groupdict().get("formula") or ""}
            means = f"{of} is linked against {name}{what}, which is not where it looks."
            return _filled(means, named), _filled(entry.fix, named)
    if not file:
        return None
    brewed = re.match(r"/(?:opt/homebrew|usr/local)/(?:Cellar|opt|bin|lib)/", values.get("user", ""))
    app = re.search(r"/(?P<name>[^/]+)\.app/", values.get("user", ""))
    if brewed or app:
        means = f"{file} is linked against {name}, which is gone or was updated to another version."
        again = (
            f"Install the newest {app['name']} again" if app else "brew update; brew reinstall its formula"
        )
        return means, f"{again}; on Apple silicon the arm64 one (Homebrew in /opt/homebrew)."
    means = (
        f"{of} is linked against {name}, which is in none of the places where it looks (they stand after "
        "'tried'): the package's own copy is gone, or it was built here against a library that was updated "
        "or removed."
    )
    fix = (
        "pip install --force-reinstall --no-cache-dir PACKAGE, for the wheel that brings it; what was "
        "compiled here, or comes from conda or Homebrew: install that library in the same way, in Python's "
        "architecture, and build it again."
    )
    return _filled(means, named), _filled(fix, named)


def _python_range(values: Mapping[str, str]) -> Advice | None:
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


def _wheel_tags(values: Mapping[str, str]) -> Advice | None:
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


def _header(values: Mapping[str, str]) -> Advice | None:
    header = values.get("header", "")
    entry = next((one for one in _data().header if re.match(one.pattern, header)), None)
    if entry is None:
        return None
    formula = entry.formulae.get(re.split(r"[/.]", header)[0], "the library that holds it")
    fix = _filled(entry.fix, {"formula": formula})
    if fix.startswith("brew"):
        fix += "; then export CPPFLAGS=-I$(brew --prefix)/include LDFLAGS=-L$(brew --prefix)/lib and build again. "
        fix += "A wheel (another Python, a newer release) spares it."
    return f"The compiler does not find {header}, which belongs to {entry.what}.", fix


def _missing_module(values: Mapping[str, str]) -> Advice | None:
    """Tell a package that is not installed from one that is, and lacks a part: Python names the part in full then."""
    module = values.get("module", "").rstrip(".")
    top, _, part = module.partition(".")
    if not top:
        return None
    said = _data().module.get(module) or _data().module.get(top)
    if said and (not part or module in _data().module):
        lacks = "was built without" if top.startswith("_") else "does not have"
        return f"The Python that runs the program {lacks} {module}.", f"{said}."
    gone = _removed({"module": module})
    if gone:
        return gone
    package = _data().distribution.get(top, top)
    if part:
        return (
            f"{top} itself was found, and it has no part {part}: this release of it lacks it (or its compiled "
            f"part was not built), or another thing of the name {top} stands before it (a file or folder {top} "
            "beside the program, a package of the same name).",
            f"python -c 'import {top}; print({top}.__file__)' shows which one is loaded; install the release that "
            f"the program wants (its requirements.txt), or {package} anew: python -m pip install -U {package}.",
        )
    if " " in package and not package.startswith("git+"):
        return (
            f"The Python that runs the program has no {top}: it belongs to {package}.",
            "Start it as its documentation says; code for another system or for NVIDIA does not run on a Mac.",
        )
    return (
        f"The Python that runs the program does not have {top}: it is not installed, or in another Python (macOS has "
        "several).",
        f"python -m pip install {package}, with that very python"
        + (
            "; or activate the environment first."
            if top in _data().distribution
            else f", where the program's requirements name it (PyPI may call it otherwise, and may have a {top} of "
            "somebody else); or activate the environment first."
        )
        + " A module of the project itself: start it from the project's folder, or pip install -e .; one that a "
        "program from pip lacks: another release of that program.",
    )


def _removed(values: Mapping[str, str]) -> Advice | None:
    """Say of a name that a module does not have since when it is gone, where that is known."""
    module, name = values.get("module", "").strip("."), values.get("name", "") or values.get("attribute", "")
    if not module:
        return None
    entry = next((one for one in _data().renamed if re.fullmatch(one.pattern, f"{module}:{name}")), None)
    if entry:
        return (
            f"{module} has no {name}: {entry.what}."
            if name
            else f"There is no module {module}: {entry.what}.",
            entry.fix,
        )
    if "name" not in values:
        return None
    top = module.partition(".")[0]
    package = _data().distribution.get(top, top)
    return (
        f"The installed {top} has no {name} in {module}: what asks for it was written for an older or newer release of "
        f"{top} (or a file {top}.py beside the program stands before it).",
        f"Update both together: pip install -U {package} (where it is a package, not a part of the project) and the "
        "package whose file stands above the error in the traceback; or the versions that the project's requirements "
        "name, in a fresh environment. On an Intel Mac the newest of many packages want a torch that it cannot have.",
    )


def _not_in_conda(values: Mapping[str, str]) -> Advice | None:
    package = values.get("package", "").rpartition(":")[2]
    other = _data().conda.get(package)
    return (
        (f"conda has no {package} of that release for this Mac in these channels.", f"{other}.")
        if other
        else None
    )


def _from_source(values: Mapping[str, str]) -> Advice | None:
    top = values.get("module", "").partition(".")[0]
    how = _data().source.get(top)
    if how is None:
        return None
    return f"{top} (or its compiled part) is not in the Python that runs the program.", f"{how}."


def _build_needs(values: Mapping[str, str]) -> Advice | None:
    """Name the formulae of Homebrew that a package's build needs, where they are known."""
    package = _name(values.get("package", ""))
    needs = _data().build.get(package.lower().replace("_", "-"))
    if needs is None:
        return None
    return (
        f"pip found no wheel of {package} for this Python and Mac, and could not compile its source, which "
        f"needs {needs.replace(' ', ', ')} of Homebrew.",
        f"First look for a wheel: pip install --only-binary :all: {package}, with an arm64 Python of 3.10 to "
        f"3.12 and its newest release (loosen the pin). To build it: xcode-select --install; brew install {needs}; "
        "export CPPFLAGS=-I$(brew --prefix)/include LDFLAGS=-L$(brew --prefix)/lib; then again. conda-forge "
        f"mostly has it ready: conda install -c conda-forge {package}.",
    )


def _wheel_file(values: Mapping[str, str]) -> Advice | None:
    means, fix = _pasted.wheel_advice(values["wheel"])
    return (means, fix) if means else None


def _no_version(values: Mapping[str, str]) -> Advice | None:
    """Say of what pip did not find whether it is older or newer than the releases that it sees, which it lists."""
    wanted = values.get("wanted", "")
    seen = sorted(filter(None, map(_version, values.get("versions", "").split(","))))
    if not seen:
        return None
    pinned = _version(wanted.lstrip("=<>!~").partition(",")[0])
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
        f"Loosen the version to one that it lists (PACKAGE>={seen[0]}), or {python}; look at the release's "
        "files on PyPI.",
    )


def _version(text: str) -> Version | None:
    try:
        return Version(text.strip())
    except InvalidVersion:
        return None


_MADE: dict[str, Callable[[Mapping[str, str]], Advice | None]] = {
    "flat-namespace-symbol": _missing_symbol,
    "undefined-symbols": _not_linked,
    "library-not-loaded": _missing_library,
    "python-out-of-range": _python_range,
    "uv-wheel-tags": _wheel_tags,
    "compiled-package-incomplete": _from_source,
    "import-name": _removed,
    "module-attribute-gone": _removed,
    "conda-package-named": _not_in_conda,
    "header-missing": _header,
    "header-without-ending": _header,
    "no-wheel-of-any": _no_version,
    "module-not-installed": _missing_module,
    "module-missing": _missing_module,
    "build-of-wheel-failed": _build_needs,
    "wheel-needs-library": _build_needs,
    "uv-wheel-file": _wheel_file,
    "wheel-of-other-platform": _wheel_file,
}
