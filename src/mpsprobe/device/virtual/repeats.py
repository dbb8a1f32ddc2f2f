"""Calls on ghosts that repeat: what the first of a kind gave is made again without asking how.

A ghost has no values, so what an op makes of it follows from shapes, strides, dtypes and numbers alone. A model at
full size calls the same with the same again and again (Alpamayo-R1-10B: 52,384 calls of some 1,100 kinds), and all
that the kernel looks up and checks for a call (10 microseconds of 19) it needs only for the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mpsprobe.device.virtual.ghost import Mould
from mpsprobe.device.virtual.schema import Op

if TYPE_CHECKING:
    from mpsprobe.device.virtual.ghost_kernels import GhostKernels
    from mpsprobe.device.virtual.kernels import Kernel

# Found faster than as attributes of their modules, for every op.
_Tensor, _Parameter = torch.Tensor, nn.Parameter
#: Arguments that stand for themselves. Numbers carry their type: `1 == 1.0 == True`.
_PLAIN = frozenset({int, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format})
_TYPED = frozenset({float, bool, complex})
#: Kinds of one op that are remembered; past them it begins anew.
_LIMIT = 20_000


class Known:
    """One kind of call: an op with arguments of certain forms. Equal calls share the object, which stands for them.

    Attributes:
        mould: makes the result.
        moulds: make the results, where they are a tuple. With neither, the op returns its first argument.
    """

    __slots__ = ("mould", "moulds")

    def __init__(self, mould: Mould | None = None, moulds: tuple[Mould, ...] | None = None) -> None:
        self.mould = mould
        self.moulds = moulds


class Repeats:
    """Finds the calls that repeat, on behalf of the kernels."""

    def __init__(self, kernels: GhostKernels) -> None:
        self._kernels = kernels
        self._ghosts = kernels.ghosts
        self._start, self._end = kernels.ghosts.start, kernels.ghosts.end

    def kernel(self, op: Op, first: Kernel) -> Kernel:
        """A kernel that has `first` run the first call of a kind, and makes the results of the others itself.

        Args:
            op: neither a view nor one whose result depends on values; it may write to its first argument alone.
            first: tells the observer of the calls that it runs.
        """
        known: dict[Any, Known] = {}
        kernels, kind_of, cast = self._kernels, self._kind, self._ghosts.cast
        track, overload, takes_tensors = kernels.memory.track, op.overload, bool(op.tensors or op.lists)

        def kernel(*args: Any, **kwargs: Any) -> Any:
            kind = kind_of(args, kwargs, takes_tensors)
            found = known.get(kind)
            if found is None:
                if kind is None:
                    return first(*args, **kwargs)
                return self._learn(known, kind, op, first, args, kwargs)
            result: Any
            if found.mould is not None:
                result = cast(found.mould)
                track(result, found.mould.nbytes)
            elif found.moulds is not None:
                result = tuple([cast(mould) for mould in found.moulds])
                for one, mould in zip(result, found.moulds, strict=True):
                    track(one, mould.nbytes)
            else:
                result = args[0]
            if kernels.observer is not None:
                kernels.observer.again(found, overload, args, kwargs, result)
            return result

        return kernel

    def _kind(self, args: Sequence[Any], kwargs: dict[str, Any], takes_tensors: bool) -> Any:
        """What decides a call's result, hashable; None where values may decide it too, or the host's own compute.

        Tensors with values count by their form, but only beside a ghost and where their values are not assumed ones: of
        those each call is told.
        """
        flat: list[Any] = []
        ghosts = self._forms(args, flat)
        if ghosts is None or (takes_tensors and not ghosts):
            return None
        if not kwargs:
            return tuple(flat)
        for name, value in kwargs.items():
            kind = type(value)
            if kind in _PLAIN:
                flat.append((name, value))
            elif kind in _TYPED:
                flat.append((name, kind, value if value == value else "nan"))
            else:
                return None
        return tuple(flat)

    def _forms(self, values: Sequence[Any], flat: list[Any]) -> bool | None:
        """Put the form of each value into `flat`: a ghost as three items, all else as one.

        Returns:
            Whether a ghost is among them; None where one cannot be told by its form.
        """
        ghosts = False
        start, end = self._start, self._end
        for value in values:
            kind = type(value)
            if kind is _Tensor or kind is _Parameter:
                if start <= value.data_ptr() < end:
                    ghosts = True
                    flat += (value.dtype, value.shape, value.stride())
                elif value.is_mps and self._kernels.assumptions.behind((value,)) is None:
                    flat.append((value.dtype, value.shape, value.stride()))
                else:
                    return None
            elif kind in _PLAIN:
                flat.append(value)
            elif kind in _TYPED:
                flat.append((kind, value if value == value else "nan"))
            elif kind is list or kind is tuple:
                inner: list[Any] = []
                found = self._forms(value, inner)
                if found is None:
                    return None
                ghosts = ghosts or found
                flat.append(tuple(inner))
            else:
                return None
        return ghosts

    def _learn(
        self, known: dict[Any, Known], kind: Any, op: Op, first: Kernel, args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """Run the first call of a kind, and remember what it gave unless it is one to be told of each time."""
        ghosts, findings = self._ghosts, self._kernels.contract.findings
        before, inside = len(findings), {one.data_ptr() for one in args if isinstance(one, Tensor)}
        result = first(*args, **kwargs)
        if len(findings) > before:
            return result
        if op.writes:
            # a ghost before, and of the same form after it
            unchanged = kind[:3] == (result.dtype, result.shape, result.stride())
            if result is args[0] and unchanged and ghosts.has(result):
                self._remember(known, kind, Known())
            return result
        results = result if type(result) is tuple else (result,)
        if all(type(one) is _Tensor and ghosts.has(one) and one.data_ptr() not in inside for one in results):
            moulds = tuple([ghosts.mould(one.shape, one.stride(), one.dtype) for one in results])
            self._remember(
                known, kind, Known(moulds=moulds) if type(result) is tuple else Known(mould=moulds[0])
            )
        return result

    @staticmethod
    def _remember(known: dict[Any, Known], kind: Any, what: Known) -> None:
        if len(known) >= _LIMIT:
            known.clear()
        known[kind] = what
