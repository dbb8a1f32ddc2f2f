"""Measuring a device: matmul by dtype and size, memory, attention, convolution, dispatch, waits, copies.

Everything runs synchronised, warmed up, several times, and the fastest counts: what else runs on a machine makes things
slower only. The whole takes less than a minute.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mpsprobe import mac
from mpsprobe.device.real import Device
from mpsprobe.device.virtual.observer import Quiet
from mpsprobe.device.virtual.predict import predict
from mpsprobe.errors import MpsprobeError, TargetError
from mpsprobe.forecast.calibration import Calibration, Point
from mpsprobe.forecast.kinds import MATH, REDUCTION, STREAM, VIEW, kind_of
from mpsprobe.trace.dispatch import record
from mpsprobe.trace.recorder import Recorder

#: Runs of one piece of work of which the fastest counts, and how long they may take together, seconds.
_REPEATS, _BUDGET = 7, 0.35
#: Rows and square sizes of timed matmuls: `[rows, size] @ [size, size]`.
_ROWS, _SIZES = (1, 4, 16, 64, 256, 1024), (256, 1024, 2048)
_MORE_ROWS, _MORE_SIZES = (1, 16, 64, 256, 1024, 4096), (512, 4096, 8192)
#: Elements of timed passes over memory.
_STREAMS = tuple(1 << k for k in (12, 14, 16, 18, 20, 22, 24, 25))
#: Heads, queries, keys of timed attention; heads are 64 wide.
_ATTENTIONS = ((8, 1, 64), (16, 1, 512), (12, 16, 16), (12, 64, 64), (12, 256, 256), (16, 1024, 1024))
_LARGE_ATTENTIONS = ((32, 1, 4096), (512, 256, 256), (32, 2048, 2048), (32, 8192, 8192))
#: Images, channels in and out, the height, and the kernel's side, of timed convolutions.
_CONVS = ((1, 32, 32, 3), (1, 64, 32, 3), (1, 128, 32, 3), (1, 256, 16, 3), (1, 320, 64, 3))
_LARGE_CONVS = ((16, 64, 64, 3), (16, 512, 16, 3), (16, 64, 64, 1), (16, 512, 16, 1), (16, 1024, 32, 3))
_HEAD = 64
#: Bytes of distinct weights that a matrix-vector product goes through in turn: more than any cache holds.
_COLD = {"cpu": 384 << 20, "cuda": 2 << 30, "mps": 1 << 30}
#: A GPU this much faster than a CPU gets the large sizes too: FLOP/s.
_FAST = 5e12


def clock_of(device: Device) -> Callable[[], float]:
    """What tells the time of work on a device: of one CPU thread its own, so that other programs do not count."""
    alone = device.name == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if alone else time.perf_counter


class _Clock:
    """Times work on one device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.cuda = device.name == "cuda"
        self.now = clock_of(device)

    def seconds(self, work: Callable[[], Any], *, calls: int = 1) -> float:
        """Of one of `calls` calls that `work` makes: the device's own time, dispatch hidden where it can be."""
        self._run(work, 1, calls)
        first = self._run(work, 1, calls)
        repeats = max(3, min(_REPEATS, int(_BUDGET / max(first, 1e-9))))
        inner = max(1, min(200, int(2e-3 / max(first, 1e-9))))
        times = [self._run(work, inner, calls) / inner for _ in range(repeats)]
        return min(times) / calls

    def _run(self, work: Callable[[], Any], inner: int, calls: int) -> float:
        self.device.synchronize()
        if self.cuda:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda._sleep(
                int(2e5 + 4e4 * inner * calls)
            )  # the queue fills behind it: no gaps between kernels
            begin.record()
            for _ in range(inner):
                work()
            end.record()
            self.device.synchronize()
            return float(begin.elapsed_time(end)) * 1e-3
        start = self.now()
        for _ in range(inner):
            work()
        self.device.synchronize()
        return self.now() - start

    def host(self, work: Callable[[], Any], repeats: int = 25) -> float:
        """Of one call as the host sees it, nothing waited for."""
        times = []
        for _ in range(repeats + 2):
            self.device.synchronize()
            start = self.now()
            work()
            times.append(self.now() - start)
        self.device.synchronize()
        return min(times[2:])


