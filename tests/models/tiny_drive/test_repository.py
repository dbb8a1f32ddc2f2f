import hashlib
import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mpsprobe.errors import TargetError
from mpsprobe.models.hub import snapshot as snapshots
from mpsprobe.models.tiny_drive import repository

#: Of the weights, the same on every platform and release: a change means that old caches hold other weights,
#: so RECIPE must grow.
WEIGHTS = "fcfab806f8f60ecd"


@pytest.fixture
def cache(tmp_path: Path, snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; building copies what was built once."""
    monkeypatch.setenv("MPSPROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        repository, "build", lambda folder: shutil.copytree(snapshot, folder, dirs_exist_ok=True)
    )
    return tmp_path / "cache"


def test_is_a_sharded_repository(snapshot: Path) -> None:
    found = snapshots.inspect(snapshot)
    assert len(found.files) >= 2
    assert found.dtypes.keys() == {"bfloat16"}
    assert found.architecture == "TinyDrive"
    assert sum(file.stat().st_size for file in snapshot.iterdir()) < 12e6


def test_bytes_depend_on_nothing_but_the_seed(snapshot: Path, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(99)
        repository.build(tmp_path)
    names = sorted(file.name for file in snapshot.iterdir())
    assert names == sorted(file.name for file in tmp_path.iterdir())
    for name in names:
        assert (snapshot / name).read_bytes() == (tmp_path / name).read_bytes(), name
    shards = b"".join((tmp_path / name).read_bytes() for name in snapshots.inspect(tmp_path).files)
    assert hashlib.sha256(shards).hexdigest()[:16] == WEIGHTS


def test_weights_keep_the_scale_of_activations(snapshot: Path) -> None:
    tensors = {
        k: v for file in snapshots.inspect(snapshot).files for k, v in load_file(snapshot / file).items()
    }
    down = tensors["vlm.model.language_model.layers.0.mlp.down_proj.weight"].float()
    assert float(down.std()) == pytest.approx(down.shape[1] ** -0.5, rel=0.02)
    assert float(down.mean()) == pytest.approx(0, abs=3 * float(down.std()) / down.numel() ** 0.5)
    assert not torch.equal(down, tensors["vlm.model.language_model.layers.1.mlp.down_proj.weight"].float())
    assert bool((tensors["expert.norm.weight"] == 1).all())


def test_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = repository.ensure()
    assert folder.parent == cache
    monkeypatch.setattr(repository, "build", lambda _: pytest.fail("built again"))
    assert repository.ensure() == folder
    assert list(cache.iterdir()) == [folder]


@pytest.mark.parametrize("file", ["model-00002-of-00002.safetensors", "config.json", "tokenizer.json"])
def test_damaged_one_is_made_again(cache: Path, snapshot: Path, file: str) -> None:
    damaged = repository.ensure() / file
    damaged.write_bytes(damaged.read_bytes()[:100]) if file.endswith("safetensors") else damaged.unlink()
    folder = repository.ensure()
    assert (folder / file).read_bytes() == (snapshot / file).read_bytes()
    assert list(cache.iterdir()) == [folder]


def test_two_builders_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build, both_built, results = repository.build, threading.Barrier(2, timeout=30), []

    def slow_build(folder: Path) -> None:
        build(folder)
        both_built.wait()  # neither is in place yet

    monkeypatch.setattr(repository, "build", slow_build)
    threads = [threading.Thread(target=lambda: results.append(repository.ensure())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(results) == 2
    assert results[0] == results[1]
    assert list(cache.iterdir()) == [results[0]]
    snapshots.inspect(results[0])


def test_failed_build_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repository, "build", fail)
    with pytest.raises(TargetError, match="No space left on device"):
        repository.ensure()
    assert list(cache.iterdir()) == []


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MPSPROBE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(TargetError) as caught:
        repository.ensure()
    assert "MPSPROBE_CACHE" in caught.value.hint


def test_another_config_has_another_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = repository._digest()
    changed = json.loads(json.dumps(repository.CONFIG))
    changed["flow_steps"] = 11
    monkeypatch.setattr(repository, "CONFIG", changed)
    assert repository._digest() != before
