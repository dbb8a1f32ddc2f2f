"""`predict`: a model at full size without weights or memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from mpsprobe.device.virtual.memoryless.assume import Assumption
from mpsprobe.device.virtual.memoryless.engine import GhostKernels
from mpsprobe.device.virtual.observer import Observer
from mpsprobe.device.virtual.rules.contract import OnFail
from mpsprobe.device.virtual.session import EmulationSettings, Session


class MemorylessSession(Session):
    """A session over memoryless tensors."""

    memoryless = True

    @property
    def assumptions(self) -> list[Assumption]:
        """Every value that was assumed, where, and what came to depend on it."""
        kernels = self.kernels
        assert isinstance(kernels, GhostKernels)
        return kernels.assumptions.list


@contextlib.contextmanager
def predict(
    torch: str | None = None,
    macos: str = "15.5",
    memory_gb: float = 64,
    *,
    fallback: bool | None = None,
    observer: Observer | None = None,
    on_fail: OnFail = "collect",
    others: Sequence[str] = (),
) -> Iterator[MemorylessSession]:
    """Make `mps` a device whose large tensors have no memory, so that any model runs at full size.

    Build the model under `torch.device("mps")`, from its config or class. Ints, bools and small tensors keep
    real values; what had to be assumed is listed in `assumptions`.

    Args:
        torch: the release whose op table and rules apply; None: the installed one.
        macos: the system, e.g. `"15.5"`.
        memory_gb: unified memory of the Mac, GB as Apple counts them (GiB).
        fallback: whether PYTORCH_ENABLE_MPS_FALLBACK=1 is set; None: as it was when mpsprobe was imported.
        observer: is told of every op, host sync, device crossing and finding.
        others: releases with MPS on that macOS; `contract.alike` says at the end which of them would have had the
            same session, call by call.
        on_fail: `"collect"` lists all that fails in `findings`; `"raise"` stops at the first as a Mac does.

    Yields:
        The session: `findings`, `assumptions`, `memory`, `contract`.

    Raises:
        UnsupportedInstallError: this machine or PyTorch cannot carry it; the text says why.
        AlreadyActiveError: another virtual device is on.
        UnknownReleaseError: there is no data on that release.
    """
    settings = EmulationSettings(
        torch=torch,
        macos=macos,
        memory_gb=memory_gb,
        fallback=fallback,
        observer=observer,
        on_fail=on_fail,
        others=tuple(others),
    )
    session = MemorylessSession(settings, GhostKernels)
    with session:
        yield session
