"""Forecast the memory of a run on a Mac: what takes it, whether it fits, and what would make it fit.

Nothing is estimated from a model's name or size: weights, input, cache and activations are the storages that were
alive on the memoryless device at the run's peak. Only longer generation is extrapolated, by the growth from one
step of `decode` to the next.
"""

from __future__ import annotations

import functools
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mpsprobe.forecast.trace import Pass, Stage, Trace
from mpsprobe.knowledge import chips
from mpsprobe.quantities import billions, decimal_size
from mpsprobe.run import Evidence, Fit, Memory, MemoryPart, MemoryRemedy, RemedyKind
from mpsprobe.run.outlook import KV_BITS

MIB = 1 << 20
_SMALL, _MEDIUM, _LARGE = 1 * MIB, 10 * MIB, 512 * MIB
_HEAPS = {_SMALL: 8 * MIB, _MEDIUM: 32 * MIB, _LARGE: 1024 * MIB}
_ROUND = 2 * MIB


def heap_bytes(buffers: Iterable[int]) -> int:
    """Return the bytes that Metal has allocated once buffers of these sizes are placed in the tightest heaps.

    PyTorch's allocator takes memory from Metal in heaps, whose unused parts count too. The rules are those of
    aten/src/ATen/mps/MPSAllocator.h: buffers of up to 1 MiB share heaps of 8 MiB, those below 10 MiB heaps of 32
    MiB, those below 512 MiB heaps of 1 GiB; a larger one has its own heap, whose size is rounded up to a multiple
    of 2 MiB.

    Args:
        buffers: The sizes in bytes, in the order of allocation.
    """
    taken = 0
    free: dict[int, list[int]] = {heap: [] for heap in _HEAPS.values()}
    for size in buffers:
        heap = _heap_of(size)
        if heap is None:
            taken += -(-size // _ROUND) * _ROUND
            continue
        rooms = free[heap]  # ascending, so that the tightest that fits is the first of them
        at = bisect_left(rooms, size)
        if at < len(rooms):
            room = rooms.pop(at)
        else:
            taken += heap
            room = heap
        if room > size:
            insort(rooms, room - size)
    return taken


@functools.lru_cache(maxsize=4)  # one trace is judged for every Mac of the catalogue
def _unused(buffers: tuple[int, ...]) -> int:
    return max(0, heap_bytes(buffers) - sum(buffers))


def _heap_of(size: int) -> int | None:
    """Return the size in bytes of the heap that a buffer shares; None for a buffer with its own heap."""
    if size <= _SMALL:
        return _HEAPS[_SMALL]
    if size < _MEDIUM:
        return _HEAPS[_MEDIUM]
    return _HEAPS[_LARGE] if size < _LARGE else None


GIB = 1 << 30
#: A target that needs at most this share of Metal's recommended working set fits easily.
_COMFORT = 0.9
#: The memory of macOS and of PyTorch on the host in addition to the GPU's share: about 1 GiB for Python, torch
#: and a file that is read (measured on Linux), and 2 GiB of wired memory of an idle macOS (an estimate).
_BESIDES = 3 * 2**30
#: The bits of a weight with MLX's default quantisation: groups of 64 share a 16-bit scale and a 16-bit bias
#: (mlx.core.quantize, group_size=64).
_MLX_BITS = {8: 8.5, 4: 4.5}
_16_BIT = {"float16", "bfloat16"}
_P = Evidence.PREDICTED


@dataclass(frozen=True)
class Holding:
    """The memory in use at a run's peak, in bytes.

    Attributes:
        weights: The weights, in use during the whole run.
        inputs: The input, in use during the whole run.
        cache: The key-value cache at that time.
        kept: Results kept from one step to the next: logits, scores, token ids.
        activations: Everything else, including gradients.
    """

    weights: int
    inputs: int
    cache: int
    kept: int
    activations: int

    @property
    def total(self) -> int:
        """Return the sum of all parts in bytes."""
        return self.weights + self.inputs + self.cache + self.kept + self.activations


@dataclass(frozen=True)
class Growth:
    """The bytes that one more generated token adds: to the cache, to the kept results, and to the peak."""

    cache: int
    kept: int
    peak: int


def growth(trace: Trace, found: Sequence[Stage]) -> Growth | None:
    """Return the bytes that a generated token adds; None with fewer than two steps of `decode`."""
    decode = next((stage for stage in found if stage.name == "decode"), None)
    if decode is None or len(decode.passes) < 2:
        return None
    first, last = decode.passes[0], decode.passes[-1]
    turns = len(decode.passes) - 1
    kept = _kept(trace, last) - _kept(trace, first)
    cache = round((last.cache - first.cache) / turns)
    return Growth(cache, round(kept / turns), round((last.peak - first.peak) / turns))


def highest(trace: Trace, found: Sequence[Stage], tokens: int | None = None) -> Holding:
    """Return the memory in use at the run's peak, with `decode` extrapolated to `tokens` new tokens unless None."""
    moments = [_during(trace, one) for one in trace.passes if one.depth == 1]
    last = [one for one in trace.passes if one.depth == 1][-1:]
    grown = growth(trace, found)
    if tokens is not None and grown is not None:
        decode = next(stage for stage in found if stage.name == "decode")
        more = tokens - 1 - decode.repeats
        moments = [_during(trace, one) for one in trace.passes if one.depth == 1 and one not in decode.passes]
        end = _during(trace, decode.passes[-1])
        after = [] if decode is found[-1] else [_grown(one, grown, more) for one in moments[1:]]
        moments = [*moments[:1], *after, _grown(end, grown, more)]
    for one in last:
        # memory allocated between passes and after the last one is neither cache nor kept
        above = trace.peak_after - one.after
        if above > 0 and tokens is None:
            kept = _kept(trace, one)
            activations = trace.peak_after - trace.weights - trace.inputs - one.cache - kept
            moments.append(Holding(trace.weights, trace.inputs, one.cache, kept, activations))
    if not moments:
        return Holding(trace.weights, trace.inputs, 0, 0, max(0, trace.peak - trace.weights - trace.inputs))
    return max(moments, key=lambda one: one.total)


def memory(
    trace: Trace,
    found: Sequence[Stage],
    *,
    memory_bytes: int,
    macos: str | None,
    dtypes: Mapping[str, int],
    tokens: int | None = None,
    kv_dtype: str | None = None,
) -> Memory:
    """Forecast the memory that a run needs on a Mac, and whether it fits.

    Args:
        trace: The run.
        found: The stages of the run.
        memory_bytes: The physical memory of the Mac in bytes.
        macos: The version of macOS; None for the smaller working set of older ones.
        dtypes: The number of parameters by dtype.
        tokens: The number of new tokens of a sample, where it differs from the run's.
        kv_dtype: The dtype of the key-value cache, a key of `run.outlook.KV_BITS`; None for the run's.
    """
    held = highest(trace, found, tokens)
    grown = growth(trace, found)
    if kv_dtype is not None and held.cache:
        share = KV_BITS[kv_dtype] / _cache_bits(dtypes)
        held = replace(held, cache=round(held.cache * share))
        grown = replace(grown, cache=round(grown.cache * share)) if grown is not None else None
    working_set, seen = chips.working_set(memory_bytes, macos)
    limit = int(chips.HIGH_WATERMARK * working_set)
    heaps = _unused(tuple(trace.storages))
    needed = held.total + heaps
    gradients = min(trace.gradients, held.activations)
    by_dtype = ", ".join(f"{name} {billions(count)}" for name, count in dtypes.items())
    cache = "held by the run's cache" + (
        f", {decimal_size(grown.cache)} a token" if grown and grown.cache else ""
    )
    parts = [
        MemoryPart(
            "weights", held.weights - trace.states, f"parameters and buffers as built: {by_dtype}", _P
        ),
        MemoryPart(
            "activations",
            held.activations - gradients,
            "peak live tensors that no other row counts",
            _P,
        ),
    ]
    if trace.states:
        parts.append(MemoryPart("optimiser states", trace.states, "held from step to step", _P))
    if gradients:
        parts.append(
            MemoryPart("gradients", gradients, "of the trained parameters, at the end of a backward pass", _P)
        )
    if held.cache:
        parts.append(MemoryPart("KV cache", held.cache, cache, _P))
    if held.kept:
        more = f", {decimal_size(grown.kept)} a token" if grown and grown.kept > 0 else ""
        parts.append(
            MemoryPart("kept results", held.kept, f"logits, scores and ids held between steps{more}", _P)
        )
    parts += [
        MemoryPart("data", held.inputs, "the input on the device", _P),
        MemoryPart("allocator", heaps, "unused space in the weights' heaps", _P),
        MemoryPart(
            "OS and other",
            memory_bytes - working_set,
            f"what Metal's recommendation leaves: it was {seen.share:.0%} of memory on a {seen.memory_gib} GB Mac with "
            f"macOS {seen.since_macos} or later",
            _P,
            system=True,
        ),
    ]
    fit, reason = judge(needed, working_set, memory_bytes)
    buffer = chips.max_buffer(memory_bytes, macos)
    if trace.largest >= buffer:
        fit, reason = Fit.NO, _one_buffer(trace.largest, buffer)
    return Memory(
        parts=parts,
        needed_bytes=needed,
        available_bytes=memory_bytes,
        working_set_bytes=working_set,
        limit_bytes=limit,
        largest_buffer_bytes=trace.largest or None,
        buffer_limit_bytes=buffer,
        fit=fit,
        reason=reason,
        remedies=[]
        if fit is Fit.COMFORTABLE
        else _of_training(trace, held, heaps, dtypes, memory_bytes, macos)
        if trace.gradients
        else remedies(held, grown, heaps, dtypes, memory_bytes, macos, trace.largest),
    )


def _one_buffer(largest: int, limit: int) -> str:
    """Return the reason why a single tensor stops the run, with the message of MPSAllocator.mm."""
    return (
        f"One tensor of {decimal_size(largest)} is not below the {decimal_size(limit)} that Metal allows a buffer "
        '(maxBufferLength): PyTorch raises "Invalid buffer size".'
    )


def _of_training(
    trace: Trace,
    held: Holding,
    heaps: int,
    dtypes: Mapping[str, int],
    memory_bytes: int,
    macos: str | None,
) -> list[MemoryRemedy]:
    """Return changes that reduce the memory of an optimisation step, each with its size and the resulting fit."""
    working_set, _ = chips.working_set(memory_bytes, macos)
    gradients = min(trace.gradients, held.activations)
    activations = held.activations - gradients

    def add(kind: RemedyKind, change: str, needed: float) -> None:
        found.append(_remedy(kind, change, round(needed), working_set, memory_bytes))

    found: list[MemoryRemedy] = []
    whole = held.total + heaps
    weights = held.weights - trace.states
    if trace.gradients > weights / 2:  # every parameter is trained
        less = trace.states + gradients
        change = f"--train lora (at least {decimal_size(less)} of states and gradients less)"
        add(RemedyKind.PYTORCH, change, whole - less)
        if trace.states > weights / 2:
            change = f"--optimizer adafactor ({decimal_size(trace.states)} of states less)"
            add(RemedyKind.PYTORCH, change, whole - trace.states)
    else:
        parameters = sum(dtypes.values())
        for bits, stored in _MLX_BITS.items():
            if (quantised := parameters * stored / 8) < weights:
                change = (
                    f"MLX with {bits}-bit weights ({decimal_size(round(quantised))}) and LoRA beside them"
                )
                add(RemedyKind.MLX, change, whole - weights - heaps + quantised)
    change = (
        f"--gradient-checkpointing, or a smaller batch with --accumulate (the {decimal_size(activations)} of "
        "activations shrink; at most all of them)"
    )
    add(RemedyKind.PYTORCH, change, whole - activations)
    return [*found, *_larger_mac(whole, macos)]


def _cache_bits(dtypes: Mapping[str, int]) -> float:
    """Return the bits of a cached value in the run: those of the most common parameter dtype."""
    most = max(dtypes, key=lambda name: dtypes[name], default="float16")
    return KV_BITS.get(most, 16.0)


def judge(needed: int, working_set: int, memory_bytes: int) -> tuple[Fit, str]:
    """Return whether `needed` bytes fit a Mac, with the reason.

    It fits easily within 90 % of Metal's recommended working set. It is tight if it fits in physical memory
    together with macOS and Python, and stays below the high watermark at which PyTorch's allocator raises.
    Otherwise it does not fit.
    """
    limit = int(chips.HIGH_WATERMARK * working_set)
    need, recommended, whole = decimal_size(needed), decimal_size(working_set), decimal_size(memory_bytes)
    if needed > limit:
        return Fit.NO, f"{need} is past the {decimal_size(limit)} at which PyTorch's allocator raises."
    if needed > memory_bytes - _BESIDES:
        return (
            Fit.NO,
            f"{need}, and about {decimal_size(_BESIDES)} for macOS and Python, are more than the {whole} there are: "
            "macOS would swap all the time.",
        )
    if needed > working_set:
        over = decimal_size(needed - working_set)
        return (
            Fit.TIGHT,
            f"{need} is {over} past the {recommended} that Metal recommends at most: macOS compresses and swaps.",
        )
    if needed > _COMFORT * working_set:
        return (
            Fit.TIGHT,
            f"{need} leaves {decimal_size(working_set - needed)} of the {recommended} that Metal recommends at most.",
        )
    return (
        Fit.COMFORTABLE,
        f"{need} leaves {decimal_size(working_set - needed)} of the {recommended} that Metal recommends at most.",
    )


def remedies(
    held: Holding,
    grown: Growth | None,
    heaps: int,
    dtypes: Mapping[str, int],
    memory_bytes: int,
    macos: str | None,
    largest: int = 0,
) -> list[MemoryRemedy]:
    """Return changes that reduce the memory of a run, each with its size and the resulting fit.

    `largest` is the size of the largest single tensor in bytes; only fewer bits or a larger Mac help where it
    reaches Metal's limit of a buffer.
    """
    working_set, _ = chips.working_set(memory_bytes, macos)
    limit = chips.max_buffer(memory_bytes, macos)
    rest = held.total - held.weights

    def add(kind: RemedyKind, change: str, needed: float, tensor: int = 0) -> None:
        if tensor >= limit:
            still = f"{change}: one tensor of {decimal_size(tensor)} is still not below Metal's {decimal_size(limit)}."
            found.append(MemoryRemedy(kind, still, Fit.NO))
        else:
            found.append(_remedy(kind, change, round(needed), working_set, memory_bytes))

    found: list[MemoryRemedy] = []
    parameters = sum(dtypes.values())
    wide = sum(count for name, count in dtypes.items() if name == "float32")
    if wide > parameters / 2:
        saved = 2 * wide
        change = f"Weights in float16 or bfloat16 ({decimal_size(saved)} less)"
        add(RemedyKind.PYTORCH, change, held.total - saved + heaps, largest // 2)
    if grown is not None and grown.cache > 0 and held.cache:
        room = _COMFORT * working_set - (held.total - held.cache - held.activations) - heaps
        tokens = held.cache // grown.cache
        if room > 0:
            share = (held.cache + held.activations) / tokens
            sentence = (
                f"A shorter context: {tokens:,} tokens (of text and images) take {decimal_size(held.cache)} of cache "
                f"and {decimal_size(held.activations)} of activations; about {int(room / share):,} fit easily."
            )
            found.append(MemoryRemedy(RemedyKind.PYTORCH, sentence, Fit.COMFORTABLE))
    for bits, stored in _MLX_BITS.items():
        quantised = parameters * stored / 8
        if quantised < held.weights:
            change = f"MLX with {bits}-bit weights ({decimal_size(round(quantised))})"
            add(RemedyKind.MLX, change, quantised + rest)
    left = [one for one in found if one.kind is not RemedyKind.MLX or one.fit is not Fit.NO]
    return [*left, *_larger_mac(held.total + heaps, macos, largest)]


def _remedy(kind: RemedyKind, change: str, needed: int, working_set: int, memory_bytes: int) -> MemoryRemedy:
    """Return a change after which `needed` bytes are used, with the resulting fit."""
    fit = judge(needed, working_set, memory_bytes)[0]
    return MemoryRemedy(kind, f"{change}: {decimal_size(needed)} in all, {fit.label}.", fit)


def _larger_mac(needed: int, macos: str | None, largest: int = 0) -> list[MemoryRemedy]:
    """Return advice on the smallest Mac in which `needed` bytes fit easily, one buffer of `largest` included."""
    for size in _sizes():
        if (
            largest < chips.max_buffer(size, macos)
            and judge(needed, chips.working_set(size, macos)[0], size)[0] is Fit.COMFORTABLE
        ):
            sentence = f"A Mac with {size // GIB} GB of memory: fits easily."
            return [MemoryRemedy(RemedyKind.LARGER_MAC, sentence, Fit.COMFORTABLE)]
    return []


def _sizes() -> list[int]:
    sold = {gib for chip in chips.all_chips() for variant in chip.variants for gib in variant.memory_gib}
    return [gib * GIB for gib in sorted(sold)]


def _during(trace: Trace, one: Pass) -> Holding:
    kept = _kept(trace, one)
    activations = max(one.peak - trace.weights - trace.inputs - one.cache - kept, 0)
    return Holding(trace.weights, trace.inputs, one.cache, kept, activations)


def _kept(trace: Trace, one: Pass) -> int:
    """Return the bytes in use when a pass began, without weights, input and cache: results of earlier passes."""
    return max(one.before - trace.weights - trace.inputs - one.cache_before, 0)


def _grown(moment: Holding, grown: Growth, turns: int) -> Holding:
    cache, kept = moment.cache + turns * grown.cache, max(0, moment.kept + turns * grown.kept)
    other = turns * (grown.peak - grown.cache - grown.kept)
    return Holding(moment.weights, moment.inputs, cache, kept, max(0, moment.activations + other))
