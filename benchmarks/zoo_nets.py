"""Nets of projects that published measurements of Macs, written from what those projects say of them.

Each has the layers and shapes that its project states, and random weights. None is a copy of the project's code.
"""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as fn
from torch import Tensor, nn


def _norm_conv(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after))


class _Inverted(nn.Module):
    """An inverted residual of MobileNetV3: widen, filter each channel, weigh the channels, narrow."""

    def __init__(
        self, before: int, inner: int, after: int, kernel: int, stride: int, squeeze: bool, swish: bool
    ):
        super().__init__()
        self.act = nn.Hardswish() if swish else nn.ReLU()
        self.widen = _norm_conv(before, inner, 1) if inner != before else None
        self.filter = _norm_conv(inner, inner, kernel, stride, inner)
        small = math.ceil(inner / 4 / 8) * 8
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(inner, small, 1), nn.ReLU(), nn.Conv2d(small, inner, 1), nn.Hardsigmoid()
        ) if squeeze else None  # fmt: skip
        self.narrow = _norm_conv(inner, after, 1)
        self.residual = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to `x` of shape `[n, channels, height, width]`."""
        y = x if self.widen is None else self.act(self.widen(x))
        y = self.act(self.filter(y))
        if self.squeeze is not None:
            y = y * self.squeeze(y)
        y = self.narrow(y)
        out: Tensor = x + y if self.residual else y
        return out


class MobileNetLarge(nn.Module):
    """MobileNetV3-Large as torchvision has it (5.48 M): arXiv 1905.02244, table 1."""

    def __init__(self) -> None:
        super().__init__()
        #: kernel, inner width, width, squeeze, swish, stride
        rows = [
            (3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2),
            (5, 120, 40, 1, 0, 1), (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1),
            (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 480, 112, 1, 1, 1), (3, 672, 112, 1, 1, 1),
            (5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1), (5, 960, 160, 1, 1, 1),
        ]  # fmt: skip
        self.stem, blocks, width = nn.Sequential(_norm_conv(3, 16, 3, 2), nn.Hardswish()), [], 16
        for kernel, inner, after, squeeze, swish, stride in rows:
            blocks.append(_Inverted(width, inner, after, kernel, stride, bool(squeeze), bool(swish)))
            width = after
        self.blocks, self.last = (
            nn.Sequential(*blocks),
            nn.Sequential(_norm_conv(160, 960, 1), nn.Hardswish()),
        )
        self.head = nn.Sequential(
            nn.Linear(960, 1280), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(1280, 1000)
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logits `[n, 1000]` of pictures `[n, 3, height, width]`."""
        out: Tensor = self.head(self.last(self.blocks(self.stem(pixel_values))).mean((2, 3)))
        return out


