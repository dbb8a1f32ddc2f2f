"""Every option of a run, written once: the fields of `Settings`.

The command line (`cli.options`), the pytest options and ini keys (`suite.plugin`), `[tool.mpsprobe]` of a
pyproject.toml and the arguments of a child process are all made from `OPTIONS`, so a new option is one new field.
The field's name is used everywhere: `new_tokens` is `--new-tokens`, `--mpsprobe-new-tokens`, `mpsprobe_new_tokens`
in an ini file and `new-tokens` in pyproject.toml.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from mpsprobe.errors import UsageError
from mpsprobe.run import DEVICES
from mpsprobe.run.outlook import KV_BITS, Workload

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The dtypes in which weights can be loaded.
WEIGHT_DTYPES = ("auto", "float32", "bfloat16", "float16")
#: Ways of training a target, and the optimisers for it.
TRAININGS = ("full", "lora")
OPTIMIZERS = ("adamw", "sgd", "adafactor", "lion")
#: The value of `--autocast` that turns off the region a profile asks for.
NO_AUTOCAST = "none"
#: The values of `--autocast`, in words.
AUTOCAST = "bfloat16 or float16; cpu:DTYPE for a region of the CPU; parts:DTYPE for the adapter's own regions"
#: The table of pyproject.toml that holds options.
TABLE = "tool.mpsprobe"

#: A value of an option; None where nobody set it.
Value = str | int | bool | None


class Group(str, enum.Enum):
    """A group of options that a command takes together."""

    TARGET = "target"  #: what is built and run; every command that builds a target takes all of them
    MAC = "mac"  #: the target Mac
    DEVICE = "device"  #: the device that it runs on
    RUN = "run"  #: how the suite runs


@dataclass(frozen=True)
class Option:
    """An option of a run, with its type, default, help and group.

    Attributes:
        name: The field of `Settings`.
        type: `str`, `int` or `bool`.
        default: The value when the option is not set.
        help: One line, as `--help` shows it.
        metavar: The placeholder of the value in `--help`.
        group: The group, which decides the commands that take it.
        choices: The accepted values; empty for any.
        least: The smallest accepted integer; None for any.
        is_file: Whether the value may name a file, so that a child process gets its absolute path.
        from_files: Whether configuration files may set it. False for consent, which only a person gives.
    """

    name: str
    type: type
    default: Value
    help: str
    metavar: str
    group: Group
    choices: tuple[str, ...] = ()
    least: int | None = None
    is_file: bool = False
    from_files: bool = True

    @property
    def dashed(self) -> str:
        """Return the name as command lines write it: `random-init`."""
        return self.name.replace("_", "-")

    @property
    def is_switch(self) -> bool:
        """Return whether the option is a switch that is off unless set."""
        return self.type is bool and self.default is False

    def read(self, value: object, where: str) -> Value:
        """Convert a value from a configuration file.

        Args:
            value: A TOML value, or the text of an ini value.
            where: The file and the key, for the error.

        Raises:
            UsageError: The value has another type, is not a choice, or is too small.
        """
        if self.type is bool and isinstance(value, str):
            words = {"1": True, "true": True, "yes": True, "on": True}
            words |= {"0": False, "false": False, "no": False, "off": False}
            value = words.get(value.strip().lower(), value)
        if self.type is int and isinstance(value, str) and value.strip().isdigit():
            value = int(value)
        if not isinstance(value, (str, int)) or type(value) is not self.type:
            kind = {str: "text", int: "a whole number", bool: "true or false"}[self.type]
            raise UsageError(f"{where}: expected {kind}, found {value!r}.")
        if self.choices and value not in self.choices:
            raise UsageError(f"{where}: {value!r} is not a choice.", f"One of {', '.join(self.choices)}.")
        if self.least is not None and isinstance(value, int) and value < self.least:
            raise UsageError(f"{where}: {value} is less than {self.least}.")
        return value


def _option(default: Value, help_: str, group: Group, *, metavar: str = "", **more: Any) -> Any:
    """Declare a field of `Settings`; the keyword arguments are attributes of `Option`."""
    return field(default=default, metadata={"help": help_, "group": group, "metavar": metavar, **more})


@dataclass(frozen=True)
class Settings:
    """The options of one run. Each field is one option, described by its help line.

    `None` means that the option is not set: the profile, the installed torch or this machine then decides.

    Raises:
        UsageError: The options contradict each other, or name a device, release or Mac that does not exist.
    """

    model: str | None = _option(
        None, "Repo id, local folder, package.module:Class or ./target.py.", Group.TARGET,
        metavar="MODEL", is_file=True,
    )  # fmt: skip
    device: str = _option(
        "auto", f"One of {', '.join(DEVICES)}.", Group.DEVICE, metavar="DEVICE", choices=DEVICES
    )
    profile: str | None = _option(
        None, "A profile by name, or your own .toml file.", Group.TARGET, metavar="NAME|FILE", is_file=True
    )
    revision: str | None = _option(None, "Commit, tag or branch of a repo id.", Group.TARGET, metavar="REV")
    offline: bool = _option(False, "Use only the cache and local folders, never the hub.", Group.TARGET)
    config: str | None = _option(
        None, "JSON config for package.module:Class.", Group.TARGET, metavar="FILE", is_file=True
    )
    random_init: bool = _option(
        False, "Build the model with random weights from its config: no download.", Group.TARGET
    )
    shrink: bool = _option(
        False,
        "With --random-init: keep fewer layers and experts; the report says what was cut.",
        Group.TARGET,
    )
    trust_remote_code: bool = _option(
        False, "Run the repository's own code; its files are listed first.", Group.TARGET, from_files=False
    )
    dtype: str | None = _option(
        None, "Dtype of the weights, e.g. float16.  [default: the profile's]", Group.TARGET,
        metavar="DTYPE", choices=WEIGHT_DTYPES,
    )  # fmt: skip
    new_tokens: int | None = _option(
        None,
        "Tokens that the run generates.  [default: the profile's, or 8]",
        Group.TARGET,
        metavar="N",
        least=1,
    )
    prompt_tokens: int | None = _option(
        None, "Tokens of each prompt or text that goes in.", Group.TARGET, metavar="N", least=1
    )
    batch: int | None = _option(
        None, "Batch size: prompts, images or clips at once.", Group.TARGET, metavar="N", least=1
    )
    image_size: int | None = _option(
        None,
        "Side of a square image, in pixels.  [default: the model's own]",
        Group.TARGET,
        metavar="N",
        least=8,
    )
    frames: int | None = _option(None, "Number of video frames.", Group.TARGET, metavar="N", least=1)
    steps: int | None = _option(
        None, "Diffusion steps.  [default: the profile's]", Group.TARGET, metavar="N", least=1
    )
    audio_seconds: int | None = _option(None, "Audio length in seconds.", Group.TARGET, metavar="N", least=1)
    kv_dtype: str | None = _option(
        None, "Dtype of the key-value cache in memory forecasts.  [default: that of the weights]", Group.TARGET,
        metavar="DTYPE", choices=tuple(KV_BITS),
    )  # fmt: skip
    samples: int | None = _option(
        None, "Total samples you plan to run; used to compare routes.  [default: 1]",
        Group.TARGET, metavar="N", least=1,
    )  # fmt: skip
    train: str | None = _option(
        None, "Judge one training step instead of inference: full or lora.", Group.TARGET,
        metavar="METHOD", choices=TRAININGS,
    )  # fmt: skip
    optimizer: str | None = _option(
        None, "Optimiser for --train.  [default: adamw]", Group.TARGET, metavar="NAME", choices=OPTIMIZERS
    )
    gradient_checkpointing: bool = _option(
        False,
        "With --train: recompute activations in the backward pass instead of keeping them.",
        Group.TARGET,
    )
    accumulate: int | None = _option(
        None, "With --train: batches whose gradients are accumulated before each step.  [default: 1]", Group.TARGET,
        metavar="N", least=1,
    )  # fmt: skip
    autocast: str | None = _option(
        None, "Autocast dtype, bfloat16 or float16; none for no autocast; cpu:DTYPE for autocast on the CPU only; "
        "parts:DTYPE for autocast only around the parts that the profile names.  [default: the profile's]",
        Group.TARGET, metavar="CHOICE",
    )  # fmt: skip
    mac: str | None = _option(None, "Name of the target Mac, e.g. m1-max-64.", Group.MAC, metavar="NAME")
    torch: str | None = _option(
        None, "Torch release of the target Mac.  [default: the installed one]", Group.MAC, metavar="RELEASE"
    )
    macos: str | None = _option(None, "macOS version of the target Mac.", Group.MAC, metavar="VERSION")
    fallback: bool | None = _option(
        None, "Whether PYTORCH_ENABLE_MPS_FALLBACK=1 is set on the target Mac.", Group.MAC
    )
    ignore_pins: bool = _option(False, "Continue even if requirements are not met.", Group.RUN)
    keep_going: bool = _option(
        False, "Emulated device: continue past refusals, list them all, and look for a recipe.", Group.RUN
    )

    def __post_init__(self) -> None:
        _check_mac(self)
        _check_target(self)

    @property
    def workload(self) -> Workload:
        """Return the requested numbers of tokens, rows, samples and so on, as one `Workload`."""
        names = (name for name in Workload.__struct_fields__ if name != "samples")
        return Workload(**{name: getattr(self, name) for name in names}, samples=self.samples or 1)

    def replace(self, **changes: Any) -> Settings:
        """Return a copy with some options changed."""
        return dataclasses.replace(self, **changes)

    def arguments(self) -> list[str]:
        """Return the same settings as pytest options for a child process, with absolute paths."""
        words: list[str] = []
        for option in OPTIONS:
            value = getattr(self, option.name)
            if value == option.default:
                continue
            words.append(f"--mpsprobe-{option.dashed}")
            if option.type is bool and not option.is_switch:
                words.append(str(int(value)))
            elif not option.is_switch:
                words.append(_absolute(value, Path()) if option.is_file else str(value))
        return words


def _table() -> Iterator[Option]:
    types = {"str": str, "int": int, "bool": bool}
    for one in fields(Settings):
        meta = dict(one.metadata)
        type_ = types[str(one.type).removesuffix(" | None")]
        yield Option(
            one.name,
            type_,
            cast("Value", one.default),
            meta.pop("help"),
            meta.pop("metavar"),
            meta.pop("group"),
            **meta,
        )


#: Every option, in the order of `--help`.
OPTIONS: tuple[Option, ...] = tuple(_table())


def in_groups(*groups: Group) -> tuple[Option, ...]:
    """Return the options of these groups."""
    return tuple(option for option in OPTIONS if option.group in groups)


def check_names(given: Mapping[str, object]) -> None:
    """Check that every name is that of an option.

    Raises:
        UsageError: A name is unknown; the hint gives the closest known one.
    """
    known = {option.name for option in OPTIONS}
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                f"{name}: no such option.",
                f"Did you mean {close[0]}?" if close else f"One of {', '.join(sorted(known))}.",
            )


# ---------------------------------------------------------------------------------------------- from several sources


@dataclass(frozen=True)
class OptionSource:
    """The options that one source sets: a command line, an ini file or pyproject.toml.

    Attributes:
        where: The source as errors name it; `""` for the command line.
        values: The values by field of `Settings`.
    """

    where: str
    values: Mapping[str, Value]


def settings(*sources: OptionSource) -> Settings:
    """Merge options from several sources; an earlier source wins.

    Raises:
        UsageError: The options contradict each other. The hint names the files that set any of them.
    """
    merged: dict[str, Value] = {}
    named: dict[str, list[str]] = {}
    for source in sources:
        for name, value in source.values.items():
            if value is None or name in merged:
                continue
            merged[name] = value
            if source.where:
                named.setdefault(source.where, []).append(f"{name.replace('_', '-')} = {value}")
    try:
        return Settings(**merged)  # type: ignore[arg-type]
    except UsageError as problem:
        hints = [f"{where} sets {', '.join(those)}." for where, those in named.items()]
        raise UsageError(problem.what, " ".join([problem.hint, *hints]).strip()) from problem


def of_project(start: Path, *, code: bool) -> OptionSource:
    """Read `[tool.mpsprobe]` of the nearest pyproject.toml that has it.

    Args:
        start: The folder from which to search upwards.
        code: Whether values may name code of the project (a file, a class, a profile's file). A command that a
            person runs in somebody's checkout passes False, because a file of the checkout gives no consent.

    Raises:
        UsageError: The file is not TOML, or the table holds an unknown or ill-typed key.
    """
    for folder in (start, *start.parents):
        path = folder / "pyproject.toml"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if f"[{TABLE}]" not in text:
            continue
        try:
            table = tomllib.loads(text).get("tool", {}).get("mpsprobe", {})
        except tomllib.TOMLDecodeError as problem:
            raise UsageError(f"{path}: not valid TOML: {problem}.") from problem
        if table:
            return OptionSource(f"{path} [{TABLE}]", _values(table, path, code))
    return OptionSource("", {})


def _values(table: Mapping[str, object], path: Path, code: bool) -> dict[str, Value]:
    known = {option.dashed: option for option in OPTIONS}
    found: dict[str, Value] = {}
    for key, value in table.items():
        where = f"{path} [{TABLE}] {key}"
        option = known.get(key.replace("_", "-"))
        if option is None:
            close = difflib.get_close_matches(key, known, n=1)
            raise UsageError(
                f"{where}: no such option.",
                f"Did you mean {close[0]}?" if close else f"One of {', '.join(known)}.",
            )
        if not option.from_files:
            raise UsageError(
                f"{where}: consent is not read from a file.", f"Give --{option.dashed} yourself."
            )
        read = option.read(value, where)
        if option.is_file:
            read = _absolute(str(read), path.parent)
        if not code and _names_code(option, str(read)):
            raise UsageError(
                f"{where}: {value} would run code of this project.",
                f"Give --{option.dashed} yourself."
                if option.name != "model"
                else "Give it as MODEL yourself.",
            )
        found[option.name] = read
    return found


def _names_code(option: Option, value: str) -> bool:
    """Return whether a value from a file names code that the caller did not name: a Python file, class or profile."""
    if option.name == "model":
        return value.endswith(".py") or is_class_path(value)
    return option.name == "profile" and value.endswith(".toml")


def _absolute(value: str, folder: Path) -> str:
    """Return the absolute path of an existing file or folder; return any other value unchanged."""
    path = folder / Path(value).expanduser()
    return str(path.resolve()) if path.exists() else value


# ------------------------------------------------------------------------------------------------- what fits together


def is_class_path(model: str) -> bool:
    """Return whether a model is named as `package.module:Class`."""
    return ":" in model and not Path(model).exists()


def split_autocast(choice: str) -> tuple[str, str]:
    """Split an autocast choice into the kind of region and its dtype.

    Returns:
        The kind (`""` for the device's own region, `"cpu"`, `"parts"`) and the dtype, `""` for no region.
    """
    kind, _, dtype = choice.rpartition(":")
    return kind, dtype


def is_autocast(choice: str) -> bool:
    """Return whether an autocast choice is a dtype, or a dtype after `cpu:` or `parts:`."""
    kind, dtype = split_autocast(choice)
    return dtype in ("bfloat16", "float16") and kind in ("", "cpu", "parts")


def _check_mac(given: Settings) -> None:
    # The pytest plugin imports this module in every environment, so the knowledge base is imported late.
    if given.device not in DEVICES:
        raise UsageError(f"--device {given.device}: no such device.", f"One of {', '.join(DEVICES)}.")
    if given.torch is not None:
        from mpsprobe.knowledge.ops import resolve_release

        resolve_release(given.torch)
    if given.mac is not None:
        from mpsprobe.mac.catalogue import named

        named(given.mac, given.macos)
    if given.keep_going and given.device not in ("auto", "emulated"):
        raise UsageError(
            f"--keep-going: {given.device} raises at the first failure, and cannot continue.",
            "It goes with --device emulated.",
        )


def _check_target(given: Settings) -> None:
    is_class = given.model is not None and is_class_path(given.model)
    if given.config is not None and not is_class:
        raise UsageError(
            "--config goes with a class: package.module:Class.", "A folder has its own config.json."
        )
    if is_class:
        module, _, name = str(given.model).partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), name)):
            raise UsageError(f"{given.model!r} is not a class path.", "It looks like package.module:Class.")
        if not given.random_init:
            raise UsageError(
                f"{given.model}: a class has no weights.", "Give --random-init, or the folder of its weights."
            )
    if given.kv_dtype is not None and given.kv_dtype not in KV_BITS:
        raise UsageError(
            f"--kv-dtype {given.kv_dtype}: no such dtype of a cache.", f"One of {', '.join(KV_BITS)}."
        )
    if given.dtype is not None and given.dtype not in WEIGHT_DTYPES:
        raise UsageError(
            f"--dtype {given.dtype}: weights are not loaded in that.", f"One of {', '.join(WEIGHT_DTYPES)}."
        )
    if given.autocast not in (None, NO_AUTOCAST) and not is_autocast(str(given.autocast)):
        raise UsageError(f"--autocast {given.autocast}: no such choice.", f"It is {NO_AUTOCAST}, {AUTOCAST}.")
    if given.train is not None and given.train not in TRAININGS:
        raise UsageError(f"--train {given.train}: no such method.", f"One of {', '.join(TRAININGS)}.")
    if given.optimizer is not None and given.optimizer not in OPTIMIZERS:
        raise UsageError(
            f"--optimizer {given.optimizer}: no such optimiser.", f"One of {', '.join(OPTIMIZERS)}."
        )
    if given.train is None:
        for name in ("optimizer", "gradient_checkpointing", "accumulate"):
            if getattr(given, name):
                raise UsageError(
                    f"--{name.replace('_', '-')} goes with --train.", "Give --train full or --train lora."
                )
    if given.shrink and not given.random_init:
        raise UsageError("--shrink goes with --random-init.", "Stored weights fit no smaller model.")
