"""Faults of a target's own code in each phase: exceptions of every kind, exits, crashes, forks, closed streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from faults.case import BLOCKED, CRASHED, FAILED, PASSED, Case, Outcome
from faults.making import target

PROMISE = (
    "What a target raises is its own failure, with its line; a crash or a hang is a result; no check is lost."
)

#: Exceptions, with the text that the output must contain.
_RAISED = {
    "runtime-error": ("raise RuntimeError('planted')", "planted"),
    "keyboard-interrupt": ("raise KeyboardInterrupt('planted')", "KeyboardInterrupt"),
    "system-exit": ("sys.exit(0)", "SystemExit"),
    "generator-exit": ("raise GeneratorExit('planted')", "GeneratorExit"),
    "cancelled": ("import asyncio\nraise asyncio.CancelledError('planted')", "CancelledError"),
    "own-base": ("class Own(BaseException): pass\nraise Own('planted')", "Own"),
    "str-raises": (
        "class Bad(Exception):\n    def __str__(self): raise ValueError('no')\nraise Bad()",
        "Bad",
    ),
    "str-exits": ("class Bad(Exception):\n    def __str__(self): sys.exit(0)\nraise Bad()", "Bad"),
    "skip": ("import pytest\npytest.skip('planted')", "Skipped"),
    "pytest-exit": ("import pytest\npytest.exit('planted', 0)", "Exit"),
    "pytest-fail": ("import pytest\npytest.fail('Timeout (>1 s)')", "Failed"),
    "xfail": ("import pytest\npytest.xfail('planted')", "XFailed"),
    "stop-iteration": ("raise StopIteration", "StopIteration"),
    "recursion": ("def f(): return f()\nf()", "RecursionError"),
    "memory": ("raise MemoryError('planted')", "MemoryError"),
    "group": ("raise Exception('a', Exception('b')) from KeyError('c')", "Exception"),
    "escape": ("raise RuntimeError('\\x1b[31mred\\x07')", "red"),
    "bidi": ("raise RuntimeError('abc\\u202etxt')", "abc"),
    "surrogate": ("raise RuntimeError('a\\ud800b')", "RuntimeError"),
    "import-error": ("import nothing_of_that_name", "nothing_of_that_name"),
    "assert": ("assert False, 'planted'", "planted"),
}
#: Ways to end the process.
_ENDS = {
    "os-exit-0": "os._exit(0)",
    "os-exit-7": "os._exit(7)",
    "abort": "os.abort()",
    "segfault": "import ctypes; ctypes.string_at(0)",
    "sigkill": "os.kill(os.getpid(), 9)",
    "sigterm": "os.kill(os.getpid(), 15)",
    "real-time-signal": "os.kill(os.getpid(), 40)",
    "exec": "os.execv('/bin/true', ['true'])",
    "kill-the-group": "os.killpg(os.getpgid(0), 9)",
}
#: What a target may do without ending the run.
_LIVES = {
    "close-stdout": "os.close(1)",
    "close-stderr": "os.close(2)",
    "close-all": "os.closerange(0, 3)",
    "close-every-descriptor": "os.closerange(3, 64)",
    "print-a-lot": "print('x' * 10_000_000)",
    "print-escapes": "print('\\x1b[2J\\x1b]0;owned\\x07')",
    "fork": "pid = os.fork()\nos.waitpid(pid, 0) if pid else None",
    "fork-and-leave": "os.fork()",
    "redirect": "sys.stdout = sys.stderr = None",
    "signals-ignored": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "chdir": "os.chdir('/')",
    "environment-cleared": "os.environ.clear()",
    "threads": "import threading\nthreading.Thread(target=lambda: __import__('time').sleep(600), daemon=True).start()",
    "child-process": "import subprocess\nsubprocess.Popen(['sleep', '600'])",
    "exit-handler": "import atexit\natexit.register(lambda: os._exit(3))",
    "recursion-limit": "sys.setrecursionlimit(100_000)",
}


#: Code that closes descriptors that it did not open, and opens its own files, which get their numbers.
_TAKES = "os.closerange({first}, 256)\nmine = [open(f'mine-{{k}}', 'w') for k in range(60)]"
_WRITES = "[(file.write('mine'), file.close()) for file in mine]"


def _untouched(outcome: Outcome) -> str:
    """Return what is wrong if the target's files hold other text than its own, or the report omits what it closed."""
    wrong = [
        path.name for path in outcome.folder.glob("mine-*") if path.read_text(errors="replace") != "mine"
    ]
    if wrong or not (outcome.folder / "mine-0").exists():
        return f"files of the target hold something else, or nothing: {wrong[:3]}"
    limits = (outcome.run or {}).get("limits", [])
    return (
        ""
        if any("closed descriptors" in one for one in limits)
        else "the report does not say what was closed"
    )


