"""Measure the cost of calls on the host within a model's code, from timings of several small models.

An op costs more within a model than in a tight loop, because of the Python code around it and of code and data that
are not in the caches. Therefore whole models are timed that are so small that the device does not matter. Their
times are distributed over the kinds of their calls, close to the proportions in `knowledge/data/speed.toml`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mpsprobe.device.real import Device
from mpsprobe.device.virtual.observer import Quiet
from mpsprobe.device.virtual.session import predict
from mpsprobe.errors import MpsprobeError
from mpsprobe.forecast.clock import Clock, TimedRounds
from mpsprobe.forecast.kinds import VIEW, host_kind
from mpsprobe.knowledge import ops, speed
from mpsprobe.knowledge.speed import Regime
from mpsprobe.trace.dispatch import record
from mpsprobe.trace.recorder import Recorder

#: The number of calls by kind (`kinds.host_kind`), with `module`, and `graph` for ops that run through MPSGraph.
Calls = Counter[str]
#: The runs of a small model in one round, of which the fastest counts.
_RUNS = 4
#: The weight with which a fitted cost is pulled towards its share in the data file; 0 for no pull.
_PRIOR = 0.3


class Block(nn.Module):
    """One decoder layer as models implement it, so small that only dispatch takes time."""

    def __init__(self, width: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = _Norm(width), _Norm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(2 * width, width, bias=False)
        self.act = nn.SiLU()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, past: tuple[Tensor, Tensor]) -> Tensor:
        """Run the layer on one token.

        Args:
            x: The hidden state, (1, 1, width).
            cos: The cosines of the position, (1, 1, head).
            sin: The sines of the position, (1, 1, head).
            past: The keys and the values of earlier tokens, (1, heads, n, head) each.
        """
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
        """Normalise by the root mean square, as transformers does."""
        h = x.to(torch.float32)
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * h.to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return (x * cos.unsqueeze(1)) + (turned * sin.unsqueeze(1))


class _Blocks(nn.Module):
    """Eight decoder layers, for a machine without transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block() for _ in range(8)])

    def forward(self, x: Tensor) -> Tensor:
        """Run all layers: `x` (1, 1, 32)."""
        past = torch.zeros(2, 1, 2, 4, 16, device=x.device).unbind(0)
        turns = torch.ones(2, 1, 1, 16, device=x.device).unbind(0)
        for layer in self.layers:
            x = layer(x, *turns, past)
        return x


class _Convolutions(nn.Module):
    """Residual blocks with group norms, as in diffusion models."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 16, 3, padding=1)
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 16, 3, padding=1))
                for _ in range(12)
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run all blocks: `x` (1, 4, 8, 8)."""
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return x


@dataclass(frozen=True)
class SmallModel:
    """A small model whose calls are timed, and how it is run.

    Attributes:
        name: The name for readers.
        build: A function that builds the model on the active `torch.device`.
        run: A function that runs one sample of the model on a device.
    """

    name: str
    build: Callable[[], nn.Module]
    run: Callable[[Any, torch.device], Any]


def _forward(name: str, shape: tuple[int, ...]) -> Callable[[Any, torch.device], Any]:
    return lambda model, device: model(**{name: torch.ones(shape, device=device)})


def _ids(length: int) -> Callable[[Any, torch.device], Any]:
    def run(model: Any, device: torch.device) -> Any:
        ids = torch.ones(1, length, dtype=torch.int64, device=device)
        return model(input_ids=ids, attention_mask=torch.ones_like(ids))

    return run


def _generate(model: Any, device: torch.device) -> Any:
    ids = torch.ones(1, 4, dtype=torch.int64, device=device)
    mask = torch.ones_like(ids)
    return model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=8,
        min_new_tokens=8,
        do_sample=False,
        pad_token_id=0,
    )


def _diffusion() -> SmallModel | None:
    """Return a narrow UNet of diffusers, whose Python code does much around each op; None without diffusers."""
    try:
        import diffusers as library
    except ImportError:
        return None
    diffusers: Any = library

    def build() -> nn.Module:
        kinds = {
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        }
        widths = {"block_out_channels": (32, 32), "cross_attention_dim": 32, "attention_head_dim": 2}
        model: nn.Module = diffusers.UNet2DConditionModel(sample_size=8, **kinds, **widths)
        return model

    def run(model: Any, device: torch.device) -> Any:
        text = torch.ones(1, 4, 32, device=device)
        return model(torch.ones(1, 4, 8, 8, device=device), torch.tensor(5), text)

    return SmallModel("diffusion network", build, run)


