"""Hub code against a real HTTP server on localhost, with the installed client; tools/faults runs other releases."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from mpsprobe.errors import TargetError, UsageError
from mpsprobe.models.hub import client, integrity, locks, metadata, transport
from mpsprobe.models.hub.snapshot import PickledWeightsError, SnapshotError
from tests.models.hub.conftest import WEIGHTS, model, safetensors
from tests.support.hub_server import COMMIT, TOKEN, Fault, Hub, Repository, pointer

Start = Callable[..., Hub]
OTHER = "b" * 40


def fetched(say: list[str] | None = None) -> client.Fetched:
    """Download org/model."""
    return client.download(client.preflight("org/model"), None, (say if say is not None else []).append)


def blob(tmp_path: Path, data: bytes) -> Path:
    """Where the cache keeps a large file."""
    return tmp_path / "hub/models--org--model/blobs" / hashlib.sha256(data).hexdigest()


def test_preflight_states_size_commit_dtypes_and_parameters(hub: Start) -> None:
    files = model(3_000_000, pytorch_model__bin=os.urandom(2000), README__md=b"x")
    served = hub(Repository(files))
    plan = client.preflight("org/model")
    assert plan.revision == COMMIT
    assert plan.files == {"config.json": 24, WEIGHTS: len(files[WEIGHTS])}
    assert plan.missing_bytes == plan.total_bytes == 24 + len(files[WEIGHTS])
    assert plan.headers is not None
    assert (plan.headers.parameters, plan.headers.dtypes) == (1_500_000, {"bfloat16": 1_500_000})
    asked = [r for method, path, r in served.requests if method == "GET" and WEIGHTS in path]
    assert asked
    assert set(asked) == {"bytes=0-131071"}, "only the header is read"


def test_a_long_header_is_read_in_two_pieces(hub: Start) -> None:
    import json
    import struct

    header = {
        f"tensor_{i:06}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
        for i in range(5000)
    }
    text = json.dumps(header).encode()
    assert len(text) > 1 << 17
    hub(Repository({"config.json": b"{}", WEIGHTS: struct.pack("<Q", len(text)) + text + bytes(20_000)}))
    headers = client.preflight("org/model").headers
    assert headers is not None
    assert headers.parameters == 5000


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        ({WEIGHTS: 1, "pytorch_model.bin": 1, "tf_model.h5": 1, "model.fp16.safetensors": 1}, {WEIGHTS}),
        ({WEIGHTS: 1, "model.safetensors.index.json": 0, "model-00001-of-00001.safetensors": 1}, {WEIGHTS}),
        ({"a.safetensors": 1, "consolidated.safetensors": 1, "onnx/model.onnx": 1}, {"a.safetensors"}),
        (
            {WEIGHTS: 1, "original/model.safetensors": 1, "optimizer.bin": 1, "training_args.bin": 1},
            {WEIGHTS},
        ),
    ],
)
def test_one_form_of_the_weights_is_chosen(hub: Start, files: dict[str, int], chosen: set[str]) -> None:
    contents = {name: safetensors(2000) if large else b"{}" for name, large in files.items()}
    hub(Repository({"config.json": b"{}", **contents}))
    plan = client.preflight("org/model")
    assert set(plan.selection.weights) == chosen
    assert not {name for name, large in files.items() if large and name not in chosen} & set(plan.files)


def test_the_choice_is_what_transformers_reads(tmp_path: Path) -> None:
    """Both a single file and an index with shards: transformers reads the single file."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
                                     vocab_size=20)  # fmt: skip
    transformers.BertModel(config).save_pretrained(tmp_path, max_shard_size="2KB")
    sharded = {path.name for path in tmp_path.glob("*.safetensors")}
    transformers.BertModel(config).save_pretrained(tmp_path / "single")
    (tmp_path / "single" / WEIGHTS).rename(tmp_path / WEIGHTS)
    read: set[str] = set()
    names = {path.name: metadata.RepoFile(path.name, path.stat().st_size, "") for path in tmp_path.iterdir()}
    info = metadata.RepoInfo("org/model", None, COMMIT, names)
    (tmp_path / sorted(sharded)[0]).write_bytes(b"damaged")  # loading would fail if it were read
    transformers.BertModel.from_pretrained(tmp_path, local_files_only=True)
    read.add(WEIGHTS)
    assert set(metadata.select(info, {"weight_map": dict.fromkeys("ab", sorted(sharded)[0])}).weights) == read


