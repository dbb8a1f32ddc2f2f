"""What the hub says of a repository before anything large is fetched: its commit, files, checksums and dtypes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote

from mpsprobe.models.hub import failures, transport
from mpsprobe.models.hub.cache import COMMIT
from mpsprobe.models.hub.failures import About, HubUnreachableError, NoSuchModelError
from mpsprobe.models.hub.snapshot import (
    INDEX,
    PIPELINE_INDEX,
    SINGLE,
    SnapshotError,
    StoredTensor,
    parse_header,
)
from mpsprobe.quantities import decimal_size

_T = TypeVar("_T")

#: Weights of any framework, by the ends of their names.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".onnx_data", ".gguf",
            ".ot", ".tflite", ".mlmodel", ".npz", ".pkl", ".pickle", ".engine", ".pte")  # fmt: skip
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
#: What people read and loading does not.
_DOCUMENTS = (".md", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".mp4", ".mov", ".wav", ".mp3",
              ".flac", ".ipynb", ".html", ".csv", ".parquet", ".zip", ".tar", ".gz", ".log")  # fmt: skip
#: Folders of other frameworks and of training.
_OTHER_FOLDERS = (
    "onnx",
    "openvino",
    "original",
    "coreml",
    "flax",
    "tf",
    "gguf",
    "runs",
    "logs",
    "global_step",
)
_TRAINING = ("training_args.bin", "optimizer", "scheduler.pt", "rng_state", "trainer_state.json")
#: The same weights in other precisions: `model.fp16.safetensors`, `model.fp32-00001-of-00002.safetensors`.
_VARIANT = re.compile(r"\.(fp16|fp32|bf16|fp8|int8|int4|non_ema|ema)(-\d+-of-\d+)?\.")
#: Files of unknown kinds above this size are taken for weights or data of something else, bytes.
_SMALL = 16 << 20
#: A header of safetensors is asked for in pieces of this size, bytes: one request for most files.
_HEADER = 1 << 17
#: The largest index or config that is read, bytes.
_JSON = 64 << 20
#: Requests at once.
WORKERS = 8


@dataclass(frozen=True)
class RepoFile:
    """One file of a repository at one commit.

    Attributes:
        name: path in the repository.
        size: bytes; None where the hub does not say.
        checksum: sha256 of the content (64 hexadecimal digits) of a large file, or the git blob id (40) of a small
            one; `""` where the hub states none.
    """

    name: str
    size: int | None
    checksum: str


@dataclass(frozen=True)
class RepoInfo:
    """A repository at the commit that a revision means now.

    Attributes:
        repo: id, as the user spells it: the cache is named after it.
        asked: revision asked for; None for the default branch.
        commit: what it means: 40 hexadecimal digits.
        files: by name.
        gated: whether a licence must be accepted: False, `"auto"` or `"manual"`.
        private: only some accounts may see it.
    """

    repo: str
    asked: str | None
    commit: str
    files: dict[str, RepoFile]
    gated: bool | str = False
    private: bool = False

    def url(self, name: str) -> str:
        """Return the address of a file at this commit."""
        return f"{failures.endpoint()}/{self.repo}/resolve/{self.commit}/{quote(name)}"


@dataclass(frozen=True)
class Headers:
    """What the headers of the weight files state.

    Attributes:
        parameters: elements of all tensors.
        nbytes: bytes of all tensors in their stored dtypes.
        dtypes: elements by dtype (PyTorch's names), most first.
    """

    parameters: int
    nbytes: int
    dtypes: dict[str, int]


@dataclass(frozen=True)
class Selection:
    """Which files of a repository loading reads.

    Attributes:
        files: those to fetch, by name.
        weights: names of those that hold the weights.
        left_out: reason -> files that are not fetched.
        pickled: the only weights are pickles.
    """

    files: dict[str, RepoFile]
    weights: tuple[str, ...]
    left_out: dict[str, list[RepoFile]] = field(default_factory=dict)
    pickled: bool = False

    def described(self) -> str:
        """Return what was left out, a clause for each reason; `""` when nothing worth a word was."""
        parts = []
        for reason, files in self.left_out.items():
            size = sum(file.size or 0 for file in files)
            if size >= 1_000_000:
                some = f"{len(files)} files" if len(files) > 1 else files[0].name
                parts.append(f"{some} of {reason} ({decimal_size(size)})")
        return ", ".join(parts)


@functools.cache
def pinned(repo: str, revision: str | None = None) -> RepoInfo:
    """Ask the hub which commit a revision means and which files it holds; asked once in the life of this process.

    Everything that is fetched afterwards names that commit, so that a branch that moves meanwhile mixes no files.

    Raises:
        HubError: no such repository or revision, no access, or no answer.
    """
    from huggingface_hub import HfApi

    about = About(repo, revision)
    with failures.worded(about):
        info = _patiently(
            about,
            lambda: HfApi(failures.endpoint()).model_info(
                repo, revision=revision, files_metadata=True, timeout=30
            ),
        )
    commit = info.sha or ""
    if not COMMIT.fullmatch(commit):
        raise HubUnreachableError(
            f"{about}: {failures.endpoint()} names no commit for it.",
            "Check HF_ENDPOINT: it has to speak the API of the Hugging Face Hub.",
        )
    files = {}
    for sibling in info.siblings or []:
        name = sibling.rfilename
        if not is_safe(name):
            raise NoSuchModelError(
                f"{about}: it lists a file outside its folder: {name[:80]!r}.", "Do not use this repository."
            )
        lfs = sibling.lfs
        checksum = (
            (lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)) if lfs else None
        )
        checksum = checksum or (None if lfs else sibling.blob_id) or ""
        files[name] = RepoFile(name, sibling.size, checksum.lower())
    return RepoInfo(repo, revision, commit, files, info.gated or False, bool(info.private))


def is_safe(name: str) -> bool:
    """Return whether a name of a repository's file stays inside the repository's folder."""
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and not name.startswith("/")
        and ".." not in parts
        and "\0" not in name
        and "\\" not in name
    )


#: Waits before a small request is made again, seconds.
PAUSES = (1.0, 3.0)
#: Status of passing faults.
_PASSING = (429, 500, 502, 503, 504)
#: The longest wait that a hub may ask for before a small request is given up, seconds.
_SHORT = 10.0


def _patiently(about: About, ask: Callable[[], _T]) -> _T:
    """Ask again where the hub answers 429 with a short wait or 5xx, or the connection breaks: these faults pass."""
    for pause in PAUSES:
        try:
            return ask()
        except Exception as problem:
            status = getattr(getattr(problem, "response", None), "status_code", 0)
            broken = isinstance(problem, transport.network_errors()) and not status
            if status not in _PASSING and not (broken and failures.is_passing(problem)):
                raise
            asked = getattr(failures.translate(about, problem), "seconds", None)
            if asked is not None and asked > _SHORT:
                raise
            time.sleep(pause if asked is None else asked)
    return ask()


def read_json(info: RepoInfo, name: str) -> dict[str, Any]:
    """Return a small JSON file of a repository, read from the hub; `{}` when it is not there or no object.

    Raises:
        HubError: it is there and cannot be read.
    """
    if name not in info.files:
        return {}
    with failures.worded(About(info.repo, info.commit, name)):
        data = transport.read(info.url(name), most=_JSON)
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(data)
        if isinstance(found, dict):
            return found
    return {}


def select(info: RepoInfo, index: dict[str, Any] | None = None, folders: Iterable[str] = ()) -> Selection:
    """Choose the files of a repository that loading reads, as transformers chooses among them.

    Of weights in several forms one is chosen: `model.safetensors`, else the files of the index, else other safetensors,
    else pickles. Documents, other frameworks' files and what training left behind are not fetched.

    Args:
        info: the repository.
        index: content of `model.safetensors.index.json`, where it has one.
        folders: subfolders whose weights are read too: parts of a pipeline, modules of a sentence encoder.
    """
    names = list(info.files)
    chosen = list(_weights_of(names, "", index))
    for folder in folders:
        chosen += [
            name
            for name in _weights_of([n for n in names if n.startswith(f"{folder}/")], f"{folder}/", None)
            if name not in chosen
        ]
    pickled = bool(chosen) and all(name.endswith(_PICKLED) for name in chosen)
    files: dict[str, RepoFile] = {}
    left_out: dict[str, list[RepoFile]] = {}
    for name, file in info.files.items():
        reason = "" if name in chosen else _reason(file, chosen, tuple(folders))
        if reason:
            left_out.setdefault(reason, []).append(file)
        else:
            files[name] = file
    return Selection(files, tuple(chosen), left_out, pickled)


def _weights_of(names: list[str], folder: str, index: dict[str, Any] | None) -> list[str]:
    """Return the weight files that loading reads from one folder of a repository."""
    here = [name for name in names if name.startswith(folder) and "/" not in name.removeprefix(folder)]
    if folder + SINGLE in here:
        return [folder + SINGLE]
    weight_map = (index or {}).get("weight_map")
    if folder + INDEX in here and isinstance(weight_map, dict):
        return sorted({str(name) for name in weight_map.values() if str(name) in names})
    safe = [
        name
        for name in here
        if name.endswith(".safetensors")
        and not _VARIANT.search(name)
        and not PurePosixPath(name).name.startswith(("adapter_", "consolidated"))
    ]
    if safe:
        return safe
    if adapters := [name for name in here if PurePosixPath(name).name == "adapter_model.safetensors"]:
        return adapters
    if variants := [name for name in here if name.endswith(".safetensors")]:
        return variants
    named = [folder + "pytorch_model.bin"] if folder + "pytorch_model.bin" in here else []
    return named or [
        name
        for name in here
        if name.endswith(_PICKLED) and not PurePosixPath(name).name.startswith(_TRAINING)
    ]


def _reason(file: RepoFile, chosen: list[str], folders: tuple[str, ...]) -> str:
    """Return why loading does not read a file; `""` when it may."""
    path = PurePosixPath(file.name)
    name, top = path.name, path.parts[0] if len(path.parts) > 1 else ""
    if path.name.startswith(_TRAINING):
        return "training state"
    if top and (top.startswith(_OTHER_FOLDERS) or any(part.endswith(".mlpackage") for part in path.parts)):
        return "other frameworks"
    if name.endswith(_WEIGHTS):
        if name.endswith(".safetensors"):
            if _VARIANT.search(name) or name.startswith("consolidated"):
                return "the same weights in another form"
            return "weights that the model does not read"
        if name.endswith(_PICKLED):
            safe = any(one.endswith(".safetensors") for one in chosen)
            return "the same weights as pickles" if safe else "weights that the model does not read"
        return "other frameworks"
    if name.endswith(".index.json") and name != INDEX and top not in folders:
        return "the same weights in another form"
    if name == ".gitattributes" or name.lower().endswith(_DOCUMENTS) or name.upper().startswith("LICENSE"):
        return "documents and media"
    textual = name.endswith(
        (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".yaml", ".yml", ".spm")
    )
    if not textual and (file.size or 0) > _SMALL:
        return "large files of unknown kind"
    return ""


def subfolders(info: RepoInfo) -> list[str]:
    """Return the folders of a repository whose weights are read beside those of its root.

    They are the parts that `model_index.json` names (diffusers), and the modules that `modules.json` names
    (sentence-transformers).

    Raises:
        HubError: one of these files is there and cannot be read.
    """
    found = []
    for name, value in read_json(info, PIPELINE_INDEX).items():
        if isinstance(value, list) and any(value) and any(one.startswith(f"{name}/") for one in info.files):
            found.append(name)
    if "modules.json" in info.files:
        with failures.worded(About(info.repo, info.commit, "modules.json")):
            data = transport.read(info.url("modules.json"), most=_JSON)
        with contextlib.suppress(ValueError, AttributeError, TypeError, RecursionError):
            found += [path for entry in json.loads(data) if (path := str(entry.get("path") or ""))]
    return found


def read_headers(info: RepoInfo, names: Iterable[str]) -> Headers:
    """Read the headers of weight files from the hub by range requests: some 100 kB of each.

    Raises:
        HubError: a file cannot be read.
        SnapshotError: a header is damaged, or describes more or fewer bytes than the file has.
    """
    wanted = [info.files[name] for name in names if name.endswith(".safetensors")]
    tensors: list[StoredTensor] = []
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        for found in pool.map(lambda file: _header(info, file), wanted):
            tensors += found.values()
    elements: Counter[str] = Counter()
    for tensor in tensors:
        elements[tensor.dtype] += math.prod(tensor.shape)
    return Headers(sum(elements.values()), sum(t.nbytes for t in tensors), dict(elements.most_common()))


def _header(info: RepoInfo, file: RepoFile) -> dict[str, StoredTensor]:
    about = About(info.repo, info.commit, file.name)
    with failures.worded(about):
        url = info.url(file.name)
        data = _patiently(about, lambda: transport.read(url, 0, _HEADER, most=_HEADER))
        length = int.from_bytes(data[:8], "little")
        if len(data) == _HEADER and 8 + length > len(data) and 8 + length <= (file.size or 0):
            end = 8 + length
            data += _patiently(about, lambda: transport.read(url, _HEADER, end, most=end - _HEADER))
    name = f"{info.repo}, {file.name}"
    if file.size is not None and 8 + length > file.size:
        raise SnapshotError(f"{name}: not a safetensors file, or cut off in its header.", "Tell its owner.")
    return parse_header(name, data[8 : 8 + length], None if file.size is None else file.size - 8 - length)