def calibrate(device: Device, say: Callable[[str], None] = lambda _: None) -> Calibration:
    """Measure a device.

    Args:
        device: a real one.
        say: is told what is being measured.

    Raises:
        TargetError: the device cannot compute.
    """
    started = time.perf_counter()
    clock = _Clock(device)
    try:
        with torch.inference_mode():
            return _measure(device, clock, started, say)
    except torch.OutOfMemoryError as problem:
        raise TargetError(
            f"{device.name} has too little free memory to be calibrated: {problem}."
        ) from problem


def _measure(device: Device, clock: _Clock, started: float, say: Callable[[str], None]) -> Calibration:
    say("dispatch")
    dispatch = _dispatch(device, clock)
    kernel = _kernel(device, clock)
    wait = _wait(device, clock)
    bare = _bare(device, clock)
    points: list[Point] = []
    for dtype in _dtypes(device):
        say(f"matmul {_name(dtype)}")
        points += _matmuls(device, clock, dtype)
        points += _attentions(device, clock, dtype)
        points += _convs(device, clock, dtype)
    say("memory")
    points += _passes(device, clock)
    points = [_without_dispatch(point, bare, kernel) for point in points]
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
        op_seconds=dispatch.op,
        op_seconds_by_kind=dispatch.by_kind,
        view_seconds=dispatch.view,
        loop_seconds=dispatch.loop,
        kernel_seconds=kernel,
        wait_seconds=wait,
        copy_bandwidth=_copy(device, clock),
        took_seconds=time.perf_counter() - started,
    )


def _without_dispatch(point: Point, dispatch: float, kernel: float) -> Point:
    """A CPU's dispatch is part of what was timed; no kernel is faster than the least one."""
    seconds = max(point.seconds - dispatch, point.seconds / 4, kernel, 1e-9)
    return Point(point.kind, point.dtype, point.flops, point.bytes, seconds, point.label)


def _dtypes(device: Device) -> list[torch.dtype]:
    """float32 everywhere; 16-bit where it is what models run in."""
    if device.name == "cpu":
        return [torch.float32]
    if device.name == "cuda":  # float16 has bfloat16's rates
        return [torch.float32, torch.bfloat16]
    return [torch.float32, torch.float16, torch.bfloat16]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _sizes(points: Sequence[Point], small: Iterable[Any], large: Iterable[Any]) -> Iterator[Any]:
    """The small sizes, then the large ones if the small ones turned out fast."""
    yield from small
    if max(point.flops / point.seconds for point in points) > _FAST:
        yield from large


class _Pool:
    """Weights that no cache holds: pieces of one large stretch of memory, each time the next.

    Their values are random: a GPU draws less power on equal ones, and so multiplies them faster than a model's.
    """

    def __init__(self, device: Device, dtype: torch.dtype) -> None:
        item = torch.empty(0, dtype=dtype).element_size()
        self._memory = torch.empty(
            _COLD[device.name] // item, dtype=dtype, device=device.torch_device
        ).normal_()
        self._at = 0

    def weight(self, size: int) -> Tensor:
        """`[size, size]`."""
        if self._at + size * size > self._memory.numel():
            self._at = 0
        start, self._at = self._at, self._at + size * size
        return self._memory[start : start + size * size].view(size, size)


def _matmuls(device: Device, clock: _Clock, dtype: torch.dtype) -> list[Point]:
    points: list[Point] = []
    pool = _Pool(device, dtype)
    for rows, size in _sizes(points, product(_ROWS, _SIZES), product(_MORE_ROWS, _MORE_SIZES)):
        x = torch.randn(rows, size, device=device.torch_device).to(dtype)
        # its two views cost a CPU half a microsecond, which counts as part of the work
        seconds = clock.seconds(lambda x=x, size=size: functional.linear(x, pool.weight(size)))  # type: ignore[misc]
        moved = (2 * rows * size + size * size) * x.element_size()
        label = f"linear {rows} x {size} x {size}"
        points.append(Point("matmul", _name(dtype), 2 * rows * size * size, moved, seconds, label))
    return points


