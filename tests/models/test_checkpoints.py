"""Checkpoints as people have them: quantised folders, GGUF files, PEFT adapters; judged by the real commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from mpsprobe.cli import cli
from mpsprobe.errors import TargetError, UsageError
from mpsprobe.knowledge import quantisation
from mpsprobe.models import peft, quantised
from mpsprobe.models.hub import integrity
from mpsprobe.models.weightless import gguf
from tests.support import packed_checkpoints

TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "torch_dtype": "bfloat16",
}


def _folder(where: Path, **more: Any) -> Path:
    where.mkdir(parents=True, exist_ok=True)
    (where / "config.json").write_text(json.dumps({**TINY, **more}))
    return where


def _predicted(model: Path | str, *options: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(cli, ["predict", str(model), "--torch", "2.13", *options, "--json"])
    assert result.exit_code in (0, 1), result.output
    return result.exit_code, json.loads(result.stdout)


def test_checkpoint_that_does_not_load_is_not_advised(tmp_path: Path) -> None:
    folder = _folder(tmp_path, quantization_config={"quant_method": "higgs", "bits": 4, "group_size": 256})
    code, document = _predicted(folder, "--mac", "m1-max-32")
    assert code == 1
    assert [one["kind"] for one in document["predicted"]["refusals"]] == ["quantisation"]
    assert "only supported on GPU" in document["predicted"]["refusals"][0]["message"]
    advice = document["outlook"]["recommendation"]
    assert advice["route"] != "mps"


def test_missing_package_is_the_one_change(tmp_path: Path) -> None:
    folder = _folder(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 64})
    code, document = _predicted(folder, "--mac", "m1-max-32")
    assert code == 1
    assert "optimum" in document["outlook"]["recommendation"]["sentence"]


@pytest.mark.parametrize("options", [(), ("--mac", "m1-max-32")])
def test_packed_weights_get_no_promise_of_mps(tmp_path: Path, options: tuple[str, ...]) -> None:
    """transformers 4.57.1 needs no package for BitNet, and its BitLinear unpacks the weights in each forward pass."""
    folder = _folder(tmp_path, quantization_config={"quant_method": "bitnet"})
    code, document = _predicted(folder, *options)
    found = document["predicted"]["quantisation"]
    assert (code, found["outcome"], found["packed"]) == (1, "packed", True)
    text = CliRunner().invoke(cli, ["predict", str(folder), "--torch", "2.13", *options]).output
    said = " ".join(text.split())
    assert "the ops of packed weights are not predicted. With plain weights, all" in said
    assert " All " not in said.partition("LlamaForCausalLM (")[0]
    assert "Use MPS" not in said
    if options:
        routes = {one["name"]: one["viability"] for one in document["outlook"]["routes"]}
        assert routes["mps"] == "unknown"
        assert "would run" in document["outlook"]["routes"][0]["reasons"][0]


def test_releases_promise_nothing_of_packed_weights(tmp_path: Path) -> None:
    folder = _folder(tmp_path, quantization_config={"quant_method": "bitnet"})
    result = CliRunner().invoke(cli, ["predict", str(folder), "--torch", "all", "--json"])
    assert result.exit_code == 1
    made = json.loads(result.stdout)["predicted"]
    assert made["first_fully_native"] is None
    assert not any(one["fully_native"] for one in made["releases"])


def test_packed_weights_count_by_their_bits(tmp_path: Path) -> None:
    """Seven linear layers of a block of 64 x 64, 64 x 32, 64 x 128 weights; embeddings and lm_head stay bfloat16."""
    folder = _folder(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 64})
    _, document = _predicted(folder, "--mac", "m1-max-32")
    linear = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    plain = document["target"]["weight_bytes"]
    expected = round(plain - 2 * linear + linear * (4 + 20 / 64) / 8)
    assert abs(document["predicted"]["quantisation"]["checkpoint_bytes"] - expected) <= 14
    parts = {one["name"]: one["bytes"] for one in document["outlook"]["forecast"]["memory"]["parts"]}
    assert parts["weights"] < plain


def test_dequantised_weights_count_in_full(tmp_path: Path) -> None:
    folder = _folder(tmp_path, quantization_config={"quant_method": "mxfp4"})
    code, document = _predicted(folder, "--mac", "m1-max-32")
    assert code == 0
    assert document["predicted"]["quantisation"]["outcome"] == "dequantises"
    parts = {one["name"]: one["bytes"] for one in document["outlook"]["forecast"]["memory"]["parts"]}
    assert parts["weights"] >= document["target"]["weight_bytes"]


@pytest.mark.parametrize(
    ("file", "content", "method"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 128, "desc_act": False}, "GPTQ, 4 bits"),
        ("quant_config.json", {"zero_point": True, "q_group_size": 128, "w_bit": 4}, "AWQ, 4 bits"),
        (
            "hf_quant_config.json",
            {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "group_size": 16}},
            "NVIDIA ModelOpt, 4 bits",
        ),
    ],
)
def test_a_file_of_an_older_tool_is_not_read(
    tmp_path: Path, file: str, content: dict[str, Any], method: str
) -> None:
    folder = _folder(tmp_path)
    (folder / file).write_text(json.dumps(content))
    code, document = _predicted(folder, "--mac", "m1-max-32")
    found = document["predicted"]["quantisation"]
    assert (code, found["method"], found["outcome"]) == (1, method, "ignored")
    assert file in found["sentences"][0]
    assert document["outlook"]["recommendation"]["route"] != "mps"


@pytest.mark.parametrize(
    ("weight", "beside", "method"),
    [
        (
            torch.zeros(64, 64, dtype=torch.float8_e4m3fn),
            {"weight_scale": torch.ones(1)},
            "fine-grained fp8, 8 bits",
        ),
        (
            torch.zeros(64, 32, dtype=torch.uint8),
            {"weight_scale": torch.zeros(64, 4, dtype=torch.float8_e4m3fn)},
            "NVIDIA ModelOpt, 4 bits",
        ),
        (
            torch.zeros(64, 8, dtype=torch.uint32),
            {"scales": torch.ones(64, 1), "biases": torch.ones(64, 1)},
            "MLX's",
        ),
        (torch.zeros(2048, 1, dtype=torch.uint8), {"weight.absmax": torch.ones(64)}, "bitsandbytes, 4 bits"),
    ],
)
def test_packed_tensors_without_a_statement_are_seen(
    tmp_path: Path, weight: torch.Tensor, beside: dict[str, torch.Tensor], method: str
) -> None:
    from safetensors.torch import save_file

    folder = _folder(tmp_path)
    stem = "model.layers.0.self_attn.q_proj"
    tensors = {f"{stem}.weight": weight, **{f"{stem}.{name}": value for name, value in beside.items()}}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    found = quantised.of_folder(folder, json.loads((folder / "config.json").read_text()))
    assert found is not None
    assert found.title.startswith(method)
    assert quantisation.answer(found, "4.57.1").fails


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("quant_config.json", '{"note": "of another tool"}'),
        ("hf_quant_config.json", '{"quantization": {"quant_algo": null}}'),
        ("quantize_config.json", "[1, 2"),
    ],
)
def test_a_side_file_that_states_nothing_is_none(tmp_path: Path, file: str, content: str) -> None:
    folder = _folder(tmp_path)
    (folder / file).write_text(content)
    assert quantised.of_folder(folder, TINY) is None


def test_plain_float8_weights_are_no_quantisation(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = _folder(tmp_path)
    save_file({"a.weight": torch.zeros(4, 4, dtype=torch.float8_e4m3fn)}, folder / "model.safetensors")
    assert quantised.of_folder(folder, TINY) is None


def test_an_unknown_method_is_not_advised(tmp_path: Path) -> None:
    folder = _folder(tmp_path, quantization_config={"quant_method": "brand_new", "bits": 4})
    code, document = _predicted(folder, "--mac", "m1-max-32")
    assert code == 1
    assert document["outlook"]["recommendation"]["route"] != "mps"


def test_stored_fp8_checkpoint_is_refused_with_its_fix(tmp_path: Path) -> None:
    """A real checkpoint with float8 weights and scales: transformers raises, and the run names the way out."""
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = _folder(
        tmp_path / "fp8",
        quantization_config={
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": [32, 32],
        },
    )
    plain = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in TINY.items() if k != "architectures"}))
    tensors = {}
    for name, value in plain.state_dict().items():
        if "proj" in name:
            tensors[name] = value.to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = torch.ones(-(-value.shape[0] // 32), -(-value.shape[1] // 32))
        else:
            tensors[name] = value.to(torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    result = CliRunner().invoke(cli, ["run", str(folder), "--device", "emulated"])
    assert result.exit_code == 1
    assert "A GPU or XPU is needed for FP8 quantization" in result.output
    assert "transformers 5" in result.output


# ---------------------------------------------------------------------------------------------------------- GGUF


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    """A Llama of two layers, written by ggml's own package, half of it in Q8_0."""
    numpy = pytest.importorskip("numpy")
    writer_of = pytest.importorskip("gguf")
    path = tmp_path / "tiny.gguf"
    writer = writer_of.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list([f"t{i}" for i in range(128)])
    writer.add_tensor("token_embd.weight", numpy.zeros((128, 64), numpy.float32))
    writer.add_tensor("output.weight", numpy.zeros((128, 64), numpy.float32))
    kind = writer_of.GGMLQuantizationType.Q8_0
    packed = writer_of.quants.quantize(numpy.ones((64, 64), numpy.float32), kind)
    writer.add_tensor("blk.0.attn_q.weight", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_header_of_a_gguf_file(tiny_gguf: Path) -> None:
    header = gguf.read(tiny_gguf)
    assert header.architecture == "llama"
    assert header.types == {"F32": 2 * 128 * 64, "Q8_0": 64 * 64}
    assert header.nbytes == 2 * 128 * 64 * 4 + 64 * 64 * 34 // 32


def test_gguf_file_is_predicted(tiny_gguf: Path) -> None:
    code, document = _predicted(tiny_gguf)
    assert code in (0, 1)
    assert document["target"]["architecture"] == "LlamaForCausalLM"
    assert "llama.cpp runs this file" in document["predicted"]["quantisation"]["routes"][0]


def test_damaged_gguf_files_are_one_line(tiny_gguf: Path, tmp_path: Path) -> None:
    whole = tiny_gguf.read_bytes()
    for length in (0, 3, 4, 11, 30, 200):
        cut = tmp_path / f"cut{length}.gguf"
        cut.write_bytes(whole[:length])
        with pytest.raises(TargetError):
            gguf.read(cut)
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(TargetError, match="not a GGUF file"):
        gguf.read(other)


def _small_gguf(path: Path, architecture: str, kind: str = "model", parts: int = 0) -> Path:
    """Write a file with one tensor by ggml's own package."""
    numpy, gguf_package = pytest.importorskip("numpy"), pytest.importorskip("gguf")
    writer = gguf_package.GGUFWriter(path, architecture)
    writer.add_type(kind)
    sizes = {"block_count": 1, "context_length": 64, "embedding_length": 64, "feed_forward_length": 64}
    for name, value in {**sizes, "head_count": 4}.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_token_list([f"t{i}" for i in range(64)])
    if parts:
        writer.add_uint16("split.count", parts)
    writer.add_tensor("token_embd.weight", numpy.zeros((64, 64), numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_projector_file_is_no_model(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli, ["predict", str(_small_gguf(tmp_path / "mmproj.gguf", "clip", "mmproj"))]
    )
    assert isinstance(result.exception, TargetError)
    assert "--mmproj" in result.exception.hint


def test_one_part_of_a_gguf_model_says_so(tmp_path: Path) -> None:
    file = _small_gguf(tmp_path / "model-00001-of-00003.gguf", "llama", parts=3)
    notes = gguf.blueprint(file).notes
    assert any("one of 3 files" in note and "llama-gguf-split" in note for note in notes)


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 64},
            "Cannot merge LORA layers when the model is gptq",
        ),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "raises NotImplementedError"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "rounds the sum to the bits of the base"),
    ],
)
def test_adapter_of_a_quantised_base_is_merged_elsewhere(
    stated: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """peft's `_check_merge_allowed`, and its layers without a `merge` of their own."""
    base = _folder(tmp_path / "base", quantization_config=stated)
    (tmp_path / "adapter").mkdir()
    named = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": str(base)}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(named))
    _, document = _predicted(tmp_path / "adapter")
    assert any(said in note and "original model" in note for note in document["predicted"]["notes"])


def test_adapter_in_a_gguf_file_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="a LoRA adapter") as raised:
        gguf.blueprint(_small_gguf(tmp_path / "lora.gguf", "llama", "adapter"))
    assert "--lora" in (raised.value.hint or "")


