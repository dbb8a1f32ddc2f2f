from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import constants

from mpsprobe.models.hub import fetch, metadata
from tests.support.hub_server import Hub, Repository, serve

WEIGHTS = "model.safetensors"


def safetensors(size: int, dtype: str = "BF16", name: str = "w") -> bytes:
    """A weight file of one tensor of random bytes; `size` bytes of data."""
    width = {"BF16": 2, "F32": 4, "F16": 2}[dtype]
    count = size // width
    header = {name: {"dtype": dtype, "shape": [count], "data_offsets": [0, count * width]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + os.urandom(count * width)


def model(size: int = 3_000_000, **more: bytes) -> dict[str, bytes]:
    """Files of a small model; further ones by name, with `__` for a dot."""
    further = {name.replace("__", "."): data for name, data in more.items()}
    return {"config.json": b'{"architectures": ["X"]}', WEIGHTS: safetensors(size), **further}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Hub]]:
    """Start a hub that this process asks, with an empty cache: `hub(Repository(...))` serves it as org/model."""
    with contextmanager_stack() as stack:

        def start(repository: Repository | None = None, **others: Repository) -> Hub:
            named = {name.replace("__", "/"): one for name, one in others.items()}
            if repository is not None:
                named["org/model"] = repository
            served = stack(serve(named))
            monkeypatch.setattr(constants, "ENDPOINT", served.url)
            return served

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
        monkeypatch.setattr(fetch, "PAUSE", 0.01)
        monkeypatch.setattr(metadata, "PAUSES", (0.01, 0.01))
        monkeypatch.setenv("MPSPROBE_CACHE", str(tmp_path / "own"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        metadata.pinned.cache_clear()
        yield start
        metadata.pinned.cache_clear()


@contextmanager
def contextmanager_stack() -> Iterator[Callable[..., Hub]]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield stack.enter_context
