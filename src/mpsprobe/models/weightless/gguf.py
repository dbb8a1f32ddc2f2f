"""GGUF files as targets: their header, and the transformers config that it describes.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: metadata, then a description of
each tensor, then the tensors, which are never read here.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mpsprobe.errors import TargetError
from mpsprobe.knowledge import quantisation
from mpsprobe.knowledge.quantisation import Quantised
from mpsprobe.models.weightless.from_config import Blueprint, of_config, worded

SUFFIX = ".gguf"
_MAGIC = b"GGUF"
#: The struct format of each plain value, by GGUF's type number.
_PLAIN = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
#: The weights and bytes of a block, by ggml's type number (ggml/src/ggml-common.h).
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
#: More keys, or longer strings, than any real file has, so that a damaged file cannot fill the memory.
_MOST = 1 << 24


@dataclass(frozen=True)
class Header:
    """The contents of a GGUF file's header.

    Attributes:
        path: The path of the file.
        metadata: The metadata by key; an array of more than 64 values is replaced by its length.
        parameters: The number of elements of all tensors.
        nbytes: The size of all tensors in bytes, without those of an unknown type.
        types: The number of elements by ggml's type, most common first.
        tensors: The names of the tensors.
    """

    path: Path
    metadata: dict[str, Any]
    parameters: int
    nbytes: int
    types: dict[str, int]
    tensors: frozenset[str]

    @property
    def architecture(self) -> str:
        """Return ggml's name of the architecture; empty when the file states none."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def quantised(self) -> Quantised:
        """Return how the weights are quantised: the commonest type, and the mean number of bits of a weight."""
        method = next(one for one in quantisation.methods() if one.id == "gguf")
        bits = self.nbytes * 8 / self.parameters if self.parameters else 0.0
        most = next(iter(self.types), "")
        return Quantised(method, f"GGUF {most}", bits, bits, kept=())


def read(path: Path) -> Header:
    """Read the header of a GGUF file, without its tensors.

    Raises:
        TargetError: The file cannot be read, is truncated, or is not a GGUF file of a known version.
    """
    try:
        with path.open("rb") as file:
            return _read(path, file)
    except OSError as problem:
        raise TargetError(f"{path}: cannot be read: {problem.strerror}.") from problem
    except (struct.error, UnicodeDecodeError, OverflowError, KeyError) as problem:
        raise TargetError(
            f"{path}: its GGUF header is cut off or damaged ({type(problem).__name__}: {problem}).",
            "Download it again.",
        ) from problem


def blueprint(path: Path) -> Blueprint:
    """Return the transformers class and config of a GGUF file, by transformers' own table.

    Raises:
        TargetError: The file is damaged, is an encoder or a LoRA adapter, or transformers does not know its
            architecture.
    """
    header = read(path)
    if header.metadata.get("general.type") == "mmproj" or header.architecture == "clip":
        raise TargetError(f"{path}: the image or sound encoder of a model, not a model.", _of_projector(path))
    if header.metadata.get("general.type") == "adapter":
        step = f"llama.cpp takes it beside the model that it was made for: llama-cli -m MODEL.gguf --lora {path}."
        raise TargetError(f"{path}: a LoRA adapter, not a model.", step)
    config = _config(header)
    made = of_config(config, str(path))
    made.notes.append(
        f"{path.name}: {header.architecture}, {header.parameters / 1e9:.2f} B weights in {header.nbytes / 1e9:.2f} GB, "
        f"{', '.join(f'{name} {count / header.parameters:.0%}' for name, count in header.types.items())}."
    )
    unknown = [name for name in header.types if name.startswith("type ")]
    if unknown:
        made.notes.append(
            f"ggml's {', '.join(unknown)} is not known here: the bytes of those weights are not counted."
        )
    parts = header.metadata.get("split.count")
    if isinstance(parts, int) and parts > 1:
        made.notes.append(
            f"It is one of {parts} files: weights and bytes above are those of this one. transformers does not load a "
            "model in parts; llama.cpp does, by the name of the first (llama-gguf-split --merge makes one file)."
        )
    return Blueprint(made.name, made.model_class, made.config, None, made.notes, quantised=header.quantised)