def test_types_of_gguf_have_ggmls_sizes() -> None:
    """The package of llama.cpp's own repository lists weights and bytes of a block."""
    package = pytest.importorskip("gguf")
    for kind, (weights, nbytes) in package.GGML_QUANT_SIZES.items():
        if kind.name != "Q8_1":  # 36 bytes in ggml-common.h: two halves, where the package counts two floats
            assert gguf.TYPES[kind.value] == (kind.name, weights, nbytes)


@pytest.mark.parametrize(
    ("changed", "hint"),
    [
        ({"torch_dtype": "torch.bfloat16"}, "states the dtype 'torch.bfloat16'"),
        ({"torch_dtype": "auto"}, "states the dtype 'auto'"),
        ({"torch_dtype": "float8_e4m3fn"}, "--dtype bfloat16"),
        ({"rope_scaling": "none", "transformers_version": "4.30.0"}, "written by transformers 4.30.0"),
        ({"hidden_act": "none", "transformers_version": "4.40.1"}, "written by transformers 4.40.1"),
        (
            {"model_type": "parler_tts", "architectures": ["ParlerTTS"]},
            "mpsprobe predict PACKAGE:ParlerTTS --config",
        ),
    ],
)
def test_configs_that_cannot_be_read_have_a_next_step(
    changed: dict[str, Any], hint: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(cli, ["predict", str(_folder(tmp_path, **changed))])
    assert isinstance(result.exception, TargetError)
    assert hint in str(result.exception.hint)


def test_run_of_a_gguf_file_names_what_runs_it(tiny_gguf: Path) -> None:
    result = CliRunner().invoke(cli, ["run", str(tiny_gguf)])
    assert isinstance(result.exception, UsageError)
    assert "llama-cli -m" in result.exception.hint


# ---------------------------------------------------------------------------------------------------------- PEFT


def _adapter(where: Path, base: str) -> Path:
    where.mkdir()
    stated = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 8, "target_modules": ["q_proj"]}
    (where / "adapter_config.json").write_text(json.dumps(stated))
    return where


