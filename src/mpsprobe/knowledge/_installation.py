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

from mpsprobe import toml
from mpsprobe.knowledge import _fitting_wheels
from mpsprobe.knowledge.error_texts import Advice

#: Words in capitals that stand for a part of the text, where the text names it.
_PLACES = re.compile(
    r"\b(?:PACKAGE|SYMBOL|LIBRARY|HEADER|FLAG|CRATE|HAVE|WANTED|FORMULA|PROGRAM|MODULE|ATTRIBUTE|NODE|EXTRA)\b"
)

#: What an answer says where the text does not name it.
_UNNAMED = {
    "PACKAGE": "the package",
    "LIBRARY": "that library",
    "SYMBOL": "that function",
    "MODULE": "that module",
    "HEADER": "that header",
    "FLAG": "that option",
    "CRATE": "that crate",
    "HAVE": "the one that is there",
    "WANTED": "the one that is asked for",
    "FORMULA": "that formula",
    "PROGRAM": "the program",
    "ATTRIBUTE": "that name",
    "NODE": "that node",
    "EXTRA": "that extra",
}

#: Messages whose file, where it lies in `site-packages`, tells the package.
_OF_A_FILE = frozenset({"wrong-architecture", "homebrew-library-gone"})

#: What comes before or after a name in a command, where words would not do.
_BEFORE_NAME = re.compile(
    r"(?:\b(?:(?:pip3?|pipx|conda|brew|uv|mamba)\b[\w -]*|import)|(?<!\w)-{1,2}[\w-]+|:all:)\s+['\"]?$"
)
_AFTER_NAME = re.compile(r"[\[<>=]|'| ;")

#: From how many letters on a function's name is cut.
_LONG = 80


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
    values = {**values, "package": named} if named else _owner(values) if message in _OF_A_FILE else values
    made = _MADE[message](values) if message in _MADE else None
    said, done = made or (means, fix)
    return _in_words(_filled(said, values)), _in_words(_filled(done, values))


def package_of(path: str) -> str:
    """Return the package on PyPI that a file below `site-packages` belongs to; empty for any other file."""
    found = re.search(r"(?:site|dist)-packages/(?P<name>\w+)", path)
    name = found["name"] if found else ""
    return _data().distribution.get(name, "" if name.startswith("_") else name)


