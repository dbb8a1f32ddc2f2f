"""The Mac a question is about, as far as the tables need it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mac:
    """The Mac asked about, as far as the tables need it.

    Attributes:
        torch: the torch release there.
        macos: None when not known: new enough for everything that release can do.
        chip: e.g. `"Apple M1 Max"`; None when not known.
        fallback: PYTORCH_ENABLE_MPS_FALLBACK=1 was set before Python started.
    """

    torch: str
    macos: str | None = None
    chip: str | None = None
    fallback: bool = False
