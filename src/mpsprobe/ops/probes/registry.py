"""The registry of probes: how a probe is declared, and how it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from mpsprobe.ops.compare import compare
from mpsprobe.ops.place import Place
from mpsprobe.ops.protocol import ProbeAnswer


class FaultShown(Exception):  # noqa: N818 - what a probe looks for, not an error of the program
    """The fault is present; the text describes what was observed."""


@dataclass
class Lab:
    """What a probe works with: a device, and ways to compare results.

    Attributes:
        device: The device to test.
        synchronize: A function that waits for the device.
    """

    device: torch.device
    synchronize: Callable[[], None]
    _generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Draw normal values on the CPU, the same in every run."""
        return torch.randn(shape, generator=self._generator).to(dtype)

    def agree(self, call: Callable[..., Any], *tensors: torch.Tensor) -> None:
        """Check that the call's result on the device agrees with that on the CPU in float64 (see `equal`).

        Args:
            call: The call, including views and slices, so that they are made on the device.
            tensors: The inputs on the CPU; floats are widened for the reference.

        Raises:
            FaultShown: The results differ, or the call raised on the device.
        """
        found = self.run(call, *tensors)
        wide = [tensor.double() if tensor.is_floating_point() else tensor for tensor in tensors]
        reference = call(*wide)
        self.equal(found, reference)

    def run(self, call: Callable[..., Any], *tensors: torch.Tensor) -> torch.Tensor:
        """Return the call's result on the device, copied to the CPU.

        Raises:
            FaultShown: The call raised a RuntimeError, TypeError, NotImplementedError or IndexError.
        """
        try:
            result = call(*(tensor.to(self.device) for tensor in tensors))
            self.synchronize()
            return result.to("cpu", copy=True)  # type: ignore[no-any-return]
        except (RuntimeError, TypeError, NotImplementedError, IndexError) as problem:
            text = str(problem).strip().splitlines()
            raise FaultShown(f"raises {type(problem).__name__}: {text[0] if text else ''}") from problem

    def equal(self, found: torch.Tensor, reference: torch.Tensor) -> None:
        """Check that `found` agrees with the reference, within the accepted error of sums in its dtype.

        Raises:
            FaultShown: The results differ.
        """
        if found.shape != reference.shape:
            raise FaultShown(f"shape {tuple(found.shape)} instead of {tuple(reference.shape)}")
        comparison = compare(0, found, reference, None, pointwise=False)
        if not comparison.agrees:
            count = comparison.off + comparison.not_finite
            raise FaultShown(f"{count:,} of {comparison.elements:,} elements are wrong; {comparison.worst}")


@dataclass(frozen=True)
class FaultProbe:
    """A test for one known fault, as an advisory names it.

    Attributes:
        name: The name, as in `advisory.probe`.
        title: The assertion that holds without the fault, as a sentence without a full stop.
        look: A function that raises `FaultShown` when it observes the fault.
    """

    name: str
    title: str
    look: Callable[[Lab], None]


#: All probes, by name.
PROBES: dict[str, FaultProbe] = {}


def probe(name: str, title: str) -> Callable[[Callable[[Lab], None]], Callable[[Lab], None]]:
    """Return a decorator that registers a function as the probe `name`.

    Args:
        name: The name that advisories use.
        title: What is true where the fault is absent, in one sentence.
    """

    def register(look: Callable[[Lab], None]) -> Callable[[Lab], None]:
        assert name not in PROBES, name
        PROBES[name] = FaultProbe(name, title, look)
        return look

    return register


def run(name: str, place: Place) -> ProbeAnswer:
    """Run the probe called `name` on a device, and return its answer.

    The answer is `"unknown"` for a name without a probe, and for all devices but the GPU of a Mac, because others,
    including the virtual one, have other kernels.
    """
    if name not in PROBES:
        return ProbeAnswer("unknown", f"this mpsprobe has no probe called {name}")
    if not place.measured or place.torch_device.type != "mps":
        return ProbeAnswer("unknown", "only the GPU of a Mac can tell")
    return look(PROBES[name], Lab(place.torch_device, place.synchronize))


def look(probe: FaultProbe, lab: Lab) -> ProbeAnswer:
    """Run a probe with the tools of `lab`, and return its answer; `"unknown"` if the probe itself fails."""
    try:
        with torch.no_grad():
            probe.look(lab)
    except FaultShown as shown:
        return ProbeAnswer("bad", str(shown))
    except Exception as problem:  # the probe itself failed, which says nothing about the fault
        return ProbeAnswer("unknown", f"the probe failed: {type(problem).__name__}: {problem}")
    return ProbeAnswer("ok", "")
