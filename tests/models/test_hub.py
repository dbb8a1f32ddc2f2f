"""Hub code against a real HTTP server on localhost: the client reads its endpoint at import, so in a child."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub_server import COMMIT, Repository, serve

_CALL = """
import json, sys
from mpsprobe.errors import MpsprobeError
from mpsprobe.models import hub
try:
    result = {body}
    print(json.dumps({{"result": result}}))
except MpsprobeError as problem:
    print(json.dumps({{"error": type(problem).__name__, "what": problem.what, "hint": problem.hint}}))
"""

DOWNLOAD = "(lambda seen: [str(hub.download(hub.preflight('org/model'), lambda a, b: seen.append((a, b)))), seen])([])"


def call(url: str, home: Path, body: str, **environment: str) -> dict[str, Any]:
    """Evaluate an expression over `hub` in a fresh process with its own cache."""
    done = subprocess.run(
        [sys.executable, "-c", _CALL.format(body=body)],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
            "HF_ENDPOINT": url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.fixture
def weights() -> bytes:
    return os.urandom(300_000)


def hub_of(files: dict[str, bytes], **options: Any) -> dict[str, Repository]:
    return {"org/model": Repository(files, **options)}


def test_preflight_tells_size_commit_and_leaves_out_other_frameworks(tmp_path: Path, weights: bytes) -> None:
    files = {
        "config.json": b"{}",
        "model.safetensors": weights,
        "pytorch_model.bin": weights,
        "onnx/model.onnx": weights,
    }
    with serve(hub_of(files)) as hub:
        answer = call(
            hub.url,
            tmp_path,
            "(lambda p: [p.revision, p.files, p.needed_bytes, p.gated, p.token])(hub.preflight('org/model'))",
        )
    assert answer["result"] == [
        COMMIT,
        {"config.json": 2, "model.safetensors": 300_000},
        300_002,
        False,
        False,
    ]


def test_pickled_weights_are_wanted_when_there_are_no_others(tmp_path: Path, weights: bytes) -> None:
    with serve(hub_of({"config.json": b"{}", "pytorch_model.bin": weights})) as hub:
        answer = call(hub.url, tmp_path, "sorted(hub.preflight('org/model').files)")
    assert answer["result"] == ["config.json", "pytorch_model.bin"]


def test_download_arrives_whole_and_a_second_one_fetches_nothing(tmp_path: Path, weights: bytes) -> None:
    with serve(hub_of({"config.json": b"{}", "model.safetensors": weights})) as hub:
        folder = Path(call(hub.url, tmp_path, DOWNLOAD)["result"][0])
        assert (folder / "model.safetensors").read_bytes() == weights
        hub.requests.clear()
        again = call(hub.url, tmp_path, "hub.preflight('org/model').needed_bytes")
        call(hub.url, tmp_path, DOWNLOAD)
        assert again["result"] == 0
        assert not [
            request for request in hub.requests if request[0] == "GET" and "safetensors" in request[1]
        ]


def test_a_broken_download_resumes_where_it_stopped(tmp_path: Path) -> None:
    weights = os.urandom(25_000_000)  # the client writes chunks of 10 MB: two are kept
    repositories = hub_of(
        {"config.json": b"{}", "model.safetensors": weights}, cut_after={"model.safetensors": 21_000_000}
    )
    with serve(repositories) as hub:
        first = call(hub.url, tmp_path, DOWNLOAD)
        second = first if "result" in first else call(hub.url, tmp_path, DOWNLOAD)
        assert (Path(second["result"][0]) / "model.safetensors").read_bytes() == weights
        starts = [r for method, path, r in hub.requests if method == "GET" and "safetensors" in path and r]
    assert any(not start.startswith("bytes=0") for start in starts), "fetched again from the beginning"


def test_offline_finds_what_was_fetched_before(tmp_path: Path, weights: bytes) -> None:
    with serve(hub_of({"config.json": b"{}", "model.safetensors": weights})) as hub:
        folder = call(hub.url, tmp_path, DOWNLOAD)["result"][0]
    answer = call("http://127.0.0.1:9", tmp_path, "str(hub.cached_snapshot('org/model'))", HF_HUB_OFFLINE="1")
    assert answer["result"] == folder


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        ("hub.preflight('org/nothing').repo", "NoSuchModelError", "org/nothing"),
        ("hub.preflight('org/model', 'v9').repo", "NoSuchModelError", "v9"),
        ("hub.preflight('not a repo!').repo", "NoSuchModelError", "not a repo!"),
        ("str(hub.cached_snapshot('org/model'))", "HubUnreachableError", "not in the cache"),
        ("hub.fetch_file('org/gated', 'config.json') and 1", "GatedError", "no token"),
    ],
)
def test_each_bad_request_has_its_own_error(tmp_path: Path, body: str, error: str, says: str) -> None:
    repositories = hub_of({"config.json": b"{}"}) | {
        "org/gated": Repository({"config.json": b"{}"}, gated=True)
    }
    with serve(repositories) as hub:
        answer = call(hub.url, tmp_path, body)
    assert answer["error"] == error
    assert says in answer["what"]
    assert answer["hint"]


def test_a_hub_that_does_not_answer_is_named(tmp_path: Path) -> None:
    answer = call("http://127.0.0.1:9", tmp_path, "hub.preflight('org/model').repo")
    assert answer["error"] == "HubUnreachableError"


def test_too_small_a_disk_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    full = "setattr(hub.shutil, 'disk_usage', lambda _: type('Usage', (), {'free': 1}))"
    with serve(hub_of({"config.json": b"{}", "model.safetensors": b"x" * 1000})) as hub:
        answer = call(hub.url, tmp_path, f"({full}, str(hub.download(hub.preflight('org/model'))))[1]")
        fetched = [request for request in hub.requests if "/resolve/" in request[1]]
    assert answer["error"] == "DiskFullError"
    assert not fetched


def test_a_file_the_repository_lacks_is_none(tmp_path: Path) -> None:
    with serve(hub_of({"config.json": b"{}"})) as hub:
        assert (
            call(hub.url, tmp_path, "hub.fetch_file('org/model', 'generation_config.json')")["result"] is None
        )
