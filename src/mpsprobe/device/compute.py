"""Test whether a device computes: a small matrix product, synchronised and compared with float64 on the CPU.

It is also a program, `python -m mpsprobe.device.compute mps`, so that a device that aborts or hangs ends only a
child process.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass

import torch

#: Rows, inner size and columns of the product: small, and none a multiple of a GPU tile's 32.
SHAPE = (100, 130, 70)


@dataclass(frozen=True)
class Product:
    """The result of one product.

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
        """Return whether the error is within tolerance; NaN is not."""
        return self.error <= self.tolerance


def multiply(device: torch.device, dtype: torch.dtype) -> Product:
    """Multiply two matrices in `dtype` on `device`, synchronise, and compare the product.

    Raises:
        RuntimeError: The device raised: out of memory, or an unsupported dtype.
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


def main(arguments: list[str]) -> None:
    """Print the float32 product on the device named by the first argument, as one JSON object."""
    sys.stdout.write(json.dumps(asdict(multiply(torch.device(arguments[0]), torch.float32))) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
