"""Unusual but valid surroundings of a process, and targets that change the process that they run in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.case import CRASHED, FAILED, PASSED, Case, Outcome
from faults.making import target

PROMISE = "Odd surroundings change no answer, and a target that alters its own process alters no report."

_ARGV = ("run", "target.py", "--device", "cpu", "--phase", "4")
#: Variables of Python, of the terminal and of the system, none of which may change the result.
_VARIABLES: dict[str, dict[str, str | None]] = {
    "TERM-unset": {"TERM": None},
    "LANG-C": {"LANG": "C", "LC_ALL": None},
    "POSIX": {"LC_ALL": "POSIX", "LANG": None},
    "utf8-off": {"PYTHONUTF8": "0", "LC_ALL": "C"},
    "no-coercion": {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "LC_ALL": "C"},
    "TZ-odd": {"TZ": "Pacific/Kiritimati"},
    "TZ-wrong": {"TZ": "nowhere/at/all"},
    "hash-seed": {"PYTHONHASHSEED": "0"},
    "optimised": {"PYTHONOPTIMIZE": "2"},
    "warnings-are-errors": {"PYTHONWARNINGS": "error"},
    "no-bytecode": {"PYTHONDONTWRITEBYTECODE": "1"},
    "dev-mode": {"PYTHONDEVMODE": "1"},
    "fault-handler": {"PYTHONFAULTHANDLER": "1"},
    "no-user-site": {"PYTHONNOUSERSITE": "1"},
    "columns-1": {"COLUMNS": "1"},
    "columns-text": {"COLUMNS": "wide"},
    "path-empty": {"PATH": ""},
    "path-unset": {"PATH": None},
    "summary-nowhere": {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": "/nowhere/at/all"},
    "digits": {"PYTHONINTMAXSTRDIGITS": "640"},
}
_WHOLE = "return torch.nn.Linear(4, 2).to(device)"
#: Code with which a target changes its process before it returns its model.
_ALTERS = {
    "patches-json": "import json\njson.dumps = json.loads = json.dump = None",
    "patches-open": "import builtins\nbuiltins.open = None",
    "patches-os-write": "os.write = lambda *a: 0",
    "patches-time": "import time\ntime.time = time.perf_counter = lambda: -1.0",
    "patches-print": "import builtins\nbuiltins.print = None",
    "excepthook": "sys.excepthook = lambda *a: os._exit(0)",
    "unraisable": "class D:\n    def __del__(self): raise KeyboardInterrupt\nD()",
    "trace": "sys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)",
    "own-stdout": "import io\nsys.stdout, sys.stderr = io.StringIO(), io.StringIO()",
    "detached-daemon": "import subprocess\nsubprocess.Popen(['sleep', '3'], start_new_session=True)",
    "many-threads": "import threading, time\n[threading.Thread(target=time.sleep, args=(600,), daemon=True).start() for _ in range(100)]",
    "slow-exit": "import atexit, time\natexit.register(time.sleep, 2)",
    "umask": "os.umask(0o777)",
    "nice": "os.nice(19)",
    "no-collector": "import gc\ngc.disable()\ngc.set_threshold(0)",
    "default-dtype": "torch.set_default_dtype(torch.float64)\ntorch.set_default_dtype(torch.float32)",
    "argv": "sys.argv[:] = []",
    "modules-cleared": "[sys.modules.pop(n) for n in list(sys.modules) if n.startswith('email')]",
    "warnings-as-errors": "import warnings\nwarnings.simplefilter('error')",
    "signal-alarm": "signal.signal(signal.SIGALRM, signal.SIG_DFL)",
}


def _prefixed(*words: str, load: str = _WHOLE) -> Callable[[Path], None]:
    """Return a `prepare` that runs mpsprobe under another command, such as `nohup` or `timeout 8`.

    The exit status and the end of stderr are written to `behind.txt` in the case's folder, which `_behind` reads.

    Args:
        words: The other command with its arguments.
        load: The source of the target's `load` function.
    """

    def prepare(folder: Path) -> None:
        target(load=load)(folder)
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
            "OMP_NUM_THREADS": "1",
            "HF_HOME": str(folder / "hf"),
        }
        command = [*words, sys.executable, "-m", "mpsprobe", *_ARGV, "--output", "behind"]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, stdin=subprocess.DEVNULL, check=False
        )
        (folder / "behind.txt").write_text(f"{done.returncode} {done.stderr.decode(errors='replace')[-300:]}")

    return prepare


def _behind(*codes: int) -> Callable[[Outcome], str]:
    def check(outcome: Outcome) -> str:
        text = (outcome.folder / "behind.txt").read_text()
        if int(text.split()[0]) not in codes or "Traceback" in text:
            return f"behind it: {text}"
        whole = (outcome.folder / "behind" / "report.html").is_file()
        return "" if whole or codes != (PASSED,) else "behind it there is no report"

    return check


def _named(name: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        target()(folder)
        (folder / "target.py").rename(folder / name)

    return prepare


def cases() -> Iterator[Case]:
    """Yield commands in unusual but valid surroundings, and targets that change the process that they run in."""
    for name, env in _VARIABLES.items():
        yield Case(
            f"environment-{name}",
            _ARGV,
            {PASSED},
            prepare=target(),
            env=env,
            short=name in ("POSIX", "optimised"),
        )
    for name, code in _ALTERS.items():
        ends = {PASSED, FAILED} if name == "patches-open" else {PASSED}
        body = f"{code}\n{_WHOLE}"
        yield Case(f"target-{name}", _ARGV, ends, prepare=target(load=body), short=name == "patches-json")
    for name in ("ünï cödé/日本.py", "a b'c\"d.py", "-dash.py", "x" * 200 + ".py", "dots..in.name.py"):
        argv = ("run", f"./{name}", *_ARGV[2:])
        env = {"LC_ALL": "POSIX"} if name.startswith("ü") else {}
        yield Case(f"name-{name[:12].replace('/', '_')}", argv, {PASSED}, prepare=_named(name), env=env)
    version = ("--version",)
    slow = f"import time\ntime.sleep(60)\n{_WHOLE}"  # no machine finishes before the timeout
    for name, words, codes in (
        ("nohup", ("nohup",), (PASSED,)),
        ("setsid", ("setsid", "--wait"), (PASSED,)),
        ("files-64", ("sh", "-c", 'ulimit -n 64; exec "$@"', "sh"), (PASSED, FAILED, 3)),
        ("files-16", ("sh", "-c", 'ulimit -n 16; exec "$@"', "sh"), (PASSED, FAILED, 2, 3)),
        ("umask-077", ("sh", "-c", 'umask 077; exec "$@"', "sh"), (PASSED,)),
        ("stdin-closed", ("sh", "-c", 'exec "$@" <&-', "sh"), (PASSED,)),
        ("all-closed", ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"), (PASSED,)),
        ("core-0", ("sh", "-c", 'ulimit -c 0; exec "$@"', "sh"), (PASSED,)),
        ("timeout-8", ("timeout", "8"), (124, CRASHED)),
    ):
        yield Case(f"behind-{name}", version, {PASSED}, prepare=_prefixed(*words, load=slow if name == "timeout-8" else _WHOLE), check=_behind(*codes),
                   lists_checks=False)  # fmt: skip
