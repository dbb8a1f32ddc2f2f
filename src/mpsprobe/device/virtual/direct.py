"""The direct way of an op that needs nothing but relabelling: no finding, no `out=`, no random numbers.

Most of what a model runs is like that, and the checks and special cases of `Kernels.run` would be most of its cost.
The direct way decides once what depends only on the op, and, where the release's checks of the op read only dtypes,
once for each combination of dtypes. A call that it does not handle (one with a host tensor, with a dtype that MPS may
refuse, or that raises an error) goes through `Kernels.run` from the beginning.
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

_autocasts, _with_gradients = torch.is_autocast_enabled, torch.is_grad_enabled
_CPU, _ON_CPU = torch.device("cpu"), relabel.CPU

#: Arguments by name that must be looked at.
_NOT_PLAIN = (Tensor, torch.device, list, tuple)


#: Ops that look at their indices while they write, so that a call that fails has written a part.
_WRITE_BEFORE_THEY_FAIL = ("index", "scatter", "put", "masked_scatter", "_index")


def applies(op: Op) -> bool:
    """Return whether calls of an op can take the direct way.

    Such an op makes no view, draws no random numbers and returns one result. It writes to none of its arguments, or
    it is an in-place op without lists that writes nothing before it fails.
    """
    if op.is_view or op.generator or op.returns != 1:
        return False
    return not op.writes or (
        op.is_inplace and not op.lists and not op.base.startswith(_WRITE_BEFORE_THEY_FAIL)
    )


def kernel(
    op: Op, contract: Contract, observer: Observer | None, wrap: Callable[[Op, Any], Any], full: Kernel
) -> Kernel:
    """Return the kernel of an op that computes on the CPU's memory.

    Args:
        op: An op for which `applies` returns True.
        contract: The active rules.
        observer: The observer to call after each call of the op, or None.
        wrap: A function that makes a device tensor of the result of an op that is not in-place.
        full: The kernel of calls that cannot take the direct way.
    """
    clean: set[tuple[Any, ...]] = set()
    checked, by_dtype = bool(contract.checks(op)), contract.checks_dtypes_only(op)
    tensors, lists, device = op.tensors, op.lists, op.device
    overload, call = op.overload, op.call
    # with numbers, see Kernels._callable; the packet tries its overloads in turn, which takes longer
    with_numbers = getattr(torch._C._VariableFunctions, op.base, overload.overloadpacket)
    questioned, host, is_inplace = contract.questioned, relabel.relabelled, op.is_inplace

    def run(*args: Any, **kwargs: Any) -> Any:
        if _autocasts("cpu"):
            return full(*args, **kwargs)
        on_host, compute, count = list(args), call, len(args)
        named = kwargs
        if kwargs:
            for name, value in kwargs.items():
                if isinstance(value, _NOT_PLAIN):
                    if device is None or name != device[1]:
                        return full(*args, **kwargs)
                    named = {**kwargs, name: _CPU}
        if device is not None and device[0] < count:
            on_host[device[0]] = _CPU
        dtypes: list[torch.dtype | None] = []
        for k in tensors:
            if k >= count:
                break
            value = args[k]
            if isinstance(value, Tensor):
                dtype = value.dtype
                if not value.is_mps or dtype in questioned:
                    return full(*args, **kwargs)
                if is_inplace and k and _share(value, args[0]):
                    return full(*args, **kwargs)
                dtypes.append(dtype)
                on_host[k] = host(value, _ON_CPU)
            else:
                dtypes.append(None)
                if value is not None:
                    compute = with_numbers
        for k in lists:
            if k >= count:
                break
            moved = []
            for value in args[k] or ():
                if not isinstance(value, Tensor) or not value.is_mps or value.dtype in questioned:
                    return full(*args, **kwargs)
                dtypes.append(value.dtype)
                moved.append(host(value, _ON_CPU))
            on_host[k] = moved
        if checked and (key := (*dtypes,)) not in clean:
            if contract.checks_refuse(op, args, kwargs):
                return full(*args, **kwargs)
            if by_dtype:
                clean.add(key)
        if _with_gradients():
            note_forward()
        try:
            result = compute(*on_host, **named)
        except Exception:
            return full(*args, **kwargs)  # nothing is written, so it can be done again
        result = args[0] if is_inplace else wrap(op, result)
        if observer is not None:
            observer.op(overload, args, kwargs, result, 0)
        return result

    return run


def _share(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors share a storage, in which what is written may overlap what is read."""
    return bool(one.untyped_storage()._cdata == other.untyped_storage()._cdata)
