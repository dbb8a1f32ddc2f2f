"""`predict`: a model of full size without weights or memory."""

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
        """Return every value that was assumed, where, and what depends on it."""
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

    Build the model under `torch.device("mps")`, from its config or class. Ints, bools and small tensors keep real
    values; `assumptions` lists the values that had to be assumed.

    Args:
        torch: The release whose op table and rules apply; None for the installed one.
        macos: The macOS version, such as `"15.5"`.
        memory_gb: The unified memory of the Mac in GB as Apple counts them (GiB).
        fallback: Whether PYTORCH_ENABLE_MPS_FALLBACK=1 is set; None for its value when mpsprobe was imported.
        observer: An observer that is called with every op, wait of the host, copy and finding.
        on_fail: `"collect"` lists all failures in `findings`; `"raise"` stops at the first one, as a Mac does.
        others: Other releases with MPS on that macOS; `contract.alike` says at the end which of them would have had
            the same session, call by call.

    Yields:
        The session, with `findings`, `assumptions`, `memory` and `contract`.

    Raises:
        UnsupportedInstallError: This machine or PyTorch cannot carry it; the message gives the reason.
        AlreadyActiveError: Another virtual device is active.
        UnknownReleaseError: There is no data on that release.
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
