"""One hierarchy of errors a user can cause or meet; each is one clear line: what, where, what to do."""

from __future__ import annotations


class MpsprobeError(Exception):
    """Base of all errors that are shown as one line instead of a traceback.

    Attributes:
        what: what is wrong and where, in one sentence.
        hint: what to do about it; empty when nothing can be said.
        exit_code: the process exit code when this error ends the command.
    """

    exit_code = 1

    def __init__(self, what: str, hint: str = "") -> None:
        self.what = what
        self.hint = hint
        super().__init__(f"{what} {hint}".strip())


class UsageError(MpsprobeError):
    """The command line, a profile or a file given by the user is not usable."""

    exit_code = 2


class ProfileError(UsageError):
    """A profile is not valid TOML, or holds an unknown or ill-typed key."""


class DataError(MpsprobeError):
    """A data file of ours (knowledge) or a document of ours (run.json) does not have its form."""

    exit_code = 2


class TargetError(MpsprobeError):
    """The target cannot be used: it is not there, not complete or not readable."""


class HarnessError(MpsprobeError):
    """mpsprobe itself failed: never a failure of the model."""

    exit_code = 4