def _attentions(device: Device, clock: _Clock, dtype: torch.dtype) -> list[Point]:
    points: list[Point] = []
    for heads, queries, keys in _sizes(points, _ATTENTIONS, _LARGE_ATTENTIONS):
        q, k, v = (
            torch.randn(1, heads, n, _HEAD, device=device.torch_device).to(dtype)
            for n in (queries, keys, keys)
        )
        seconds = clock.seconds(lambda q=q, k=k, v=v: functional.scaled_dot_product_attention(q, k, v))  # type: ignore[misc]
        flops = 4 * heads * queries * keys * _HEAD
        moved = 2 * heads * (queries + keys) * _HEAD * q.element_size()
        label = f"attention {heads} heads {queries} x {keys}"
        points.append(Point("attention", _name(dtype), flops, moved, seconds, label))
    return points


def _convs(device: Device, clock: _Clock, dtype: torch.dtype) -> list[Point]:
    points: list[Point] = []
    for images, channels, size, side in _sizes(points, _CONVS, _LARGE_CONVS):
        x = torch.randn(images, channels, size, size, device=device.torch_device).to(dtype)
        w = torch.randn(channels, channels, side, side, device=device.torch_device).to(dtype)
        seconds = clock.seconds(lambda x=x, w=w: functional.conv2d(x, w, padding="same"))  # type: ignore[misc]
        flops = 2 * x.numel() * channels * side * side
        moved = (2 * x.numel() + w.numel()) * x.element_size()
        label = f"conv2d {side} x {side}, {images} of {channels} x {size} x {size}"
        points.append(Point("conv", _name(dtype), flops, moved, seconds, label))
    return points


def _passes(device: Device, clock: _Clock) -> list[Point]:
    """Passes over memory, each with a new result as in a model."""
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


#: Ops by kind.
_Calls = Counter[str]


class Block(nn.Module):
    """One decoder layer as models write it, so small that only dispatch costs.

    `CALLS` are the ops that it makes on the MPS key, by kind; a test counts them.
    """

    CALLS: ClassVar[_Calls] = Counter(
        {"matmul": 7, "attention": 1, REDUCTION: 2, MATH: 3, STREAM: 23, VIEW: 16}
    )

    def __init__(self, width: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = _Norm(width), _Norm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(2 * width, width, bias=False)
        self.act = nn.SiLU()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, past: tuple[Tensor, Tensor]) -> Tensor:
        """`x` (1, 1, width); `cos`, `sin` (1, 1, head); `past` two of (1, heads, n, head)."""
        shape = (*x.shape[:-1], self.heads, -1)
        h = self.before(x)
        q = self.q(h).view(shape).transpose(1, 2)
        k = self.k(h).view(shape).transpose(1, 2)
        v = self.v(h).view(shape).transpose(1, 2)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        k, v = torch.cat([past[0], k], dim=-2), torch.cat([past[1], v], dim=-2)
        a = functional.scaled_dot_product_attention(q, k, v)
        a = a.transpose(1, 2).reshape(*x.shape[:-1], -1).contiguous()
        x = x + self.o(a)
        h = self.after(x)
        result: Tensor = x + self.down(self.act(self.gate(h)) * self.up(h))
        return result


