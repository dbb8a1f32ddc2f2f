"""A parity run: compare a checkpoint's logits in MLX with torch in float32 and float64, with controls that must fail.

The often quoted fixed gate of 1e-5 is wrong: torch's own float32 differs from its float64 by up to 2e-5 on small
models. The gate is the larger of 1e-5 and four times that noise. A comparison proves something only if it also
detects faults: a copy with altered weights and one with another rotary base must exceed the gate.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mpsprobe import launch
from mpsprobe.errors import TargetError, UsageError, docs
from mpsprobe.knowledge.mlx import Proof
from mpsprobe.routes.mlx.components import LIBRARIES, libraries

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

#: The smallest gate, and the multiple of the noise of torch's float32.
LEAST_GATE, TIMES_NOISE = 1e-5, 4.0
#: The change in a control: of weights as a share of their standard deviation, of the rotary base as a factor.
_CHANGE, _BASE = 0.05, 4.0
_LIMIT_S = 300.0
_OUTPUT_LINES = 12
_ROPE_KEYS = ("rope_theta",)


class Feed(msgspec.Struct, kw_only=True):
    """The input of a parity run, with the results on it.

    Attributes:
        name: `"text"` or `"image and text"`.
        noise: The largest absolute difference of a logit between torch in float32 and in float64.
        gate: The largest difference that is allowed.
        error: The largest difference between MLX and torch in float32; None when MLX returned nothing.
        error64: The largest difference between MLX and torch in float64; None when MLX returned nothing.
        agrees: Whether `error` is within the gate.
    """

    name: str
    noise: float
    gate: float
    error: float | None
    error64: float | None
    agrees: bool


class Control(msgspec.Struct, kw_only=True):
    """A copy of the checkpoint that is wrong on purpose, and whether the comparison detected it.

    Attributes:
        name: What was changed.
        error: The largest difference of its logits in MLX from torch's on the true copy; None when MLX failed on
            it.
        caught: Whether the difference exceeds the gate on some input.
    """

    name: str
    error: float | None
    caught: bool


class Parity(msgspec.Struct, kw_only=True):
    """The results of a parity run on every input and every wrong copy.

    Attributes:
        model_type: The `model_type` of the checkpoint.
        package: The name of the MLX library.
        version: The version of that library.
        device: The device of MLX, such as `"Device(cpu, 0)"`.
        versions: The versions of mlx, torch and transformers.
        feeds: The comparison on each input.
        controls: The controls, each of which must be caught.
        problem: The reason why MLX returned nothing; empty when it did.
        notes: Sentences about what was made smaller.
    """

    model_type: str
    package: str
    version: str
    device: str = ""
    versions: dict[str, str] = {}
    feeds: list[Feed] = []
    controls: list[Control] = []
    problem: str = ""
    notes: list[str] = []

    @property
    def agrees(self) -> bool:
        """Return whether there are inputs that all agree and controls that are all caught, and MLX had no problem."""
        return (
            not self.problem
            and bool(self.feeds)
            and bool(self.controls)
            and all(feed.agrees for feed in self.feeds)
            and all(control.caught for control in self.controls)
        )

    def proofs(self) -> list[Proof]:
        """Return the results of this run as proofs for the MLX route, one for each input."""
        source = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return [
            Proof(
                model_type=self.model_type,
                package=self.package,
                version=self.version,
                agrees=self.agrees,
                inputs=feed.name,
                device="gpu" if "gpu" in self.device else "cpu",
                error=feed.error,
                gate=feed.gate,
                source=source,
            )
            for feed in self.feeds
        ]


def library_for(config: Mapping[str, Any]) -> str:
    """Return the library for a checkpoint: mlx-vlm first where its config has a vision tower, else mlx-lm first.

    Raises:
        TargetError: Neither library knows the type.
    """
    model_type = str(config.get("model_type", ""))
    order = ("mlx-vlm", "mlx-lm") if "vision_config" in config else ("mlx-lm", "mlx-vlm")
    known = {package.name for package in libraries() if package.module(model_type) is not None}
    for name in order:
        if name in known:
            return name
    raise TargetError(
        f"Neither mlx-lm nor mlx-vlm has a model called {model_type!r}.",
        "`mpsprobe predict` says what a port would take.",
    )


def run(
    folder: Path,
    model_class: type[nn.Module],
    feeds: Mapping[str, Mapping[str, Tensor]],
    *,
    package: str | None = None,
    limit_s: float = _LIMIT_S,
) -> Parity:
    """Compare a checkpoint in MLX with the same checkpoint in torch.

    Args:
        folder: The folder with `config.json` and one `model.safetensors` in float32.
        model_class: The transformers class that loads it.
        feeds: The arguments of its forward pass, by name of the input.
        package: `"mlx-lm"` or `"mlx-vlm"`; None for the one that fits.
        limit_s: The time limit of the MLX side in seconds.

    Raises:
        UsageError: MLX or the library is not installed.
        TargetError: Neither library knows the architecture, or the checkpoint names code to run.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "model_file" in config:
        raise TargetError(
            f"{folder}: its config names a model_file, which mlx-vlm would run.", "Remove that line."
        )
    chosen = package or library_for(config)
    require(chosen)
    version = metadata.version(chosen)
    result = Parity(
        model_type=str(config["model_type"]),
        package=chosen,
        version=version,
        versions={name: metadata.version(name) for name in (chosen, "mlx", "torch", "transformers")},
    )
    exact = {name: _reference(folder, model_class, feed, "float64") for name, feed in feeds.items()}
    single = {name: _reference(folder, model_class, feed, "float32") for name, feed in feeds.items()}
    with tempfile.TemporaryDirectory(prefix="mpsprobe-parity-") as scratch:
        variants = _variants(folder, Path(scratch))
        answers = _mlx_side(chosen, variants, feeds, Path(scratch), limit_s)
        _compare(result, answers, variants, single, exact)
    return result