def test_adapter_is_predicted_as_its_base(tmp_path: Path) -> None:
    base = _folder(tmp_path / "base")
    code, document = _predicted(_adapter(tmp_path / "adapter", str(base)))
    assert code == 0
    assert document["target"]["architecture"] == "LlamaForCausalLM"
    note = next(one for one in document["predicted"]["notes"] if "PEFT adapter" in one)
    assert "LORA, rank 8" in note
    assert "merge_and_unload" in note


def test_adapter_without_its_base_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = _adapter(tmp_path / "adapter", "nobody/has-this-base")
    result = CliRunner().invoke(cli, ["predict", str(folder)])
    assert isinstance(result.exception, TargetError)
    assert "nobody/has-this-base" in result.exception.what
    assert "merge_and_unload" in result.exception.hint


def test_folder_with_a_model_is_no_adapter(tmp_path: Path) -> None:
    folder = _adapter(tmp_path / "both", "a/b")
    _folder(folder)
    assert peft.read(folder) is None


# ------------------------------------------------------------------------------------------- files that do not load


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _cut_in_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:20])


def _pointer(folder: Path, name: str = "model.safetensors") -> None:
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")


def _pickle(folder: Path) -> Path:
    from safetensors.torch import load_file

    whole = folder / "model.safetensors"
    torch.save(load_file(whole), folder / "pytorch_model.bin")
    whole.unlink()
    return folder / "pytorch_model.bin"


