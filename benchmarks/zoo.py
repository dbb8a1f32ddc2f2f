"""Models with random weights on which forecasts are checked: how each is built, and its input.

The cases are in `zoo.jsonl` and, those on which nothing was fitted, in `zoo_unseen.jsonl`. Nothing is downloaded: a
case names a class of transformers or diffusers, the arguments of its config, and the input. Half of the cases of
each class of model in `zoo.jsonl` are fitted (`fit`), the others are held out.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import zoo_nets


@dataclass(frozen=True)
class Case:
    """A model and the workload with which it was measured.

    Attributes:
        name: The name of the row.
        group: The class of model in the tables: `"decoder"`, `"encoder"`, `"vision"`, `"speech"`, `"diffusion"`,
            `"other"`.
        cls: The class as `library.Class`; `zoo` is this module.
        config: The arguments of the config's class; for all but transformers, of the class itself.
        inputs: The kind of input and its sizes, see the function `inputs`; `pool` names a computation on its
            output.
        new_tokens: The number of tokens to generate; 0 for one forward pass.
        dtype: The dtype of the weights.
        fit: Whether host constants are fitted on it; the others check the fit.
        call: Further arguments of the call.
        train: `"full"` for an optimisation step with AdamW in place of the call.
        accumulate: The number of batches whose gradients accumulate before the optimiser steps.
        autocast: The dtype of an autocast region around the step; `""` for none.
        optimizer: The optimiser of a training step.
        set: `"first"`; `"unseen"` and `"last"` for models that were forecast before anybody had measured them.
    """

    name: str
    group: str
    cls: str
    config: dict[str, Any]
    inputs: dict[str, Any]
    new_tokens: int = 0
    dtype: str = "bfloat16"
    fit: bool = True
    call: dict[str, Any] = field(default_factory=dict)
    train: str = ""
    accumulate: int = 1
    autocast: str = ""
    optimizer: str = "adamw"
    set: str = "first"


class ResidualTower(torch.nn.Module):
    """A board game's policy and value net: a stem, residual blocks of two 3 x 3 convolutions, two heads."""

    def __init__(self, channels: int, blocks: int, side: int) -> None:
        super().__init__()
        nn = torch.nn

        def conv(before: int, after: int, kernel: int) -> torch.nn.Module:
            return nn.Sequential(
                nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(after)
            )

        self.stem = conv(4, channels, 3)
        self.first = nn.ModuleList([conv(channels, channels, 3) for _ in range(blocks)])
        self.second = nn.ModuleList([conv(channels, channels, 3) for _ in range(blocks)])
        self.policy, self.value = conv(channels, 2, 1), conv(channels, 1, 1)
        self.moves = nn.Linear(2 * side * side, side * side)
        self.inner, self.outcome = nn.Linear(side * side, 64), nn.Linear(64, 1)

    def forward(self, input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the moves' logits and the outcome of boards `[n, 4, side, side]`."""
        x = torch.relu(self.stem(input))
        for first, second in zip(self.first, self.second, strict=True):
            x = torch.relu(x + second(torch.relu(first(x))))
        moves = self.moves(torch.relu(self.policy(x)).flatten(1))
        value = torch.relu(self.inner(torch.relu(self.value(x)).flatten(1)))
        return moves, torch.tanh(self.outcome(value))


class LinearStack(torch.nn.Module):
    """The linear layers of a decoder's blocks one after the other, without attention, norms and activations."""

    def __init__(self, blocks: int, width: int, key_width: int, inner: int) -> None:
        super().__init__()
        nn = torch.nn

        def layers(before: int, after: int) -> torch.nn.ModuleList:
            return nn.ModuleList([nn.Linear(before, after, bias=False) for _ in range(blocks)])

        self.q, self.o = layers(width, width), layers(width, width)
        self.k, self.v = layers(width, key_width), layers(width, key_width)
        self.gate, self.up, self.down = layers(width, inner), layers(width, inner), layers(inner, width)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Apply all layers to `input` of shape `[length, batch, width]`."""
        x = input
        for q, k, v, o, gate, up, down in zip(
            self.q, self.k, self.v, self.o, self.gate, self.up, self.down, strict=True
        ):
            k(x), v(x)
            x = o(q(x))
            gate(x)
            x = down(up(x))
        return x


class CellLoop(torch.nn.Module):
    """Stacked LSTM cells that a loop in Python carries from step to step, as research code has them."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.cells = torch.nn.ModuleList([torch.nn.LSTMCell(width, width) for _ in range(layers)])

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the top layer's states for steps `[length, batch, width]`."""
        states = [(torch.zeros_like(input[0]), torch.zeros_like(input[0])) for _ in self.cells]
        found = []
        for x in input:
            for k, cell in enumerate(self.cells):
                states[k] = cell(x, states[k])
                x = states[k][0]
            found.append(x)
        return torch.stack(found)


class _Conv(torch.nn.Sequential):
    """A convolution, a batch norm and a SiLU, as Ultralytics' nets have them."""

    def __init__(self, before: int, after: int, kernel: int = 1, stride: int = 1) -> None:
        conv = torch.nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        super().__init__(conv, torch.nn.BatchNorm2d(after), torch.nn.SiLU())


class _C2f(torch.nn.Module):
    """The C2f block of YOLOv8: one half goes through bottlenecks; both halves and every result are joined."""

    def __init__(self, before: int, after: int, depth: int, residual: bool) -> None:
        super().__init__()
        inner = after // 2
        self.inner, self.residual = inner, residual
        self.first, self.last = _Conv(before, after), _Conv((2 + depth) * inner, after)
        self.blocks = torch.nn.ModuleList(
            [torch.nn.Sequential(_Conv(inner, inner, 3), _Conv(inner, inner, 3)) for _ in range(depth)]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to `x` of shape `[n, channels, height, width]`."""
        parts = list(self.first(x).split((self.inner, self.inner), 1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]) if self.residual else block(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Yolo8n(torch.nn.Module):
    """YOLOv8n up to boxes and classes, without suppression: https://docs.ultralytics.com/models/yolov8 (3.2 M)."""

    def __init__(self, classes: int = 80, bins: int = 16) -> None:
        super().__init__()
        nn = torch.nn
        self.bins, self.classes = bins, classes
        self.stem = nn.Sequential(_Conv(3, 16, 3, 2), _Conv(16, 32, 3, 2), _C2f(32, 32, 1, True))
        self.third = nn.Sequential(_Conv(32, 64, 3, 2), _C2f(64, 64, 2, True))
        self.fourth = nn.Sequential(_Conv(64, 128, 3, 2), _C2f(128, 128, 2, True))
        self.fifth = nn.Sequential(_Conv(128, 256, 3, 2), _C2f(256, 256, 1, True))
        self.before, self.after = _Conv(256, 128), _Conv(512, 256)
        self.pool, self.up = nn.MaxPool2d(5, 1, 2), nn.Upsample(scale_factor=2)
        self.up4, self.up3 = _C2f(384, 128, 1, False), _C2f(192, 64, 1, False)
        self.down3, self.down4 = _Conv(64, 64, 3, 2), _Conv(128, 128, 3, 2)
        self.out4, self.out5 = _C2f(192, 128, 1, False), _C2f(384, 256, 1, False)
        widths = (64, 128, 256)
        self.boxes = nn.ModuleList(
            [nn.Sequential(_Conv(w, 64, 3), _Conv(64, 64, 3), nn.Conv2d(64, 4 * bins, 1)) for w in widths]
        )
        self.names = nn.ModuleList(
            [nn.Sequential(_Conv(w, 80, 3), _Conv(80, 80, 3), nn.Conv2d(80, classes, 1)) for w in widths]
        )
        self.mean = nn.Conv2d(bins, 1, 1, bias=False)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return boxes and class probabilities `[n, 4 + classes, places]` of pictures `[n, 3, height, width]`."""
        p3 = self.third(self.stem(pixel_values))
        p4 = self.fourth(p3)
        x = self.before(self.fifth(p4))
        pooled = [x]
        for _ in range(3):
            pooled.append(self.pool(pooled[-1]))
        p5 = self.after(torch.cat(pooled, 1))
        n4 = self.up4(torch.cat((self.up(p5), p4), 1))
        n3 = self.up3(torch.cat((self.up(n4), p3), 1))
        n4 = self.out4(torch.cat((self.down3(n3), n4), 1))
        n5 = self.out5(torch.cat((self.down4(n4), p5), 1))
        found = [
            torch.cat((box(f), name(f)), 1)
            for f, box, name in zip((n3, n4, n5), self.boxes, self.names, strict=True)
        ]
        flat = torch.cat([one.flatten(2) for one in found], 2)
        box, name = flat.split((4 * self.bins, self.classes), 1)
        spread = box.view(box.shape[0], 4, self.bins, -1).transpose(2, 1).softmax(1)
        near, far = self.mean(spread).view(box.shape[0], 4, -1).chunk(2, 1)
        return torch.cat(((far - near) / 2, near + far, name.sigmoid()), 1)


def cases(which: str = "first") -> list[Case]:
    """Return the cases of a set that are run on the H200."""
    return [case for case, release in _all() if not release and case.set == which]


def mac_cases() -> list[tuple[Case, str]]:
    """Return the cases that replay published measurements of Macs (`mac_points.jsonl`), each with a torch release.

    Where a measurement does not state its release, the newest at its date is used.
    """
    return [(case, release) for case, release in _all() if release]


def missing(case: Case) -> str:
    """Return the package that a case needs and that is not installed here; empty where it can be built."""
    needed = {"zoo.Ultralytics": "ultralytics", "zoo.HybridDemucs": "demucs", "zoo.Kokoro": "kokoro"}.get(
        case.cls, ""
    )
    return needed if needed and importlib.util.find_spec(needed) is None else ""


def _all() -> list[tuple[Case, str]]:
    found = []
    for name in ("zoo.jsonl", "zoo_unseen.jsonl"):
        for line in (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            release = row.pop("mac_release", "")
            found.append((Case(**row), release))
    return found


def inputs(case: Case, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the arguments of one call of a case on a device, floating-point ones in the case's dtype.

    Raises:
        ValueError: The case names an unknown kind of input.
    """
    kind, get = case.inputs["kind"], case.inputs.get
    dtype = getattr(torch, case.dtype)
    b = case.inputs["batch"]

    def ids(length: int, vocab: int = 30000) -> torch.Tensor:
        return torch.arange(b * length).reshape(b, length) % (vocab - 10) + 5

    def ramp(*shape: int) -> torch.Tensor:
        n = 1
        for s in shape:
            n *= s
        return torch.linspace(-1, 1, n).reshape(shape).to(dtype)

    if kind == "text":
        tokens = ids(get("length"), get("vocab"))
        found: dict[str, Any] = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    elif kind == "image":
        found = {"pixel_values": ramp(b, get("channels") or 3, get("size"), get("width") or get("size"))}
    elif kind in ("features", "hidden"):
        found = {kind: ramp(b, get("length"), get("width"))}
    elif kind == "mix":
        found = {"mix": ramp(b, 2, get("samples"))}
    elif kind == "clip":
        found = {
            "pixel_values": ramp(b, 3, get("size"), get("size")),
            "input_ids": ids(get("length")),
            "attention_mask": torch.ones(b, get("length"), dtype=torch.int64),
        }
    elif kind == "detr":
        s = get("size")
        found = {"pixel_values": ramp(b, 3, s, s), "pixel_mask": torch.ones(b, s, s, dtype=torch.int64)}
    elif kind == "sam":
        found = {
            "pixel_values": ramp(b, 3, 1024, 1024),
            "input_points": torch.tensor([[[[450.0, 600.0]]]]).to(dtype),
        }
    elif kind == "mel":
        found = {"input_features": ramp(b, get("bins"), get("frames"))}
    elif kind == "wave":
        found = {"input_values": ramp(b, get("samples"))}
    elif kind == "wave3":
        found = {"input_values": ramp(b, 1, get("samples"))}
    elif kind == "unet":
        found = {
            "sample": ramp(b, 4, get("size"), get("width") or get("size")),
            "timestep": torch.tensor(500),
            "encoder_hidden_states": ramp(b, 77, get("context")),
        }
        if get("pooled"):
            found["added_cond_kwargs"] = {
                "text_embeds": ramp(b, get("pooled")),
                "time_ids": torch.ones(b, 6).to(dtype),
            }
    elif kind == "vae":
        found = {"z": ramp(b, 4, get("size"), get("size"))}
    elif kind == "tiny decoder":
        found = {"x": ramp(b, 4, get("size"), get("size"))}
    elif kind == "tiny encoder":
        found = {"x": ramp(b, 3, get("size"), get("size"))}
    elif kind == "board":
        found = {"input": ramp(b, get("channels") or 4, get("size"), get("size"))}
    elif kind == "dit":
        found = {
            "hidden_states": ramp(b, 4, get("size"), get("size")),
            "encoder_hidden_states": ramp(b, get("length"), get("context")),
            "timestep": torch.tensor([500] * b),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        }
    elif kind == "video":
        found = {"pixel_values_videos": ramp(b, get("frames"), 3, get("size"), get("size"))}
    elif kind == "clap":
        found = {"input_features": ramp(b, get("views", 1), get("frames"), get("bins"))}
        if get("views"):  # a fused tower; its processor marks one sound as long, however short all are
            found["is_longer"] = torch.ones(b, 1, dtype=torch.bool)
    elif kind == "sd3":
        found = {
            "hidden_states": ramp(b, 16, get("size"), get("size")),
            "encoder_hidden_states": ramp(b, get("length"), 4096),
            "pooled_projections": ramp(b, 2048),
            "timestep": torch.tensor([500] * b),
        }
    elif kind == "class":
        found = {
            "hidden_states": ramp(b, 4, get("size"), get("size")),
            "timestep": torch.tensor([500] * b),
            "class_labels": torch.tensor([281] * b),
        }
    elif kind == "flux":
        found = {
            "hidden_states": ramp(b, get("tokens"), 64),
            "encoder_hidden_states": ramp(b, get("length"), 4096),
            "pooled_projections": ramp(b, 768),
            "timestep": torch.tensor([0.5] * b).to(dtype),
            "guidance": torch.tensor([3.5] * b).to(dtype),
            "img_ids": torch.zeros(get("tokens"), 3).to(dtype),
            "txt_ids": torch.zeros(get("length"), 3).to(dtype),
        }
    elif kind == "tensors":
        found = {name: _made(told, ramp, dtype) for name, told in case.inputs["tensors"].items()}
    elif kind == "steps":
        found = {"input": ramp(get("length"), b, get("width"))}
    else:
        raise ValueError(kind)

    def to(v: Any) -> Any:
        if isinstance(v, torch.Tensor):
            return v.to(device)
        return {k: to(x) for k, x in v.items()} if isinstance(v, dict) else v

    return to(found)


def _made(told: list[Any], ramp: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return one tensor of an input of kind `tensors`: how it is filled, then its shape.

    `picture` is followed by the batch, the token that stands for a piece of a picture, how many of them there are, and
    the number of other tokens. `list` is followed by the values themselves.
    """
    how, *shape = told
    if how == "ramp":
        return ramp(*shape)
    if how == "ids":
        return torch.arange(shape[0] * shape[1]).reshape(shape) % 1000 + 5
    if how == "list":
        return torch.tensor(shape[0])
    if how == "picture":
        batch, token, pieces, others = shape
        text = torch.arange(5, 5 + others)
        return torch.cat((text[:4], torch.full((pieces,), token), text[4:])).repeat(batch, 1)
    return torch.ones(shape, dtype=torch.int64 if how == "ones int" else dtype)


def build(
    case: Case, device: torch.device | str, weightless: bool = False, attention: str | None = None
) -> torch.nn.Module:
    """Return the model with random weights, or without weights for a memoryless device.

    `attention` names an attention implementation of transformers, such as "eager"; it must be set before
    construction, where some classes choose their layers by it.
    """
    library, _, name = case.cls.rpartition(".")
    dtype = getattr(torch, case.dtype)
    torch.manual_seed(0)
    if library in ("torch", "zoo"):
        owner = globals().get(name) or getattr(zoo_nets, name, None)
        with torch.device(device):
            return (owner or getattr(torch.nn, name))(**case.config).to(dtype).eval()
    if library == "diffusers":
        import diffusers

        with torch.device(device):
            return getattr(diffusers, name)(**case.config).to(device=device, dtype=dtype).eval()
    import transformers

    if name.startswith(
        "Rwkv"
    ):  # it would compile a CUDA kernel of its own, where a Mac runs the loop in Python
        rwkv: Any = transformers.models.rwkv.modeling_rwkv
        rwkv.is_ninja_available = lambda: False
    cls = getattr(transformers, name)
    config = cls.config_class(**case.config)
    if attention is not None:
        config._attn_implementation = attention
    if weightless:
        from mpsprobe.models.weightless.from_config import build as made

        return made(cls, config, torch.device(device), case.dtype, initialise=False)
    with torch.device(device):
        model = cls._from_config(config, dtype=dtype)
    return model.to(device).eval()


def run(case: Case, model: Any, batch: dict[str, Any]) -> Any:
    """Run the case's workload once on a batch (generation, decoding, encoding or a forward pass); return its output."""
    if case.new_tokens:
        n = case.new_tokens
        given: dict[str, Any] = {"pad_token_id": 0}
        if case.inputs["kind"] == "mel":
            given = {}
            # a pipeline that is told no language runs the whole model once more, for one token
            if case.inputs.get("detects"):
                start = torch.ones((case.inputs["batch"], 1), dtype=torch.int64, device=model.device)
                model(**batch, decoder_input_ids=start, use_cache=False).logits[:, -1].argmax(-1).tolist()
        given = {key: value for key, value in {**given, **case.call}.items() if value is not None}
        return model.generate(**batch, max_new_tokens=n, min_new_tokens=n, do_sample=False, **given)
    if case.inputs["kind"] in ("vae", "tiny decoder"):
        return model.decode(**batch)
    if case.inputs["kind"] == "tiny encoder":
        return model.encode(**batch)
    raw = model(**batch, **case.call)
    if (
        case.inputs.get("pool") == "splade"
    ):  # sparse retrieval: the largest weight of each word of the vocabulary
        mask = batch["attention_mask"].unsqueeze(-1)
        return (torch.log1p(torch.relu(raw.logits)) * mask).amax(dim=1)
    return raw
