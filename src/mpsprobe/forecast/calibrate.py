"""Measure a device: matmul by dtype and size, memory, attention, convolution, dispatch, waits and copies.

Before, between and after these, the same work on the host is timed in rounds, which must agree. A calibration takes
about a minute.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mpsprobe import mac
from mpsprobe.device.real import Device
from mpsprobe.errors import TargetError
from mpsprobe.forecast.calibration import Calibration, Point
from mpsprobe.forecast.clock import REFUSED, Clock, TimedRounds, bare, copy, kernel, wait
from mpsprobe.forecast.host_cost import HostRounds
from mpsprobe.forecast.kinds import GROUP_NORM, MATH, REDUCTION, STREAM

#: Rows and square sizes of timed matmuls: `[rows, size] @ [size, size]`.
_ROWS, _SIZES = (1, 4, 16, 64, 256, 1024), (256, 1024, 2048)
_MORE_ROWS, _MORE_SIZES = (1, 16, 64, 256, 1024, 4096), (512, 4096, 8192)
#: Elements of the timed passes over memory.
_STREAMS = tuple(1 << k for k in (12, 14, 16, 18, 20, 22, 24, 25))
#: Heads, queries and keys of the timed attention; heads are 64 wide.
_ATTENTIONS = ((8, 1, 64), (16, 1, 512), (12, 16, 16), (12, 64, 64), (12, 256, 256), (16, 1024, 1024))
_LARGE_ATTENTIONS = ((32, 1, 4096), (512, 256, 256), (32, 2048, 2048), (32, 8192, 8192))
#: Images, input and output channels, height, and kernel size of the timed convolutions.
_CONVS = ((1, 32, 32, 3), (1, 64, 32, 3), (1, 128, 32, 3), (1, 256, 16, 3), (1, 320, 64, 3))
_LARGE_CONVS = (
    (16, 64, 64, 3),
    (16, 512, 16, 3),
    (16, 64, 64, 1),
    (16, 512, 16, 1),
    (16, 1024, 32, 3),
    (1, 128, 512, 3),
    (1, 256, 256, 3),
    (1, 512, 64, 3),
)
#: Channels and the height of a picture that is normalised in 32 groups.
_NORMS = ((320, 16), (320, 64), (512, 64), (512, 128), (256, 256), (128, 512))
_HEAD = 64
#: Bytes of distinct weights that matrix-vector products use in turn: more than any cache holds.
_COLD = {"cpu": 384 << 20, "cuda": 2 << 30, "mps": 1 << 30}
#: A device faster than this (in FLOP/s) is also measured with the large sizes.
_FAST = 5e12
#: The longest time of a timed call in seconds. Some devices compute a dtype without instructions for it (float16 on a
#: CPU), so that the larger sizes would take too long.
_LONGEST = 1.0


def calibrate(device: Device, say: Callable[[str], None] = lambda _: None) -> Calibration:
    """Measure the rates, the memory and the host costs of a device, in about a minute.

    Args:
        device: A real device.
        say: A function that is called with what is being measured.

    Raises:
        TargetError: The device has too little free memory, or the same work on a GPU took more than twice as long
            in one round as in another.
    """
    started = time.perf_counter()
    clock = Clock(device)
    try:
        with torch.inference_mode():
            return _measure(device, clock, started, say)
    except torch.OutOfMemoryError as problem:
        raise TargetError(
            f"{device.name} has too little free memory to be calibrated: {problem}."
        ) from problem


def _measure(device: Device, clock: Clock, started: float, say: Callable[[str], None]) -> Calibration:
    say("dispatch")
    host = HostRounds(device, clock)
    rounds = (host.rounds, _pulse(device, clock))
    _once(rounds)
    least = kernel(device, clock)
    waits = [wait(device, clock)]
    smallest = bare(device, clock)
    points: list[Point] = []
    for dtype in _dtypes(device):
        for kind, measure in (("matmul", _matmuls), ("attention", _attentions), ("convolution", _convs)):
            say(f"{kind} {_name(dtype)}")
            points += measure(device, clock, dtype)
            if kind != "attention":
                _once(rounds)
    say("memory")
    points += _passes(device, clock)
    points += _group_norms(device, clock)
    points = [_without_dispatch(point, smallest, least) for point in points]
    _once(rounds)
    for one in rounds:
        one.until_still()
    waits.append(wait(device, clock))
    unsteady = max(one.unsteady() for one in rounds)
    if unsteady > REFUSED and device.name != "cpu":
        raise TargetError(
            f"{device.name} is not still: the same work took {unsteady:.1f} times as long in one round as in another.",
            "Close other programs, or take a machine of your own, and calibrate again.",
        )
    return Calibration(
        device=device.name,
        name=device.gpu or mac.host().chip or platform.processor() or "CPU",
        torch=str(torch.__version__),
        python=platform.python_version(),
        threads=torch.get_num_threads(),
        points=points,
        weights_bandwidth=max(
            point.bytes / point.seconds for point in points if point.label.startswith("linear 1 x")
        ),
        host_seconds=host.costs(),
        kernel_seconds=least,
        wait_seconds=min(waits),
        copy_bandwidth=copy(device, clock),
        took_seconds=time.perf_counter() - started,
        unsteady=unsteady,
    )


def _pulse(device: Device, clock: Clock) -> TimedRounds:
    """Return the rounds of one matmul, which show whether the device keeps its speed."""
    x = torch.randn(1024, 1024, device=device.torch_device)
    return TimedRounds({"matmul": lambda: clock.seconds(lambda: functional.linear(x, x))})


def _once(rounds: Iterable[TimedRounds]) -> None:
    for one in rounds:
        one.once()


def _without_dispatch(point: Point, smallest: float, least: float) -> Point:
    """Return a timing without a CPU's dispatch: at least a quarter of it, and no shorter than the shortest kernel."""
    seconds = max(point.seconds - smallest, point.seconds / 4, least, 1e-9)
    return Point(point.kind, point.dtype, point.flops, point.bytes, seconds, point.label)