def require(package: str) -> None:
    """Check that MLX and the library are installed, without importing them.

    Raises:
        UsageError: One of them is not installed.
    """
    mlx = "'mlx>=0.32'" if sys.platform == "darwin" else "'mlx[cpu]>=0.32'"
    for name in ("mlx", LIBRARIES[package]):
        if importlib.util.find_spec(name) is None:
            raise UsageError(
                f"{name.replace('_', '-')} is not installed.",
                f"pip install {mlx}, then pip install --no-deps mlx-lm mlx-vlm: {docs('routes.md')}",
            )


# ---------------------------------------------------------------------------------------------------- variants


def _variants(folder: Path, scratch: Path) -> dict[str, Path]:
    """Return the folder of the true copy and of each wrong one, by name."""
    true = scratch / "true"
    shutil.copytree(folder, true)
    variants = {"": true}
    for tower, tensor in _telling(folder).items():
        variants[f"{tensor} changed by {_CHANGE:.0%}"] = _with_weights(folder, scratch / tower, tensor)
    if (rotated := _with_base(folder, scratch / "rope")) is not None:
        variants[f"rope_theta times {_BASE:g}"] = rotated
    return variants


def _telling(folder: Path) -> dict[str, str]:
    """Return by tower (text, vision) the first weight matrix in its layers, whose change must show in the logits."""
    from safetensors import safe_open

    found: dict[str, str] = {}
    with safe_open(folder / "model.safetensors", "pt") as file:
        for name in sorted(file.keys()):
            tower = "vision" if "visual" in name or "vision" in name else "text"
            layered = any(part.isdigit() for part in name.split("."))
            if layered and name.endswith("weight") and len(file.get_slice(name).get_shape()) == 2:
                found.setdefault(tower, name)
    return found


def _with_weights(folder: Path, target: Path, tensor: str) -> Path:
    """Copy a checkpoint with one matrix changed by a share of its standard deviation, and return the copy's folder."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    value = weights[tensor]
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    weights[tensor] = value + _CHANGE * value.std() * noise
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def _with_base(folder: Path, target: Path) -> Path | None:
    """Copy a checkpoint with another rotary base, and return its folder; None when its config names none."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    changed = 0
    for part in _parts(config):
        for key in _ROPE_KEYS:
            if isinstance(part.get(key), (int, float)):
                part[key] = part[key] * _BASE
                changed += 1
    if not changed:
        return None
    shutil.copytree(folder, target)
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return target


def _parts(config: Any) -> list[dict[str, Any]]:
    """Return a config and every nested object in it."""
    if not isinstance(config, dict):
        return []
    return [config, *(part for value in config.values() for part in _parts(value))]


# ------------------------------------------------------------------------------------------------------- sides


