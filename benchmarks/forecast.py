"""Forecasts beside measurements, on the device at hand: calibrates it, predicts eight models, runs them.

    OMP_NUM_THREADS=1 python benchmarks/forecast.py [--device auto|cuda|cpu] [--only NAME ...] [--json FILE]

The models have random weights and are built from their classes: nothing is downloaded. Each is predicted on ghosts (no
weights, no device), which needs Linux on x86-64, and forecast on the calibrated device; then it runs, warmed up, and
the fastest run counts. Time is that of one sample, memory the peak of what tensors take. On one CPU thread time is the
thread's own, so that other programs do not count.

A Mac's attention kernel returns its scores, others never write them. The table says how many bytes they are: forecast
memory has them where that attention is the highest moment, measured memory has not.

Prints the table of docs/forecast.md. Takes some three minutes.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as _transformers
from torch import Tensor, nn

from mpsprobe.device.real import Device, real_device
from mpsprobe.forecast import calibration as calibrations
from mpsprobe.forecast.calibrate import calibrate
from mpsprobe.forecast.clock import clock_of
from mpsprobe.forecast.machine import Machine
from mpsprobe.forecast.stages import stages
from mpsprobe.forecast.timing import Work, timing
from mpsprobe.knowledge import ops
from mpsprobe.models import profile
from mpsprobe.models.adapter import Adapter, Batch, Outputs, Weights
from mpsprobe.prediction.observed import WeightlessTarget, observe
from mpsprobe.run import Mac, Timing

transformers: Any = _transformers  # most of its classes are not typed
#: Forecast and measurement are aimed to be within this factor.
AIM = 1.3


class Denoiser(nn.Module):
    """A small diffusion model: convolutions with attention in the middle, called once a step."""

    def __init__(self, channels: int, size: int, steps: int) -> None:
        super().__init__()
        self.steps, self.size, self.channels = steps, size, channels
        self.net = _Net(channels)

    @torch.inference_mode()
    def sample(self, x: Tensor) -> Tensor:
        """`x` (1, 4, size, size), noise, step by step to a picture."""
        for step in range(self.steps):
            t = torch.full((1,), step / self.steps, device=x.device, dtype=x.dtype)
            x = x - self.net(x, t) / self.steps
        return x


class _Net(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.time = nn.Sequential(nn.Linear(1, channels), nn.SiLU(), nn.Linear(channels, wide))
        self.first = nn.Conv2d(4, channels, 3, padding=1)
        self.down = nn.Conv2d(channels, wide, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList([_Residual(wide) for _ in range(4)])
        self.attention = nn.ModuleList([_Attention(wide) for _ in range(2)])
        self.up = nn.ConvTranspose2d(wide, channels, 4, stride=2, padding=1)
        self.last = nn.Sequential(nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, 4, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """`x` (1, 4, n, n), `t` (1,)."""
        x = self.first(x)
        h = self.down(x) + self.time(t[:, None])[:, :, None, None]
        for k, block in enumerate(self.blocks):
            h = block(h)
            if k % 2:
                h = self.attention[k // 2](h)
        result: Tensor = self.last(x + self.up(h))
        return result


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.steps = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """As many channels as before."""
        result: Tensor = x + self.steps(x)
        return result


class _Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Over all places of a picture, heads of 64."""
        b, c, h, w = x.shape
        rows = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(rows).view(b, h * w, 3, c // 64, 64).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        result: Tensor = x + self.out(mixed).transpose(1, 2).reshape(b, c, h, w)
        return result


@dataclass(frozen=True)
class Case:
    """One model of the table.

    Attributes:
        name: of the row.
        bound: what it is there for.
        cls: class of transformers; `""` for `Denoiser`.
        config: by device: arguments of the config's class (or of `Denoiser`).
        inputs: by device: makes the batch.
        generate: by device: new tokens; nothing for one forward pass.
        device: cpu or cuda.
    """

    name: str
    bound: str
    cls: str
    config: dict[str, Any]
    inputs: Callable[[], Batch]
    new_tokens: int = 0
    dtype: str = "float32"
    extra: dict[str, Any] = field(default_factory=dict)


class BenchAdapter(Adapter):
    """Builds and runs a case."""

    def __init__(self, case: Case) -> None:
        super().__init__(Path("/nonexistent"), profile.load("transformers"))
        self.case = case

    def load(self, device: torch.device, dtype: str) -> nn.Module:
        """With random weights, or with none for a device without memory."""
        torch.manual_seed(0)
        wanted = getattr(torch, dtype)
        if not self.case.cls:
            with device:
                return Denoiser(**self.case.config).to(wanted).eval()
        cls = getattr(transformers, self.case.cls)
        config = cls.config_class(**self.case.config)
        if self.weights is Weights.NONE:
            from mpsprobe.models.weightless.from_config import build

            return build(cls, config, device, dtype, initialise=False)
        with device:
            model: nn.Module = cls._from_config(config, dtype=wanted)
        return model.to(device).eval()

    def sample(self) -> dict[str, Any]:
        """Nothing: `prepare` makes the input."""
        return {}

    def prepare(self, sample: dict[str, Any]) -> Batch:
        """The case's input."""
        del sample
        dtype = getattr(torch, self.case.dtype)
        return {k: v.to(dtype) if v.is_floating_point() else v for k, v in self.case.inputs().items()}

    def forward(self, model: nn.Module, batch: Batch) -> Outputs:
        """Not asked for."""
        raise NotImplementedError

    def infer(self, model: Any, batch: Batch) -> Any:
        """One sample."""
        if not self.case.cls:
            return model.sample(**batch)
        if self.case.new_tokens:
            n = self.case.new_tokens
            return model.generate(
                **batch,
                max_new_tokens=n,
                min_new_tokens=n,
                do_sample=False,
                pad_token_id=0,
                **self.case.extra,
            )
        return model(**batch)

    def extract(self, raw: Any) -> Outputs:
        """The result, where it is."""
        return {"raw": raw}


def _llama(hidden: int, layers: int, vocab: int, heads: int, kv: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": hidden * 8 // 3 // 64 * 64,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "max_position_embeddings": 16384,
        "bos_token_id": 1,
        "eos_token_id": None,
    }


def _prompt(rows: int, length: int, vocab: int) -> Callable[[], Batch]:
    def make() -> Batch:
        ids = torch.arange(rows * length).reshape(rows, length) % (vocab - 10) + 5
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return make


def _image(rows: int, size: int) -> Callable[[], Batch]:
    return lambda: {
        "pixel_values": torch.linspace(-1, 1, rows * 3 * size * size).reshape(rows, 3, size, size)
    }


def _noise(size: int) -> Callable[[], Batch]:
    return lambda: {"x": torch.linspace(-2, 2, 4 * size * size).reshape(1, 4, size, size)}


def _bert(hidden: int, layers: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64 if hidden > 512 else 12,
        "intermediate_size": 4 * hidden,
    }


def _vit(hidden: int, layers: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "intermediate_size": 4 * hidden,
    }


def cases(device: str) -> list[Case]:
    """The models, of a size for the device."""
    if device == "cpu":
        large, small = _llama(1024, 12, 8000, 16, 4), _llama(64, 12, 1000, 4, 2)
        return [
            Case("llama 140M, 16 tokens", "decode", "LlamaForCausalLM", large, _prompt(1, 16, 8000), 16),
            Case("llama 140M, prompt of 256", "prefill", "LlamaForCausalLM", large, _prompt(1, 256, 8000), 1),
            Case("llama 1M, 32 tokens", "dispatch", "LlamaForCausalLM", small, _prompt(1, 8, 1000), 32),
            Case(
                "denoiser, 64 channels, 5 steps",
                "convolution",
                "",
                {"channels": 64, "size": 32, "steps": 5},
                _noise(32),
            ),
            Case("vit-small, 224 x 224", "vision encoder", "ViTModel", _vit(384, 12), _image(1, 224)),
            Case(
                "minilm, 8 texts of 64", "sentence encoder", "BertModel", _bert(384, 6), _prompt(8, 64, 30522)
            ),
            Case(
                "bert-base, 1 text of 16", "small matmuls", "BertModel", _bert(768, 12), _prompt(1, 16, 30522)
            ),
            Case("resnet-50, 224 x 224", "convolution", "ResNetModel", {}, _image(1, 224)),
        ]
    large, small = _llama(4096, 16, 32000, 32, 8), _llama(256, 24, 1000, 4, 2)
    half = "bfloat16"
    return [
        Case("llama 3B, 64 tokens", "decode", "LlamaForCausalLM", large, _prompt(1, 32, 32000), 64, half),
        Case(
            "llama 3B, prompt of 8192", "prefill", "LlamaForCausalLM", large, _prompt(1, 8192, 32000), 1, half
        ),
        Case("llama 20M, 64 tokens", "dispatch", "LlamaForCausalLM", small, _prompt(1, 8, 1000), 64, half),
        Case(
            "denoiser, 512 channels, 20 steps",
            "convolution",
            "",
            {"channels": 512, "size": 128, "steps": 20},
            _noise(128),
            dtype=half,
        ),
        Case(
            "vit-large, 32 images", "vision encoder", "ViTModel", _vit(1024, 24), _image(32, 224), dtype=half
        ),
        Case("vit-large, 32 images, float32", "vision encoder", "ViTModel", _vit(1024, 24), _image(32, 224)),
        Case(
            "bert-base, 128 texts of 256",
            "sentence encoder",
            "BertModel",
            _bert(768, 12),
            _prompt(128, 256, 30522),
            dtype=half,
        ),
        Case(
            "minilm, 1 text of 16", "dispatch", "BertModel", _bert(384, 6), _prompt(1, 16, 30522), dtype=half
        ),
        Case("resnet-50, 32 images", "convolution", "ResNetModel", {}, _image(32, 224), dtype=half),
    ]


def forecast(case: Case, machine: Machine, release: str) -> tuple[Timing, int, int]:
    """Time, peak bytes of tensors, and the scores of an attention, which only a Mac's kernel has among them."""
    adapter = BenchAdapter(case)
    adapter.weights = Weights.NONE
    recording = observe(WeightlessTarget(case.name, adapter, case.dtype), Mac(release))
    if recording.stopped:
        raise SystemExit(f"{case.name} cannot be predicted: {recording.stopped}")
    trace = recording.trace
    work = Work.of(trace, stages(trace))
    return timing(work, machine), trace.peak, max((call.scores for call in work.calls), default=0)


def measure(case: Case, device: Device, repeats: int) -> tuple[float, int | None]:
    """Seconds of one sample, the fastest, and the peak bytes of tensors where the device counts them."""
    adapter = BenchAdapter(case)
    now = clock_of(device)
    gc.collect()
    if device.name == "cuda":
        torch.cuda.empty_cache()
    before = device.memory().allocated or 0
    with torch.inference_mode():
        model = adapter.load(device.torch_device, case.dtype)
        times = []
        for run in range(repeats + 2):
            batch = {name: value.to(device.torch_device) for name, value in adapter.prepare({}).items()}
            device.synchronize()
            if run == 2:
                device.reset_peak()
            start = now()
            adapter.infer(model, batch)
            device.synchronize()
            times.append(now() - start)
        peak = device.peak() if device.name == "cuda" else None
    return min(times[2:]), (peak.allocated or 0) - before if peak is not None else None


def main() -> None:
    """Calibrate, forecast, measure, print."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"])
    options.add_argument("--only", nargs="*", default=[], help="rows whose name begins so")
    options.add_argument("--calibration", type=Path, help="instead of measuring the device")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--json", type=Path, help="write all figures, and the calibration, there")
    chosen = options.parse_args()
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    name = chosen.device if chosen.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    device = real_device(name)
    calibrated = calibrations.read(chosen.calibration) if chosen.calibration else calibrate(device)
    machine = calibrations.machine(calibrated)
    release = ops.resolve_release(torch.__version__)
    print(  # noqa: T201
        f"{calibrated.name}, torch {torch.__version__}, transformers {transformers.__version__}, Python "
        f"{platform.python_version()}, {calibrated.threads} thread(s); calibrated in {calibrated.took_seconds:.0f} s: "
        f"stream {calibrated.host_seconds['stream'] * 1e6:.1f} us, module "
        f"{calibrated.host_seconds['module'] * 1e6:.1f} us, kernel "
        f"{calibrated.kernel_seconds * 1e6:.1f} us, wait {calibrated.wait_seconds * 1e6:.1f} us, weights "
        f"{calibrated.weights_bandwidth / 1e9:.0f} GB/s\n"
    )
    columns = [
        "model",
        "bound by",
        "forecast",
        "measured",
        "ratio",
        "memory forecast",
        "scores on a Mac",
        "measured",
    ]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")  # noqa: T201
    rows: list[dict[str, Any]] = []
    for case in cases(device.name):
        if chosen.only and not any(case.name.startswith(text) for text in chosen.only):
            continue
        told, predicted, scores = forecast(case, machine, release)
        seconds, peak = measure(case, device, chosen.repeats)
        expected = told.per_sample.expected if told.per_sample is not None else None
        ratio = expected / seconds if expected else None
        bounds = "/".join(dict.fromkeys(part.bound for part in told.parts if part.bound))
        rows.append(
            {
                "model": case.name,
                "for": case.bound,
                "dtype": case.dtype,
                "bound": bounds,
                "expected_s": expected,
                "floor_s": told.per_sample.floor if told.per_sample else None,
                "measured_s": seconds,
                "ratio": ratio,
                "predicted_bytes": predicted,
                "scores_bytes": scores,
                "measured_bytes": peak,
                "stages": [
                    [part.name, part.repeats, part.seconds.expected, part.launches] for part in told.parts
                ],
            }
        )
        print(  # noqa: T201
            f"| {case.name} | {case.bound} ({bounds}) | {_ms(expected)} | {_ms(seconds)} "
            f"| {ratio:.2f} | {_mb(predicted)} | {_mb(scores)} | {_mb(peak) if peak else 'not counted'} |",
            flush=True,
        )
    ratios = [max(row["ratio"], 1 / row["ratio"]) for row in rows if row["ratio"]]
    within = sum(ratio <= AIM for ratio in ratios)
    print(f"\n{within} of {len(ratios)} within {AIM}; median factor {statistics.median(ratios):.2f}")  # noqa: T201
    if chosen.json:
        import msgspec

        chosen.json.write_text(
            json.dumps({"calibration": msgspec.to_builtins(calibrated), "rows": rows}, indent=1),
            encoding="utf-8",
        )


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def _ms(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


if __name__ == "__main__":
    main()
