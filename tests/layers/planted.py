"""A small stack of layers, with a loop of its own, that is wrong where and how its profile says.

`sample = { fault = "layer" }` plants it in the model that is loaded first, which is the one on the device under
test; copies that are loaded later, the reference and the noise run, are sound.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mpsprobe.models.adapter import Adapter, Batch, Outputs
from mpsprobe.models.profile import Profile

WIDTH = 32
STEPS = 4


class Block(nn.Module):
    """Two layers and a residual; `bend` stands for a wrong functional op between them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)
        self.bend = 0.0

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.nn.functional.gelu(self.up(self.norm(x)))
        out: Tensor = x + self.down(hidden * (1 + self.bend))
        return out


class Stack(nn.Module):
    """Blocks, then a head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block() for _ in range(5)])
        self.head = nn.Linear(WIDTH, WIDTH)
        self.step = -1

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        for block in self.blocks:
            x = block(x)
        return {"hidden": x, "logits": self.head(x)}


def build(seed: int = 0) -> Path:
    """The target's folder."""
    folder = Path(tempfile.gettempdir()) / f"mpsprobe-planted-{os.getpid()}-{seed}"
    folder.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    save_file(Stack().state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text('{"architectures": ["Stack"]}')
    return folder


def build_other() -> Path:
    """The same model with other weights."""
    return build(seed=1)


def _off(scale: float) -> Callable[..., Tensor]:
    """A hook that makes an output wrong by `scale` of its size, here and there up and down."""

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        signs = torch.where(torch.arange(output.shape[-1]) % 3 == 0, 1.0, -1.0)
        return output + scale * output.float().square().mean().sqrt().to(output.dtype) * signs.to(
            output.dtype
        )

    return hook


def _nan(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
    output = output.clone()
    output[0, 0] = float("nan")
    return output


def _in_second_step(stack: Stack) -> Callable[..., Tensor | None]:
    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        return _off(0.02)(module, args, output) if stack.step == 1 else None

    return hook


def _plant(stack: Stack, fault: str) -> None:
    third = stack.blocks[2]
    assert isinstance(third, Block)
    if fault == "layer":
        third.down.register_forward_hook(_off(1e-2))
    elif fault == "glue":
        third.bend = 0.02
    elif fault == "nan":
        third.up.register_forward_hook(_nan)
    elif fault == "step":
        third.down.register_forward_hook(_in_second_step(stack))
    elif fault == "abort":
        third.up.register_forward_hook(lambda *_: os.abort())
    elif fault == "hang":
        third.up.register_forward_hook(lambda *_: time.sleep(3600))
    elif fault == "raise":
        third.up.register_forward_hook(_raise)
    elif fault == "rounding":  # sound, but it rounds after every step of the way
        for module in stack.modules():
            if isinstance(module, (nn.Linear, nn.LayerNorm)):
                module.register_forward_hook(round_again)


def _raise(*_: Any) -> None:
    raise RuntimeError("planted")


def round_again(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
    """One more rounding of the size of the dtype's own, up here and down there."""
    signs = torch.where(torch.arange(output.shape[-1]) * 7 % 5 < 2, 1.0, -1.0)
    return (output.double() * (1 + torch.finfo(output.dtype).eps / 3 * signs)).to(output.dtype)


class Planted(Adapter):
    """See the module."""

    def __init__(self, snapshot: Path, profile: Profile) -> None:
        super().__init__(snapshot, profile)
        self._loads = 0

    def load(self, device: torch.device, dtype: str) -> nn.Module:
        stack = Stack()
        stack.load_state_dict(load_file(self.snapshot / "model.safetensors"))
        stack = stack.to(getattr(torch, dtype)).to(device).eval()
        self._loads += 1
        if self._loads == 1:
            _plant(stack, self.profile.sample.get("fault", ""))
        return stack

    def sample(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(self.profile.sample.get("seed", 3))
        return {"x": torch.randn(6, WIDTH, generator=generator)}

    def prepare(self, sample: dict[str, Any]) -> Batch:
        return {"x": sample["x"].clone()}

    def forward(self, model: nn.Module, batch: Batch) -> Outputs:
        found: Outputs = model(_as(model, batch["x"]))
        return found

    def infer(self, model: nn.Module, batch: Batch) -> Tensor:
        """Feeds its output back, through a map that doubles small differences: free runs part soon."""
        assert isinstance(model, Stack)
        x = _as(model, batch["x"])
        for step in range(STEPS):
            model.step = step
            x = (4 * model(x)["logits"]).sin()
        model.step = -1
        return x

    def extract(self, raw: Tensor) -> Outputs:
        return {"x": raw.cpu(), "word": "up" if bool(raw.sum() > 0) else "down"}


def _as(model: nn.Module, x: Tensor) -> Tensor:
    return x.to(next(model.parameters()).dtype)