def test_parts_of_a_pipeline_and_modules_are_fetched(hub: Start) -> None:
    pipeline = {
        "model_index.json": b'{"_class_name": "P", "unet": ["diffusers", "U"], "off": [null, null]}',
        "unet/diffusion_pytorch_model.safetensors": safetensors(2000),
        "unet/diffusion_pytorch_model.fp16.safetensors": safetensors(2000),
        "unet/config.json": b"{}",
        "flax/model.msgpack": bytes(2000),
    }
    sentence = {
        **model(2000),
        "modules.json": b'[{"path": ""}, {"path": "2_Dense"}]',
        "2_Dense/model.safetensors": safetensors(2000),
        "3_Other/model.safetensors": safetensors(2000),
    }
    hub(Repository(pipeline), org__sentence=Repository(sentence))
    assert set(client.preflight("org/model").files) == {
        "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
    }  # fmt: skip
    assert set(client.preflight("org/sentence").selection.weights) == {WEIGHTS, "2_Dense/model.safetensors"}


def test_only_pickles_are_refused_before_a_download(hub: Start) -> None:
    served = hub(Repository({"config.json": b"{}", "pytorch_model.bin": os.urandom(5000)}))
    with pytest.raises(PickledWeightsError, match="Nothing was fetched"):
        client.preflight("org/model")
    assert not [path for _, path, _ in served.requests if "/resolve/" in path]


def test_an_index_that_names_absent_files_is_refused(hub: Start) -> None:
    hub(
        Repository(
            {
                "config.json": b"{}",
                "model.safetensors.index.json": b'{"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}}',
                "x-1.safetensors": safetensors(2000),
            }
        )
    )
    with pytest.raises(SnapshotError, match=r"does not hold: x-2\.safetensors"):
        client.preflight("org/model")


def test_a_damaged_header_is_found_before_the_download(hub: Start) -> None:
    hub(Repository({"config.json": b"{}", WEIGHTS: b"\xff" * 3000}))
    with pytest.raises(SnapshotError, match=WEIGHTS):
        client.preflight("org/model")