def _line(outcome: Outcome) -> str:
    """Return what is wrong unless a check failed whose message names a line of the target's file; else `""`."""
    failed = [one for one in (outcome.run or {"checks": []})["checks"] if one["status"] == "fail"]
    if not failed:
        return "no check failed"
    return (
        ""
        if any("target.py" in one["message"] for one in failed)
        else "no failed check names a line of target.py"
    )


def _no_error(outcome: Outcome) -> str:
    bad = [
        one
        for one in (outcome.run or {"checks": []})["checks"]
        if one["status"] in ("error", "skipped") and "pytest" in one["message"]
    ]
    return f"{bad[0]['id']} is {bad[0]['status']}" if bad else ""


def _run(phase: str) -> tuple[str, ...]:
    return ("run", "target.py", "--device", "cpu", "--phase", phase)


def cases() -> Iterator[Case]:
    """Yield cases with targets whose own code raises, exits, crashes, forks or closes streams, in each phase."""
    places = {"top": "3", "load": "4", "sample": "5", "prepare": "5", "infer": "6", "extract": "6"}
    for name, (code, says) in _RAISED.items():
        for place, phase in places.items():
            if place in ("sample", "extract", "prepare") and name not in (
                "keyboard-interrupt",
                "skip",
                "runtime-error",
            ):
                continue  # the same guard as the place before, which three kinds show
            yield Case(
                f"{place}-{name}", _run(phase), {FAILED}, says, prepare=target(**{place: code}), check=_line,
                short=place == "load" and name in ("keyboard-interrupt", "skip", "str-raises"),
            )  # fmt: skip
    for name, code in _ENDS.items():
        for place in ("load", "infer") if name in ("abort", "os-exit-0") else ("load",):
            yield Case(f"{place}-{name}", _run(places[place]), {CRASHED}, prepare=target(**{place: code}),
                       short=name in ("abort", "os-exit-0") and place == "load")  # fmt: skip
    whole = "return torch.nn.Linear(4, 2).to(device)"
    for name, code in _LIVES.items():
        body = f"{code}\n{whole}"
        yield Case(f"load-{name}", _run("4"), {PASSED}, prepare=target(load=body), check=_no_error,
                   short=name in ("close-stdout", "fork"))  # fmt: skip
    for place, last in (("load", whole), ("infer", "out = model(batch['x']).sinh().cosh()")):
        for first in (0, 3):
            code = f"{_TAKES.format(first=first)}\n{last}\n{_WRITES}"
            code += "\nreturn out" if place == "infer" else ""
            code = code.replace("return torch.nn", "out = torch.nn") + (
                "\nreturn out" if place == "load" else ""
            )
            yield Case(f"{place}-takes-descriptors-from-{first}", _run(places[place]), {PASSED}, prepare=target(**{place: code}),
                       check=_untouched, short=place == "infer" and first == 3)  # fmt: skip
    for name, parts in {
        "load-returns-none": {"load": "return None"}, "sample-returns-list": {"sample": "return []"},
        "prepare-returns-none": {"prepare": "return None"}, "extract-returns-text": {"extract": "return 'x'"},
    }.items():  # fmt: skip
        (place,) = parts
        yield Case(name, _run(places[place]), {FAILED}, prepare=target(**parts))
    for name in ("runtime-error", "keyboard-interrupt", "str-raises", "system-exit"):
        for place in places:
            # 3: it cannot be built or fed, so nothing can be predicted; 1: its code stopped in between
            ends = {FAILED} if place in ("infer", "extract") else {BLOCKED}
            yield Case(f"predict-{place}-{name}", ("predict", "target.py"), ends, _RAISED[name][1],
                       prepare=target(**{place: _RAISED[name][0]}), short=place == "prepare" and name == "str-raises")  # fmt: skip
    yield Case(
        "macs-infer",
        ("macs", "target.py"),
        {BLOCKED},
        "code stopped",
        prepare=target(infer="raise ValueError"),
    )
    judge = "def judge(outputs):\n    "
    for name in ("keyboard-interrupt", "skip", "runtime-error", "system-exit"):
        code = _RAISED[name][0].replace("\n", "\n    ")
        yield Case(
            f"judge-{name}",
            _run("6"),
            {FAILED},
            _RAISED[name][1],
            prepare=target(top=judge + code),
            check=_line,
        )
    yield Case("no-functions", _run("3"), {FAILED}, "lacks", prepare=_file(b"x = 1\n"))
    yield Case("no-python", _run("3"), {FAILED}, "SyntaxError", prepare=_file(b"def ("))
    yield Case("null-bytes", _run("3"), {FAILED}, prepare=_file(b"\x00x"))


def _file(data: bytes) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / "target.py").write_bytes(data)

    return prepare
