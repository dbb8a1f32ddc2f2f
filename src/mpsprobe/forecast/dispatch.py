"""What dispatch costs the host within a model's code: timed on a small decoder, and on single ops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mpsprobe.device.real import Device
from mpsprobe.device.virtual.observer import Quiet
from mpsprobe.device.virtual.predict import predict
from mpsprobe.errors import MpsprobeError
from mpsprobe.forecast.clock import Clock, bare
from mpsprobe.forecast.kinds import MATH, REDUCTION, STREAM, VIEW, kind_of
from mpsprobe.trace.dispatch import record
from mpsprobe.trace.recorder import Recorder

#: Width of the tensors of single ops.
_WIDTH = 64
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
class Dispatch:
    """Seconds of the host: for an op with a kernel, all alike and by kind, for a view, for a turn of `generate`."""

    op: float
    by_kind: dict[str, float]
    view: float
    loop: float


def dispatch(device: Device, clock: Clock) -> Dispatch:
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
        return Dispatch(python + bare(device, clock), {}, view, loop)
    return Dispatch(op, by_kind, view, loop)


def _with_kernel(calls: _Calls) -> int:
    return sum(calls.values()) - calls[VIEW]


def _alone(device: Device, clock: Clock) -> dict[str, float]:
    """Seconds of the host for the smallest op of each kind, called as models call it."""
    where = device.torch_device
    x, image = torch.randn(1, 16, _WIDTH, device=where), torch.randn(1, 8, 8, 8, device=where)
    heads = torch.randn(1, 2, 16, _WIDTH, device=where)
    linear, norm = nn.Linear(_WIDTH, _WIDTH).to(where), nn.LayerNorm(_WIDTH).to(where)
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