def smalls() -> list[SmallModel]:
    """Return the small models: those in plain torch and, where installed, some of diffusers and transformers."""
    found = [
        SmallModel("blocks", _Blocks, _forward("x", (1, 1, 32))),
        SmallModel("convolutions", _Convolutions, _forward("x", (1, 4, 8, 8))),
    ]
    if (network := _diffusion()) is not None:
        found.append(network)
    try:
        import transformers as library
    except ImportError:
        return found
    t: Any = library
    t.utils.logging.set_verbosity_error()  # it warns about kernels that these models do not need

    def of(name: str, cls: str, run: Callable[[Any, torch.device], Any], **config: Any) -> SmallModel:
        def build() -> nn.Module:
            made = getattr(t, cls)
            model: nn.Module = made(made.config_class(**config))
            return model

        return SmallModel(name, build, run)

    narrow = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 64}
    text = {**narrow, "vocab_size": 64, "max_position_embeddings": 64}
    tokens = {"bos_token_id": 1, "eos_token_id": None, "num_key_value_heads": 1}
    small_t5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 4, "num_heads": 2, "vocab_size": 64}
    return [
        *found,
        of("decoder", "LlamaForCausalLM", _generate, **text, **tokens),
        of("text encoder", "BertModel", _ids(8), **text),
        of(
            "vision transformer",
            "ViTModel",
            _forward("pixel_values", (1, 3, 32, 32)),
            **narrow,
            image_size=32,
        ),
        of(
            "encoder and decoder",
            "T5ForConditionalGeneration",
            _generate,
            **small_t5,
            eos_token_id=None,
            decoder_start_token_id=0,
        ),
        of(
            "state space",
            "MambaForCausalLM",
            _generate,
            hidden_size=32,
            num_hidden_layers=4,
            vocab_size=64,
            eos_token_id=None,
        ),
        of(
            "convolutional network",
            "ResNetModel",
            _forward("pixel_values", (1, 3, 32, 32)),
            embedding_size=8,
            hidden_sizes=[8, 8, 8, 8],
            depths=[2, 2, 2, 2],
        ),
        of(
            "mixture of experts",
            "MixtralForCausalLM",
            _generate,
            **{**text, "num_hidden_layers": 3},
            **tokens,
            num_local_experts=4,
        ),
    ]


class HostRounds:
    """The small models on a device, timed in rounds: the costs of calls on the host, and whether they were stable.

    Attributes:
        calls: For each model that runs here, the number of calls by kind.
        rounds: The times of the models in each round.
    """

    def __init__(self, device: Device, clock: Clock) -> None:
        self._prior = dict(_prior(device.name))
        self.calls: list[Calls] = []
        self.rounds = TimedRounds({})
        for small in smalls():
            try:
                calls = _calls(small, device)
                torch.manual_seed(0)
                with device.torch_device:
                    model = small.build().eval()
                run = functools.partial(small.run, model, device.torch_device)
                _timed(clock, run, 2)
            except (MpsprobeError, RuntimeError, AttributeError, TypeError):  # a release without that class
                continue
            self.calls.append(calls)
            self.rounds.work[small.name] = functools.partial(_timed, clock, run, _RUNS)

    def costs(self) -> dict[str, float]:
        """Return the time on the host in seconds by kind of call, with `module`, `wait`, and on MPS `graph`.

        The keys are those of `knowledge.speed.HostCost.us`. Each model counts with the median of the rounds that agree
        with the fastest.
        """
        return shared_out(list(zip(self.calls, self.rounds.typical().values(), strict=True)), self._prior)


def _timed(clock: Clock, run: Callable[[], Any], runs: int) -> float:
    """Return the shortest time of `runs` runs on the host in seconds; a CPU's kernels run on one thread meanwhile."""
    if clock.device.name != "cpu":
        return clock.host(run, runs)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return Clock(clock.device).host(run, runs)
    finally:
        torch.set_num_threads(threads)


