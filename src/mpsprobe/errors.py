"""The errors that a user can cause or meet. Each is one clear line: what, where, what to do.

    MpsprobeError                   exit code 1
    ├── UsageError                  2  the command line, or a file that the user wrote
    │   ├── ProfileError               a profile
    │   └── Unknown{Op,Release,Dtype}Error  a name that the knowledge base does not have
    ├── DataError                   2  a data file of mpsprobe, a run.json, a baseline
    ├── TargetError                 1  the model: missing, gated, incomplete, unreadable
    │   ├── NoSuchModelError, GatedError, HubUnreachableError, DiskFullError
    │   ├── SnapshotError              its files: ConfigError, ShardError, WeightsError, NoWeightsError ...
    │   └── ConsentError               the target would run code that its user did not agree to
    ├── SurroundingsError           3  the installation or the environment, such as a half-installed package
    ├── DeviceUnavailableError      1  the requested device
    ├── VirtualDeviceError          1  the virtual device cannot start here, or not with these settings
    │   ├── UnsupportedInstallError, AlreadyActiveError
    │   └── OutOfReachError         3  the emulation cannot follow a call
    ├── RecordingFailedError        1  the op uses of a target could not be recorded
    ├── JobFailedError              the child of a comparison reported an error, whose exit code this one takes
    ├── JobDiedError                5  the child of a comparison crashed or hung
    ├── JobInterruptedError         130
    ├── NotBegunError               130 a run that was interrupted before its first check
    └── HarnessError                4  mpsprobe itself

Two outcomes are exceptions without being errors of the program: `phases.check.LinkFailed` (a phase could not make
its link: the phase fails, later ones are blocked) and `suite.plugin.CheckFailed` (a check did not pass).
"""

from __future__ import annotations

_DOCS = "https://github.com/mpsprobe/mpsprobe/blob/main/docs/"


def docs(page: str) -> str:
    """Return the web address of a page of `docs/`, because an installed package does not hold the pages."""
    return f"{_DOCS}{page}"


def text_of(problem: BaseException) -> str:
    """Return the message of an exception, or a note with the type of what its own `__str__` raises."""
    try:
        return str(problem)
    except BaseException as raised:  # the method belongs to the target
        return f"(its __str__ raises {type(raised).__name__})"


def first_line(problem: BaseException) -> str:
    """Return the first line of an exception's message; `no reason given` when the message is empty."""
    return (text_of(problem).strip().splitlines() or ["no reason given"])[0]


class MpsprobeError(Exception):
    """Base of all errors that are shown as one line instead of a traceback.

    Attributes:
        what: What is wrong and where, in one sentence.
        hint: What to do about it; empty when there is no advice.
        exit_code: The exit code of the process when this error ends the command.
    """

    exit_code = 1

    def __init__(self, what: str, hint: str = "") -> None:
        self.what = what
        self.hint = hint
        super().__init__(f"{what} {hint}".strip())


class UsageError(MpsprobeError):
    """The command line, a profile or a file given by the user cannot be used."""

    exit_code = 2


class ProfileError(UsageError):
    """A profile is not valid TOML, or holds an unknown or ill-typed key."""


class DataError(MpsprobeError):
    """A data file of mpsprobe, or a document that it wrote, cannot be read or does not fit its schema."""

    exit_code = 2


class TargetError(MpsprobeError):
    """The target cannot be used, for example because it is missing, gated, incomplete or unreadable."""


class ConsentError(TargetError):
    """The target would run its own code or unpickle a file, and the user did not agree to that."""


class SurroundingsError(MpsprobeError):
    """Something that is installed or set on this machine keeps mpsprobe from working; the target is not at fault."""

    exit_code = 3


class HarnessError(MpsprobeError):
    """mpsprobe itself failed, which is never a failure of the model."""

    exit_code = 4


class VirtualDeviceError(MpsprobeError):
    """The virtual device cannot be used on this machine, or not with these settings."""


class OutOfReachError(VirtualDeviceError):
    """The emulation cannot follow this call. Whether a Mac can is unknown; it is never a failure of the model."""

    exit_code = 3


class UnsupportedInstallError(VirtualDeviceError):
    """The virtual device does not work on this machine or with this PyTorch build; the text gives the reason."""


class AlreadyActiveError(VirtualDeviceError):
    """Another virtual device is active in this process. PyTorch has one `mps` slot, so they do not nest."""
