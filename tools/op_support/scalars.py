"""Find the dtypes that the backend accepts, by running its own conversion function for each dtype.

An MPS kernel calls `at::native::mps::getMPSDataType(ScalarType)` before it uses a tensor. It throws for a dtype
that Metal lacks, and, in the releases of 2023 to 2025, for some dtypes on an older macOS.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from op_support.machine import Machine, Stop

_FUNCTION = "__ZN2at6native3mps14getMPSDataTypeEN3c1010ScalarTypeE"
_FAILURES = ("CheckFail", "torchInternalAssert", "_str_wrapper", "6detail4_str", "cxa_throw")
_SYSTEM_CHECKS = ("is_macos_13_or_newer", "isMacOS13Plus", "checkSupportsBFloat16", "checkSupportsComplex")
_HEADERS = ("torch/include/torch/headeronly/core/ScalarType.h", "torch/include/c10/core/ScalarType.h")
#: Names that differ by more than case between `c10::ScalarType` and Python.
_PYTHON_NAMES = {
    "Byte": "uint8",
    "Char": "int8",
    "Short": "int16",
    "Int": "int32",
    "Long": "int64",
    "Half": "float16",
    "Float": "float32",
    "Double": "float64",
    "ComplexHalf": "complex32",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}


def accepted(machine: Machine, root: Path) -> dict[str, bool]:
    """Return each accepted dtype by Python name, with whether every macOS that the release supports accepts it.

    Raises:
        RuntimeError: The library has no such function.
    """
    address = machine.image.address_of.get(_FUNCTION)
    if address is None:
        raise RuntimeError(f"{_FUNCTION} is not in the library: find what the kernels ask instead.")
    found = {}
    for number, name in enumerate(enumerators(root)):
        if _answers(machine, address, number, new_system=True):
            found[_PYTHON_NAMES.get(name, name.lower())] = _answers(
                machine, address, number, new_system=False
            )
    return found


def enumerators(root: Path) -> list[str]:
    """Return the names of `c10::ScalarType` in the order of their numbers, from the wheel's header.

    Raises:
        RuntimeError: The header does not declare the enumeration as expected.
    """
    for header in _HEADERS:
        path = root / header
        macro = "AT_FORALL_SCALAR_TYPES_WITH_COMPLEX_AND_QINTS(_)"
        if path.is_file() and macro in (text := path.read_text("utf-8")):
            listed = re.findall(
                r"_\([^\n]*, (\w+)\) /\* (\d+) \*/", text.partition(macro)[2].partition("\n\n")[0]
            )
            if [int(number) for _, number in listed] != list(range(len(listed))):
                raise RuntimeError(f"{path}: the numbers of {macro} are not consecutive.")
            return [name for name, _ in listed]
    raise RuntimeError(f"No list of scalar types in {', '.join(_HEADERS)}.")


def _answers(machine: Machine, function: int, scalar_type: int, *, new_system: bool) -> bool:
    def answer(name: str, _registers: Sequence[int]) -> int | None:
        if any(check in name for check in _SYSTEM_CHECKS):
            if not new_system and "checkSupports" in name:
                raise Stop
            return int(new_system)
        if any(failure in name for failure in _FAILURES):
            raise Stop
        return None

    return machine.call(function, (scalar_type,), answer, limit=20_000) is not None
