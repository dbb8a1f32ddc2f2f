"""Record the list of op uses that mpsprobe ships: the ops that transformers and diffusion models call on a Mac.

    python tools/record_core_ops.py [--output src/mpsprobe/ops/core.json]

Small models of many architectures are built from their configuration with random weights, and run on the virtual
device, so that the ops are those that reach the MPS dispatch key. Nothing is downloaded. Sizes are small, because
the list tests whether an op runs and is right in its usual dtypes and layouts, not how fast it is.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
import transformers
from torch import nn

from mpsprobe.device.virtual.session import emulate
from mpsprobe.ops.distinct import representatives
from mpsprobe.run import Evidence, OpUse
from mpsprobe.suite.op_list import OpList
from mpsprobe.trace.dispatch import RecorderObserver
from mpsprobe.trace.recorder import Recorder

_OUTPUT = Path(__file__).parents[1] / "src" / "mpsprobe" / "ops" / "core.json"
_TEXT = {
    "vocab_size": 128,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
#: Decoders by the name of their config class, with options where the defaults are large.
_DECODERS: dict[str, dict[str, Any]] = {
    "Llama": {"num_key_value_heads": 2},
    "Mistral": {"num_key_value_heads": 2, "head_dim": 16},
    "Qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "Gemma2": {"num_key_value_heads": 2, "head_dim": 16},
    "Phi3": {"num_key_value_heads": 2, "pad_token_id": 0},
    "Mixtral": {"num_key_value_heads": 2, "num_local_experts": 4},
    "Mamba": {"state_size": 4},
}
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def decoders() -> Iterator[tuple[str, Any, Callable[[Any], Any]]]:
    """Yield name, model and workload of each decoder: greedy and sampled generation of a few tokens with a cache."""
    tokens = torch.arange(3, 19)[None]
    for name, extra in _DECODERS.items():
        config = getattr(transformers, f"{name}Config")(**_TEXT, **extra)
        for attention in ("sdpa", "eager") if name == "Llama" else ("",):
            if attention:
                config._attn_implementation = attention
            model = getattr(transformers, f"{name}ForCausalLM")(config)

            def run(model: Any) -> None:
                words = tokens.to(model.device)
                model.generate(words, max_new_tokens=3, do_sample=False, pad_token_id=0)
                model.generate(words, max_new_tokens=2, do_sample=True, top_k=8, top_p=0.9, pad_token_id=0)

            yield f"{name} {attention}".strip(), model, run


def encoders() -> Iterator[tuple[str, Any, Callable[[Any], Any]]]:
    """Yield name, model and workload of text, image and speech models: a forward pass of each."""
    tokens = torch.arange(3, 19)[None]
    library: Any = transformers  # its constructors are untyped
    bert = library.BertModel(library.BertConfig(**_TEXT))
    yield "Bert", bert, lambda m: m(tokens.to(m.device), attention_mask=torch.ones_like(tokens).to(m.device))
    image = torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    small = {name: value for name, value in _TEXT.items() if name != "vocab_size"}
    vit = library.ViTModel(library.ViTConfig(**small, image_size=32, patch_size=8))
    yield "ViT", vit, lambda m: m(image.to(m.device, m.dtype))
    t5 = library.T5ForConditionalGeneration(
        library.T5Config(vocab_size=128, d_model=64, d_kv=16, d_ff=96, num_layers=1, num_heads=4)
    )
    yield "T5", t5, lambda m: m(tokens.to(m.device), decoder_input_ids=tokens[:, :4].to(m.device))
    whisper = library.WhisperModel(
        library.WhisperConfig(
            vocab_size=128, d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=96, decoder_ffn_dim=96, num_mel_bins=16,
            max_source_positions=32, max_target_positions=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            decoder_start_token_id=1,
        )
    )  # fmt: skip
    sound = torch.linspace(-1, 1, 16 * 64).reshape(1, 16, 64)
    yield (
        "Whisper",
        whisper,
        lambda m: m(sound.to(m.device, m.dtype), decoder_input_ids=tokens[:, :4].to(m.device)),
    )


class DiffusionBlocks(nn.Module):
    """The building blocks of a UNet, a diffusion transformer and an autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Conv2d(4, 32, 3, padding=1)
        self.down = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(8, 64)
        self.time = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 64))
        self.query, self.context = nn.Linear(64, 64), nn.Linear(48, 128)
        self.gated = nn.Linear(64, 512)
        self.back = nn.Linear(256, 64)
        self.scale = nn.Linear(64, 128)
        self.layer_norm = nn.LayerNorm(64, elementwise_affine=False)
        self.up = nn.ConvTranspose2d(64, 32, 2, stride=2)
        self.deep = nn.Conv3d(4, 8, 3, padding=1)
        self.out = nn.Conv2d(64, 4, 3, padding=1)

    def forward(self, x: torch.Tensor, step: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Return the predicted noise, `[n, 4, h, w]` as `x`, for a step `[n]` and a text `[n, words, 48]`."""
        rates = torch.exp(-torch.arange(16, device=x.device, dtype=torch.float32) / 16 * 9.2)
        angles = step[:, None].float() * rates
        time = self.time(torch.cat([angles.cos(), angles.sin()], -1).to(x.dtype))
        skip = self.inward(x)
        y = nn.functional.silu(self.norm(self.down(skip))) + time[:, :, None, None]
        batch, channels, height, width = y.shape
        tokens = y.flatten(2).transpose(1, 2)
        shift, scale = self.scale(time)[:, None].chunk(2, -1)
        normed = self.layer_norm(tokens) * (1 + scale) + shift
        key, value = self.context(words).chunk(2, -1)
        heads = [z.unflatten(-1, (4, 16)).transpose(1, 2) for z in (self.query(normed), key, value)]
        tokens = tokens + nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        left, gate = self.gated(tokens).chunk(2, -1)
        tokens = tokens + self.back(left * nn.functional.gelu(gate))
        y = tokens.transpose(1, 2).reshape(batch, channels, height, width)
        film = self.deep(torch.stack([x, x], 2)).mean(2)
        larger = nn.functional.interpolate(y, scale_factor=2.0, mode="nearest")[:, :24]
        y = torch.cat([self.up(y), larger, film], 1)
        predicted: torch.Tensor = self.out(nn.functional.pad(y, (0, 0, 0, 0), mode="constant"))
        return predicted


def diffusion() -> Iterator[tuple[str, Any, Callable[[Any], Any]]]:
    """Yield name, model and workload of the diffusion blocks: two steps of a sampler with guidance and noise."""

    def run(model: Any) -> Any:
        first = next(model.parameters())
        x = torch.randn(2, 4, 16, 16, device=first.device, dtype=first.dtype)
        words = torch.randn(2, 7, 48, device=first.device, dtype=first.dtype)
        for step in (900, 400):
            free, guided = model(x, torch.full((2,), step, device=x.device), words).chunk(2)
            guess = free + 7.5 * (guided - free)
            x = (x - 0.1 * torch.cat([guess, guess])).clamp(-4, 4) + 0.01 * torch.randn_like(x)
        return nn.functional.interpolate(x.float(), size=(24, 24), mode="bilinear", antialias=True).cpu()

    yield "UNet and DiT blocks", DiffusionBlocks(), run


def record() -> tuple[list[OpUse], list[str]]:
    """Return all op uses, and the names of the models that they come from."""
    uses: list[OpUse] = []
    names: list[str] = []
    for group in (decoders, encoders, diffusion):
        for name, model, run in group():
            names.append(name)
            for dtype in _DTYPES:
                torch.manual_seed(0)
                recorder = Recorder()
                with emulate(observer=RecorderObserver(recorder), macos="15.5", on_fail="collect"):
                    placed = model.eval().to("mps", dtype)
                    with recorder.paths.following(), torch.inference_mode():
                        run(placed)
                    model = placed.to("cpu")
                uses += recorder.op_uses(Evidence.EMULATED)
    return uses, names


def main() -> int:
    """Run the models, and write their op uses to `core.json`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=_OUTPUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        uses, names = record()
    few = [
        msgspec.structs.replace(use, module="", source="", flops=None, bytes=None)
        for use in representatives(uses)
    ]
    source = (
        f"tools/record_core_ops.py on the virtual device, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, float32, float16 and bfloat16: {', '.join(names)}"
    )
    head, tail = msgspec.json.encode(OpList(source, [])).split(b"[]")
    lines = b",\n".join(msgspec.json.encode(use) for use in few)  # one a line, so that a diff is readable
    options.output.write_bytes(head + b"[\n" + lines + b"\n]" + tail + b"\n")
    sys.stdout.write(f"{len(few)} op uses of {len({use.op for use in few})} ops\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