def _cut_pickle(folder: Path) -> None:
    file = _pickle(folder)
    file.write_bytes(file.read_bytes()[:-100])


def _pointer_to_pickle(folder: Path) -> None:
    _pointer(folder, _pickle(folder).name)


def _shards(folder: Path) -> None:
    import transformers

    auto: Any = transformers.AutoModelForCausalLM
    model = auto.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="200KB")


def _missing_shard(folder: Path) -> None:
    _shards(folder)
    next(iter(sorted(folder.glob("model-00002-*")))).unlink()


def _bad_index(folder: Path) -> None:
    _shards(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ')


def _of_flax(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "flax_model.msgpack")


def _whole_beside_cut_pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04")


@pytest.mark.parametrize(
    ("change", "fix"),
    [
        (_cut, "download model.safetensors again"),
        (_cut_in_header, "download model.safetensors again"),
        (_pointer, "run git lfs pull for model.safetensors"),
        (_cut_pickle, "download pytorch_model.bin again"),
        (_pointer_to_pickle, "run git lfs pull for pytorch_model.bin"),
        (_missing_shard, "download model-00002-of-"),
        (_bad_index, "download model.safetensors.index.json again"),
        (_of_flax, "convert flax_model.msgpack"),
        (_pickle, ""),
        (_shards, ""),
        (_whole_beside_cut_pickle, ""),
    ],
)
def test_faults_are_what_from_pretrained_raises_for(tmp_path: Path, change: Any, fix: str) -> None:
    import transformers

    folder = packed_checkpoints.plain(tmp_path / "model")
    change(folder)
    auto: Any = transformers.AutoModelForCausalLM
    try:
        auto.from_pretrained(folder)
    except Exception:
        raised = True
    else:
        raised = False
    found = [one for one in integrity.faults(folder) if not one.pickled]
    assert bool(found) is raised is bool(fix)
    assert all(one.fix.startswith(fix) for one in found)


def test_broken_weights_are_refused_with_file_and_fix(tmp_path: Path) -> None:
    folder = packed_checkpoints.plain(tmp_path / "model")
    _cut(folder)
    code, document = _predicted(folder, "--mac", "m1-max-32")
    assert code == 1
    assert [one["kind"] for one in document["predicted"]["refusals"]] == ["weights"]
    assert document["outlook"]["routes"][0]["viability"] == "with changes"
    first, *_ = document["outlook"]["recommendation"]["sentence"].split("(predicted")
    assert first.strip() == "Use MPS, after this: download model.safetensors again."
    text = CliRunner().invoke(cli, ["predict", str(folder), "--torch", "2.13"]).output
    assert "Its weights do not load: model.safetensors" in " ".join(text.split())


def test_pickles_are_refused_before_torch_2_6(tmp_path: Path) -> None:
    """utils/import_utils.py of transformers 4.57.1: `check_torch_load_is_safe` asks for torch 2.6."""
    folder = packed_checkpoints.plain(tmp_path / "model")
    _pickle(folder)
    kinds = {}
    for release in ("2.5", "2.6"):
        result = CliRunner().invoke(cli, ["predict", str(folder), "--torch", release, "--json"])
        refusals = json.loads(result.stdout)["predicted"]["refusals"]
        kinds[release] = [one["fix"] for one in refusals if one["kind"] == "weights"]
    assert "use torch 2.6 or later" in kinds["2.5"][0]
    assert kinds["2.6"] == []


def test_config_beside_an_index_is_only_asked_about(tmp_path: Path) -> None:
    folder = packed_checkpoints.plain(tmp_path / "model")
    _shards(folder)
    for one in folder.glob("*.safetensors"):
        one.unlink()
    assert integrity.faults(folder) == []
