"""Handle calls that the host's kernels refuse and a Mac's may not: compute them differently, or report a limit.

The virtual device computes with the CPU's kernels, which lack some dtypes (`"histogram_cpu" not implemented for
'Int'`), and in the host's memory, which may be smaller than the Mac's. Neither says anything about a Mac. The rules
of the release are applied first; then the same op is computed in a wider dtype, and what still fails is out of
reach.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mpsprobe.device.virtual.schema import OpCall
from mpsprobe.errors import OutOfReachError
from mpsprobe.quantities import decimal_size

#: AT_DISPATCH's message, with the name of a kernel of the host. Checks in PyTorch's common code have other messages,
#: which they also give on a Mac.
_NO_DTYPE = re.compile(r"\"(?P<kernel>[^\"]+)\" not implemented for '(?P<dtype>\w+)'")
_NO_KERNEL = re.compile(
    r"Could not run '[^']+' with arguments from the '[^']*(?:CPU|MPS)' backend|_share_fd_|MKL FFT error"
)
_NO_MEMORY = re.compile(r"can't allocate memory: you tried to allocate (\d+) bytes|std::bad_alloc")

#: Dtypes to try instead; the first that the kernel accepts is used.
_WIDER: dict[torch.dtype, tuple[torch.dtype, ...]] = {
    torch.bool: (torch.uint8, torch.int64, torch.float32),
    torch.float16: (torch.float32, torch.float64),
    torch.bfloat16: (torch.float32, torch.float64),
    torch.float32: (torch.float64,),
    torch.complex32: (torch.complex64, torch.complex128),
    torch.complex64: (torch.complex128,),
    **dict.fromkeys(
        (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64), (torch.int64, torch.float64)
    ),
    **dict.fromkeys((torch.uint16, torch.uint32, torch.uint64), (torch.int64, torch.float64)),
}


def allocation(problem: BaseException) -> int | None:
    """Return the bytes that the host failed to allocate, 0 if the error names none; None for another kind of error."""
    found = _NO_MEMORY.search(str(problem))
    if found is None:
        return None
    return int(found[1] or 0)


def is_missing_dtype(problem: BaseException) -> bool:
    """Return whether an error says that a kernel of the host lacks a dtype."""
    return isinstance(problem, (RuntimeError, NotImplementedError)) and bool(_NO_DTYPE.search(str(problem)))


def is_missing_kernel(problem: BaseException) -> bool:
    """Return whether an error says that the host has no kernel for a kind of tensors, such as sparse ones."""
    return isinstance(problem, (RuntimeError, NotImplementedError)) and bool(_NO_KERNEL.search(str(problem)))


def out_of_reach(op: str, problem: BaseException) -> OutOfReachError:
    """Return the error for a call that the emulation cannot compute, with the host's reason."""
    reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
    failed = allocation(problem)
    if failed is not None:
        size = f" ({decimal_size(failed)} in one piece)" if failed else ""
        return OutOfReachError(
            f"The emulation cannot compute {op}: this machine has too little memory{size}.",
            "Use `mpsprobe predict`, which needs no memory for values, or a smaller input.",
        )
    return OutOfReachError(
        f"The emulation cannot compute {op}: the CPU's kernel refuses it ({reason}). A Mac may not.",
        "Whether it runs on a Mac is unknown here; `mpsprobe ops` shows what is known of the op.",
    )


def widened(call: OpCall, kernel: Callable[..., Any]) -> Any:
    """Compute a call in wider dtypes and return its results in the requested dtypes.

    Raises:
        RuntimeError: No wider dtype is known, or the kernel refuses each of them; then the host's last error is
            raised, which may be a NotImplementedError.
    """
    given = {one.dtype for one in _tensors(call)}
    last: Exception = RuntimeError(f"no wider dtype is known for {given}")
    for step in range(2):
        wider = {dtype: _WIDER[dtype][step] for dtype in given if len(_WIDER.get(dtype, ())) > step}
        wider = {dtype: other for dtype, other in wider.items() if other is not dtype}
        if not wider:
            continue
        try:
            return _computed(call, kernel, wider)
        except (RuntimeError, NotImplementedError) as problem:
            last = problem
            if not is_missing_dtype(problem):
                break
    raise last


def _computed(call: OpCall, kernel: Callable[..., Any], wider: dict[torch.dtype, torch.dtype]) -> Any:
    def widen(value: Tensor) -> Tensor:
        return value.to(wider[value.dtype]) if value.dtype in wider else value

    args = tree_map_only(Tensor, widen, list(call.host_args))
    kwargs = tree_map_only(Tensor, widen, dict(call.host_kwargs))
    kwargs = {name: wider.get(value, value) if _is_dtype(value) else value for name, value in kwargs.items()}
    result = kernel(*args, **kwargs)
    narrower = {other: dtype for dtype, other in wider.items()}
    for position, name in call.op.writes:
        target = call.host_argument(position, name)
        written = args[position] if position < len(args) else kwargs.get(name)
        if isinstance(target, Tensor) and isinstance(written, Tensor) and written is not target:
            if target.shape != written.shape:
                target.resize_(written.shape)
            target.copy_(written)
    if call.op.is_inplace:
        return call.host_args[0]
    if call.op.returns_writes:
        outs = [call.host_argument(*one) for one in call.op.writes]
        return outs[0] if len(outs) == 1 else tuple(outs)
    return tree_map_only(Tensor, lambda one: one.to(narrower.get(one.dtype, one.dtype)), result)


def _is_dtype(value: Any) -> bool:
    return isinstance(value, torch.dtype)


def _tensors(call: OpCall) -> list[Tensor]:
    found: list[Tensor] = []
    for value in (*call.host_args, *call.host_kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [one for one in value if isinstance(one, Tensor)]
    return found