def _reference(
    folder: Path, model_class: type[nn.Module], feed: Mapping[str, Tensor], dtype: str
) -> np.ndarray[Any, Any]:
    """Return torch's logits as a float64 array."""
    import torch

    loader: Any = model_class
    wanted = getattr(torch, dtype)
    model = loader.from_pretrained(folder, dtype=wanted, attn_implementation="eager").eval()
    inputs = {name: value.to(wanted) if value.is_floating_point() else value for name, value in feed.items()}
    with torch.inference_mode():
        output = model(**inputs, use_cache=False)
    logits: np.ndarray[Any, Any] = output.logits.double().numpy()
    return logits


def _mlx_side(
    package: str,
    variants: Mapping[str, Path],
    feeds: Mapping[str, Mapping[str, Tensor]],
    scratch: Path,
    limit_s: float,
) -> dict[str, dict[str, Any]]:
    """Return the child's answer for each variant; a missing answer says how the child ended."""
    import numpy as np

    files = {}
    for name, feed in feeds.items():
        files[name] = str(scratch / f"{name}.npz")
        arrays: dict[str, Any] = {key: _narrowed(value) for key, value in feed.items()}
        np.savez(files[name], **arrays)
    answers = scratch / "answers.jsonl"
    job = {
        "package": package,
        "feeds": files,
        "answers": str(answers),
        "variants": [{"name": name, "folder": str(path)} for name, path in variants.items()],
    }
    (scratch / "job.json").write_text(json.dumps(job), encoding="utf-8")
    ended = _child(scratch / "job.json", limit_s)
    lines = answers.read_text(encoding="utf-8").splitlines() if answers.is_file() else []
    by_name = {one["name"]: one for one in map(json.loads, lines)}
    return {name: by_name.get(name, {"problem": ended or "it gave no answer"}) for name in variants}


def _narrowed(value: Tensor) -> np.ndarray[Any, Any]:
    """Convert a tensor to an array that MLX accepts: its indices are 32-bit, and its GPU has no float64."""
    import torch

    return value.to(torch.int32).numpy() if value.dtype is torch.int64 else value.numpy()


def _child(job: Path, limit_s: float) -> str:
    """Run the MLX side in a child process, and return how it ended; empty for a normal end."""
    command = launch.python("mpsprobe.routes.mlx.parity_child", str(job))
    environment = {**launch.environment(), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it took more than {limit_s:g} s"
    if done.returncode == 0:
        return ""
    last = "\n".join(done.stderr.strip().splitlines()[-_OUTPUT_LINES:])
    return f"the process ended with status {done.returncode}: {last}"


def _compare(
    result: Parity,
    answers: Mapping[str, Mapping[str, Any]],
    variants: Mapping[str, Path],
    single: Mapping[str, np.ndarray[Any, Any]],
    exact: Mapping[str, np.ndarray[Any, Any]],
) -> None:
    result.device = str(answers[""].get("device", ""))
    result.problem = str(answers[""].get("problem", ""))
    for name in single:
        noise = _furthest(single[name], exact[name])
        found = None if result.problem else _loaded(variants[""], name)
        error = _furthest(found, single[name]) if found is not None else None
        gate = max(LEAST_GATE, TIMES_NOISE * noise)
        result.feeds.append(
            Feed(
                name=name,
                noise=noise,
                gate=gate,
                error=error,
                error64=_furthest(found, exact[name]) if found is not None else None,
                agrees=error is not None and error <= gate,
            )
        )
    gates = {feed.name: feed.gate for feed in result.feeds}
    for variant, folder in variants.items():
        if variant:
            result.controls.append(_control(variant, answers[variant], folder, single, gates))


def _control(
    name: str,
    answer: Mapping[str, Any],
    folder: Path,
    single: Mapping[str, np.ndarray[Any, Any]],
    gates: Mapping[str, float],
) -> Control:
    """Return whether a wrong copy was detected on any input; text, for one, does not reach a vision tower."""
    if answer.get("problem"):
        return Control(name=name, error=None, caught=False)
    errors = {feed: _furthest(_loaded(folder, feed), single[feed]) for feed in single}
    return Control(
        name=name, error=max(errors.values()), caught=any(errors[feed] > gates[feed] for feed in errors)
    )


def _loaded(folder: Path, feed: str) -> np.ndarray[Any, Any]:
    import numpy as np

    values: np.ndarray[Any, Any] = np.load(folder / f"{feed}.npy")
    return values


def _furthest(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Return the largest absolute difference of two arrays; infinite for unequal shapes or non-finite values."""
    import numpy as np

    if one.shape != other.shape:
        return float("inf")
    difference = np.abs(one.astype(np.float64) - other.astype(np.float64))
    return float(difference.max()) if bool(np.isfinite(difference).all()) else float("inf")
