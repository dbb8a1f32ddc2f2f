import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mpsprobe.models.hub import snapshot
from mpsprobe.models.hub.snapshot import (
    ConfigError,
    NoWeightsError,
    PickledWeightsError,
    ShardError,
    SnapshotError,
    WeightsError,
    inspect,
    read_header,
)

TENSORS = {
    "a": torch.zeros(3, 4, dtype=torch.bfloat16),
    "b": torch.zeros(5, dtype=torch.float32),
    "c": torch.zeros((), dtype=torch.int64),
    "empty": torch.zeros(0, 7, dtype=torch.float16),
}


def write_config(folder: Path, **values: object) -> None:
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **values}))


@pytest.fixture
def single(tmp_path: Path) -> Path:
    write_config(tmp_path)
    save_file(TENSORS, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    write_config(tmp_path)
    files = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for name, file in files.items():
        save_file({name: TENSORS[name]}, tmp_path / file)
    (tmp_path / snapshot.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return tmp_path


def header_file(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_counts_what_torch_counts(single: Path) -> None:
    found = inspect(single)
    assert found.files == ("model.safetensors",)
    assert found.weight_bytes == sum(tensor.nbytes for tensor in TENSORS.values())
    assert found.parameters == sum(tensor.numel() for tensor in TENSORS.values())
    assert found.dtypes == {"bfloat16": 12, "float32": 5, "int64": 1, "float16": 0}
    assert next(iter(found.dtypes)) == "bfloat16"
    assert found.architecture == "LlamaForCausalLM"


@pytest.mark.parametrize(
    "dtype", [d for d in snapshot._DTYPES.values() if hasattr(torch, d[0]) and d[1] >= 8]
)
def test_every_dtype_has_torchs_name_and_size(dtype: tuple[str, int], tmp_path: Path) -> None:
    name, bits = dtype
    assert getattr(torch, name).itemsize * 8 == bits
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.zeros(4, dtype=torch.uint8).repeat(bits // 8).view(getattr(torch, name))}, path)
    assert read_header(path)["x"] == snapshot.StoredTensor(name, (4,), 4 * bits // 8)


def test_shards_are_read_in_order(sharded: Path) -> None:
    found = inspect(sharded)
    assert found.files == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert found.parameters == 17


def test_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ShardError, match=r"1 of 2 shards missing: model-00002-of-00002\.safetensors"):
        inspect(sharded)


def test_link_to_a_blob_that_is_gone_is_a_missing_shard(sharded: Path) -> None:
    shard = sharded / "model-00001-of-00002.safetensors"
    shard.unlink()
    shard.symlink_to(sharded / "blobs" / "none")
    with pytest.raises(ShardError, match="model-00001-of-00002"):
        inspect(sharded)


def test_index_of_another_version_is_found(sharded: Path) -> None:
    index = json.loads((sharded / snapshot.INDEX).read_text())
    index["weight_map"]["z"] = "model-00001-of-00002.safetensors"
    (sharded / snapshot.INDEX).write_text(json.dumps(index))
    with pytest.raises(ShardError, match="1 tensors are not in their shards, first 'z'"):
        inspect(sharded)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "[]", "{"])
def test_malformed_index(sharded: Path, content: str) -> None:
    (sharded / snapshot.INDEX).write_text(content)
    with pytest.raises(ShardError, match=r"index\.json"):
        inspect(sharded)


def test_index_may_not_leave_the_folder(sharded: Path) -> None:
    (sharded / snapshot.INDEX).write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    with pytest.raises(ShardError, match="outside the folder"):
        inspect(sharded)


def test_shards_without_their_index(sharded: Path) -> None:
    (sharded / snapshot.INDEX).unlink()
    with pytest.raises(ShardError, match=r"no model\.safetensors\.index\.json"):
        inspect(sharded)


def test_config_errors_have_line_and_column(single: Path) -> None:
    (single / "config.json").write_text('{\n  "a": 1,\n  "b": ,\n}')
    with pytest.raises(ConfigError, match=r"config\.json: not valid JSON: .* line 3, column 8"):
        inspect(single)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"[1]", "expected a JSON object, found list"), (b"\xff\xfe{}", "not UTF-8"), (b"", "line 1, column 1")],
)
def test_config_that_is_no_object(single: Path, content: bytes, said: str) -> None:
    (single / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        inspect(single)


@pytest.mark.parametrize("named", [None, [], "LlamaForCausalLM", [3]])
def test_config_without_architecture(single: Path, named: object) -> None:
    write_config(single, architectures=named)
    assert inspect(single).architecture is None


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="no such folder"):
        inspect(tmp_path / "none")