class _Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Root-mean-square normalisation, as transformers writes it."""
        h = x.to(torch.float32)
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * h.to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return (x * cos.unsqueeze(1)) + (turned * sin.unsqueeze(1))


def block_inputs(device: torch.device, width: int = 32, heads: int = 2) -> tuple[Any, ...]:
    """What `Block` is called with."""
    head = width // heads
    past = torch.zeros(2, 1, heads, 4, head, device=device).unbind(0)
    turns = torch.ones(2, 1, 1, head, device=device).unbind(0)
    return (torch.zeros(1, 1, width, device=device), *turns, past)


@dataclass(frozen=True)
class _Dispatch:
    """Seconds of the host: for an op with a kernel, all alike and by kind, for a view, for a turn of `generate`."""

    op: float
    by_kind: dict[str, float]
    view: float
    loop: float


def _dispatch(device: Device, clock: _Clock) -> _Dispatch:
    """What dispatch costs within a model's code.

    Python around an op counts with it. Where transformers is installed the code is a decoder of its own, since its
    layers do more around an op than plain ones; elsewhere it is `Block`, and a turn of `generate` costs nothing.
    """
    y = torch.zeros(1, 1, 2, 16, device=device.torch_device)

    def views() -> None:
        for _ in range(100):
            y.view(1, 1, -1).view(1, 1, 2, 16).transpose(1, 2)

    view = clock.host(views) / 300
    decoder = _Decoder.on(device.torch_device)
    calls = _calls(device) if decoder is not None else None
    if decoder is None or calls is None:
        seconds, step = clock.host(_blocks(device.torch_device)) / 8, Block.CALLS
    else:
        seconds, step = clock.host(decoder.step), calls[0]
    op = (seconds - step[VIEW] * view) / _with_kernel(step)
    alone = _alone(device, clock)
    # Python of the model's code around an op
    python = max(0.0, op - sum(step[kind] * cost for kind, cost in alone.items()) / _with_kernel(step))
    by_kind = {kind: cost + python for kind, cost in alone.items()}
    loop = 0.0
    if decoder is not None and calls is not None:
        turn = (clock.host(decoder.long) - clock.host(decoder.short)) / (_Decoder.LONG - _Decoder.SHORT)
        costs = {**by_kind, VIEW: view}
        loop = max(0.0, turn - sum(count * costs.get(kind, op) for kind, count in calls[1].items()))
    if device.name == "cpu":  # what an op takes beyond the smallest one is in what is timed of its kind
        return _Dispatch(python + _bare(device, clock), {}, view, loop)
    return _Dispatch(op, by_kind, view, loop)


def _with_kernel(calls: _Calls) -> int:
    return sum(calls.values()) - calls[VIEW]


def _alone(device: Device, clock: _Clock) -> dict[str, float]:
    """Seconds of the host for the smallest op of each kind, called as models call it."""
    where = device.torch_device
    x, image = torch.randn(1, 16, _HEAD, device=where), torch.randn(1, 8, 8, 8, device=where)
    heads = torch.randn(1, 2, 16, _HEAD, device=where)
    linear, norm = nn.Linear(_HEAD, _HEAD).to(where), nn.LayerNorm(_HEAD).to(where)
    conv, act = nn.Conv2d(8, 8, 3).to(where), nn.SiLU()
    works: dict[str, Callable[[], Tensor]] = {
        "matmul": lambda: linear(x),
        "attention": lambda: functional.scaled_dot_product_attention(heads, heads, heads),
        "conv": lambda: conv(image),
        REDUCTION: lambda: norm(x),
        MATH: lambda: act(x),
        STREAM: lambda: x + x,
    }

    def many(work: Callable[[], Tensor]) -> Callable[[], None]:
        def calls() -> None:
            for _ in range(50):
                work()

        return calls

    return {kind: clock.host(many(work)) / 50 for kind, work in works.items()}


def _blocks(device: torch.device) -> Callable[[], Any]:
    layers = nn.ModuleList([Block() for _ in range(8)]).eval().to(device)
    x, cos, sin, past = block_inputs(device)

    def model() -> None:
        h = x
        for layer in layers:
            h = layer(h, cos, sin, past)

    return model


class _Decoder:
    """A tiny Llama of transformers: one decode step of it, and short and long generation."""

    SHORT, LONG = 2, 10

    def __init__(self, library: Any, device: torch.device) -> None:
        config = library.LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=8,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=512,
            bos_token_id=1,
            eos_token_id=None,
        )
        torch.manual_seed(0)
        self._model = library.LlamaForCausalLM(config).eval().to(device)
        self._prompt = torch.ones(1, 4, dtype=torch.int64, device=device)
        self._token = self._prompt[:, :1]
        self._cache = self._model.model(self._prompt, use_cache=True).past_key_values

    @classmethod
    def on(cls, device: torch.device) -> _Decoder | None:
        """On a device; None where transformers is not installed."""
        try:
            import transformers
        except ImportError:
            return None
        return cls(transformers, device)

    def step(self) -> None:
        """One decode step of the layers."""
        self._model.model(self._token, past_key_values=self._cache, use_cache=True)

    def short(self) -> None:
        """Few tokens."""
        self._generate(self.SHORT)

    def long(self) -> None:
        """More tokens."""
        self._generate(self.LONG)

    def _generate(self, tokens: int) -> None:
        self._model.generate(
            input_ids=self._prompt,
            attention_mask=torch.ones_like(self._prompt),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )


def _calls(device: Device) -> tuple[_Calls, _Calls] | None:
    """Ops of a step, and of a turn of `generate`, by kind as a Mac counts them; None: cannot be had."""

    def count(run: Callable[[], None]) -> _Calls:
        recorder = Recorder()
        if device.name == "mps":
            with record() as recorder:
                run()
        else:
            observer.op = recorder.op  # type: ignore[method-assign]
            run()
            del observer.op
        calls: _Calls = Counter()
        for use in recorder.op_uses():
            calls[kind_of(use.op)] += use.count
        return calls

    def all_of(decoder: _Decoder | None) -> tuple[_Calls, _Calls]:
        assert decoder is not None
        short, long, turns = count(decoder.short), count(decoder.long), _Decoder.LONG - _Decoder.SHORT
        return count(decoder.step), Counter({kind: (long[kind] - short[kind]) // turns for kind in long})

    observer = Quiet()
    if device.name == "mps":
        return all_of(_Decoder.on(device.torch_device))
    try:
        # the device starts an autograd thread of its own
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            predict(memory_gb=64, observer=observer),
            torch.inference_mode(),
        ):
            return all_of(_Decoder.on(torch.device("mps", 0)))
    except (MpsprobeError, RuntimeError):  # another system, or a release of torch that it cannot carry
        return None


def _bare(device: Device, clock: _Clock) -> float:
    """Seconds of the smallest op on a CPU, which are part of whatever is timed there; 0 on a GPU."""
    x = torch.zeros(1, device=device.torch_device)
    return clock.seconds(lambda: x + 1.0) if device.name == "cpu" else 0.0


def _kernel(device: Device, clock: _Clock) -> float:
    """The least seconds that a kernel takes, behind others; 0 on a CPU."""
    if device.name == "cpu":
        return 0.0
    x = torch.zeros(64, device=device.torch_device)

    def many() -> None:
        for _ in range(50):
            x.add_(1.0)

    return clock.seconds(many, calls=50)


def _wait(device: Device, clock: _Clock) -> float:
    """Seconds to read a number that the device has just computed, beside its dispatch; 0 on a CPU."""
    if device.name == "cpu":
        return 0.0
    x = torch.zeros(64, device=device.torch_device)
    alone = clock.host(lambda: x.sum())
    return max(0.0, clock.host(lambda: x.sum().item()) - alone)


def _copy(device: Device, clock: _Clock) -> float:
    """Bytes/s of a copy from the host to the device; within memory on a CPU."""
    x = torch.ones(64 << 20, dtype=torch.uint8)
    if device.name == "cpu":
        y = torch.empty_like(x)
        return x.numel() / clock.seconds(lambda: y.copy_(x))
    y = torch.empty_like(x, device=device.torch_device)
    times = []
    for _ in range(5):
        device.synchronize()
        start = time.perf_counter()
        y.copy_(x)
        device.synchronize()
        times.append(time.perf_counter() - start)
    return x.numel() / min(times)
