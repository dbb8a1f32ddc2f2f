"""Repeat calls on memoryless tensors: the result of the first call of a kind serves as a template for the others.

A memoryless tensor has no values, so the result of an op on it depends only on shapes, strides, dtypes and numbers.
A model of full size repeats the same calls again and again (Alpamayo-R1-10B: 52,384 calls of some 1,100 kinds), and
everything that the kernel looks up and checks for a call (10 of 19 µs) is needed only for the first one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from mpsprobe.device.virtual import schema
from mpsprobe.device.virtual.cpp import relabel
from mpsprobe.device.virtual.kernels import Kernel, Kernels
from mpsprobe.device.virtual.memoryless.assume import Assumptions
from mpsprobe.device.virtual.memoryless.tensors import MemorylessTensors, TensorTemplate
from mpsprobe.device.virtual.rules.contract import note_forward
from mpsprobe.device.virtual.schema import Op
from mpsprobe.device.virtual.written import replace

# Names of this module, which are found faster than attributes of other modules.
_Tensor, _Parameter = torch.Tensor, nn.Parameter
_CPU = torch.device("cpu")
#: Ops that only allocate memory.
_BLANK = frozenset({"empty", "empty_strided"})
#: Types of arguments that are their own key. Numbers carry their type, because `1 == 1.0 == True`.
_PLAIN = frozenset({int, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format})
_TYPED = frozenset({float, bool, complex})
#: The greatest number of remembered kinds of one op; beyond it, remembering starts again.
_LIMIT = 20_000


class KnownCall:
    """One kind of call: an op with arguments of certain shapes and dtypes. Equal calls share the object.

    At most one of the attributes is set, and says how to make the result; without any, the op returns its first
    argument, a memoryless tensor.

    Attributes:
        template: The template of the result.
        templates: The templates of the results, where they are a tuple.
        blank: The shape, strides and dtype of a result with memory that was not written to.
        instead: The template of the memoryless tensor that replaces the first argument, which had values before.
    """

    __slots__ = ("blank", "instead", "template", "templates")

    def __init__(
        self,
        template: TensorTemplate | None = None,
        templates: tuple[TensorTemplate, ...] | None = None,
        blank: tuple[tuple[int, ...], tuple[int, ...], torch.dtype] | None = None,
        instead: TensorTemplate | None = None,
    ) -> None:
        self.template = template
        self.templates = templates
        self.blank = blank
        self.instead = instead


class Repeats:
    """Remember the results of memoryless calls, so that equal calls need not be computed again.

    Args:
        kernels: The kernels whose contract, memory and observer the repeated calls use.
        memoryless: The maker of memoryless tensors.
        assumptions: The assumptions, which name the tensors whose values are assumed.
    """

    def __init__(self, kernels: Kernels, memoryless: MemorylessTensors, assumptions: Assumptions) -> None:
        self._kernels = kernels
        self._memoryless = memoryless
        self._assumptions = assumptions

    def kernel(self, overload: OpOverload, bind: Callable[[Op], tuple[Kernel, bool]]) -> Kernel:
        """Return a kernel that runs the first call of a kind in full and rebuilds the results of the others.

        It is written without inner calls, because a Python call costs a tenth of the remaining work.

        Args:
            overload: The op.
            bind: A function that is called at the first call. It returns the kernel that runs calls in full and
                calls the observer, and whether the op's calls may be remembered, which excludes views, ops whose
                results depend on values, and ops that write to an argument other than the first.
        """
        known: dict[Any, KnownCall] = {}
        kernels, forms, cast, track = (
            self._kernels,
            self._forms,
            self._memoryless.cast,
            self._kernels.memory.track,
        )
        start, end, grad_enabled = self._memoryless.start, self._memoryless.end, torch.is_grad_enabled
        op: Op | None = None
        in_full: Kernel = _unbound
        recurs = anyway = False

        def kernel(*args: Any, **kwargs: Any) -> Any:
            nonlocal op, in_full, recurs, anyway
            if op is None:
                op = schema.facts(overload)
                in_full, recurs = bind(op)
                anyway = not (op.tensors or op.lists)
            if not recurs:
                return in_full(*args, **kwargs)
            if grad_enabled():
                note_forward()
            flat: list[Any] = []
            memoryless = anyway
            for value in args:
                kind = type(value)
                if (kind is _Tensor or kind is _Parameter) and start <= value.data_ptr() < end:
                    flat += (value.dtype, value.shape, value.stride())
                    memoryless = True
                elif kind is int:
                    flat.append(value)
                else:
                    found = forms((value,), flat)
                    if found is None:
                        return in_full(*args, **kwargs)
                    memoryless = memoryless or found
            if not memoryless or (kwargs and not _named(kwargs, flat)):
                return in_full(*args, **kwargs)
            form = tuple(flat)
            what = known.get(form)
            if what is None:
                return self._learn(known, form, op, in_full, args, kwargs)
            result: Any
            template = what.template
            if template is not None:
                result = cast(template)
                track(result, template.nbytes)
            elif what.templates is not None:
                result = tuple([cast(one) for one in what.templates])
                for one, template in zip(result, what.templates, strict=True):
                    track(one, template.nbytes)
            elif what.blank is not None:
                shape, strides, dtype = what.blank
                result = relabel.device(torch.empty_strided(shape, strides, dtype=dtype, device=_CPU))
                track(result)
            else:
                result = args[0]
                if what.instead is not None:
                    if result.untyped_storage().nbytes() != what.instead.nbytes:  # a part of a larger one
                        return in_full(*args, **kwargs)
                    replace(result, cast(what.instead))
            observer = kernels.observer
            if observer is not None:
                observer.again(what, overload, args, kwargs, result)
            return result

        return kernel

    def _forms(self, values: Sequence[Any], flat: list[Any]) -> bool | None:
        """Append the key of each value to `flat`: three items for a memoryless tensor, one for anything else.

        The key of a tensor is its dtype, shape and strides, whether or not it has values. A host tensor has no key,
        nor has one with assumed values, because each of its calls must be reported.

        Returns:
            Whether one of them is memoryless; None where a value has no key.
        """
        memoryless = False
        start, end = self._memoryless.start, self._memoryless.end
        for value in values:
            kind = type(value)
            if kind is _Tensor or kind is _Parameter:
                if start <= value.data_ptr() < end:
                    memoryless = True
                    flat += (value.dtype, value.shape, value.stride())
                elif value.is_mps and self._assumptions.behind((value,)) is None:
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
                memoryless = memoryless or found
                flat.append(tuple(inner))
            else:
                return None
        return memoryless

    def _learn(
        self,
        known: dict[Any, KnownCall],
        form: Any,
        op: Op,
        in_full: Kernel,
        args: Any,
        kwargs: dict[str, Any],
    ) -> Any:
        """Run the first call of a kind, and remember its result unless it led to a finding or such calls may differ."""
        findings = self._kernels.contract.findings
        before, given = len(findings), {one.data_ptr() for one in args if isinstance(one, Tensor)}
        result = in_full(*args, **kwargs)
        if len(findings) > before:
            return result
        what = self._what(op, form, args[0] if args else None, result, given)
        if what is not None:
            if len(known) >= _LIMIT:
                known.clear()
            known[form] = what
        return result

    def _what(self, op: Op, form: Any, first: Any, result: Any, given: set[int]) -> KnownCall | None:
        """Return how to make the results of calls with the same key; None where such calls may differ.

        Args:
            op: The op.
            form: The key of the arguments.
            first: The first argument.
            result: The result of this call.
            given: The addresses of the call's tensors.
        """
        has = self._memoryless.has
        if op.writes:
            if result is not first or not has(result):
                return None
            after = (result.dtype, result.shape, result.stride())
            if form[:3] == after:
                return KnownCall()
            return KnownCall(instead=self._template(result)) if form[0] == after else None
        if type(result) is _Tensor and op.base in _BLANK and result.is_mps and not has(result):
            return KnownCall(blank=(tuple(result.shape), result.stride(), result.dtype))
        results = result if type(result) is tuple else (result,)
        if not all(type(one) is _Tensor and has(one) and one.data_ptr() not in given for one in results):
            return None
        templates = tuple([self._template(one) for one in results])
        return KnownCall(templates=templates) if type(result) is tuple else KnownCall(template=templates[0])

    def _template(self, tensor: Tensor) -> TensorTemplate:
        return self._memoryless.template(tensor.shape, tensor.stride(), tensor.dtype)


def _named(values: dict[str, Any], flat: list[Any]) -> bool:
    """Append the keys of keyword arguments to `flat`; return False where one is not plain."""
    for name, value in values.items():
        kind = type(value)
        if kind in _PLAIN:
            flat.append((name, value))
        elif kind in _TYPED:
            flat.append((name, kind, value if value == value else "nan"))
        else:
            return False
    return True


def _unbound(*_args: Any, **_kwargs: Any) -> Any:
    raise AssertionError("a kernel is bound at its first call")
