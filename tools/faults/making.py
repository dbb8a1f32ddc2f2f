"""Make the folders and files of cases: a small model, a target file, a finished run's document."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults.case import MARK

#: A model of transformers that is quick to build.
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 16,
    "max_position_embeddings": 32,
}

#: The functions of a target file; a case may replace the body of each.
BODIES = {
    "top": "",
    "load": "return torch.nn.Linear(4, 2).to(device)",
    "sample": "return {'x': 0}",
    "prepare": "return {'x': torch.ones(1, 4)}",
    "infer": "return model(batch['x'])",
    "extract": "return {'y': raw.cpu()}",
}


def model(folder: Path, **changes: Any) -> None:
    """Write a model folder: a config, with these fields changed, and one safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    weights(folder / "model.safetensors")


def weights(path: Path, dtype: str = "F32", shape: tuple[int, ...] = (2, 2), size: int = 16) -> None:
    """Write a safetensors file with one tensor of zeros, whose header may contradict its size.

    Args:
        path: The path of the file.
        dtype: The dtype in the header.
        shape: The shape in the header.
        size: The bytes of the tensor.
    """
    header = json.dumps({"x": {"dtype": dtype, "shape": list(shape), "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))


def config(text: str | bytes) -> Callable[[Path], None]:
    """Return a function that writes a model folder `m` whose config.json holds exactly this text."""

    def prepare(folder: Path) -> None:
        model(folder / "m")
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        (folder / "m" / "config.json").write_bytes(data)

    return prepare


def file(name: str, data: str | bytes, **changes: Any) -> Callable[[Path], None]:
    """Return a function that writes a model folder `m` with one more file.

    Args:
        name: The path of the file in the folder.
        data: Its content.
        **changes: Fields of the model's config.
    """

    def prepare(folder: Path) -> None:
        model(folder / "m", **changes)
        path = folder / "m" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())

    return prepare


def target(**bodies: str) -> Callable[[Path], None]:
    """Return a function that writes `target.py`.

    Args:
        **bodies: The bodies of functions that replace those in `BODIES`, and `top`, the code before them.
    """
    b = {**BODIES, **bodies}
    heads = {
        "load": "load(device, dtype, weights='stored')",
        "sample": "sample()",
        "prepare": "prepare(sample)",
        "infer": "infer(model, batch)",
        "extract": "extract(raw)",
    }
    text = f"import os, signal, sys, torch\n{b['top']}\n"
    for name, head in heads.items():
        text += f"def {head}:\n    torch.manual_seed(0)\n    " + b[name].replace("\n", "\n    ") + "\n"

    def prepare(folder: Path) -> None:
        (folder / "target.py").write_text(text)

    return prepare


def beside(name: str, text: str = MARK) -> Callable[[Path], None]:
    """Return a function that writes a model into the working directory itself, with planted code beside it.

    Args:
        name: The path of the file with the code.
        text: The code.
    """

    def prepare(folder: Path) -> None:
        model(folder)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return prepare


def document(**changes: Any) -> dict[str, Any]:
    """Return a complete run's document, with some fields replaced."""
    check = {
        "id": "download.files",
        "phase": "download",
        "title": "The target's files are here",
        "status": "pass",
        "evidence": "measured",
        "message": "2 files.",
        "table": {"columns": ["a", "b"], "rows": [["x", 1]]},
        "measurements": [
            {"name": "weights", "value": 16, "unit": "bytes", "evidence": "measured", "device": "host"}
        ],
    }
    made: dict[str, Any] = {
        "schema": 1,
        "mpsprobe": "0.1.0",
        "id": "20261122T131500Z-4f2a",
        "started": "2026-11-22T13:15:00Z",
        "ended": "2026-11-22T13:16:00Z",
        "command": ["mpsprobe", "run"],
        "target": {"name": "m", "profile": "transformers"},
        "host": {"system": "Linux", "machine": "x86_64", "os_version": "6.1"},
        "device": {"requested": "cpu", "used": "cpu", "reason": "asked for"},
        "checks": [check],
    }
    return {**made, **changes}


def check(**changes: Any) -> dict[str, Any]:
    """Return the check of `document`, with some fields replaced."""
    only: dict[str, Any] = document()["checks"][0]
    return {**only, **changes}


def run_json(data: Any) -> Callable[[Path], None]:
    """Return a function that writes `run.json`: an object as JSON, or exactly these bytes."""

    def prepare(folder: Path) -> None:
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        (folder / "run.json").write_bytes(raw)

    return prepare


def journal(*lines: Any) -> Callable[[Path], None]:
    """Return a function that writes `journal.jsonl`: each line an object as JSON, or exactly these bytes."""

    def prepare(folder: Path) -> None:
        raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        (folder / "journal.jsonl").write_bytes(b"\n".join(raw) + b"\n")

    return prepare