def test_a_second_download_fetches_and_reads_nothing(hub: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    served = hub(Repository(files := model()))
    first = fetched()
    assert (first.folder / WEIGHTS).read_bytes() == files[WEIGHTS]
    assert first.fetched_bytes == sum(map(len, files.values()))
    served.requests.clear()
    monkeypatch.setattr(integrity, "checksum_of", lambda *_: pytest.fail("read again"))
    assert fetched().fetched_bytes == 0
    assert not [r for r in served.requests if "/resolve/" in r[1] and r[2] != "bytes=0-131071"]


def test_the_hubs_own_client_finds_what_was_fetched(hub: Start) -> None:
    """The cache's layout is the client's: it fetches nothing again, online or offline."""
    from huggingface_hub import hf_hub_download, snapshot_download

    served = hub(Repository(model(), refs={"v1": COMMIT}))
    folder = fetched().folder
    served.requests.clear()
    # this client reads its address at import; a commit in the cache needs no request
    assert hf_hub_download("org/model", WEIGHTS, revision=COMMIT, cache_dir=constants.HF_HUB_CACHE) == str(
        folder / WEIGHTS
    )
    found = snapshot_download("org/model", local_files_only=True, cache_dir=constants.HF_HUB_CACHE)
    assert Path(found) == folder
    assert not served.requests


def test_what_the_hubs_own_client_fetched_is_checked_and_used(hub: Start, tmp_path: Path) -> None:
    served = hub(Repository(files := model()))
    child(served, tmp_path, "import huggingface_hub as h; h.snapshot_download('org/model')").communicate(
        timeout=60
    )
    assert fetched().fetched_bytes == 0
    blob(tmp_path, files[WEIGHTS]).write_bytes(b"y" * len(files[WEIGHTS]))
    said: list[str] = []
    again = fetched(said)
    assert again.damaged == (WEIGHTS,)
    assert again.fetched_bytes == len(files[WEIGHTS]), "it alone"
    assert (again.folder / WEIGHTS).read_bytes() == files[WEIGHTS]
    assert said == [f"org/model, {WEIGHTS}: damaged in the cache; fetched again"]


def test_an_interrupted_file_goes_on_where_it_stopped(hub: Start, tmp_path: Path) -> None:
    files = model(8_000_000)
    served = hub(Repository(files))
    partial = blob(tmp_path, files[WEIGHTS]).with_name(blob(tmp_path, files[WEIGHTS]).name + ".incomplete")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(files[WEIGHTS][:5_000_000])  # as the client of 0.36 leaves it, and as this one does
    plan = client.preflight("org/model")
    assert plan.missing_bytes == plan.total_bytes - 5_000_000
    assert client.download(plan).fetched_bytes == plan.missing_bytes
    assert "bytes=5000000-" in [r for _, _, r in served.requests]


def test_a_wrong_beginning_is_thrown_away(hub: Start, tmp_path: Path) -> None:
    files = model()
    hub(Repository(files))
    partial = blob(tmp_path, files[WEIGHTS]).with_name(blob(tmp_path, files[WEIGHTS]).name + ".incomplete")
    partial.parent.mkdir(parents=True)
    for wrong in (b"x" * 1_000_000, b"x" * len(files[WEIGHTS]), b"x" * (len(files[WEIGHTS]) + 9)):
        partial.write_bytes(wrong)
        assert (fetched().folder / WEIGHTS).read_bytes() == files[WEIGHTS]
        blob(tmp_path, files[WEIGHTS]).unlink()


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("drop", "cdn", WEIGHTS, at=1_500_000, times=3)],
        [Fault("stall", "cdn", WEIGHTS, at=1_500_000)],
        [Fault("truncate", "cdn", WEIGHTS, at=1_500_000)],
        [Fault("flip", "cdn", WEIGHTS, at=1_500_000, times=2)],
        [Fault("length", "cdn", WEIGHTS, at=99, skip=1)],
        [Fault("more", "cdn", WEIGHTS, at=99, skip=1)],
        [Fault("drop", "cdn", WEIGHTS, at=1_500_000), Fault("no-range", "cdn", WEIGHTS, skip=1, times=-1)],
        [Fault("drop", "cdn", WEIGHTS, at=1_500_000), Fault("shift", "cdn", WEIGHTS, at=7, skip=1)],
        [Fault("status", "cdn", WEIGHTS, status=416, skip=1)],
        [Fault("status", "cdn", WEIGHTS, status=500, skip=1, times=2)],
        [Fault("status", "resolve", WEIGHTS, status=429, headers={"Retry-After": "0"}, skip=1)],
        [Fault("status", "api", status=503)],
        [Fault("etag", "resolve", times=-1)],
        [Fault("trickle", "cdn", WEIGHTS, at=1_500_000)],
        [Fault("gzip", "cdn", WEIGHTS, skip=1)],
        [Fault("broken-gzip", "cdn", WEIGHTS, skip=1)],
        [Fault("chunked", "cdn", WEIGHTS, skip=1)],
        [Fault("pointer", "cdn", WEIGHTS, skip=1)],
        [Fault("html", "cdn", WEIGHTS, skip=1)],
        [Fault("gzip", "api")],
        [Fault("drop", "api", at=100)],
        [Fault("flip", "resolve", "config.json", at=3)],
    ],
    ids=lambda faults: "+".join(
        fault.kind + (str(fault.status) if fault.kind == "status" else "") for fault in faults
    ),
)
def test_passing_faults_end_in_a_whole_snapshot(
    hub: Start, monkeypatch: pytest.MonkeyPatch, faults: list[Fault]
) -> None:
    monkeypatch.setenv("MPSPROBE_STALL_TIMEOUT", "0.4")
    hub(Repository(files := model(), faults=faults))
    folder = fetched().folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


