"""Test in a child process whether a device computes, and whether prediction works with this PyTorch.

`python -m mpsprobe.device.self_test NAME` multiplies two small matrices on the device and compares the product with
float64 on the CPU: a device that aborts or hangs ends only the child. Without a name it builds a model and trains a
step on memoryless tensors, because on a build with MPS a mistake would pass Metal an address that is not one of its
buffers, which ends the process.
"""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from mpsprobe.device.virtual.cpp import has_mps
from mpsprobe.device.virtual.session import predict

#: Rows, inner size and columns of the product: small, and none a multiple of a GPU tile's 32.
SHAPE = (100, 130, 70)


@dataclass(frozen=True)
class Product:
    """The error of one matrix product, and the error that is accepted.

    Attributes:
        error: The largest absolute difference from the reference, relative to the reference's largest value; NaN
            when the result holds NaN.
        tolerance: The accepted `error`: the dtype's machine epsilon times the square root of the inner size, which
            is the growth of independent rounding errors in a sum of that length.
    """

    error: float
    tolerance: float

    @property
    def right(self) -> bool:
        """Return whether the error is at most `tolerance`; False for NaN."""
        return self.error <= self.tolerance


def multiply(device: torch.device, dtype: torch.dtype) -> Product:
    """Multiply two matrices in `dtype` on `device`, and compare the product with float64 on the CPU.

    Raises:
        RuntimeError: The device cannot compute the product, for example for lack of memory or of the dtype.
    """
    rows, inner, columns = SHAPE
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(rows, inner, generator=generator).to(dtype)
    right = torch.randn(inner, columns, generator=generator).to(dtype)
    reference = left.double() @ right.double()

    # Copying back waits for the product, so no call is needed that only some devices have.
    result = (left.to(device) @ right.to(device)).cpu().double()
    error = ((result - reference).abs().max() / reference.abs().max()).item()
    return Product(error, torch.finfo(dtype).eps * math.sqrt(inner))


#: Rows and columns of a layer that no Mac could hold: 4.4 TB in float32.
_WIDTH = 1 << 20


@dataclass(frozen=True)
class SelfTest:
    """What the self-test of prediction observed.

    Attributes:
        has_mps: Whether this PyTorch was built with MPS, as on a Mac.
        peak: The peak of the bytes in use on the modelled Mac.
        touched: The bytes by which the memory of PyTorch's own MPS allocator grew during the test, which should be
            none; 0 on a build without MPS.
        wrong: The first expectation that failed, in one sentence; empty when none did.
    """

    has_mps: bool
    peak: int
    touched: int
    wrong: str


class _Model(nn.Module):
    """A model with a convolution, attention, normalisation and a layer of 4.4 TB."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 64, 3)
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.normalisation = nn.LayerNorm(64)
        self.up, self.down = nn.Linear(64, _WIDTH), nn.Linear(_WIDTH, _WIDTH)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.convolution(image).flatten(2).transpose(1, 2)
        tokens = self.normalisation(tokens + self.attention(tokens, tokens, tokens)[0])
        result: Tensor = self.down(nn.functional.gelu(self.up(tokens)))
        return result


def outcome() -> SelfTest:
    """Build a model and train one step on memoryless tensors in this process, and return what was observed."""
    before = _allocated()
    with predict(memory_gb=1 << 16) as session:
        with torch.device("mps"):
            model = _Model()
        image = torch.randn(2, 3, 32, 32).to("mps")
        result = model(image)
        loss = result.float().mean()
        loss.backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        known = torch.arange(6, device="mps").sum().item()
        places = {
            result.device.type,
            model.up.weight.grad.device.type if model.up.weight.grad is not None else "",
        }
        peak = session.memory.peak
        del model, result, loss, image
    wrong = ""
    if places != {"mps"}:
        wrong = f"Tensors were on {', '.join(sorted(places))}, not on mps."
    elif known != 15:
        wrong = f"A known sum was {known}, not 15."
    elif peak < 4 * _WIDTH * _WIDTH:
        wrong = f"The modelled peak is {peak} bytes, less than the weights."
    touched = _allocated() - before
    if touched:
        wrong = f"The Mac's own allocator gave {touched} bytes."
    return SelfTest(has_mps(), peak, touched, wrong)


def _allocated() -> int:
    """Return the bytes that the build's own MPS allocator holds; 0 where there is none."""
    return int(torch._C._mps_currentAllocatedMemory()) if torch._C._mps_is_available() else 0


def main(arguments: list[str]) -> None:
    """Print the `Product` of a device, or without one the `SelfTest`, as one line of JSON, and end the process.

    Python's finalisation is skipped: autograd's thread of the device may request the GIL during it, and C++ would
    then end the process with "terminate called without an active exception", which would count as a failed test.

    Args:
        arguments: The name of a device, such as `"mps"`, or nothing.
    """
    found = multiply(torch.device(arguments[0]), torch.float32) if arguments else outcome()
    sys.stdout.write(json.dumps(asdict(found)) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
