"""Test whether a device computes: a small matrix product, synchronised and compared with float64 on the CPU.

Also a program, `python -m mpsprobe.device.compute mps`, so that a device that aborts or hangs takes a child
process with it and not the run.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass

import torch

#: Rows, inner size and columns of the product: none a multiple of a GPU tile's 32, all small.
SHAPE = (100, 130, 70)


@dataclass(frozen=True)
class Product:
    """The result of one product.

    Attributes:
        error: largest absolute difference from the reference, relative to the reference's largest value; NaN
            when the result holds NaN.
        tolerance: accepted `error`: the dtype's machine epsilon times the square root of the inner size, the
            growth of independent rounding errors in a sum of that length.
    """

    error: float
    tolerance: float

    @property
    def right(self) -> bool:
        """Whether the error is within tolerance; NaN is not."""
        return self.error <= self.tolerance


def multiply(device: torch.device, dtype: torch.dtype) -> Product:
    """Allocate on `device`, multiply two matrices in `dtype`, synchronise, and compare.

    Raises:
        RuntimeError: whatever the device raises: out of memory, an unsupported dtype.
    """
    rows, inner, columns = SHAPE
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(rows, inner, generator=generator).to(dtype)
    right = torch.randn(inner, columns, generator=generator).to(dtype)
    reference = left.double() @ right.double()

    # Copying back waits for the product: no call that only some devices have is needed.
    result = (left.to(device) @ right.to(device)).cpu().double()
    error = ((result - reference).abs().max() / reference.abs().max()).item()
    return Product(error, torch.finfo(dtype).eps * math.sqrt(inner))


def main(arguments: list[str]) -> None:
    """Print one JSON object: the float32 product on the device named by the first argument."""
    sys.stdout.write(json.dumps(asdict(multiply(torch.device(arguments[0]), torch.float32))) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
