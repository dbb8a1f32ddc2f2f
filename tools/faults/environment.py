"""What is installed or set on the machine: incompatible packages, proxies, unusable folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from faults.case import BLOCKED, FAILED, PASSED, USAGE, Case, Outcome
from faults.making import model, target

PROMISE = "A fault of the machine is named as one, with the command that fixes it, and exit status 3; the report is never lost."

_ARGV = ("run", "target.py", "--device", "cpu", "--phase", "3")


def _package(name: str, text: str, inner: str = "__init__") -> Callable[[Path], None]:
    """Return a function that makes a package that takes precedence over the installed one with the same name.

    Args:
        name: The name of the package.
        text: The text of its module.
        inner: The module that has the text.
    """

    def prepare(folder: Path) -> None:
        model(folder / "m")
        target()(folder)
        place = folder / "site-packages" / name
        place.mkdir(parents=True)
        (place / "__init__.py").touch()
        (place / f"{inner}.py").write_text(text)

    return prepare


def _metadata(name: str, version: str) -> Callable[[Path], None]:
    """Return a function that plants metadata by which a distribution seems to have another version."""

    def prepare(folder: Path) -> None:
        model(folder / "m")
        place = folder / "site-packages" / f"{name.replace('-', '_')}-{version}.dist-info"
        place.mkdir(parents=True)
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    return prepare


def _target(folder: Path) -> None:
    target()(folder)


def _file(name: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        target()(folder)
        (folder / name).write_text("a file")

    return prepare


def _elsewhere(outcome: Outcome) -> str:
    return "" if "The report is in" in outcome.text or outcome.run else "the report is lost"


def cases() -> Iterator[Case]:
    """Yield cases with incompatible packages, malformed proxies and folders that cannot be used."""
    site: dict[str, str | None] = {
        "PYTHONPATH": "{folder}/site-packages:" + str(Path(__file__).parents[2] / "src")
    }
    run = ("run", "m", "--device", "cpu", "--phase", "4")
    yield Case(
        "hub-2.4",
        run,
        {BLOCKED},
        "huggingface-hub",
        prepare=_metadata("huggingface-hub", "2.4.0"),
        env=site,
        short=True,
    )
    yield Case(
        "old-tokenizers", run, {BLOCKED}, "tokenizers", prepare=_metadata("tokenizers", "0.10.0"), env=site
    )
    yield Case(
        "old-safetensors", run, {BLOCKED}, "safetensors", prepare=_metadata("safetensors", "0.1.0"), env=site
    )
    for name in (
        "safetensors",
        "tokenizers",
        "huggingface_hub",
        "msgspec",
        "psutil",
        "jinja2",
        "transformers",
    ):
        yield Case(f"empty-{name}", run, {BLOCKED}, name.replace("_", "-"), prepare=_package(name, ""), env=site,
                   short=name == "transformers")  # fmt: skip
    for name in ("transformers", "safetensors", "accelerate"):
        text = "raise ImportError(\"cannot import name 'x' from 'huggingface_hub' (unknown location)\")"
        ends = {BLOCKED, PASSED, FAILED} if name == "accelerate" else {BLOCKED}
        yield Case(f"broken-{name}", run, ends, prepare=_package(name, text), env=site)
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        for value in ("htp://proxy:3128", "http://proxy:port", "http://", "://"):
            label = value.replace("/", "_")
            yield Case(f"proxy-{name}-{label}", ("run", "owner/model", "--device", "cpu", "--phase", "3"), {BLOCKED}, name,
                       prepare=_target, env={name: value}, short=value == "htp://proxy:3128" and name == "HTTPS_PROXY")  # fmt: skip
    for label, output, says in (
        ("below-a-file", "notes.txt/out", "notes.txt"), ("in-proc", "/proc/mpsprobe", "/proc"), ("in-sys", "/sys/mpsprobe", "/sys"),
        ("device", "/dev/null", "/dev/null"), ("null-byte-free", "/proc/self/fd/out", "/proc"), ("long", "x" * 300, "xxx"),
    ):  # fmt: skip
        yield Case(
            f"output-{label}",
            (*_ARGV, "--output", output),
            {USAGE},
            says,
            prepare=_file("notes.txt"),
            short=label == "in-proc",
        )
    yield Case(
        "output-full",
        (*_ARGV, "--output", "/dev/shm/../full"),
        {USAGE, PASSED},
        prepare=_target,
        lists_checks=False,
    )
    yield Case("home-missing", _ARGV, {PASSED}, prepare=_target, env={"HOME": "{folder}/nowhere"})
    yield Case("home-unset", _ARGV, {PASSED}, prepare=_target, env={"HOME": None})
    yield Case("hf-home-file", _ARGV, {PASSED}, prepare=_file("hf"))
    yield Case("hf-home-proc", ("run", "--device", "cpu", "--phase", "3"), {PASSED, FAILED, BLOCKED}, prepare=_target,
               env={"HF_HOME": "/proc", "XDG_CACHE_HOME": "/proc", "MPSPROBE_CACHE": "/proc/x"})  # fmt: skip
    yield Case(
        "tmp-missing", _ARGV, {PASSED, USAGE, FAILED}, prepare=_target, env={"TMPDIR": "{folder}/nowhere"}
    )
    yield Case("locale-c", _ARGV, {PASSED}, prepare=_target, env={"LC_ALL": "C", "PYTHONIOENCODING": None})
    yield Case("ascii-output", _ARGV, {PASSED}, prepare=_target, env={"PYTHONIOENCODING": "ascii"})
    yield Case("latin-output", _ARGV, {PASSED}, prepare=_target, env={"PYTHONIOENCODING": "latin-1"})
    yield Case("width-zero", _ARGV, {PASSED}, prepare=_target, env={"COLUMNS": "0"})
    yield Case("colours", _ARGV, {PASSED}, prepare=_target, env={"NO_COLOR": None, "TERM": "dumb"})
    yield Case("mps-variable", _ARGV, {PASSED}, prepare=_target, env={"PYTORCH_ENABLE_MPS_FALLBACK": "yes"})
    yield Case("threads-odd", _ARGV, {PASSED, FAILED}, prepare=_target, env={"OMP_NUM_THREADS": "many"})