def _prior(device: str) -> Iterator[tuple[str, float]]:
    row = speed.host_cost("mps" if device == "mps" else "cuda")
    assert row is not None
    for kind, us in row.us.items():
        yield kind, us * 1e-6
    if device == "mps":
        yield "graph", row.graph * 1e-6


def shared_out(rows: list[tuple[Calls, float]], prior: dict[str, float]) -> dict[str, float]:
    """Return the cost in seconds by kind of call that explains the times of models and stays close to a scaled prior.

    The fit is a least-squares one of relative errors. Each cost is pulled towards its prior, which is first scaled
    by the median of measured over expected time. No cost is negative. Without models the prior itself is returned.

    Args:
        rows: The calls of each model by kind, and its time in seconds.
        prior: The prior costs in seconds by kind.
    """
    kinds = [kind for kind, cost in prior.items() if cost > 0]
    start = np.array([prior[kind] for kind in kinds])
    if not rows:
        return dict(prior)
    counts = np.array([[calls[kind] for kind in kinds] for calls, _ in rows], dtype=float)
    seconds = np.array([took for _, took in rows])
    start = start * float(np.median(seconds / (counts @ start)))
    # the unknowns in units of the scaled prior, initially all 1
    relative = counts * start / seconds[:, None]
    matrix = np.vstack([relative, _PRIOR * np.eye(len(kinds))])
    wanted = np.concatenate([np.ones(len(rows)), _PRIOR * np.ones(len(kinds))])
    found = np.ones(len(kinds))
    for _ in range(200):
        for k in range(len(kinds)):
            column = matrix[:, k]
            rest = wanted - matrix @ found + column * found[k]
            found[k] = max(0.0, float(column @ rest / (column @ column)))
    return {
        **dict.fromkeys(prior, 0.0),
        **{kind: float(c) for kind, c in zip(kinds, found * start, strict=True)},
    }


def _calls(small: SmallModel, device: Device) -> Calls:
    """Return the number of calls of a model by kind, as a Mac makes them and forecasts count them.

    On a Mac they are recorded on the device itself, elsewhere on memoryless tensors; where neither works, on the
    device at hand.
    """
    if device.name == "mps":
        return _recorded(small, device)
    observer = Quiet()
    try:
        # the device starts an autograd thread of its own
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            predict(memory_gb=64, observer=observer),
            torch.inference_mode(),
        ):
            where = torch.device("mps", 0)
            with where:
                model = small.build().eval()
            recorder, waits = Recorder(), [0]

            def sync(kind: str) -> None:
                del kind
                waits[0] += 1

            observer.op, observer.sync = recorder.op, sync  # type: ignore[method-assign]
            with _modules() as modules:
                small.run(model, where)
            del observer.op, observer.sync
            return _counted(recorder, modules[0], waits[0], "")
    except (MpsprobeError, RuntimeError):  # an unsupported system or torch release
        return _recorded(small, device)


def _recorded(small: SmallModel, device: Device) -> Calls:
    with device.torch_device:
        model = small.build().eval()
    with record() as recorder, _modules() as modules:
        small.run(model, device.torch_device)
    release = ops.resolve_release(str(torch.__version__)) if device.name == "mps" else ""
    return _counted(recorder, modules[0], 0, release)


@contextmanager
def _modules() -> Iterator[list[int]]:
    """Count the calls of `nn.Module` while the context lasts, in the only item of the yielded list."""
    count, original = [0], nn.Module.__call__

    def call(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        return original(module, *args, **kwargs)

    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield count
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]


def _counted(recorder: Recorder, modules: int, waits: int, release: str) -> Calls:
    calls: Calls = Counter({"module": modules, "wait": waits})
    for use in recorder.op_uses():
        kind = host_kind(use.op)
        calls[kind] += use.count
        if release and kind not in (VIEW, "alloc"):
            calls["graph"] += use.count * (speed.regime(use.op, release) in (Regime.GRAPH, Regime.BOTH))
        if "_local_scalar_dense" in use.op and not waits:
            calls["wait"] += use.count
    return calls