@pytest.mark.parametrize(
    ("fault", "error", "says", "hint"),
    [
        (Fault("flip", "cdn", WEIGHTS, at=1_500_000), client.DamagedFileError, "sha256", "HF_ENDPOINT"),
        (Fault("truncate", "cdn", WEIGHTS, at=1_500_000), client.HubUnreachableError, "byte 1,500,000", "resumes"),
        (Fault("status", "cdn", WEIGHTS, skip=1), client.HubUnreachableError, "answers 500", "later"),
        (Fault("status", "api", status=503), client.HubUnreachableError, "answers 503", "later"),
        (Fault("status", "resolve", WEIGHTS, status=429, headers={"Retry-After": "900"}), client.RateLimitError,
         "429", "Wait 900 s"),
        (Fault("status", "resolve", WEIGHTS, status=403), client.TokenError, "403", "HF_TOKEN"),
        (Fault("status", "resolve", WEIGHTS, status=404), client.NoSuchModelError, "404", "again"),
        (Fault("loop", "resolve", WEIGHTS), client.HubUnreachableError, "circle", "proxy"),
        (Fault("html", "api"), client.HubUnreachableError, "not as the hub does", "sign-in"),
        (Fault("cut", "api"), client.HubUnreachableError, "no JSON", "sign-in"),
        (Fault("text", "api", headers={"text": "[]"}), client.HubUnreachableError, "no object", "sign-in"),
        (Fault("text", "api", headers={"text": '{"sha": 7}'}), client.HubUnreachableError, "no commit", "API"),
        (Fault("redirect", "resolve", WEIGHTS, headers={"Location": "file:///etc/passwd"}),
         client.HubUnreachableError, "an address that is none", "proxy"),
        (Fault("trickle", "cdn", WEIGHTS, at=200_000), client.HubUnreachableError, "sends next to nothing", "STALL"),
        (Fault("pointer", "cdn", WEIGHTS, skip=1), client.HubUnreachableError, "Git LFS pointer in place",
         "HF_ENDPOINT"),
        (Fault("status", "resolve", WEIGHTS, status=407), client.HubUnreachableError, "a name and a password",
         "HTTPS_PROXY"),
        (Fault("status", "resolve", WEIGHTS, status=429, headers={"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}),
         client.RateLimitError, "429", "Wait 2"),
    ],
    ids=lambda value: value.kind + str(value.status) if isinstance(value, Fault) else "",
)  # fmt: skip
def test_lasting_faults_end_in_one_line(
    hub: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    error: type[TargetError],
    says: str,
    hint: str,
) -> None:
    monkeypatch.setenv("MPSPROBE_STALL_TIMEOUT", "0.4")
    fault.times = -1
    hub(Repository(files := model(), faults=[fault]))
    with pytest.raises(error) as caught:
        fetched()
    assert says in caught.value.what
    assert hint in caught.value.hint
    assert "org/model" in caught.value.what
    assert fault.where == "api" or WEIGHTS in caught.value.what
    assert caught.value.exit_code == 3
    assert not blob(tmp_path, files[WEIGHTS]).exists(), "nothing damaged is put into place"


def test_access_is_told_apart(hub: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(
        Repository(model()),
        org__gated=Repository(model(), gated=True),
        org__private=Repository(model(), private=True),
    )
    with pytest.raises(client.GatedError, match="gated, and no token") as caught:
        client.preflight("org/gated")
    assert f"{constants.ENDPOINT}/org/gated" in caught.value.hint
    with pytest.raises(client.NoSuchModelError, match="private and no token"):
        client.preflight("org/private")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    metadata.pinned.cache_clear()
    with pytest.raises(client.GatedError, match=r"403.*account has no access"):
        client.preflight("org/gated")
    assert client.preflight("org/private").info.private
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    metadata.pinned.cache_clear()
    with pytest.raises(client.TokenError, match="token is not valid"):
        client.preflight("org/model")


@pytest.mark.parametrize(
    ("repo", "revision", "says"),
    [
        ("org/nothing", None, "no such model"),
        ("org/model", "v9", "no revision v9"),
        ("not a repo!", None, "not a repo"),
    ],
)
def test_names_that_mean_nothing_are_refused(hub: Start, repo: str, revision: str | None, says: str) -> None:
    hub(Repository(model()))
    with pytest.raises(client.NoSuchModelError, match=says):
        client.preflight(repo, revision)


def test_no_token_is_sent_to_the_host_of_large_files(hub: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    served = hub(Repository(model(), private=True))
    fetched()
    sent = {
        path.split("?")[0].split("/")[1]
        for (_, path, _), token in zip(served.requests, served.tokens, strict=True)
        if token
    }
    assert sent == {"api", "org"}


def test_files_of_a_moving_branch_are_of_one_commit(hub: Start) -> None:
    newer = model(4_000_000)
    repository = Repository(
        files := model(), commits={OTHER: newer}, faults=[Fault("move", "resolve", skip=1)]
    )
    hub(repository)
    done = fetched()
    assert repository.refs["main"] == OTHER
    assert done.folder.name == COMMIT
    assert {path.name: path.read_bytes() for path in done.folder.iterdir()} == files
    metadata.pinned.cache_clear()
    assert (fetched().folder / WEIGHTS).read_bytes() == newer[WEIGHTS]


def test_a_commit_that_vanishes_is_told(hub: Start) -> None:
    repository = Repository(model())
    hub(repository)
    plan = client.preflight("org/model")
    repository.commits = {OTHER: model()}
    with pytest.raises(client.NoSuchModelError, match="no revision aaaaaaaa") as caught:
        client.download(plan)
    assert "force-pushed" in caught.value.hint


def test_offline_finds_every_name_of_a_commit(hub: Start) -> None:
    hub(Repository(model(), refs={"v1": COMMIT}))
    folder = fetched().folder
    client.download(client.preflight("org/model", "v1"))
    for revision in (None, "main", "v1", COMMIT):
        assert client.cached_snapshot("org/model", revision) == folder
        assert client.fetch_file("org/model", "config.json", revision, offline=True) == folder / "config.json"
    for revision in ("v2", "c" * 40, "../../.."):
        with pytest.raises(client.NotCachedError):
            client.cached_snapshot("org/model", revision)


def test_offline_names_the_files_that_are_missing(hub: Start, tmp_path: Path) -> None:
    hub(Repository(files := model(merges__txt=b"a b")))
    folder = fetched().folder
    blob(tmp_path, files[WEIGHTS]).unlink()
    (folder / "merges.txt").unlink()
    with pytest.raises(
        client.NotCachedError, match=rf"2 files of commit {COMMIT[:12]}.*merges.txt, {WEIGHTS}"
    ):
        client.cached_snapshot("org/model")


def test_shards_of_an_index_are_missed_without_a_plan(hub: Start, tmp_path: Path) -> None:
    """A cache that others filled: the index says which weights belong to it."""
    folder = tmp_path / "hub/models--org--model/snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "one.safetensors", "b": "../x"}}'
    )
    hub(Repository(model()))
    with pytest.raises(client.NotCachedError, match=r"1 files .*: one\.safetensors"):
        client.cached_snapshot("org/model", COMMIT)


def test_a_file_the_repository_lacks_is_none(hub: Start) -> None:
    served = hub(Repository(model()))
    assert client.fetch_file("org/model", "generation_config.json") is None
    assert [path.split("?")[0] for _, path, _ in served.requests] == ["/api/models/org/model"], (
        "the listing says so"
    )


def test_the_cache_serves_when_the_hub_fails(hub: Start) -> None:
    repository = Repository(model())
    hub(repository)
    folder = fetched().folder
    metadata.pinned.cache_clear()
    repository.faults.append(Fault("status", "api", status=503, times=-1))
    assert client.fetch_file("org/model", "config.json") == folder / "config.json"
    assert client.fetch_file("org/model", "generation_config.json") is None


def test_a_hub_that_is_not_there_is_named(hub: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    hub()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(client.HubUnreachableError, match=r"127\.0\.0\.1:9 cannot be made"):
        client.preflight("org/model")


def test_too_small_a_disk_is_told_before_anything_is_fetched(
    hub: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = hub(Repository(model(), faults=[]))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1 << 30})())
    with pytest.raises(client.DiskFullError, match=r"3\.00 MB to download") as caught:
        fetched()
    assert "Free 3.00 MB" in caught.value.hint
    assert not [r for r in served.requests if "/resolve/" in r[1] and r[2] != "bytes=0-131071"]


def test_a_hub_without_checksums_is_compared_by_size(hub: Start) -> None:
    """A mirror may list no checksums: the ETag of a HEAD request says what the file is."""
    hub(Repository(files := model(), checksums=False))
    done = fetched()
    assert set(done.unverified) == set(files)
    assert (done.folder / WEIGHTS).read_bytes() == files[WEIGHTS]


def test_a_hostile_listing_is_refused(hub: Start) -> None:
    hub(Repository({**model(2000), "../../evil.py": b"x"}))
    with pytest.raises(client.NoSuchModelError, match="cannot lie in its folder"):
        client.preflight("org/model")


@pytest.mark.parametrize(
    "name",
    ["/etc/x", "a/../../x", "a//b", "./x", "a/", "x\\y", "x\0", "x\n", "\udc80", "a\u202egnp.py", "n" * 300,
     "config.json/x"],
)  # fmt: skip
def test_names_that_no_folder_can_hold_are_refused(hub: Start, name: str) -> None:
    hub(Repository(model(2000), listing=lambda info: info["siblings"].append({"rfilename": name, "size": 1})))
    with pytest.raises(
        client.NoSuchModelError, match=r"cannot lie in its folder|both as a file and as a folder"
    ):
        client.preflight("org/model")


def test_names_that_differ_only_in_case_are_found(hub: Start) -> None:
    """APFS and HFS+ take these names for one, unless the volume was made case-sensitive."""
    assert metadata.collisions(["a/X.py", "b", "A/x.py", "cafe\u0301", "caf\u00e9"]) == [
        ("a/X.py", "A/x.py"),
        ("cafe\u0301", "caf\u00e9"),
    ]
    hub(Repository({**model(2000), "Config.json": b"{}"}))
    assert len(fetched().folder.name) == 40, "this disk tells them apart"


def test_a_renamed_repository_is_followed_and_told(hub: Start) -> None:
    hub(Repository(renamed_to="org/new"), org__new=Repository(files := model()))
    plan = client.preflight("org/model")
    assert plan.info.renamed == "org/new"
    folder = client.download(plan).folder
    assert "models--org--model" in str(folder)
    assert (folder / WEIGHTS).read_bytes() == files[WEIGHTS]


def test_a_disabled_repository_is_told(hub: Start) -> None:
    hub(
        Repository(model(2000), listing=lambda info: info.update(disabled=True)),
        org__b=Repository(disabled=True),
    )
    for name in ("org/model", "org/b"):
        with pytest.raises(client.HubError, match="has disabled this repository"):
            client.preflight(name)


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.model"])
def test_a_pointer_in_place_of_a_file_is_told(hub: Start, name: str) -> None:
    """A clone without git-lfs, uploaded again, holds pointers in place of its large files."""
    hub(Repository({**model(2000), name: pointer(b"x" * 5000)}))
    for _ in range(2):
        with pytest.raises(TargetError, match=rf"{name}: in the repository it is a Git LFS pointer"):
            fetched()


@pytest.mark.parametrize(
    "address",
    ["huggingface.co", "ftp://huggingface.co", "http://", "http://[::1", "http://a:99999", "http://a b"],
)
def test_an_endpoint_that_is_no_address_is_told(
    hub: Start, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    hub()
    monkeypatch.setattr(constants, "ENDPOINT", address)
    assert not client.offline()
    with pytest.raises(client.HubUnreachableError, match="no address of a web server"):
        client.preflight("org/model")


@pytest.mark.parametrize("token", ["hf_\u2026", "hf_a b\tc", "hf_\x7f"])
def test_a_token_that_cannot_be_sent_is_told(hub: Start, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    hub(Repository(model(2000)))
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(client.TokenError, match=r"the token (holds characters|is not valid)"):
        client.preflight("org/model")


def test_a_download_is_compared_without_reading_it_again(hub: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(Repository(model(), faults=[Fault("drop", "cdn", WEIGHTS, at=1_500_000)]))

    def refuse(*_arguments: object) -> str:
        raise AssertionError("the file was read again")

    monkeypatch.setattr(integrity, "checksum_of", refuse)
    assert not fetched().unverified
    metadata.pinned.cache_clear()
    assert fetched().fetched_bytes == 0, "and it is remembered"


def test_a_disk_without_links_is_filled_once(
    hub: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(Repository(files := model()))

    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    folder = fetched().folder
    assert not (folder / WEIGHTS).is_symlink()
    assert not blob(tmp_path, files[WEIGHTS]).exists()
    metadata.pinned.cache_clear()
    assert fetched().fetched_bytes == 0
    (folder / WEIGHTS).write_bytes(b"y" * len(files[WEIGHTS]))
    assert client.verify_cached(folder, "org/model") == [WEIGHTS]
    assert fetched().fetched_bytes == len(files[WEIGHTS])
    assert (folder / WEIGHTS).read_bytes() == files[WEIGHTS]


@pytest.mark.parametrize("variable", ["MPSPROBE_STALL_TIMEOUT", "MPSPROBE_LOCK_TIMEOUT"])
@pytest.mark.parametrize("value", ["soon", "-1", "0", "nan", "inf"])
def test_a_limit_that_is_no_time_is_told(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=f"{variable} is '{value}'"):
        transport.seconds_of(variable, 60)


def test_progress_grows_to_the_total(hub: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(Repository(files := model(3_000_000), faults=[Fault("slow", "cdn", WEIGHTS, at=2_000_000, skip=1)]))
    seen: list[client.DownloadProgress] = []
    client.download(client.preflight("org/model"), seen.append)
    total = sum(map(len, files.values()))
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    assert (seen[-1].done, seen[-1].total, seen[-1].files[0].stage) == (total, total, "done")
    assert any(one.rate > 0 and one.left_s is not None for one in seen)


_HOLD = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_who_holds_a_lock_is_told_and_given_up(
    hub: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(Repository(files := model()))
    lock = tmp_path / "hub/.locks/models--org--model" / f"{hashlib.sha256(files[WEIGHTS]).hexdigest()}.lock"
    lock.parent.mkdir(parents=True)
    monkeypatch.setattr(locks, "PATIENCE", 1.0)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(lock)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        said: list[str] = []
        with pytest.raises(client.LockHeldError, match=rf"held by process {holder.pid} .*running since"):
            fetched(said)
        assert f"waiting for process {holder.pid}" in said[0]
        threading.Timer(0.6, holder.kill).start()
        assert (fetched().folder / WEIGHTS).read_bytes() == files[WEIGHTS]


_DOWNLOAD = """
import sys
from mpsprobe.models.hub import client
done = client.download(client.preflight("org/model"), None, lambda line: print(line, flush=True))
print("DONE", done.fetched_bytes)
"""


def child(served: Hub, tmp_path: Path, code: str = _DOWNLOAD) -> subprocess.Popen[str]:
    """Start a download in a process of its own, into the same cache."""
    environment: dict[str, Any] = {
        **os.environ,
        "HF_ENDPOINT": served.url,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "MPSPROBE_CACHE": str(tmp_path / "own"),
    }
    return subprocess.Popen(
        [sys.executable, "-c", _DOWNLOAD], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_a_killed_download_is_resumed(hub: Start, tmp_path: Path) -> None:
    files = model(30_000_000)
    served = hub(Repository(files, faults=[Fault("slow", "cdn", WEIGHTS, at=5_000_000, skip=1)]))
    partial = blob(tmp_path, files[WEIGHTS]).with_name(blob(tmp_path, files[WEIGHTS]).name + ".incomplete")
    killed = child(served, tmp_path)
    until = time.monotonic() + 60
    while (not partial.exists() or partial.stat().st_size < 5_000_000) and time.monotonic() < until:
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    there = partial.stat().st_size
    done = fetched()
    assert done.fetched_bytes == len(files[WEIGHTS]) - there
    assert (done.folder / WEIGHTS).read_bytes() == files[WEIGHTS]


def test_two_processes_fetch_a_file_once(hub: Start, tmp_path: Path) -> None:
    files = model(10_000_000)
    served = hub(Repository(files, faults=[Fault("slow", "cdn", WEIGHTS, at=4_000_000, skip=2)]))
    both = [child(served, tmp_path) for _ in range(2)]
    output = [one.communicate(timeout=120)[0] for one in both]
    counts = sorted(int(text.split("DONE ")[1]) for text in output)
    assert sum(counts) == sum(map(len, files.values())), output
    assert (fetched().folder / WEIGHTS).read_bytes() == files[WEIGHTS]
