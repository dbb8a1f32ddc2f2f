"""Recognise faults of the installation or the environment that keep mpsprobe from working, and name their fixes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from urllib.parse import urlsplit

from mpsprobe.errors import SurroundingsError

#: transformers compares versions on import (dependency_versions_check).
_REQUIRED = re.compile(
    r"(?P<need>[\w.-]+[<>=!~]\S+) is required for a normal functioning of this module, but found "
    r"(?P<found>\S+?)\.?(?:\s|$)"
)
_NO_MODULE = re.compile(r"No module named '(?P<module>[\w.]+)'")
_NO_NAME = re.compile(
    r"cannot import name '(?P<name>\w+)' from (?:partially initialized module )?'(?P<module>[\w.]+)'"
)
_NO_ATTRIBUTE = re.compile(
    r"AttributeError: (?:partially initialized )?module '(?P<module>[\w.]+)' has no attribute '(?P<name>\w+)'"
)
_NO_METADATA = re.compile(
    r"PackageNotFoundError: (?:No package metadata was found for )?(?:The ')?(?P<package>[\w.-]+)"
)
_NO_LIBRARY = re.compile(
    r"(?P<library>lib[\w.+-]+\.(?:so|dylib)[\w.]*): (?:cannot open shared object|undefined symbol)"
)
#: Names of distributions that differ from the names of their packages.
_DISTRIBUTIONS = {
    "huggingface_hub": "huggingface-hub",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
}
_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
_SCHEMES = ("http", "https", "socks4", "socks5", "socks5h")


def fault(text: str) -> SurroundingsError | None:
    """Return the fault of the environment that an error text shows; None when it shows none.

    Args:
        text: The text of an exception that begins with its type, or the end of a process's stderr.
    """
    if found := _REQUIRED.search(text):
        return SurroundingsError(
            f"The installed packages do not go together: transformers needs {found['need']}, found {found['found']}.",
            f"{_pip()} install '{found['need']}'",
        )
    for pattern in (_NO_NAME, _NO_MODULE, _NO_ATTRIBUTE):
        found = pattern.search(text)
        package = found["module"].partition(".")[0] if found else ""
        if (
            found
            and package not in ("mpsprobe", "__main__", "tests")
            and package not in sys.stdlib_module_names
        ):
            name = _DISTRIBUTIONS.get(package, package)
            what = found.groupdict().get("name")
            if pattern is _NO_MODULE and found["module"] == package:
                return SurroundingsError(
                    f"The package {name} is not installed, and another needs it.", f"{_pip()} install {name}"
                )
            lacks = f"{found['module']} has no {what}" if what else f"there is no module {found['module']}"
            return SurroundingsError(
                f"The installed {name} is not complete, or not of a version that goes with the others: {lacks}.",
                f"{_pip()} install --upgrade --force-reinstall {name}",
            )
    if found := _NO_METADATA.search(text):
        return SurroundingsError(
            f"{found['package']} is not installed, or its metadata is missing.",
            f"{_pip()} install --force-reinstall {found['package']}",
        )
    if found := _NO_LIBRARY.search(text):
        return SurroundingsError(
            f"The installed torch cannot be loaded: {found['library']} is missing or of another version.",
            f"{_pip()} install --force-reinstall torch",
        )
    return None


def check_proxies(variables: Mapping[str, str] | None = None) -> None:
    """Check the proxy variables, so that no client fails later with a message that does not name them.

    Raises:
        SurroundingsError: A variable cannot be used; the message gives its name, its value and how to unset it.
    """
    variables = os.environ if variables is None else variables
    for name in (*_VARIABLES, *map(str.lower, _VARIABLES)):
        value = variables.get(name, "")
        if value and (wrong := _wrong_proxy(value)):
            raise SurroundingsError(
                f"The environment variable {name} is {value!r}, which is no address of a proxy: {wrong}.",
                f"unset {name}",
            )


def _wrong_proxy(value: str) -> str:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        _ = parts.port
    except ValueError as problem:
        return str(problem)
    if parts.scheme.lower() not in _SCHEMES:
        return f"its scheme is {parts.scheme!r}, not one of {', '.join(_SCHEMES)}"
    return "" if parts.hostname else "it names no host"


def _pip() -> str:
    return f"{sys.executable} -m pip"
