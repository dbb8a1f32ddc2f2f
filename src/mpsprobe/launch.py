"""Start Python children so that neither files beside the model nor the environment can steer them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

#: Variables that load code or options into any Python or pytest.
_STEERING = ("PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONBREAKPOINT", "PYTHONWARNINGS", "PYTHONOPTIMIZE")
#: transformers unpickles and runs a repository's code where this is set, whatever its caller passes.
_TRUST = "TRUST_REMOTE_CODE"
#: Python before 3.11 has no `-P`. `-c` puts the working directory first on the path; this removes it before any other
# import.
_BOOTSTRAP = (
    "import sys; sys.path[:] = [place for place in sys.path if place]; import runpy; "
    "sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module as `python -m` does, without the working directory on its path.

    The working directory is often the model's folder, and a `json.py` in it would be imported instead of Python's.
    """
    if sys.version_info >= (3, 11):
        return [sys.executable, "-P", "-m", module, *arguments]
    return [sys.executable, "-c", _BOOTSTRAP, module, *arguments]


def environment(base: Mapping[str, str] | None = None, *, trusted: bool = False) -> dict[str, str]:
    """Return the environment of a child process, without the variables that would steer it.

    Removed are the variables that load code or options into Python, all `PYTEST_*`, TRUST_REMOTE_CODE, and the empty
    entries of PYTHONPATH, which mean the working directory.

    Args:
        base: The variables to begin with; None for those of this process.
        trusted: Whether the user agreed to the repository's own code. If not, USE_HUB_KERNELS is set to 0, so that
            transformers loads no kernels from the Hub.
    """
    variables = dict(os.environ if base is None else base)
    for name in [*_STEERING, _TRUST, *(name for name in variables if name.startswith("PYTEST_"))]:
        variables.pop(name, None)
    if "PYTHONPATH" in variables:  # an empty entry would mean the working directory
        places = [place for place in variables["PYTHONPATH"].split(os.pathsep) if place]
        variables["PYTHONPATH"] = os.pathsep.join(places)
    if not trusted:
        variables["USE_HUB_KERNELS"] = (
            "0"  # unless it is "0", transformers fetches compiled code for some models unasked
        )
    return variables


def forget_working_directory() -> None:
    """Remove the first entry of this process's import path if it is the working directory, as `python -m` puts it."""
    if sys.path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109 - pathlib would be imported from there
        del sys.path[0]