class PackedAttentionViT(nn.Module):
    """ViT-B/16 as torchvision has it, with `nn.MultiheadAttention`, which packs queries, keys and values."""

    def __init__(self, width: int = 768, layers: int = 12, heads: int = 12, patch: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token, self.places = (
            nn.Parameter(torch.zeros(1, 1, width)),
            nn.Parameter(torch.zeros(1, 197, width)),
        )
        self.first = nn.ModuleList([nn.LayerNorm(width, 1e-6) for _ in range(layers)])
        self.attend = nn.ModuleList(
            [nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(layers)]
        )
        self.second = nn.ModuleList([nn.LayerNorm(width, 1e-6) for _ in range(layers)])
        self.mlp = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
                for _ in range(layers)
            ]
        )
        self.last, self.head = nn.LayerNorm(width, 1e-6), nn.Linear(width, 1000)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logits `[n, 1000]` of pictures `[n, 3, 224, 224]`."""
        x = self.patches(pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        for first, attend, second, mlp in zip(self.first, self.attend, self.second, self.mlp, strict=True):
            y = first(x)
            x = x + attend(y, y, y, need_weights=False)[0]
            x = x + mlp(second(x))
        out: Tensor = self.head(self.last(x)[:, 0])
        return out


def _convs(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


class HeatmapUNet(nn.Module):
    """TrackNetV3's tracking net: a U-Net of 3 x 3 convolutions that returns a heat map for each frame."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.down1, self.down2 = _convs(before, 64, 64), _convs(64, 128, 128)
        self.down3, self.middle = _convs(128, 256, 256, 256), _convs(256, 512, 512, 512)
        self.up3, self.up2 = _convs(768, 256, 256, 256), _convs(384, 128, 128)
        self.up1, self.out = _convs(192, 64, 64), nn.Conv2d(64, after, 1)
        self.pool, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return maps `[n, after, height, width]` of stacked frames `[n, before, height, width]`."""
        a = self.down1(pixel_values)
        b = self.down2(self.pool(a))
        c = self.down3(self.pool(b))
        x = self.up3(torch.cat([self.up(self.middle(self.pool(c))), c], 1))
        x = self.up2(torch.cat([self.up(x), b], 1))
        return torch.sigmoid(self.out(self.up1(torch.cat([self.up(x), a], 1))))


class RestoreTool(nn.Module):
    """A tool of RL-Restore (arXiv 1804.03312): three convolutions, or a wider net with two residual blocks."""

    def __init__(self, large: bool) -> None:
        super().__init__()
        self.large = large
        if large:
            self.first, self.narrow = nn.Conv2d(3, 64, 5, padding=2), nn.Conv2d(64, 32, 1)
            self.blocks = nn.ModuleList(
                [
                    nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1))
                    for _ in range(2)
                ]
            )
            self.widen, self.last = nn.Conv2d(32, 64, 1), nn.Conv2d(64, 3, 5, padding=2)
        else:
            self.first, self.narrow = nn.Conv2d(3, 32, 9, padding=4), nn.Conv2d(32, 16, 5, padding=2)
            self.last = nn.Conv2d(16, 3, 5, padding=2)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return restored pictures of the shape of `pixel_values`, `[n, 3, height, width]`."""
        x = self.narrow(fn.relu(self.first(pixel_values)))
        if self.large:
            for block in self.blocks:
                x = x + block(fn.relu(x))
            x = self.widen(fn.relu(x))
        out: Tensor = pixel_values + self.last(fn.relu(x))
        return out


