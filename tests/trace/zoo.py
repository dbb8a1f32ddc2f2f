"""Tiny models of several architectures, and an independent log of their ops to compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as _transformers
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

transformers: Any = _transformers  # most of its classes are not typed
Meta = tuple[str, tuple[int, ...], tuple[int, ...]]
Call = tuple[str, tuple[Meta, ...], tuple[Meta, ...]]


class Log(TorchDispatchMode):
    """The plainest log of ops: name, tensor arguments and results of every call, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = metas((args, kwargs))
        result = func(*args, **(kwargs or {}))
        self.calls.append((func.name(), before, metas(result)))
        return result


def metas(value: Any) -> tuple[Meta, ...]:
    leaves = torch.utils._pytree.tree_leaves(value)
    return tuple(
        (str(leaf.dtype).split(".")[1], tuple(leaf.shape), leaf.stride())
        for leaf in leaves
        if isinstance(leaf, torch.Tensor)
    )


class Residual(nn.Module):
    """A block of a convolutional network."""

    def __init__(self, channels: int, groups: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.relu(x + self.norm(self.convolution(x)))
        return y


class Convolutional(nn.Module):
    """In the manner of a ResNet: stem, grouped blocks, strided step, pooling, head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, stride=2, padding=3)
        self.blocks = nn.Sequential(
            Residual(8), Residual(8, groups=4), nn.Conv2d(8, 16, 1, stride=2), Residual(16)
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(self.stem(x), 3, 2, 1)
        y: torch.Tensor = self.head(nn.functional.adaptive_avg_pool2d(self.blocks(x), 1).flatten(1))
        return y


class UNet(nn.Module):
    """In the manner of a diffusion UNet: down, attention in the middle, transposed convolution up, skip."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(4, 16, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.up = nn.ConvTranspose2d(16, 4, 2, stride=2)
        self.out = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.silu(self.norm(self.down(x)))
        batch, channels, height, width = y.shape
        tokens = y.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        y = self.up(tokens.transpose(1, 2).reshape(batch, channels, height, width))
        y = nn.functional.interpolate(y, scale_factor=2.0, mode="bilinear")
        out: torch.Tensor = self.out(torch.cat([nn.functional.avg_pool2d(y, 2), x], 1))
        return out


_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_WORDS = torch.arange(3, 13)[None]


def _llama() -> Callable[[], Any]:
    model = llama()
    return lambda: model(_WORDS)


def llama(attention: str = "sdpa") -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **_SMALL, num_key_value_heads=2, vocab_size=64, attn_implementation=attention
    )
    return transformers.LlamaForCausalLM(config).eval()


def _llama_generate() -> Callable[[], Any]:
    model = llama()
    return lambda: model.generate(_WORDS, max_new_tokens=4, do_sample=False, pad_token_id=0)


def _bert() -> Callable[[], Any]:
    model = transformers.BertModel(transformers.BertConfig(**_SMALL, vocab_size=64)).eval()
    mask = torch.ones_like(_WORDS)
    return lambda: model(_WORDS, attention_mask=mask)


def _t5() -> Callable[[], Any]:
    config = transformers.T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    model = transformers.T5ForConditionalGeneration(config).eval()
    return lambda: model(_WORDS, decoder_input_ids=_WORDS[:, :4])


def _mixtral() -> Callable[[], Any]:
    config = transformers.MixtralConfig(
        **_SMALL, num_key_value_heads=2, vocab_size=64, num_local_experts=4, num_experts_per_tok=2
    )
    model = transformers.MixtralForCausalLM(config).eval()
    return lambda: model(_WORDS)


def _mamba() -> Callable[[], Any]:
    config = transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=64, state_size=4)
    model = transformers.MambaForCausalLM(config).eval()
    return lambda: model(_WORDS)


def _vit() -> Callable[[], Any]:
    model = transformers.ViTModel(transformers.ViTConfig(**_SMALL, image_size=32, patch_size=8)).eval()
    image = torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    return lambda: model(image)


def _convolutional() -> Callable[[], Any]:
    model = Convolutional().eval()
    image = torch.linspace(0, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)
    return lambda: model(image)


def _unet() -> Callable[[], Any]:
    model = UNet().eval()
    image = torch.linspace(0, 1, 4 * 16 * 16).reshape(1, 4, 16, 16)
    return lambda: model(image)


def _lstm() -> Callable[[], Any]:
    model = nn.LSTM(8, 12, num_layers=2, bidirectional=True).eval()
    x = torch.linspace(0, 1, 5 * 3 * 8).reshape(5, 3, 8)
    return lambda: model(x)


#: By name: makes the model and returns one run of it.
ZOO: dict[str, Callable[[], Callable[[], Any]]] = {
    "llama": _llama,
    "llama-generate": _llama_generate,
    "bert": _bert,
    "t5": _t5,
    "mixtral": _mixtral,
    "mamba": _mamba,
    "vit": _vit,
    "convolutional": _convolutional,
    "unet": _unet,
    "lstm": _lstm,
}
