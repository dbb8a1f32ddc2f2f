"""Inspect a model's local folder without loading it: its config, and the headers of its safetensors files.

A safetensors file begins with 8 bytes (the little-endian length of the header), the header (JSON with dtype, shape
and byte range of each tensor) and the tensors' bytes, without gaps
(https://github.com/huggingface/safetensors#format). So a missing shard, a truncated download or a Git LFS pointer
is found in milliseconds, before gigabytes are read.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpsprobe import toml
from mpsprobe.errors import TargetError
from mpsprobe.models import peft


class SnapshotError(TargetError):
    """The folder does not hold a model that can be used."""


class ConfigError(SnapshotError):
    """`config.json` is missing, not JSON, or not an object."""


class ShardError(SnapshotError):
    """The index of the weights is missing or unusable, or does not agree with the weight files in the folder."""


class WeightsError(SnapshotError):
    """A weight file cannot be read, or is truncated or damaged."""


class NoWeightsError(SnapshotError):
    """The folder holds no readable weights."""


class PickledWeightsError(NoWeightsError):
    """The only weights are pickles, which run code when they are loaded."""


INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
#: The file of a diffusers pipeline that takes the place of config.json and names the class of each part.
PIPELINE_INDEX = "model_index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_OTHER_FORMATS = (".gguf", ".h5", ".msgpack", ".onnx", ".tflite", ".mlpackage", ".npz")
#: The largest header in bytes that the reference implementation accepts.
_MAX_HEADER = 100_000_000
#: PyTorch's name and the bits of each element type of safetensors.
_DTYPES: dict[str, tuple[str, int]] = {
    "BOOL": ("bool", 8),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F4": ("float4_e2m1fn_x2", 4),
    "I16": ("int16", 16),
    "U16": ("uint16", 16),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "I32": ("int32", 32),
    "U32": ("uint32", 32),
    "F32": ("float32", 32),
    "C64": ("complex64", 64),
    "I64": ("int64", 64),
    "U64": ("uint64", 64),
    "F64": ("float64", 64),
}


#: The bytes of an element in each dtype in which weights are loaded.
_LOADED = {"float32": 4, "bfloat16": 2, "float16": 2}
_FLOATING = ("float64", *_LOADED)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a weight file, as its header describes it; `nbytes` is its stored size."""

    dtype: str  #: PyTorch's name; safetensors' own name where PyTorch has none
    shape: tuple[int, ...]
    nbytes: int

    @property
    def elements(self) -> int:
        """Return the number of elements, which is the product of the shape."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Snapshot:
    """What a model folder holds, from its config and the headers of its weights.

    Attributes:
        path: The folder.
        config: The content of `config.json`.
        files: The names of the weight files, in the order in which they are read.
        weight_bytes: The size of all tensors in bytes, in their stored dtypes.
        parameters: The number of elements of all tensors, including stored buffers. For packed (quantised) weights
            this is not the number of parameters of the model.
        dtypes: The number of elements by dtype (PyTorch's names), most common first.
        architecture: The class that `config.json` names; None when it names none.
    """

    path: Path
    config: dict[str, Any]
    files: tuple[str, ...]
    weight_bytes: int
    parameters: int
    dtypes: dict[str, int]
    architecture: str | None


def inspect(folder: Path) -> Snapshot:
    """Validate a model folder and describe its weights without reading its tensors.

    Raises:
        SnapshotError: The path is not a folder, or a file in it is missing or wrong; the subclass and the message say
            how. `NoWeightsError` also stands for weight files without tensors.
    """
    if not folder.is_dir():
        raise SnapshotError(f"{folder}: no such folder.", "Name a folder with config.json and weights.")
    config = read_config(folder)
    try:
        files = _weight_files(folder)
    except OSError as problem:
        raise SnapshotError(f"{folder}: cannot be read: {problem.strerror}.") from problem
    tensors = {name: read_header(folder / name) for name in files}
    if (folder / INDEX).is_file() and files != (SINGLE,):
        _check_index(folder / INDEX, tensors)
    everything = [tensor for of_file in tensors.values() for tensor in of_file.values()]
    if not everything:
        raise NoWeightsError(f"{folder}: its weight files hold no tensors.", "Download the model again.")
    elements: Counter[str] = Counter()
    for tensor in everything:
        elements[tensor.dtype] += tensor.elements
    return Snapshot(
        path=folder,
        config=config,
        files=files,
        weight_bytes=sum(tensor.nbytes for tensor in everything),
        parameters=sum(elements.values()),
        dtypes=dict(elements.most_common()),
        architecture=architecture(config),
    )


def without_weights(folder: Path) -> Snapshot:
    """Describe a model folder by its config only, or by the index of a diffusers pipeline, as one without weights.

    Raises:
        ConfigError: `config.json` or the index is missing or malformed.
    """
    if (folder / PIPELINE_INDEX).is_file():
        index = _read_json(folder / PIPELINE_INDEX, ConfigError)
        return Snapshot(folder, index, (), 0, 0, {}, str(index.get("_class_name")))
    config = read_config(folder)
    return Snapshot(folder, config, (), 0, 0, {}, architecture(config))


def read_config(folder: Path) -> dict[str, Any]:
    """Return the folder's `config.json`.

    Raises:
        ConfigError: The file is missing, not JSON (with line and column), or not an object.
    """
    path = folder / "config.json"
    if not path.is_file() and not toml.kind_of(path):
        raise ConfigError(f"{folder}: no config.json.", _hint_without_config(folder))
    return _read_json(path, ConfigError)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors in the header of the safetensors file `path`, by name.

    Raises:
        WeightsError: The file cannot be read, is truncated, damaged or a Git LFS pointer, or its size is not the one
            that its header describes.
    """
    if kind := toml.kind_of(path):
        raise WeightsError(f"{path}: is {kind}, not a file.", "Download it again.")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            if head.startswith(b"version "):
                raise WeightsError(f"{path}: a Git LFS pointer, not the weights.", "Run: git lfs pull")
            length = int.from_bytes(head, "little")
            if len(head) < 8 or length > min(size - 8, _MAX_HEADER):
                raise WeightsError(
                    f"{path}: not a safetensors file, or cut off in its header ({size} bytes).",
                    "Download it again.",
                )
            header = file.read(length)
    except OSError as problem:
        raise WeightsError(f"{path}: cannot be read: {problem.strerror}.") from problem
    return parse_header(str(path), header, size - 8 - length)


def parse_header(name: str, header: bytes, data_bytes: int | None) -> dict[str, StoredTensor]:
    """Parse the JSON header of a safetensors file into its tensors by name, and compare it with the file's size.

    Args:
        name: The name of the file, for errors.
        header: The JSON text.
        data_bytes: The number of bytes after the header; None where unknown.

    Raises:
        WeightsError: The header is not JSON, is malformed, or describes more or fewer bytes.
    """
    try:
        found = json.loads(header)
    except (ValueError, RecursionError) as problem:
        raise WeightsError(
            f"{name}: its header is not JSON: {problem}.", "The file is damaged: download it again."
        ) from problem
    if not isinstance(found, dict):
        raise WeightsError(f"{name}: its header is not a JSON object.", "Download it again.")
    found.pop("__metadata__", None)
    return _tensors(name, found, data_bytes)


def _tensors(path: str, header: dict[str, Any], data_bytes: int | None) -> dict[str, StoredTensor]:
    """Return the entries of a header, checked against each other and against the number of bytes in the file.

    Raises:
        WeightsError: An entry is malformed, tensors overlap or leave a gap, or the bytes are too many or too few.
    """
    tensors: dict[str, StoredTensor] = {}
    ranges: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        try:
            stored, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            dtype, bits = _DTYPES.get(stored, (str(stored), None))
            expected = None if bits is None else math.prod(shape) * bits // 8
            usable = 0 <= begin <= end and all(isinstance(n, int) and n >= 0 for n in shape)
        except (KeyError, TypeError, ValueError):
            usable = False
        if not usable:
            raise WeightsError(f"{path}: the header's entry for {name!r} is malformed.", "Download it again.")
        if expected is not None and end - begin != expected:
            raise WeightsError(
                f"{path}: {name!r} is {dtype} {list(shape)}, which is {expected} bytes, "
                f"but the header gives it {end - begin}.",
                "The file is damaged: download it again.",
            )
        ranges.append((begin, end, name))
        tensors[name] = StoredTensor(dtype, shape, end - begin)
    position = 0
    for begin, end, name in sorted(ranges):
        if begin != position:
            raise WeightsError(
                f"{path}: {name!r} begins at byte {begin} of the data, expected {position}: "
                "tensors overlap or leave a gap.",
                "The file is damaged: download it again.",
            )
        position = end
    if data_bytes is not None and position != data_bytes:
        raise WeightsError(
            f"{path}: the header describes {position} bytes of tensors, the file holds {data_bytes}.",
            "The download is not complete: download it again.",
        )
    return tensors


def _weight_files(folder: Path) -> tuple[str, ...]:
    """Return the names of the safetensors files that make up the model, in the order of precedence of transformers.

    Raises:
        ShardError: Shards are missing, or have no usable index.
        NoWeightsError: There are no safetensors; `PickledWeightsError` when there are pickles.
    """
    if (folder / SINGLE).exists():  # before the index, in the same order as transformers
        return (SINGLE,)
    if (folder / INDEX).is_file():
        return _indexed_files(folder / INDEX)
    found = sorted(path.name for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_"))
    if found:
        numbered = [name for name in found if "-of-" in name]
        if numbered:
            raise ShardError(
                f"{folder}: {len(numbered)} shards, but no {INDEX} to say what is in them.",
                "Download the index too.",
            )
        return tuple(found)
    names = sorted(path.name for path in folder.iterdir())
    pickled = [name for name in names if name.endswith(_PICKLED) and name != "training_args.bin"]
    if pickled:
        raise PickledWeightsError(
            f"{folder}: only pickled weights ({', '.join(pickled[:3])}), and reading a pickle runs its code.",
            "Convert them in a place you trust: load the model there, then call its save_pretrained().",
        )
    other = [name for name in names if name.endswith(_OTHER_FORMATS)]
    raise NoWeightsError(
        f"{folder}: no safetensors weights" + (f" (found {', '.join(other[:3])})." if other else "."),
        "This suite loads PyTorch models: get the repository's safetensors files."
        if other
        else "Download the model's weights too, or give --random-init.",
    )


def _indexed_files(index: Path) -> tuple[str, ...]:
    weight_map = _read_json(index, ShardError).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ShardError(f"{index}: no usable weight_map.", "Download it again.")
    files = sorted(set(weight_map.values()))
    if outside := [name for name in files if Path(name).name != name]:
        raise ShardError(f"{index}: names a file outside the folder: {outside[0]!r}.")
    # exists() is False for a link without its blob, which an interrupted download leaves
    if missing := [name for name in files if not (index.parent / name).exists()]:
        raise ShardError(
            f"{index.parent}: {len(missing)} of {len(files)} shards missing: {', '.join(missing[:3])}"
            + (" ..." if len(missing) > 3 else "."),
            "Download the model again: what is complete is kept.",
        )
    return tuple(files)


def _check_index(index: Path, tensors: dict[str, dict[str, StoredTensor]]) -> None:
    """Check that each tensor of the index is in the shard that the index names.

    Raises:
        ShardError: A tensor is not in its shard.
    """
    weight_map: dict[str, str] = _read_json(index, ShardError)["weight_map"]
    absent = [name for name, file in weight_map.items() if name not in tensors[file]]
    if absent:
        raise ShardError(
            f"{index}: {len(absent)} tensors are not in their shards, first {absent[0]!r} "
            f"in {weight_map[absent[0]]}.",
            "Index and shards are of different versions: download both again.",
        )


def is_dtype(name: str) -> bool:
    """Return whether this is PyTorch's name of a dtype that safetensors files can hold."""
    return any(name == known for known, _ in _DTYPES.values())


def loaded_bytes(dtypes: dict[str, int], stored: int, dtype: str) -> int:
    """Return the bytes that the weights take once they are loaded.

    Args:
        dtypes: The number of elements by stored dtype.
        stored: The stored size in bytes, which is returned where any stored dtype is not a plain floating one.
        dtype: The dtype in which floating-point weights are loaded: `"float32"`, `"bfloat16"` or `"float16"`; any
            other, such as `"auto"`, keeps the stored dtype.
    """
    width = _LOADED.get(dtype)
    if width is None or any(name not in _FLOATING for name in dtypes):
        return stored  # packed integers, whose number is not that of the weights
    return sum(dtypes.values()) * width


def architecture(config: dict[str, Any]) -> str | None:
    """Return the first name in `architectures` of a config; None when it names none."""
    named = config.get("architectures")
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None


def _hint_without_config(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        found = peft.read(folder)
        return f"It is a {found.title}. {found.merge}" if found is not None else ""
    if files := _gguf_files(folder):
        more = f" (the folder holds {len(files)} models: {_some(files)})" if len(files) > 1 else ""
        return (
            f"Name the file: mpsprobe predict {files[0]}{more}. llama.cpp runs it: llama-cli -m {files[0]}."
        )
    if (folder / "model_index.json").is_file():
        return "This is a diffusers pipeline: name one of its models, such as its unet or transformer folder."
    inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if inside:
        return f"Did you mean {folder / inside[0]}?"
    held = next((what for pattern, what in _WITHOUT_CONFIG if any(folder.glob(pattern))), "")
    return held or "Name a folder with config.json and weights."


#: What a folder without config.json holds, by the files that show it, and the next step.
_MADE_BY_HAND = "make its model in a target.py, as its users do: docs/targets.md shows one"
_WITHOUT_CONFIG = (
    ("*.nemo", f"It holds a NeMo checkpoint: {_MADE_BY_HAND} (nemo's restore_from)."),
    ("hyperparams.yaml", f"It is a SpeechBrain model: {_MADE_BY_HAND} (speechbrain.inference)."),
    (
        "*.mlpackage",
        "It holds a Core ML model, which macOS runs by itself; PyTorch's models are judged here.",
    ),
    ("*.mlmodel", "It holds a Core ML model, which macOS runs by itself; PyTorch's models are judged here."),
    (
        "*.onnx",
        "It holds an ONNX model: ONNX Runtime runs it (CoreMLExecutionProvider); PyTorch's are judged here.",
    ),
    ("*.pt2", f"It holds an exported program: {_MADE_BY_HAND} (torch.export.load(FILE).module())."),
    ("*.torchscript", f"It holds a TorchScript program: {_MADE_BY_HAND} (torch.jit.load)."),
    *(
        (
            f"*{suffix}",
            "It holds weights, and nothing that names their class: mpsprobe predict package.module:Class --config "
            f"FILE.json, or {_MADE_BY_HAND}.",
        )
        for suffix in (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
    ),
    ("*.yaml", f"Its configuration is a YAML file of its own project: {_MADE_BY_HAND}."),
)


def _gguf_files(folder: Path) -> list[Path]:
    """Return a folder's GGUF models: only the first of a model's parts, and no encoders if there is another."""
    files = [one for one in sorted(folder.glob("*.gguf")) if not re.search(r"-of-\d+\.gguf$", one.name)]
    parts = [one for one in sorted(folder.glob("*.gguf")) if re.search(r"-0*1-of-\d+\.gguf$", one.name)]
    found = sorted([*files, *parts])
    return [one for one in found if not one.name.lower().startswith("mmproj")] or found


def _some(files: Sequence[Path]) -> str:
    names = ", ".join(one.name for one in files[:3])
    return f"{names} ..." if len(files) > 3 else names


def remarks(folder: Path) -> list[str]:
    """Return sentences on weight files that do not load as they are, or that a prediction does not cover.

    They are for a folder whose config is judged without reading its weights; for a folder with only a config, and for
    one with sound safetensors, there are none.
    """
    found = []
    try:
        for name in _weight_files(folder):
            read_header(folder / name)
    except PickledWeightsError:
        files = [one for one in sorted(folder.iterdir()) if one.name.endswith(_PICKLED)]
        found.append(
            f"Its weights are pickles ({_some(files)}): transformers 4.52 and later read them with torch 2.6 or later, "
            'and raise "ValueError: Due to a serious vulnerability issue in `torch.load`" with an older one. '
            "save_pretrained() writes safetensors, which every release reads."
        )
        index = folder / "pytorch_model.bin.index.json"
        if index.is_file():
            found += _unless_whole(index)
    except NoWeightsError:  # only a config, which is what is judged
        others = [one for one in sorted(folder.iterdir()) if one.name.endswith(_OTHER_FORMATS[1:])]
        if others:
            found.append(
                f"The folder holds no weights of PyTorch, only {_some(others)}: from_pretrained raises."
            )
    except ShardError as problem:
        index = folder / INDEX
        if not index.is_file() or any(folder.glob("*.safetensors")):  # else nothing was downloaded
            found.append(f"Its weights do not load as they are: {problem.what} {problem.hint or ''}".rstrip())
    except SnapshotError as problem:
        found.append(f"Its weights do not load as they are: {problem.what} {problem.hint or ''}".rstrip())
    if models := _gguf_files(folder):
        found.append(
            f"The folder holds GGUF files too ({_some(models)}), of which this answer does not speak: llama.cpp runs "
            f"one on the GPU, llama-cli -m {models[0]}; mpsprobe predict {models[0]} judges it by itself."
        )
    return found


def _unless_whole(index: Path) -> list[str]:
    try:
        _indexed_files(index)
    except ShardError as problem:
        return [f"Its weights do not load as they are: {problem.what} {problem.hint or ''}".rstrip()]
    return []


def _read_json(path: Path, error: type[SnapshotError]) -> dict[str, Any]:
    return toml.json_object(path, error, "Download it again, or fix it there.")