def _dtypes(device: Device) -> list[torch.dtype]:
    """Return the dtypes to measure: float32, on CUDA also bfloat16, on MPS also float16 and bfloat16."""
    if device.name == "cpu":
        return [torch.float32]
    if device.name == "cuda":  # float16 has bfloat16's rates
        return [torch.float32, torch.bfloat16]
    return [torch.float32, torch.float16, torch.bfloat16]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _sizes(points: Sequence[Point], small: Iterable[Any], large: Iterable[Any]) -> Iterator[Any]:
    """Yield the small sizes, then the large ones if a point measured until then exceeds `_FAST` FLOP/s."""
    yield from small
    if max(point.flops / point.seconds for point in points) > _FAST:
        yield from large


def _affordable(points: Sequence[Point], flops: int) -> bool:
    """Return whether a call of `flops` FLOPs takes at most `_LONGEST` seconds at the best measured rate."""
    return not points or flops / max(point.flops / point.seconds for point in points) <= _LONGEST


class _Pool:
    """Weights that are in no cache: successive pieces of one block of memory that is larger than any cache.

    Their values are random, because a GPU draws less power on equal values, and so multiplies them faster
    than a model's.
    """

    def __init__(self, device: Device, dtype: torch.dtype) -> None:
        item = torch.empty(0, dtype=dtype).element_size()
        self._memory = torch.empty(
            _COLD[device.name] // item, dtype=dtype, device=device.torch_device
        ).normal_()
        self._at = 0

    def weight(self, size: int) -> Tensor:
        """Return the next weight, of shape `[size, size]`."""
        if self._at + size * size > self._memory.numel():
            self._at = 0
        start, self._at = self._at, self._at + size * size
        return self._memory[start : start + size * size].view(size, size)