class PixelPolicy(nn.Module):
    """A policy on pictures: the convolutions of the Nature DQN, one wide layer, and heads for action and value."""

    def __init__(self, side: int = 100, wide: int = 512) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(3, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1), nn.ReLU()
        )  # fmt: skip
        left = (((side - 8) // 4 + 1) - 4) // 2 + 1 - 2
        self.wide = nn.Linear(64 * left * left, wide)
        self.action, self.value = nn.Linear(wide, 1), nn.Linear(wide, 1)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions and values of pictures `[n, 3, side, side]`, whose mean colours are taken off first."""
        x = pixel_values - pixel_values.mean((2, 3), keepdim=True)
        x = fn.relu(self.wide(self.convs(x).flatten(1)))
        return self.action(x), self.value(x)


class _PlainAttention(nn.Module):
    """Attention from matmuls, a mask that is added or filled in, and a softmax."""

    def __init__(self, width: int, heads: int, bias: bool, packed: bool) -> None:
        super().__init__()
        self.heads, self.packed = heads, packed
        self.qkv: Any = nn.Linear(width, 3 * width, bias) if packed else nn.ModuleList(
            [nn.Linear(width, width, bias) for _ in range(3)]
        )  # fmt: skip
        self.out = nn.Linear(width, width, bias)

    def forward(self, x: Tensor, mask: Tensor, added: Tensor | None = None) -> Tensor:
        """Attend among the places of `x`; `mask` is true where nothing is seen, `added` is added to the scores."""
        b, t, w = x.shape
        parts = self.qkv(x).split(w, 2) if self.packed else [one(x) for one in self.qkv]
        q, k, v = (one.view(b, t, self.heads, -1).transpose(1, 2) for one in parts)
        if not self.packed:
            q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        scores = (q @ k.transpose(-2, -1)) * (w // self.heads) ** -0.5
        scores = scores.masked_fill(mask, float("-inf")) if added is None else scores + added
        y = (fn.softmax(scores, -1) @ v).transpose(1, 2).reshape(b, t, w)
        out: Tensor = self.out(y)
        return out


class PlainEncoder(nn.Module):
    """Causal blocks with attention from matmuls, on embeddings that are given; inner layers as wide as outer ones."""

    def __init__(self, width: int, heads: int, layers: int = 4) -> None:
        super().__init__()
        self.attend = nn.ModuleList([_PlainAttention(width, heads, True, False) for _ in range(layers)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2 * layers + 1)])
        self.mlp = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
                for _ in range(layers)
            ]
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Apply all blocks to `hidden` of shape `[n, length, width]`."""
        x, t = hidden, hidden.shape[1]
        mask = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
        for k, (attend, mlp) in enumerate(zip(self.attend, self.mlp, strict=True)):
            x = x + attend(self.norms[2 * k](x), mask)
            x = x + mlp(self.norms[2 * k + 1](x))
        out: Tensor = self.norms[-1](x)
        return out


class SmallGptForCausalLM(nn.Module):
    """A small GPT with attention from matmuls, no biases in its linear layers, and an output head of its own."""

    def __init__(
        self, width: int, heads: int, layers: int = 4, vocab: int = 10001, places: int = 1024
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(places, width)
        self.attend = nn.ModuleList([_PlainAttention(width, heads, False, True) for _ in range(layers)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2 * layers + 1)])
        self.mlp = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Linear(width, 4 * width, False), nn.GELU(), nn.Linear(4 * width, width, False)
                )
                for _ in range(layers)
            ]
        )
        self.head = nn.Linear(width, vocab, False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
        """Return the loss of the next tokens of `input_ids`, `[n, length]`, in `loss`, and their `logits`."""
        t = input_ids.shape[1]
        x = self.tokens(input_ids) + self.places(torch.arange(t, device=input_ids.device))[None]
        seen = torch.ones(t, t, dtype=torch.bool, device=x.device).tril()[None, None]
        hidden = ~(seen & attention_mask.bool()[:, None, None, :])
        added = torch.zeros(x.shape[0], 1, t, t, device=x.device, dtype=x.dtype)
        added = added.masked_fill(hidden, torch.finfo(x.dtype).min)
        for k, (attend, mlp) in enumerate(zip(self.attend, self.mlp, strict=True)):
            x = x + attend(self.norms[2 * k](x), hidden, added)
            x = x + mlp(self.norms[2 * k + 1](x))
        logits = self.head(self.norms[-1](x))
        loss = None if labels is None else fn.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return SimpleNamespace(logits=logits, loss=loss)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class _ConformerBlock(nn.Module):
    """Half a feed-forward layer, rotary attention, a gated depthwise convolution, the other half."""

    def __init__(self, width: int, heads: int, kernel: int, layer_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(5)])
        self.forth, self.back = (
            nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
            for _ in range(2)
        )
        self.qkv = nn.ModuleList([nn.Linear(width, width) for _ in range(3)])
        self.out = nn.Linear(width, width)
        self.wide, self.narrow = nn.Conv1d(width, 2 * width, 1), nn.Conv1d(width, width, 1)
        self.depth = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.inner = nn.LayerNorm(width) if layer_norm else nn.BatchNorm1d(width)
        self.layer_norm = layer_norm

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Apply the block to `x` of shape `[n, length, width]`."""
        b, t, w = x.shape
        x = x + 0.5 * self.forth(self.norms[0](x))
        y = self.norms[1](x)
        q, k, v = (one(y).view(b, t, self.heads, -1).transpose(1, 2) for one in self.qkv)
        y = fn.scaled_dot_product_attention(_turned(q, cos, sin), _turned(k, cos, sin), v)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, w))
        y = self.depth(fn.glu(self.wide(self.norms[2](x).transpose(1, 2)), 1))
        y = self.inner(y.transpose(1, 2)).transpose(1, 2) if self.layer_norm else self.inner(y)
        x = x + self.narrow(fn.silu(y)).transpose(1, 2)
        x = x + 0.5 * self.back(self.norms[3](x))
        out: Tensor = self.norms[4](x)
        return out


class RotaryConformer(nn.Module):
    """A Conformer with rotary places and a CTC head: GigaAM's by two strided 1-D convolutions, FastConformer's by 2-D.

    `bins` is the number of mel bins; `fast` halves time three times by depthwise 2-D convolutions.
    """

    def __init__(
        self, width: int, layers: int, heads: int, kernel: int, bins: int, vocab: int, fast: bool
    ) -> None:
        super().__init__()
        self.fast, self.head_width = fast, width // heads
        if fast:

            def halve() -> list[nn.Module]:
                return [nn.Conv2d(256, 256, 3, 2, 1, groups=256), nn.Conv2d(256, 256, 1), nn.ReLU()]

            self.sub = nn.Sequential(nn.Conv2d(1, 256, 3, 2, 1), nn.ReLU(), *halve(), *halve())
            self.into = nn.Linear(256 * (bins // 8), width)
        else:
            self.sub = nn.Sequential(
                nn.Conv1d(bins, width, 5, 2, 2), nn.ReLU(), nn.Conv1d(width, width, 5, 2, 2), nn.ReLU()
            )
        self.blocks = nn.ModuleList([_ConformerBlock(width, heads, kernel, not fast) for _ in range(layers)])
        self.head = nn.Linear(width, vocab)

    def forward(self, features: Tensor) -> Tensor:
        """Return log probabilities `[n, length, vocab]` of mel features `[n, frames, bins]`."""
        if self.fast:
            x = self.sub(features[:, None])
            x = self.into(x.transpose(1, 2).flatten(2))
        else:
            x = self.sub(features.transpose(1, 2)).transpose(1, 2)
        turns = torch.arange(0, self.head_width, 2, device=x.device) / self.head_width
        angles = torch.arange(x.shape[1], device=x.device)[:, None] * 10000.0**-turns
        angles = torch.cat([angles, angles], -1)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        return fn.log_softmax(self.head(x), -1)


class BlockConformer(nn.Module):
    """Granite Speech 5.0's encoder: 16 of transformers' blocks of 128 frames; the first two halve time each."""

    def __init__(self, layers: int = 16, vocab: int = 16384) -> None:
        super().__init__()
        from transformers.models.granite_speech import modeling_granite_speech

        granite: Any = modeling_granite_speech
        config = granite.GraniteSpeechEncoderConfig(
            input_dim=320, num_layers=layers, hidden_dim=1024, feedforward_mult=4, num_heads=8, dim_head=128,
            output_dim=vocab, context_size=128, max_pos_emb=512, dropout=0.0, conv_kernel_size=7,
        )  # fmt: skip
        self.into, self.out = nn.Linear(320, 1024), nn.Linear(1024, vocab)
        self.middle = nn.Linear(vocab, 1024)
        self.blocks = nn.ModuleList([granite.GraniteSpeechConformerBlock(config) for _ in range(layers)])
        block: Any
        for block in list(self.blocks)[:2]:
            block.conv.depth_conv.conv.stride = (2,)
        places = torch.arange(128)
        self.register_buffer(
            "distances", (places[:, None] - places[None]).clamp(-128, 128) + 512, persistent=False
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return logits `[n, frames / 4, vocab]` of stacked features `[n, frames, 320]`."""
        x = self.into(features)
        block: Any
        for k, block in enumerate(self.blocks):
            x = 0.5 * block.ff1(x) + x
            x = block.attn(x, attention_dists=self.distances) + x
            y = block.conv(x)
            x = y + (x[:, ::2][:, : y.shape[1]] if k < 2 else x)
            x = block.post_norm(0.5 * block.ff2(x) + x)
            if k == len(self.blocks) // 2 - 1:
                x = x + self.middle(fn.softmax(self.out(x), -1))
        out: Tensor = self.out(x)
        return out


