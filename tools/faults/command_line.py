"""Words on the command line that mean nothing, or something other than intended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from faults.case import FAILED, PASSED, USAGE, Case
from faults.making import model, target

PROMISE = "A word that mpsprobe does not know ends in one line that says which, and exit status 2."


def _both(folder: Path) -> None:
    model(folder / "m")
    target()(folder)
    (folder / "notes.txt").write_text("hello")
    (folder / "bad.toml").write_text("name = [")
    (folder / "odd.toml").write_text('name = "x"\ntitle = "x"\nadapter = "a:B"\nevil = 1\n')
    (folder / "bad.json").write_text("{")


def cases() -> Iterator[Case]:
    """Yield calls with wrong arguments, options and configuration files."""
    wrong: dict[str, tuple[tuple[str, ...], str]] = {
        "no-such-command": (("rum",), "No such command 'rum'"),
        "no-such-option": (("run", "--evil"), "--evil"),
        "no-such-folder": (("run", "./nothing-here"), "no such folder"),
        "no-such-file": (("run", "./nothing.py"), "no such file"),
        "no-model-file": (("run", "notes.txt"), "notes.txt"),
        "no-such-device": (("run", "m", "--device", "tpu"), "tpu"),
        "no-such-mac": (("run", "m", "--mac", "m9-ultra"), "m9-ultra"),
        "no-such-torch": (("run", "m", "--torch", "9.9"), "9.9"),
        "bad-torch": (("run", "m", "--torch", "two"), "two"),
        "bad-macos": (("run", "m", "--mac", "m1-max-64", "--macos", "x"), "x"),
        "no-such-phase": (("run", "m", "--phase", "9"), "9"),
        "phase-zero": (("run", "m", "--phase", "0"), "0"),
        "bad-dtype": (("run", "m", "--dtype", "int4"), "int4"),
        "bad-autocast": (("run", "m", "--autocast", "x"), "autocast"),
        "bad-tokens": (("run", "m", "--new-tokens", "-1"), "new-tokens"),
        "text-tokens": (("run", "m", "--new-tokens", "many"), "new-tokens"),
        "shrink-alone": (("run", "m", "--shrink"), "--random-init"),
        "keep-going-on-cpu": (("run", "m", "--device", "cpu", "--keep-going"), "--keep-going"),
        "class-with-weights": (("run", "a.b:C"), "--random-init"),
        "class-no-name": (("run", "a b:C d", "--random-init"), "class path"),
        "config-without-class": (("run", "m", "--config", "bad.json"), "--config"),
        "no-such-profile": (("run", "m", "--profile", "nope"), "nope"),
        "bad-profile": (("run", "m", "--profile", "bad.toml"), "bad.toml"),
        "odd-profile": (("run", "m", "--profile", "odd.toml"), "odd.toml"),
        "profile-is-a-folder": (("run", "m", "--profile", "./m"), "m"),
        "two-models": (("run", "m", "m"), "m"),
        "empty-model": (("run", ""), ""),
        "output-is-a-file": (("run", "m", "--output", "notes.txt"), "notes.txt"),
        "report-nothing": (("report", "nothing.json"), "nothing.json"),
        "report-no-format": (("report", "notes.txt", "--format", "pdf"), "pdf"),
        "compare-one": (("compare", "notes.txt"), ""),
        "compare-no-runs": (("compare", "notes.txt", "notes.txt"), "notes.txt"),
        "ops-no-such": (("ops", "aten::evil_op"), "evil_op"),
        "ops-no-torch": (("ops", "aten::mm", "--torch", "9.9"), "9.9"),
        "scan-nothing": (("scan",), "scan"),
        "scan-no-such": (("scan", "./nothing"), "nothing"),
        "scan-bad-rule": (("scan", "m", "--select", "X999"), "X999"),
        "advisories-no-torch": (("advisories", "--torch", "x"), "x"),
        "expect-no-run": (("expect", "nothing.json"), "nothing.json"),
        "expect-no-json": (("expect", "notes.txt"), "notes.txt"),
        "diverge-no-model": (("diverge", "./nothing"), "nothing"),
        "baseline-no-model": (("baseline", "./nothing", "--output", "b.npz"), "nothing"),
        "predict-no-model": (("predict", "./nothing"), "nothing"),
        "predict-no-file": (("predict", "./nothing.py"), "nothing.py"),
        "predict-bad-mac": (("predict", "m", "--mac", "pear"), "pear"),
        "escape-in-a-name": (("run", "./\x1b[31mred"), "no such folder"),
        "escape-in-an-option": (("run", "--\x1b]0;x\x07"), ""),
        "escape-in-a-device": (("run", "m", "--device", "\x1b[2J"), "device"),
        "bidi-in-a-name": (("run", "./abc\u202etxt"), "no such folder"),
        "long-name": (("run", "./" + "x" * 5000), ""),
        "newline-in-a-name": (("run", "./a\nb"), ""),
        "surrogate-in-a-name": (("run", "./a\udc80b"), ""),
        "many-slashes": (("run", "a/b/c/d"), "a/b/c/d"),
        "parity-no-model": (("parity", "./nothing"), "nothing|mlx"),
    }  # fmt: skip
    few = ("no-such-command", "no-such-folder", "escape-in-a-name", "no-such-phase")
    for name, (argv, says) in wrong.items():
        may_fail = {USAGE, FAILED} if name in ("empty-model", "many-slashes", "parity-no-model") else {USAGE}
        yield Case(name, argv, may_fail, says, prepare=_both, short=name in few, limit_s=120)
    yield Case("help", ("--help",), {PASSED}, "Commands")
    yield Case("version", ("--version",), {PASSED}, "mpsprobe")