def _matmuls(device: Device, clock: Clock, dtype: torch.dtype) -> list[Point]:
    points: list[Point] = []
    pool = _Pool(device, dtype)
    for rows, size in _sizes(points, product(_ROWS, _SIZES), product(_MORE_ROWS, _MORE_SIZES)):
        if not _affordable(points, 2 * rows * size * size):
            continue
        x = torch.randn(rows, size, device=device.torch_device).to(dtype)
        # its two views cost a CPU half a microsecond, which counts as part of the work
        seconds = clock.seconds(lambda x=x, size=size: functional.linear(x, pool.weight(size)))  # type: ignore[misc]
        moved = (2 * rows * size + size * size) * x.element_size()
        label = f"linear {rows} x {size} x {size}"
        points.append(Point("matmul", _name(dtype), 2 * rows * size * size, moved, seconds, label))
    return points


def _attentions(device: Device, clock: Clock, dtype: torch.dtype) -> list[Point]:
    points: list[Point] = []
    for heads, queries, keys in _sizes(points, _ATTENTIONS, _LARGE_ATTENTIONS):
        flops = 4 * heads * queries * keys * _HEAD
        if not _affordable(points, flops):
            continue
        q, k, v = (
            torch.randn(1, heads, n, _HEAD, device=device.torch_device).to(dtype)
            for n in (queries, keys, keys)
        )
        seconds = clock.seconds(lambda q=q, k=k, v=v: functional.scaled_dot_product_attention(q, k, v))  # type: ignore[misc]
        moved = 2 * heads * (queries + keys) * _HEAD * q.element_size()
        label = f"attention {heads} heads {queries} x {keys}"
        points.append(Point("attention", _name(dtype), flops, moved, seconds, label))
    return points


def _convs(device: Device, clock: Clock, dtype: torch.dtype) -> list[Point]:
    points: list[Point] = []
    for images, channels, size, side in _sizes(points, _CONVS, _LARGE_CONVS):
        flops = 2 * images * channels**2 * size**2 * side**2
        if not _affordable(points, flops):
            continue
        x = torch.randn(images, channels, size, size, device=device.torch_device).to(dtype)
        w = torch.randn(channels, channels, side, side, device=device.torch_device).to(dtype)
        seconds = clock.seconds(lambda x=x, w=w: functional.conv2d(x, w, padding="same"))  # type: ignore[misc]
        moved = (2 * x.numel() + w.numel()) * x.element_size()
        label = f"conv2d {side} x {side}, {images} of {channels} x {size} x {size}"
        points.append(Point("conv", _name(dtype), flops, moved, seconds, label))
    return points


def _group_norms(device: Device, clock: Clock) -> list[Point]:
    """Time group norms of one picture as diffusion models have them: a GPU has few groups to work on at once."""
    points = []
    dtype = torch.float32 if device.name == "cpu" else torch.float16
    for channels, size in _NORMS if device.name != "cpu" else _NORMS[:2]:
        x = torch.randn(1, channels, size, size, device=device.torch_device).to(dtype)
        seconds = clock.seconds(lambda x=x: functional.group_norm(x, 32))  # type: ignore[misc]
        moved, label = 2 * x.element_size() * x.numel(), f"group norm of 1 x {channels} x {size} x {size}"
        points.append(Point(GROUP_NORM, _name(dtype), 0, moved, seconds, label))
    return points


def _passes(device: Device, clock: Clock) -> list[Point]:
    """Time an addition, SiLU and softmax of several sizes in float32, each with a new result as in a model."""
    points = []
    for elements in _STREAMS:
        x = torch.randn(elements // 512, 512, device=device.torch_device)
        works: list[tuple[str, str, Callable[[], Tensor]]] = [
            (STREAM, "add", lambda x=x: x + 1.0),  # type: ignore[misc]
            (MATH, "silu", lambda x=x: functional.silu(x)),  # type: ignore[misc]
            (REDUCTION, "softmax", lambda x=x: torch.softmax(x, -1)),  # type: ignore[misc]
        ]
        for kind, label, work in works:
            seconds = clock.seconds(work)
            points.append(Point(kind, "float32", 0, 2 * 4 * x.numel(), seconds, f"{label} {x.numel()}"))
    return points