class Ultralytics(nn.Module):
    """A detector of the package ultralytics, by the name of its configuration; it must be installed."""

    def __init__(self, config: str) -> None:
        super().__init__()
        from ultralytics.nn.tasks import DetectionModel  # type: ignore[import-not-found,unused-ignore]

        self.net = DetectionModel(config, verbose=False)

    def forward(self, pixel_values: Tensor) -> Any:
        """Return boxes and classes of pictures `[n, 3, height, width]`."""
        return self.net(pixel_values)


class HybridDemucs(nn.Module):
    """HTDemucs of the package demucs, which must be installed: waveform and spectrogram, with a transformer."""

    def __init__(self) -> None:
        super().__init__()
        from demucs.htdemucs import HTDemucs  # type: ignore[import-not-found,unused-ignore]

        # the configuration of the published `htdemucs` (its grid: t_layers 5, bottom_channels 512, four sources)
        self.net = HTDemucs(
            ["drums", "bass", "other", "vocals"], bottom_channels=512, samplerate=44100, segment=7.8
        )

    def forward(self, mix: Tensor) -> Tensor:
        """Return the sources `[n, 4, 2, samples]` of stereo sound `[n, 2, samples]`."""
        out: Tensor = self.net(mix)
        return out


class Spectrum(nn.Module):
    """A Fourier transform of windows that overlap by three quarters (`torch.stft`), or its inverse."""

    def __init__(self, size: int, samples: int, inverse: bool) -> None:
        super().__init__()
        self.size, self.samples, self.inverse = size, samples, inverse
        self.register_buffer("window", torch.hann_window(size))

    def forward(self, input_values: Tensor) -> Tensor:
        """Return the spectrum of `[n, samples]`, or the signal of real and imaginary parts `[n, frames, bins, 2]`."""
        window: Any = self.window
        if self.inverse:
            spectrum = torch.view_as_complex(input_values).transpose(1, 2)
            return torch.istft(spectrum, self.size, self.size // 4, window=window, length=self.samples)
        return torch.stft(input_values, self.size, self.size // 4, window=window, return_complex=True)


class Kokoro(nn.Module):
    """Kokoro-82M of the package kokoro, which must be installed, with a given number of frames for its tokens."""

    def __init__(self, tokens: int, frames: int) -> None:
        super().__init__()
        from kokoro.istftnet import Decoder  # type: ignore[import-not-found,unused-ignore]
        from kokoro.modules import (  # type: ignore[import-not-found,unused-ignore]
            CustomAlbert,
            ProsodyPredictor,
            TextEncoder,
        )
        from transformers import AlbertConfig

        # the configuration of the published model
        self.bert = CustomAlbert(
            AlbertConfig(
                vocab_size=178, hidden_size=768, num_attention_heads=12, intermediate_size=2048,
                max_position_embeddings=512, num_hidden_layers=12,
            )
        )  # fmt: skip
        self.narrow = nn.Linear(768, 512)
        self.predictor = ProsodyPredictor(style_dim=128, d_hid=512, nlayers=3, max_dur=50, dropout=0.2)
        self.text = TextEncoder(channels=512, kernel_size=5, depth=3, n_symbols=178)
        self.decoder = Decoder(
            dim_in=512, style_dim=128, dim_out=80, resblock_kernel_sizes=[3, 7, 11], upsample_rates=[10, 6],
            upsample_initial_channel=512, resblock_dilation_sizes=[[1, 3, 5]] * 3,
            upsample_kernel_sizes=[20, 12], gen_istft_n_fft=20, gen_istft_hop_size=5,
        )  # fmt: skip
        self.lengths, self.frames = torch.tensor([tokens], device="cpu"), frames

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        """Return the sound of `input_ids`, `[1, tokens]`: 600 samples a frame."""
        hidden = ~attention_mask.bool()
        style = torch.zeros(1, 128, device=input_ids.device)
        x = self.narrow(self.bert(input_ids, attention_mask=attention_mask)).transpose(-1, -2)
        predictor: Any = self.predictor
        d = predictor.text_encoder(x, style, self.lengths, hidden)
        torch.sigmoid(predictor.duration_proj(predictor.lstm(d)[0])).sum(-1)
        align = torch.zeros(1, input_ids.shape[1], self.frames, device=input_ids.device)
        pitch, noise = predictor.F0Ntrain(d.transpose(-1, -2) @ align, style)
        text: Any = self.text
        return self.decoder(text(input_ids, self.lengths, hidden) @ align, pitch, noise, style)
