"""The direct way of an op that needs nothing but relabelling: no finding, no `out=`, no random numbers.

Most of what a model runs is like that, and there the checks and special cases of `Kernels.run` are all the cost. The
direct way decides once what depends on the op alone, and once for each combination of dtypes what the release's
checks say about it. Whatever it does not know (a host tensor, a dtype that MPS may refuse, an error) goes through
`Kernels.run` from the beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mpsprobe.device.virtual.cpp import relabel
from mpsprobe.device.virtual.observer import Observer
from mpsprobe.device.virtual.rules.contract import Contract, note_forward
from mpsprobe.device.virtual.schema import Op

Kernel = Callable[..., Any]

_autocasts = torch.is_autocast_enabled

#: Arguments by name that must be looked at.
_NOT_PLAIN = (Tensor, torch.device, list, tuple)


def applies(op: Op) -> bool:
    """Return whether calls of an op can take the direct way: it makes one new result of its arguments alone."""
    return not (op.writes or op.is_view or op.generator or op.device) and op.returns == 1


def kernel(
    op: Op, contract: Contract, observer: Observer | None, wrap: Callable[[Op, Any], Any], full: Kernel
) -> Kernel:
    """Return the kernel of an op that computes on the CPU's memory.

    Args:
        op: one that `applies`.
        contract: the rules in force.
        observer: is told of each call, if any.
        wrap: makes a device tensor of the result.
        full: runs the calls that cannot take the direct way.
    """
    clean: set[tuple[Any, ...]] = set()
    by_dtype = contract.checks_dtypes_only(op)
    tensors, lists = op.tensors, op.lists
    overload, call, packet = op.overload, op.call, op.overload.overloadpacket
    questioned, host = contract.questioned, relabel.host

    def run(*args: Any, **kwargs: Any) -> Any:
        if _autocasts("cpu"):
            return full(*args, **kwargs)
        if kwargs:
            for value in kwargs.values():
                if isinstance(value, _NOT_PLAIN):
                    return full(*args, **kwargs)
        on_host, compute, count = list(args), call, len(args)
        dtypes: list[torch.dtype | None] = []
        for k in tensors:
            if k >= count:
                break
            value = args[k]
            if isinstance(value, Tensor):
                dtype = value.dtype
                if not value.is_mps or dtype in questioned:
                    return full(*args, **kwargs)
                dtypes.append(dtype)
                on_host[k] = host(value)
            else:
                dtypes.append(None)
                if value is not None:
                    compute = packet  # a wrapped number: see Kernels._callable
        for k in lists:
            if k >= count:
                break
            moved = []
            for value in args[k] or ():
                if not isinstance(value, Tensor) or not value.is_mps or value.dtype in questioned:
                    return full(*args, **kwargs)
                dtypes.append(value.dtype)
                moved.append(host(value))
            on_host[k] = moved
        key = (*dtypes,)
        if key not in clean:
            if contract.checks_refuse(op, args, kwargs):
                return full(*args, **kwargs)
            if by_dtype:
                clean.add(key)
        note_forward()
        try:
            result = compute(*on_host, **kwargs)
        except Exception:
            return full(*args, **kwargs)  # nothing is written, so it can be done again
        result = wrap(op, result)
        if observer is not None:
            observer.op(overload, args, kwargs, result, 0)
        return result

    return run
