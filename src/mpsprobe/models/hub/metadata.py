"""Ask the Hub about a repository before anything large is fetched: its commit, files, checksums and dtypes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import json
import math
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote

from mpsprobe.models.hub import failures, integrity, transport
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

#: Suffixes of weight files of any framework.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".onnx_data", ".gguf",
            ".ot", ".tflite", ".mlmodel", ".npz", ".pkl", ".pickle", ".engine", ".pte")  # fmt: skip
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
#: Suffixes of files for readers, which loading does not read.
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
#: Names of the same weights in other precisions: `model.fp16.safetensors`, `model.fp32-00001-of-00002.safetensors`.
_VARIANT = re.compile(r"\.(fp16|fp32|bf16|fp8|int8|int4|non_ema|ema)(-\d+-of-\d+)?\.")
#: The size in bytes above which a file of an unknown kind counts as weights or data of something else.
_SMALL = 16 << 20
#: The size in bytes of the pieces in which a safetensors header is requested; most files need one request.
_HEADER = 1 << 17
#: The size in bytes of the largest index or config that is read.
_JSON = 64 << 20
#: The seconds without an answer after which the API is given up; large repositories take long.
_API_S = 30.0
#: The greatest lengths of a name and of a path in file systems, in bytes.
_LONGEST_NAME, _LONGEST_PATH = 240, 900
#: Characters that change the direction of the text after them, so that a name reads as another.
_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
#: The number of concurrent requests.
WORKERS = 8


@dataclass(frozen=True)
class RepoFile:
    """One file of a repository at one commit, as the Hub lists it.

    Attributes:
        name: The path in the repository.
        size: The size in bytes; None where the Hub does not state it.
        checksum: The sha256 of a large file's content (64 hexadecimal digits), or the git blob id (40) of a small
            one; `""` where the Hub states none.
    """

    name: str
    size: int | None
    checksum: str


@dataclass(frozen=True)
class RepoInfo:
    """A repository at the current commit of a revision.

    Attributes:
        repo: The id as the user spells it, which names its folder in the cache.
        asked: The requested revision; None for the default branch.
        commit: The commit of that revision, in 40 hexadecimal digits.
        files: The files by name.
        gated: Whether a licence must be accepted: False, `"auto"` or `"manual"`.
        private: Whether only some accounts can see it.
        renamed: Its present name, where that differs; otherwise `""`.
    """

    repo: str
    asked: str | None
    commit: str
    files: dict[str, RepoFile]
    gated: bool | str = False
    private: bool = False
    renamed: str = ""

    def url(self, name: str) -> str:
        """Return the address from which a file is fetched at this commit."""
        return f"{failures.endpoint()}/{self.repo}/resolve/{self.commit}/{quote(name)}"


@dataclass(frozen=True)
class Headers:
    """What the headers of weight files state: parameters, bytes and dtypes.

    Attributes:
        parameters: The number of elements of all tensors.
        nbytes: The size of all tensors in bytes, in their stored dtypes.
        dtypes: The number of elements by dtype (PyTorch's names), most common first.
    """

    parameters: int
    nbytes: int
    dtypes: dict[str, int]


@dataclass(frozen=True)
class Selection:
    """The files of a repository, divided into those that loading reads and the rest.

    Attributes:
        files: The files to fetch, by name.
        weights: The names of those that hold the weights.
        left_out: The files that are not fetched, by reason.
        pickled: Whether there are weights and all of them are pickles.
    """

    files: dict[str, RepoFile]
    weights: tuple[str, ...]
    left_out: dict[str, list[RepoFile]] = field(default_factory=dict)
    pickled: bool = False

    def described(self) -> str:
        """Describe what was left out, one clause for each reason with 1 MB or more; return `""` when there is none."""
        parts = []
        for reason, files in self.left_out.items():
            size = sum(file.size or 0 for file in files)
            if size >= 1_000_000:
                some = f"{len(files)} files" if len(files) > 1 else files[0].name
                parts.append(f"{some} of {reason} ({decimal_size(size)})")
        return ", ".join(parts)


@functools.cache
def pinned(repo: str, revision: str | None = None) -> RepoInfo:
    """Ask the Hub for the commit of a revision and its files; the answer is kept for the life of this process.

    Every later request names that commit, so that a branch that moves in the meantime does not mix files.

    Raises:
        HubError: There is no such repository or revision, no access, or no answer (`HubUnreachableError`).
    """
    about = About(repo, revision)
    failures.check_endpoint(about)
    with failures.worded(about):
        said = _listing(about)
    commit = said.get("sha")
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise HubUnreachableError(
            f"{about}: {failures.endpoint()} names no commit for it.",
            "Check HF_ENDPOINT: it has to speak the API of the Hugging Face Hub.",
        )
    if said.get("disabled"):
        raise failures.disabled(about)
    with failures.worded(about):
        files = dict(_files(about, said.get("siblings")))
    named = str(said.get("id") or said.get("modelId") or repo)
    gated = said.get("gated") or False
    return RepoInfo(repo, revision, commit, files, gated, bool(said.get("private")),
                    named if named.lower() != repo.lower() else "")  # fmt: skip


def _listing(about: About) -> dict[str, Any]:
    """Request a repository's record from the Hub's API: its commit, its terms and its files.

    Raises:
        NotTheHubError: The answer is no JSON object.
    """
    from huggingface_hub import utils

    utils.validate_repo_id(about.repo)  # type: ignore[attr-defined]
    at = f"/revision/{quote(about.revision, safe='')}" if about.revision else ""
    url = f"{failures.endpoint()}/api/models/{about.repo}{at}?blobs=true"
    data = _patiently(about, lambda: transport.read(url, most=_JSON, limit_s=_API_S))
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        begins = "a page of HTML" if data.lstrip()[:1] == b"<" else f"no JSON, {len(data):,} bytes"
        raise transport.NotTheHubError(begins) from None
    if not isinstance(found, dict):
        raise transport.NotTheHubError("JSON that is no object")
    return found


def _files(about: About, listed: object) -> Iterator[tuple[str, RepoFile]]:
    """Yield the names of the files in a listing, each with its size and checksum where the listing states them.

    Raises:
        NotTheHubError: The answer is not a listing of the Hub.
        NoSuchModelError: A name is not safe (see `is_safe`), or is both a file and a folder.
    """
    if not isinstance(listed, list):
        raise transport.NotTheHubError("no list of files")
    names: set[str] = set()
    for one in listed:
        name = one.get("rfilename") if isinstance(one, dict) else None
        if not isinstance(name, str):
            raise transport.NotTheHubError("a file without a name")
        if not is_safe(name):
            raise NoSuchModelError(
                f"{about}: it lists a file that cannot lie in its folder: {name[:80]!r}.",
                "Do not use this repository.",
            )
        names.add(name)
        size, lfs = one.get("size"), one.get("lfs")
        stated = lfs.get("sha256") or lfs.get("oid") if isinstance(lfs, dict) else one.get("blobId")
        whole = isinstance(size, int) and size >= 0
        yield name, RepoFile(name, size if whole else None, stated.lower() if isinstance(stated, str) else "")
    for name in names:
        above = next((str(one) for one in PurePosixPath(name).parents if str(one) in names), None)
        if above is not None:
            raise NoSuchModelError(
                f"{about}: it lists {above[:80]!r} both as a file and as a folder.",
                "Do not use this repository.",
            )


def is_safe(name: str) -> bool:
    """Return whether a file name stays inside the repository's folder, and can be written, on every system.

    Names that are too long, or hold control characters or characters that turn the direction of text, are not safe.
    """
    parts = name.split("/")
    try:
        encoded = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return (
        all(0 < length <= _LONGEST_NAME for length in encoded)
        and sum(encoded) + len(parts) <= _LONGEST_PATH
        and not any(part in (".", "..") for part in parts)
        and "\\" not in name
        and not any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") or letter in _TURNS for letter in name)
    )


def collisions(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of names that are one file on a Mac's disk, which ignores case and Unicode normalisation."""
    seen: dict[str, str] = {}
    found = []
    for name in names:
        first = seen.setdefault(
            unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold()), name
        )
        if first != name:
            found.append((first, name))
    return found