def _of_projector(path: Path) -> str:
    return f"llama.cpp takes it beside the language model: llama-mtmd-cli -m MODEL.gguf --mmproj {path}."


def next_step(path: Path) -> str:
    """Return a sentence with the llama.cpp command that runs a GGUF file on a Mac's GPU."""
    return f"llama.cpp runs it on the GPU as it is: llama-cli -m {path} (brew install llama.cpp)."


# -------------------------------------------------------------------------------------------------------- header


def _read(path: Path, file: BinaryIO) -> Header:
    magic = file.read(4)
    if magic != _MAGIC:
        raise TargetError(f"{path}: not a GGUF file: it begins with {magic!r}.", "Download it again.")
    version = _unpack(file, "I")
    if version not in (2, 3):
        raise TargetError(f"{path}: GGUF version {version} is not known.", next_step(path))
    tensors, keys = _unpack(file, "Q"), _unpack(file, "Q")
    if max(tensors, keys) > _MOST:
        raise struct.error(f"{keys} keys and {tensors} tensors")
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = _text(file)
        metadata[key] = _value(file, _unpack(file, "I"))
    elements: Counter[str] = Counter()
    names = set()
    nbytes = 0
    for _ in range(tensors):
        names.add(_text(file))
        shape = [_unpack(file, "Q") for _ in range(_unpack(file, "I"))]
        kind, _ = _unpack(file, "I"), _unpack(file, "Q")
        name, block, size = TYPES.get(kind, (f"type {kind}", 1, 0))
        count = math.prod(shape)
        elements[name] += count
        nbytes += count // block * size
    return Header(
        path, metadata, sum(elements.values()), nbytes, dict(elements.most_common()), frozenset(names)
    )


def _unpack(file: BinaryIO, code: str) -> Any:
    return struct.unpack(f"<{code}", file.read(struct.calcsize(f"<{code}")))[0]


def _text(file: BinaryIO) -> str:
    length = _unpack(file, "Q")
    if length > _MOST:
        raise struct.error(f"a text of {length} bytes")
    data = file.read(length)
    if len(data) < length:
        raise struct.error("a text is cut off")
    return data.decode("utf-8", "replace")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        return _unpack(file, _PLAIN[kind])
    inner, count = _unpack(file, "I"), _unpack(file, "Q")
    if count > _MOST:
        raise struct.error(f"an array of {count}")
    values = [_value(file, inner) for _ in range(count)]
    return values if count <= 64 else count


# -------------------------------------------------------------------------------------------------------- config


def _config(header: Header) -> dict[str, Any]:
    """Return the `config.json` for a GGUF file, by transformers' table of GGUF's keys.

    Raises:
        TargetError: The table lacks the architecture, or transformers has no class of it that generates text.
    """
    from transformers.integrations import ggml
    from transformers.models.auto import modeling_auto

    table: dict[str, Any] = ggml.GGUF_CONFIG_MAPPING
    name = header.architecture
    known = next((one for one in (name, name.replace("moe", "_moe"), f"{name}_text") if one in table), None)
    if known is None:
        raise TargetError(
            f"{header.path}: transformers' GGUF loader does not know the architecture {name or '(none)'!r}.",
            next_step(header.path),
        )
    model_type = {"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "gemma3": "gemma3_text"}.get(known, known)
    config: dict[str, Any] = {"model_type": model_type, "dtype": "float32"}
    for key, value in header.metadata.items():
        renamed = table[known].get(key.removeprefix(f"{name}."))
        if key.startswith(f"{name}.") and isinstance(renamed, str):
            config[renamed] = max(value) if isinstance(value, list) and renamed.startswith("num_") else value
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if tokens is not None:
        config.setdefault("vocab_size", tokens if isinstance(tokens, int) else len(tokens))
    config["tie_word_embeddings"] = "output.weight" not in header.tensors
    classes = {
        **modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        **modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    }
    with worded(f"{header.path}: {model_type}", TargetError):
        config["architectures"] = [classes[model_type]]
    return config