def _filled(text: str, values: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        given = values.get(match[0].lower(), "")
        return _name(given) if match[0] == "PACKAGE" else given or match[0]

    return _PLACES.sub(value, text)


def _in_words(text: str) -> str:
    """Return an answer with words for each part that the text of the error does not name, `<its name>` in commands."""

    def words(match: re.Match[str]) -> str:
        command = _BEFORE_NAME.search(text, 0, match.start()) or _AFTER_NAME.match(text, match.end())
        said = "<its name>" if command else _UNNAMED[match[0]]
        begins = not match.start() or text[: match.start()].endswith((". ", "! "))
        return f"{said[0].upper()}{said[1:]}" if begins else said

    return _PLACES.sub(words, text)


def _name(text: str) -> str:
    """Return the first package that a text names, without its version; PACKAGE when it names none."""
    found = re.match(r"[\s'\"`(]*(?P<name>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)", text)
    return found["name"] if found else "PACKAGE"


def _owner(values: Mapping[str, str]) -> dict[str, str]:
    """Return the values with the package that the file which needs something belongs to, where its path says so."""
    files = [values.get(name, "") for name in ("user", "file", "opened")]
    package = next(filter(None, map(package_of, files)), "")
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
    if not symbol:
        return None
    short = symbol if len(symbol) <= _LONG else f"{symbol[:_LONG]}..."
    if entry is None:
        return (
            f"The linker misses {short}: its library or framework is not in the link, or objects of an earlier build "
            "with other options lie in the folder; or its library is of the other architecture (then a line says: "
            "ignoring file ..., building for ...).",
            "Find the library that has it (its first letters mostly say which; nm -gU FILE lists what a library has) "
            "and link it in its arm64 build (brew --prefix says /opt/homebrew). make clean or a new build folder, with "
            "the same options for every target; a wheel or a newer release of the package.",
        )
    return (
        f"The linker misses {short} of {entry.library}: it is not in the link, or in another release, build or "
        "architecture than the headers that were compiled (then a line says: ignoring file ..., building for ...).",
        entry.fix,
    )


#: Said of a program without Python that brings torch's C++ libraries along.
_PLUGIN = (
    "A program or plug-in without Python is linked against LIBRARY, one of torch's C++ libraries (libtorch), which do "
    "not lie where it looks: beside it, as its download has them, or at a path of its own (@rpath).",
    "Install the plug-in's build for macOS and this processor again, whole, with the libtorch folder that comes with "
    "it. Else download libtorch for macOS (pytorch.org; the release that the plug-in was built with) and add its "
    "folder: install_name_tool -add_rpath /PATH/libtorch/lib FILE, then codesign --force --sign - FILE; otool -l FILE "
    "(LC_RPATH) shows where it looks. pip install torch does not help it.",
)


def _is_plugin(values: Mapping[str, str]) -> bool:
    """Return whether the file that misses a library is known, and is none of Python's or of torch's own."""
    file = values.get("user") or values.get("file") or values.get("opened") or ""
    pythons = (
        r"(?:site|dist)-packages|python|conda|/torch\w*/|\.cpython-|\.abi3|\.so$|/lib(?:torch|c10)[^/]*$"
    )
    return "/" in file and not re.search(pythons, file, re.IGNORECASE)


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
            if entry.what == "torch" and _is_plugin(values):
                return _PLUGIN[0].replace("LIBRARY", name), _PLUGIN[1]
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
            else ", where the program's requirements name it (PyPI may call it otherwise, and may have another "
            "package of that name); or activate the environment first."
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


def _missing_in_build(values: Mapping[str, str]) -> Advice | None:
    """Say what pip's isolated build lacks, and how it gets it; newer releases of setuptools lack parts of old ones."""
    module = values.get("module", "").partition(".")[0]
    if not module:
        return None
    if module not in {"pkg_resources", "distutils", "setuptools"}:
        needs = {"poetry": "poetry-core"}.get(module) or _data().distribution.get(module, module)
        needs = " ".join(dict.fromkeys((needs, "setuptools", "wheel")))
        return (
            f"The set-up script of PACKAGE imports {module}, and pip builds in an environment of its own that does not "
            "have it, whatever is installed beside it.",
            f"pip install {needs} first, then pip install --no-build-isolation PACKAGE. Packages with CUDA kernels "
            "(flash-attn, xformers, detectron2's CUDA ops) then still cannot be built for a Mac's GPU: leave them out.",
        )
    return (
        f"The set-up script of PACKAGE imports {module}, and the environment that pip makes for its build does not "
        "have it (the newest setuptools has no pkg_resources, Python 3.12 no distutils).",
        "A newer release of PACKAGE; or pip install 'setuptools<81' wheel, then pip install --no-build-isolation "
        "PACKAGE; or Python 3.10 or 3.11 in a fresh environment.",
    )


def _of_homebrew(values: Mapping[str, str]) -> Advice | None:
    """Name the formula of a library that a package looks for by its name."""
    library = values.get("library", "").partition(".")[0]
    formulae = {"sndfile": "libsndfile", "magic": "libmagic", "omp": "libomp", "espeak": "espeak-ng"}
    formula = formulae.get(library, library.partition("-")[0] if library != "espeak-ng" else library)
    if not library:
        return None
    newer = "pip install -U soundfile (0.12 and newer bring it) or " if library == "sndfile" else ""
    return (
        f"The package looks for the library {library}, which is not installed, or lies in Homebrew's folder "
        "(/opt/homebrew/lib on Apple silicon), where Python does not look by itself.",
        f"{newer}brew install {formula} with the Homebrew of Python's architecture, then export "
        "DYLD_FALLBACK_LIBRARY_PATH=$(brew --prefix)/lib in that shell.",
    )


_MADE: dict[str, Callable[[Mapping[str, str]], Advice | None]] = {
    "flat-namespace-symbol": _missing_symbol,
    "undefined-symbols": _not_linked,
    "pip-incompatible": _fitting_wheels.conflict,
    "torch-missing-in-build": _missing_in_build,
    "brew-library": _of_homebrew,
    "library-not-loaded": _missing_library,
    "python-out-of-range": _fitting_wheels.python_range,
    "uv-wheel-tags": _fitting_wheels.wheel_tags,
    "compiled-package-incomplete": _from_source,
    "import-name": _removed,
    "module-attribute-gone": _removed,
    "conda-package-named": _not_in_conda,
    "header-missing": _header,
    "header-without-ending": _header,
    "no-wheel-of-any": _fitting_wheels.no_version,
    "module-not-installed": _missing_module,
    "module-missing": _missing_module,
    "build-of-wheel-failed": _build_needs,
    "wheel-needs-library": _build_needs,
    "uv-wheel-file": _fitting_wheels.wheel_file,
    "wheel-of-other-platform": _fitting_wheels.wheel_file,
}
