"""Facts of an overload that do not depend on a call, looked up once for every op that runs."""

from __future__ import annotations

import functools
from typing import Any

import torch


class RecordingPlan:
    """Facts of an overload that decide how a call of it is recorded.

    Attributes:
        func: The overload (kept alive, so that its id stays unique), a higher-order op, or None.
        composite: Whether it consists of other ops on devices without their own kernel for it.
        varies: Whether the shape of its result depends on values, so that the result belongs to the signature.
    """

    __slots__ = ("composite", "func", "varies")

    def __init__(self, func: Any) -> None:
        self.func = func
        tags = getattr(func, "tags", ())
        self.varies = torch.Tag.dynamic_output_shape in tags or torch.Tag.data_dependent_output in tags
        self.composite = isinstance(func, torch._ops.OpOverload) and bool(
            torch._C._dispatch_has_kernel_for_dispatch_key(op_name(func), "CompositeImplicitAutograd")
        )


#: By `id(func)`, because an OpOverload's own hash is written in Python. All recorders share it.
PLANS: dict[int, RecordingPlan] = {}


def make_plan(func: Any) -> RecordingPlan:
    """Make and store the facts of an overload that has none yet."""
    plan = PLANS[id(func)] = RecordingPlan(func)
    return plan


@functools.cache
def op_name(func: Any) -> str:
    """Return the name as in PyTorch's messages (`"aten::add.Tensor"`), or `"higher_order::cond"`."""
    schema = getattr(func, "_schema", None)
    if schema is None:
        return f"higher_order::{func}"
    return f"{schema.name}.{schema.overload_name}" if schema.overload_name else str(schema.name)


def overload(name: str) -> torch._ops.OpOverload:
    """Return the installed overload with this name.

    Raises:
        LookupError: There is none.
    """
    namespace, _, rest = name.partition("::")
    base, _, variant = rest.partition(".")
    try:
        found = getattr(getattr(getattr(torch.ops, namespace), base), variant or "default")
    except AttributeError as missing:
        raise LookupError(f"{name} is not an op of torch {torch.__version__}") from missing
    assert isinstance(found, torch._ops.OpOverload)
    return found