#: The waits in seconds before a small request is repeated.
PAUSES = (1.0, 3.0)
#: The HTTP statuses of transient faults.
_PASSING = (429, 500, 502, 503, 504)
#: The longest wait in seconds that a Hub may request before a small request is given up.
_SHORT = 10.0


def _patiently(about: About, ask: Callable[[], _T]) -> _T:
    """Repeat a request after transient faults, twice at most: 429 with a short wait, 5xx, or a broken connection."""
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
    """Return a small JSON file of a repository, read from the Hub; `{}` when it is missing or no JSON object.

    Raises:
        HubError: The file exists and cannot be read.
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
    """Choose the files of a repository that loading reads, as transformers does.

    Among weights in several formats one is chosen: `model.safetensors`, else the files of the index, else other
    safetensors, else a PEFT adapter's, else variants (`fp16`), else pickles. Documents, other frameworks' files and
    training artefacts are not fetched.

    Args:
        info: The repository.
        index: The content of `model.safetensors.index.json`; None without one.
        folders: Subfolders whose weights are read too: parts of a pipeline, modules of a sentence encoder.
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
    """Return the names of the weight files that loading reads from one folder of a repository, none below it.

    Args:
        names: The names of the repository's files.
        folder: The folder, with a slash at its end; `""` for the root.
        index: The content of the folder's index; None without one.
    """
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
    """Return the reason why loading does not read a file; `""` when it may."""
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
    """Return the folders of a repository whose weights are read in addition to those of its root.

    They are the parts that `model_index.json` names (diffusers), and the modules that `modules.json` names
    (sentence-transformers).

    Raises:
        HubError: One of these files exists and cannot be read.
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
    """Read the headers of safetensors files from the Hub by range requests: 128 kB of each, more for long headers.

    Files of other formats are ignored.

    Raises:
        HubError: A file cannot be read.
        SnapshotError: A file is a Git LFS pointer, or its header is damaged or describes more or fewer bytes than the
            file has.
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
    if data.startswith(integrity.POINTER):
        raise SnapshotError(
            f"{name}: in the repository it is a Git LFS pointer, not the weights.",
            "Its upload is not complete: tell its owner, or name an older commit with --revision.",
        )
    if file.size is not None and 8 + length > file.size:
        raise SnapshotError(f"{name}: not a safetensors file, or cut off in its header.", "Tell its owner.")
    return parse_header(name, data[8 : 8 + length], None if file.size is None else file.size - 8 - length)
