"""Replay one op use: on the device twice, on the CPU in its own dtype, and on the CPU in float64 as the reference.

The call can also be timed, on the device and on the CPU with the same shapes.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from mpsprobe.ops import domains
from mpsprobe.ops.arguments import ReplayInputs, prepare
from mpsprobe.ops.compare import compare, same_bits
from mpsprobe.ops.draws import CannotRebuildError
from mpsprobe.ops.place import Place, on_cpu
from mpsprobe.ops.protocol import CallTiming, ElementComparison, Replay, ReplayOutcome, Request
from mpsprobe.quantities import cut
from mpsprobe.run import OpUse

_CPU = torch.device("cpu")
#: Ops whose result has undefined values.
_UNDEFINED = ("empty", "new_empty", "resize", "empty_permuted", "set")
#: Indices of results that have several correct values (sign and order of vectors) and are never compared.
_AMBIGUOUS: dict[str, tuple[int, ...]] = {
    "linalg_eigh": (1,),
    "linalg_eig": (0, 1),
    "linalg_svd": (0, 2),
    "linalg_qr": (0, 1),
    "geqrf": (0, 1),
    "scaled_dot_product_attention_math_for_mps": (1,),  # the unused weights, which MPS omits
}
#: Names of results without values of the op: states of a generator, and results that were not requested.
_BOOKKEEPING = ("philox_seed", "philox_offset", "rng_state", "unused", "debug_attn_mask")
#: Results that stay uninitialised unless an argument requests them.
_ON_REQUEST = {"logsumexp": "compute_log_sumexp", "log_sumexp": "compute_log_sumexp"}
#: Ops that read bits rather than numbers, so that the same value in a wider dtype has another meaning.
_BITS = ("view.dtype", "nextafter", "frexp", "ldexp", "bitwise")
#: The greatest length of an exception's text in a message; `error` has all of it.
_LINE = 240
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "bad_alloc", "Cannot allocate memory")


@dataclass
class _Ran:
    """The outcome of one run of an op.

    Attributes:
        results: The tensor results and written arguments, in order, with numbers as tensors.
        error: The exception that it raised instead; None when it did not.
    """

    results: list[torch.Tensor]
    error: BaseException | None = None


def replay(request: Request, place: Place, memory_bytes: int) -> Replay:
    """Rebuild the inputs of an op use, run it on the device and the CPU, and return what was found.

    Args:
        request: The op use and the seed.
        place: The device.
        memory_bytes: The bytes that may be allocated; a float64 reference that needs more is not computed.
    """
    began = time.perf_counter()
    try:
        inputs = prepare(request.use, request.seed)
    except CannotRebuildError as problem:
        return Replay(outcome=ReplayOutcome.UNKNOWN, message=f"Not replayed: {problem}.")
    if place.torch_device.type != "mps" and on_cpu(inputs.func) is not inputs.func:
        return Replay(outcome=ReplayOutcome.UNKNOWN, message="Not replayed: only MPS has this op.")
    answer = Replay()
    random = _is_random(inputs)
    seed = request.seed if random else None
    own = _run(lambda: on_cpu(inputs.func), inputs, _CPU, seed)
    if _out_of_memory(own.error):
        return _unfit(own.error)
    with place.watching() as seen:
        first = _run(lambda: inputs.func, inputs, place.torch_device, seed, place.synchronize)
    answer.fallbacks = list(dict.fromkeys(seen.fallbacks))
    if answer.fallbacks:
        # there and back, once for each tensor: as the device counted, else by the size of the arguments
        answer.copied_bytes = seen.copied_bytes if seen.copied_bytes is not None else _copied(inputs, first)
    if first.error is not None:
        return _raised(answer, first.error, own.error)
    second = _run(lambda: inputs.func, inputs, place.torch_device, seed, place.synchronize)
    answer.repeatable = second.error is None and _same(first.results, second.results)
    _judge_values(answer, inputs, first, own, request, memory_bytes, random=random)
    answer.outcome = _outcome(answer, inputs)
    if place.measured and answer.outcome is not ReplayOutcome.RAISES:
        answer.timing = measure(inputs, place, on_cpu(inputs.func) if own.error is None else None)
        if answer.timing.slower and answer.outcome is ReplayOutcome.NATIVE:
            answer.outcome = ReplayOutcome.SLOWER
    answer.message = _message(answer)
    answer.spent_s = time.perf_counter() - began
    return answer


def _run(
    choose: Callable[[], Callable[..., Any]],
    inputs: ReplayInputs,
    device: torch.device,
    seed: int | None,
    synchronize: Callable[[], None] | None = None,
    dtype: torch.dtype | None = None,
) -> _Ran:
    """Run an op on new arguments, and return its results on the CPU, or whatever exception it raised.

    Args:
        choose: A function that returns the function to call.
        inputs: The arguments of the op use.
        device: The device of the arguments.
        seed: A seed to set before the call; None for an op that draws no random numbers.
        synchronize: A function that waits for the device; None for the CPU.
        dtype: Another dtype for floating-point values; None for their own.
    """
    try:
        args, kwargs, written = inputs.make(device, dtype)
        if seed is not None:  # takes as long as a small op, so only for random ops
            torch.manual_seed(seed)
        with torch.no_grad():
            result = _own_values(inputs, choose()(*args, **kwargs))
            if synchronize is not None:
                synchronize()
            return _Ran([tensor.to(_CPU, copy=True) for tensor in _tensors([result, written])])
    except BaseException as problem:  # an op of another package may raise anything, even SystemExit
        return _Ran([], problem)


def _own_values(inputs: ReplayInputs, result: Any) -> Any:
    """Return the result without bookkeeping (a generator's state) and parts that were not requested.

    Those may differ between correct runs.
    """
    if not isinstance(result, (list, tuple)):
        return result
    scalars = inputs.use.scalars
    unasked = {name for name, argument in _ON_REQUEST.items() if scalars.get(argument) is False}
    names = [returned.name for returned in inputs.func._schema.returns]
    if len(names) != len(result):
        return result
    return [
        value
        for name, value in zip(names, result, strict=True)
        if name not in _BOOKKEEPING and name not in unasked
    ]


def _tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors of a nested result, each once, with numbers as tensors."""
    found: dict[int, torch.Tensor] = {}

    def collect(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.setdefault(id(value), value.detach())
        elif isinstance(value, (bool, int, float, complex)):
            found[id(value)] = torch.tensor(value)
        elif isinstance(value, (list, tuple)):
            for item in value:
                collect(item)

    collect(value)
    return list(found.values())


def _same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(same_bits, one, other))


def _is_random(inputs: ReplayInputs) -> bool:
    if torch.Tag.nondeterministic_seeded not in inputs.func.tags:
        return False
    # attention is tagged because of its dropout; without dropout it draws nothing
    drops = any(argument.name == "dropout_p" for argument in inputs.func._schema.arguments)
    return not drops or bool(inputs.use.scalars.get("dropout_p", 0.0))


# ----------------------------------------------------------------------------------------------------- judging


def _judge_values(
    answer: Replay,
    inputs: ReplayInputs,
    found: _Ran,
    own: _Ran,
    request: Request,
    memory_bytes: int,
    *,
    random: bool,
) -> None:
    """Compare the results with the reference, and add the comparisons to `answer`, or the reason why there are none.

    Other shapes than the reference's set the outcome to `WRONG`.
    """
    base = domains.base_name(request.use.op)
    if base.strip("_").startswith(_UNDEFINED):
        answer.compared = "its values are not defined"
        return
    if random:
        answer.compared = "its values are random"
        return
    reference, why = _reference(inputs, own, request, memory_bytes)
    if reference is None:
        answer.compared = why
        return
    if own.error is None and [t.shape for t in reference] != [t.shape for t in own.results]:
        reference = own.results  # a wider dtype changes what the op does, so its own dtype is the reference
    if [t.shape for t in reference] != [t.shape for t in found.results]:
        answer.outcome = ReplayOutcome.WRONG
        shapes = [" ".join(str(tuple(t.shape)) for t in each) for each in (found.results, reference)]
        answer.compared = f"shapes {shapes[0]} instead of {shapes[1]}"
        return
    pointwise = torch.Tag.pointwise in inputs.func.tags
    skipped = _AMBIGUOUS.get(domains.stem(request.use.op), ())
    for number, (one, expected) in enumerate(zip(found.results, reference, strict=True)):
        if number in skipped or not one.numel():
            continue
        noisy = own.results[number] if own.error is None else None
        answer.comparisons.append(compare(number, one, expected, noisy, pointwise=pointwise))
    if not answer.comparisons:
        answer.compared = "its results hold nothing to compare"


def _reference(
    inputs: ReplayInputs, own: _Ran, request: Request, memory_bytes: int
) -> tuple[list[torch.Tensor] | None, str]:
    """Return the results to compare with, or the reason why there are none.

    They are in float64 where an op computes with floats and the memory allows it. They are in its own dtype where
    float64 is meaningless (integers, booleans, and indices that follow from comparisons of floats), and where there is
    no room for float64 or no kernel.
    """
    use = request.use
    wide = any(kept.flat.is_floating_point() or kept.flat.is_complex() for kept in inputs.tensors)
    wide = wide and not any(word in use.op for word in _BITS)
    if wide and own.error is None:
        wide = any(tensor.is_floating_point() or tensor.is_complex() for tensor in own.results)
    if wide and need(use) <= memory_bytes:
        ran = _run(lambda: on_cpu(inputs.func), inputs, _CPU, None, dtype=torch.float64)
        if ran.error is None:
            return ran.results, ""
        if own.error is not None:
            return None, f"the CPU has no reference: {_line(own.error)}"
    elif wide and own.error is not None:
        return None, f"a float64 reference needs about {need(use) / 1e9:.1f} GB"
    if own.error is None:
        return own.results, ""
    return None, f"the CPU has no reference: {_line(own.error)}"


def need(use: OpUse) -> int:
    """Return the bytes that a float64 run takes: arguments, results and an op's workspace of twice their size."""
    elements = sum(math.prod(tensor.shape) for tensor in (*use.inputs, *use.outputs))
    return elements * 8 * 3


def _outcome(answer: Replay, inputs: ReplayInputs) -> ReplayOutcome:
    if answer.outcome is ReplayOutcome.WRONG:
        return ReplayOutcome.WRONG
    if any(comparison.not_finite for comparison in answer.comparisons):
        return ReplayOutcome.NAN
    if not all(comparison.agrees for comparison in answer.comparisons):
        return ReplayOutcome.WRONG
    undefined = domains.base_name(inputs.use.op).strip("_").startswith(_UNDEFINED)
    if answer.repeatable is False and not undefined:
        return ReplayOutcome.VARIES
    if answer.fallbacks:
        return ReplayOutcome.FALLBACK
    if not answer.comparisons and "no reference" in answer.compared:
        return ReplayOutcome.UNKNOWN
    return ReplayOutcome.NATIVE


def _raised(answer: Replay, error: BaseException, on_the_cpu: BaseException | None) -> Replay:
    """Store an exception of the device in the answer, with the outcome that follows from it, and return the answer.

    Args:
        answer: The answer to complete.
        error: The exception that the device raised.
        on_the_cpu: The exception that the CPU raised for the same inputs; None when it raised none.

    Returns:
        The answer, with the outcome `raises`; `unknown` when the CPU raises the same type of exception and `error`
        names no device, because the rebuilt inputs are then at fault. For lack of memory, a new `raises` answer
        whose process is spoilt.
    """
    if _out_of_memory(error):
        return _unfit(error)
    answer.error = _text(error)
    if on_the_cpu is not None and type(on_the_cpu) is type(error) and not _names_device(error):
        answer.outcome = ReplayOutcome.UNKNOWN
        answer.message = f"Not replayed: the rebuilt inputs are refused by the CPU too: {_line(error)}"
        return answer
    answer.outcome = ReplayOutcome.RAISES
    answer.message = _line(error)
    return answer


def _names_device(error: BaseException) -> bool:
    return "MPS" in str(error) or "CUDA" in str(error)


def _out_of_memory(error: BaseException | None) -> bool:
    if error is None:
        return False
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def _unfit(error: BaseException | None) -> Replay:
    assert error is not None
    return Replay(
        outcome=ReplayOutcome.RAISES,
        message=f"Out of memory: {_line(error)}",
        error=_text(error),
        spoilt=True,
    )


def _line(error: BaseException) -> str:
    text = next((line.strip() for line in _text(error).splitlines() if line.strip()), "")
    return cut(text, _LINE)


def _text(error: BaseException) -> str:
    """Return type and text without lone surrogates, which messages between processes cannot hold."""
    return f"{type(error).__name__}: {error}".encode("utf-8", "replace").decode()


def _copied(inputs: ReplayInputs, ran: _Ran) -> int:
    return inputs.bytes + sum(tensor.numel() * tensor.element_size() for tensor in ran.results)


def _message(answer: Replay) -> str:
    if answer.outcome in (ReplayOutcome.WRONG, ReplayOutcome.NAN):
        return _disagreement(answer.comparisons) or f"Wrong: {answer.compared}."
    if answer.outcome is ReplayOutcome.VARIES:
        return "Two runs with the same inputs and the same seed differ."
    if answer.outcome is ReplayOutcome.FALLBACK:
        return f"The CPU computes {', '.join(answer.fallbacks)}: {answer.copied_bytes or 0:,} bytes copied a call."
    if answer.timing is not None and answer.timing.slower:
        timing = answer.timing
        assert timing.cpu_s is not None
        return f"Native, but slower than the CPU: {timing.device_s * 1e3:.3g} ms against {timing.cpu_s * 1e3:.3g} ms."
    if answer.compared:
        return f"Values not compared: {answer.compared}."
    return ""


def _disagreement(comparisons: Iterable[ElementComparison]) -> str:
    for found in comparisons:
        if found.not_finite:
            return f"{found.not_finite:,} of {found.elements:,} elements are not finite; {found.worst}."
        if not found.agrees:
            noise = "" if found.noise is None else f", rounding on the CPU {found.noise:.2g}"
            return (
                f"{found.off:,} of {found.elements:,} elements differ by up to {found.difference:.2g}{noise}; "
                f"{found.worst}."
            )
    return ""


#: The time in seconds for timing one call on each side, and the bounds of its repetitions.
_BUDGET_S = 0.02
_LEAST, _MOST = 3, 200


def measure(inputs: ReplayInputs, place: Place, cpu: Callable[..., Any] | None) -> CallTiming:
    """Return the median times of one warm call and the wait for its result, on the device, the CPU, and of a launch.

    Args:
        inputs: The arguments of the op use.
        place: The device.
        cpu: The function that computes the op on the CPU in its own dtype; None when there is none.
    """
    args, kwargs, _ = inputs.make(place.torch_device)
    device_s = _median(lambda: inputs.func(*args, **kwargs), place.synchronize)
    cpu_s = None
    if cpu is not None:
        cpu_args, cpu_kwargs, _ = inputs.make(torch.device("cpu"))
        cpu_s = _median(lambda: cpu(*cpu_args, **cpu_kwargs), _nothing)
    return CallTiming(device_s, cpu_s, _launch_s(place))


def _launch_s(place: Place) -> float:
    """Return the seconds that the smallest op takes, from its launch to the end of the wait for it."""
    one = torch.zeros(1, device=place.torch_device)
    return _median(lambda: one.add_(1), place.synchronize)


def _median(call: Callable[[], Any], synchronize: Callable[[], None]) -> float:
    with torch.no_grad():
        call()
        synchronize()
        taken: list[float] = []
        until = time.perf_counter() + _BUDGET_S
        while len(taken) < _LEAST or (len(taken) < _MOST and time.perf_counter() < until):
            began = time.perf_counter()
            call()
            synchronize()
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _nothing() -> None:
    pass