@pytest.mark.parametrize(
    ("file", "hint"),
    [
        ("adapter_config.json", "PEFT"),
        ("model_index.json", "diffusers"),
        ("unet/config.json", "Did you mean"),
        ("parakeet.nemo", "restore_from"),
        ("hyperparams.yaml", "SpeechBrain"),
        ("model.onnx", "ONNX Runtime"),
        ("Model.mlpackage/Manifest.json", "Core ML"),
        ("program.pt2", "torch.export.load"),
        ("best.pt", "predict package.module:Class"),
        ("notes.txt", "Name a folder"),
    ],
)
def test_folder_without_config_says_what_it_is(tmp_path: Path, file: str, hint: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text('{"base_model_name_or_path": "org/base"}')
    with pytest.raises(ConfigError) as caught:
        inspect(tmp_path)
    assert hint in caught.value.hint


def test_no_weights(tmp_path: Path) -> None:
    write_config(tmp_path)
    with pytest.raises(NoWeightsError, match="no safetensors weights"):
        inspect(tmp_path)
    (tmp_path / "model.Q4_K_M.gguf").touch()
    with pytest.raises(NoWeightsError, match="Q4_K_M"):
        inspect(tmp_path)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    write_config(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(PickledWeightsError, match=r"pytorch_model\.bin"):
        inspect(tmp_path)


def test_remarks_say_what_would_not_load(single: Path) -> None:
    """transformers 4.52 and later ask for torch 2.6 before torch.load: utils/import_utils.py."""
    assert snapshot.remarks(single) == []
    (single / "model-Q8_0.gguf").touch()
    (single / "mmproj-f16.gguf").touch()
    assert [("model-Q8_0.gguf" in one, "mmproj" in one) for one in snapshot.remarks(single)] == [
        (True, False)
    ]
    (single / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    )
    assert "Git LFS pointer" in snapshot.remarks(single)[0]
    (single / "model.safetensors").unlink()
    (single / "pytorch_model-00001-of-00002.bin").touch()
    names = {name: f"pytorch_model-0000{at}-of-00002.bin" for at, name in enumerate("ab", 1)}
    (single / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    pickled, missing, _ = snapshot.remarks(single)
    assert "with torch 2.6 or later" in pickled
    assert "1 of 2 shards missing: pytorch_model-00002-of-00002.bin" in missing


def test_remarks_on_weights_of_other_frameworks(tmp_path: Path) -> None:
    write_config(tmp_path)
    assert snapshot.remarks(tmp_path) == []
    (tmp_path / "flax_model.msgpack").touch()
    assert "no weights of PyTorch, only flax_model.msgpack" in snapshot.remarks(tmp_path)[0]


def test_remarks_on_shards(sharded: Path) -> None:
    first, second = sorted(sharded.glob("*.safetensors"))
    second.unlink()
    assert "1 of 2 shards missing" in snapshot.remarks(sharded)[0]
    first.unlink()
    assert snapshot.remarks(sharded) == []  # an index alone was fetched to count the bytes


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["b-Q8_0.gguf", "a-Q4_0.gguf"], "predict {}/a-Q4_0.gguf (the folder holds 2 models"),
        (["a-00002-of-00002.gguf", "a-00001-of-00002.gguf"], "predict {}/a-00001-of-00002.gguf. "),
        (["mmproj-f16.gguf", "z-Q4_0.gguf"], "predict {}/z-Q4_0.gguf. "),
        (["mmproj-f16.gguf"], "predict {}/mmproj-f16.gguf. "),
    ],
)
def test_folder_of_gguf_files_names_its_models(tmp_path: Path, names: list[str], named: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ConfigError) as caught:
        inspect(tmp_path)
    assert named.format(tmp_path) in caught.value.hint


def test_file_without_tensors(tmp_path: Path) -> None:
    write_config(tmp_path)
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(NoWeightsError, match="hold no tensors"):
        inspect(tmp_path)


def test_lfs_pointer(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5000000000\n")
    with pytest.raises(WeightsError, match="Git LFS pointer") as caught:
        read_header(path)
    assert "git lfs pull" in caught.value.hint


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_truncation_is_found(single: Path, data: st.DataObject) -> None:
    whole = (single / "model.safetensors").read_bytes()
    path = single / "cut.safetensors"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(WeightsError):
        read_header(path)


FLOATS = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"x": FLOATS}, b"1234567"),
        ({"x": FLOATS}, b"123456789"),
        ({"x": {**FLOATS, "shape": [3]}}, bytes(8)),
        ({"x": {**FLOATS, "data_offsets": [4, 12]}}, bytes(12)),
        ({"x": FLOATS, "y": {**FLOATS, "data_offsets": [4, 12]}}, bytes(12)),
        ({"x": {**FLOATS, "data_offsets": [8, 0]}}, bytes(8)),
        ({"x": {**FLOATS, "shape": [-2]}}, bytes(8)),
        ({"x": {**FLOATS, "shape": "2"}}, bytes(8)),
        ({"x": {"dtype": "F32"}}, bytes(8)),
        ({"x": 3}, b""),
        ([], b""),
        (b"{", b""),
        (b"\xff", b""),
    ],
)
def test_what_the_reference_refuses_is_refused(header: object, data: bytes, tmp_path: Path) -> None:
    path = header_file(tmp_path / "x.safetensors", header, data)
    with pytest.raises(SafetensorError), safe_open(path, framework="pt"):
        pass
    with pytest.raises(WeightsError, match=r"x\.safetensors"):
        read_header(path)


def test_unknown_dtype_keeps_its_name(tmp_path: Path) -> None:
    header = {"x": {"dtype": "F2", "shape": [8], "data_offsets": [0, 2]}}
    assert read_header(header_file(tmp_path / "x", header, bytes(2)))["x"].dtype == "F2"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_unreadable_weights(single: Path) -> None:
    (single / "model.safetensors").chmod(0)
    with pytest.raises(WeightsError, match="cannot be read"):
        inspect(single)
