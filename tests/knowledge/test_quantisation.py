"""What loading a quantised checkpoint does on a Mac, against the installed transformers' own quantizers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mpsprobe.knowledge import quantisation
from mpsprobe.knowledge.quantisation import Outcome
from mpsprobe.models.weightless.weights_dtype import dtype_of

transformers = pytest.importorskip("transformers")

#: A `quantization_config` of each method, as checkpoints on the Hub have them.
CONFIGS: dict[str, dict[str, Any]] = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True},
    "bitsandbytes_4bit": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "bitsandbytes_8bit": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "fp8": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
    "fbgemm_fp8": {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0},
    "mxfp4": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
    "compressed-tensors": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 128}}
        },
    },
    "torchao": {"quant_method": "torchao", "quant_type": "int8_weight_only"},
    "hqq": {
        "quant_method": "hqq",
        "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}},
        "skip_modules": ["lm_head"],
    },
    "quanto": {"quant_method": "quanto", "weights": "int4"},
    "eetq": {"quant_method": "eetq", "weights": "int8"},
    "aqlm": {
        "quant_method": "aqlm",
        "in_group_size": 8,
        "out_group_size": 1,
        "num_codebooks": 1,
        "nbits_per_codebook": 16,
    },
    "vptq": {"quant_method": "vptq", "config_for_layers": {"a": {}}, "shared_layer_config": {}},
    "higgs": {"quant_method": "higgs", "bits": 4, "group_size": 256},
    "spqr": {"quant_method": "spqr", "bits": 3, "beta1": 16, "beta2": 16, "shapes": {"a.shape": 1}},
    "bitnet": {"quant_method": "bitnet"},
    "auto-round": {"quant_method": "auto-round", "bits": 4, "group_size": 128},
    "fp_quant": {"quant_method": "fp_quant", "forward_dtype": "mxfp4"},
    "quark": {
        "quant_method": "quark",
        "global_quant_config": {"weight": {"dtype": "int4"}},
        "export": {"pack_method": "order"},
    },
    "mxfp8": {"quant_method": "mxfp8", "weight_block_size": [1, 32]},
    "nvfp4": {"quant_method": "nvfp4"},
    "fouroversix": {"quant_method": "fouroversix"},
    "sinq": {"quant_method": "sinq", "nbits": 4, "group_size": 64},
    "metal": {"quant_method": "metal", "bits": 4, "group_size": 64},
    "gemma": {"quant_method": "gemma", "num_bits": 4},
}
#: Methods whose quantizer cannot be asked here: one wants a Mac, one asks for its package only when it imports it.
_NOT_ASKED = {"metal", "sinq"}
_NOTHING = {"accelerate": "1.15.0", "transformers": "4.57.1"}


def _on_no_gpu(config: dict[str, Any]) -> str:
    """What transformers' own quantizer raises where there is no CUDA and no XPU; empty when it does not."""
    from transformers.quantizers.auto import AutoHfQuantizer

    try:
        quantizer = AutoHfQuantizer.from_config(dict(config), pre_quantized=True)
        quantizer.validate_environment(device_map=None, dtype=None, weights_only=True)
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    return ""


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a Mac has no CUDA")
@pytest.mark.parametrize("name", CONFIGS)
def test_answers_as_transformers_own_quantizer(name: str) -> None:
    """With the packages of this environment: the same error to the letter, or none in both."""
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    if name not in AUTO_QUANTIZER_MAPPING or name in _NOT_ASKED:
        pytest.skip("not a method of the installed transformers, or one that cannot be asked here")
    found = quantisation.find({"quantization_config": CONFIGS[name]})
    assert found is not None
    assert found.method is not None
    assert found.method.id == name
    answer = quantisation.answer(found, transformers.__version__)
    raised = _on_no_gpu(CONFIGS[name])
    assert answer.raises is bool(raised), (answer, raised)
    another = raised.startswith("ImportError") and not answer.error.startswith("ImportError")
    if another or "ccelerate" in raised:  # a package that is asked for before the GPU is
        return
    assert _plain(raised).startswith(_plain(answer.error))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a Mac has no CUDA")
@pytest.mark.skipif(not transformers.__version__.startswith("4."), reason="5 reads the dtype of the weights")
@pytest.mark.parametrize("name", CONFIGS)
def test_unstated_dtype_is_the_quantizers(name: str) -> None:
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    method = next(one for one in quantisation.methods() if one.id == name)
    if name not in AUTO_QUANTIZER_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} does not know {name}")
    cls: Any = AUTO_QUANTIZER_MAPPING[name]
    quantizer = cls.__new__(cls)  # its constructor asks for packages that are not installed
    quantizer.quantization_config = SimpleNamespace(quant_type=CONFIGS[name].get("quant_type", ""))
    try:
        asked = quantizer.update_dtype(None) or torch.float32
    except ImportError as problem:
        pytest.skip(str(problem))
    assert asked is getattr(torch, method.unstated or "float32")


def test_predicted_dtype_is_that_of_the_quantizer() -> None:
    # gpt-oss-20b states no dtype: transformers 4.57 loads it in bfloat16, half of what float32 takes
    from mpsprobe.models.weightless import from_config

    config = transformers.GptOssConfig(num_hidden_layers=1, quantization_config=CONFIGS["mxfp4"])
    config.dtype = None
    prepared, notes = from_config.prepared(config)
    assert dtype_of(prepared) is torch.bfloat16
    assert "bfloat16" in notes[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a Mac has no CUDA")
@pytest.mark.parametrize("name", ["bitsandbytes_4bit", "bitsandbytes_8bit", "torchao", "quanto"])
def test_answers_as_diffusers_own_quantizer(name: str) -> None:
    """With the packages of this environment: the same error as diffusers raises for a model of a pipeline."""
    diffusers = pytest.importorskip("diffusers")
    from diffusers.quantizers.auto import DiffusersAutoQuantizer

    stated = {**CONFIGS[name], "weights_dtype": "int8"} if name == "quanto" else dict(CONFIGS[name])
    answer = quantisation.answer(
        quantisation.of_statement(CONFIGS[name]), diffusers.__version__, library="diffusers"
    )
    raised = ""
    try:
        DiffusersAutoQuantizer.from_config(stated, pre_quantized=True).validate_environment(device_map=None)
    except Exception as problem:
        raised = f"{type(problem).__name__}: {problem}"
    if name == "bitsandbytes_4bit" and raised.startswith("PackageNotFoundError"):  # asked before the GPU is
        raised = answer.error
    assert answer.raises is bool(raised), (answer, raised)
    assert _plain(raised).startswith(_plain(answer.error))


@pytest.mark.parametrize(
    ("config", "version", "outcome", "place"),
    [
        ({"text_config": {"quantization_config": CONFIGS["gptq"]}}, "4.57.1", Outcome.IGNORED, "text_config"),
        ({"text_config": {"quantization_config": CONFIGS["gptq"]}}, "5.24.0", Outcome.RAISES, "text_config"),
        (
            {"vision_config": {"quantization_config": CONFIGS["fp8"]}},
            "5.24.0",
            Outcome.IGNORED,
            "vision_config",
        ),
        (
            {"thinker_config": {"text_config": {"quantization_config": CONFIGS["awq"]}}},
            "5.24.0",
            Outcome.IGNORED,
            "thinker_config.text_config",
        ),
        ({"quantization_config": {"quant_method": "exl2", "bits": 4.25}}, "5.24.0", Outcome.IGNORED, ""),
        (
            {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}},
            "5.24.0",
            Outcome.IGNORED,
            "",
        ),
        ({"quantization_config": {"quant_method": "GPTQ", "bits": 4}}, "4.57.1", Outcome.UNKNOWN, ""),
        ({"quantization_config": ["fp8"]}, "4.57.1", Outcome.RAISES, ""),
        ({"quantization_config": {"weights": "int4"}}, "4.57.1", Outcome.RAISES, ""),
    ],
)
def test_statements_that_a_release_does_not_read(
    config: dict[str, Any], version: str, outcome: Outcome, place: str
) -> None:
    """quantizers/auto.py, get_hf_quantizer: the top of the config; from 5.13 on the decoder's part too."""
    found = quantisation.find(config)
    assert found is not None
    assert found.stated_in == place
    answer = quantisation.answer(found, version, _NOTHING.get)
    assert answer.outcome is outcome
    assert answer.fails


@pytest.mark.parametrize(
    "stated",
    [
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
        },
        {"quant_method": "torchao", "quant_type": {"default": {"_type": "Float8WeightOnlyConfig"}}},
        {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"},
        {
            "quant_method": "compressed-tensors",
            "config_groups": {
                "group_0": {
                    "weights": {"num_bits": 4, "type": "float"},
                    "input_activations": {"type": "float"},
                }
            },
        },
        {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}}},
    ],
)
def test_float8_weights_need_a_torch_with_float8(stated: dict[str, Any]) -> None:
    """Data file: a cast to or from float8 raises on MPS before torch 2.15; every package is installed here."""
    found = quantisation.of_statement(stated)
    everything = {"compressed-tensors": "0.20", "torchao": "0.18", "accelerate": "1.15"}
    names = {**everything, "optimum-quanto": "0.2.7", "amd-quark": "0.13"}
    old = quantisation.answer(found, "4.57.1", names.get, torch="2.13.0")
    assert old.raises
    assert "Float8" in old.error
    assert not quantisation.answer(found, "4.57.1", names.get, torch="2.15.0").fails
    group = {"weights": {"num_bits": 8, "type": "int"}, "input_activations": {"type": "int"}}
    int8 = quantisation.of_statement(
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
    )
    assert not quantisation.answer(int8, "4.57.1", names.get, torch="2.13.0").fails


@pytest.mark.parametrize(
    ("algorithm", "bits"), [("FP8", 8), ("NVFP4", 4), ("W4A8_AWQ", 4), ("INT4_AWQ", 4), ("MXFP8", 8)]
)
def test_bits_of_modelopt_algorithms(algorithm: str, bits: float) -> None:
    assert quantisation.of_statement({"quant_algo": algorithm}, method="modelopt").bits == bits


def test_every_method_of_the_installed_transformers_is_known() -> None:
    """quantizers/auto.py: no method without an answer for this release, and no answer for one that it lacks."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

    assert AUTO_QUANTIZATION_CONFIG_MAPPING.keys() == AUTO_QUANTIZER_MAPPING.keys()
    version = transformers.__version__
    answered = {
        one.id
        for one in quantisation.methods()
        if any(SpecifierSet(row.releases).contains(version, prereleases=True) for row in one.loading)
    }
    outside = {"gguf", "mlx"}  # loaded by `gguf_file`, or refused as a config without a method
    assert answered - outside == AUTO_QUANTIZATION_CONFIG_MAPPING.keys() - outside
    assert answered - outside <= set(CONFIGS)


def test_every_method_has_a_config_here() -> None:
    elsewhere = {"mlx", "gguf", "modelopt", "nunchaku_lite", "exl2"}  # tests of their own
    assert {one.id for one in quantisation.methods()} == set(CONFIGS) | elsewhere


@pytest.mark.parametrize("name", CONFIGS)
def test_every_method_is_known_to_the_newest_release(name: str) -> None:
    found = quantisation.find({"quantization_config": CONFIGS[name]})
    assert found is not None
    assert found.method is not None
    assert found.method.id == name
    answer = quantisation.answer(found, "5.24.0", _NOTHING.get)
    assert answer.outcome in (Outcome.RAISES, Outcome.PACKED, Outcome.DEQUANTISES)
    assert answer.sentences


def test_every_needed_package_is_described() -> None:
    needed = {
        Requirement(text).name
        for method in quantisation.methods()
        for loading in (*method.loading, *method.diffusers)
        for text in loading.needs
    }
    assert {name for name in needed if quantisation.package(name) is None} == set()


@pytest.mark.parametrize("name", [method.id for method in quantisation.methods()])
def test_releases_of_a_method_do_not_overlap(name: str) -> None:
    method = next(one for one in quantisation.methods() if one.id == name)
    for version in ("4.46.3", "4.49.0", "4.52.4", "4.53.3", "4.57.1", "5.0.0", "5.5.4", "5.20.2", "5.24.0"):
        plain = [one for one in method.loading if not one.where]
        fitting = [one for one in plain if SpecifierSet(one.releases).contains(version)]
        assert len(fitting) <= 1
    for version in ("0.31.0", "0.35.2", "0.38.0", "0.39.0", "0.42.1"):
        fitting = [one for one in method.diffusers if SpecifierSet(one.releases).contains(version)]
        assert len(fitting) <= 1


@pytest.mark.parametrize(
    ("name", "version", "outcome"),
    [
        ("fp8", "4.57.1", Outcome.RAISES),
        ("fp8", "5.24.0", Outcome.DEQUANTISES),
        ("mxfp4", "4.57.1", Outcome.DEQUANTISES),
        ("eetq", "5.24.0", Outcome.RAISES),
        ("higgs", "5.0.0", Outcome.RAISES),
        ("bitnet", "4.57.1", Outcome.PACKED),
    ],
)
def test_outcome_by_release(name: str, version: str, outcome: Outcome) -> None:
    found = quantisation.find({"quantization_config": CONFIGS[name]})
    assert found is not None
    assert quantisation.answer(found, version, _NOTHING.get).outcome is outcome


def test_missing_package_is_named_with_its_command() -> None:
    found = quantisation.find({"quantization_config": CONFIGS["gptq"]})
    assert found is not None
    answer = quantisation.answer(found, "4.57.1", _NOTHING.get)
    assert answer.raises
    assert "optimum" in answer.fix
    assert "gptqmodel" in answer.fix
    there = {"optimum": "2.3.0", "gptqmodel": "5.6.12"}
    assert quantisation.answer(found, "4.57.1", there.get).outcome is Outcome.PACKED


def test_package_without_a_mac_build_has_no_command() -> None:
    found = quantisation.find({"quantization_config": CONFIGS["awq"]})
    assert found is not None
    answer = quantisation.answer(found, "4.57.1", _NOTHING.get)
    assert answer.raises
    assert "pip install" not in answer.fix
    assert "transformers 5" in answer.fix


def test_mlx_checkpoints_are_known_by_their_own_key() -> None:
    written = {
        "quantization": {"group_size": 64, "bits": 4},
        "quantization_config": {"group_size": 64, "bits": 4},
    }
    for config in (written, {"quantization": written["quantization"]}):
        found = quantisation.find(config)
        assert found is not None
        assert found.method is not None
        assert found.method.id == "mlx"
        assert found.stored_bits == 4.5
        assert quantisation.answer(found, "4.57.1", _NOTHING.get).raises
        assert "MLX loads this checkpoint as it is" in quantisation.other_routes(found)[0]


@pytest.mark.parametrize(
    ("name", "bits"),
    [("gptq", 4), ("fp8", 8), ("compressed-tensors", 4), ("hqq", 4), ("quanto", 4), ("aqlm", 2), ("spqr", 3)],
)
def test_bits_are_read_from_the_config(name: str, bits: float) -> None:
    found = quantisation.find({"quantization_config": CONFIGS[name]})
    assert found is not None
    assert found.bits == bits


def test_text_part_of_a_config_counts() -> None:
    found = quantisation.find({"text_config": {"quantization_config": CONFIGS["gptq"]}})
    assert found is not None
    assert found.name == "gptq"
    assert quantisation.find({"hidden_size": 8}) is None


def test_unknown_method_is_said_to_be_unknown() -> None:
    found = quantisation.find({"quantization_config": {"quant_method": "brand_new"}})
    assert found is not None
    assert found.method is None
    answer = quantisation.answer(found, "4.57.1", _NOTHING.get)
    assert answer.outcome is Outcome.UNKNOWN
    assert "brand_new" in answer.sentences[0]


def test_bytes_of_packed_weights() -> None:
    """A linear layer of 1,000 x 128 weights in bfloat16, at 4 bits with 20 bits a group of 128; lm_head stays."""
    found = quantisation.find({"quantization_config": CONFIGS["gptq"]})
    assert found is not None
    linear = {"model.layers.0.mlp.up_proj": (128_000, 256_000), "lm_head": (1000, 2000)}
    assert (
        quantisation.weight_bytes(found, 300_000, linear) == 300_000 - 256_000 + 128_000 * (4 + 20 / 128) / 8
    )


_ATTENTION, _MLP = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("stated", "attention", "mlp"),
    [
        # mlx_lm/utils.py: sizes of one module beside those of all; a scale and a bias of 16 bits each for a group
        ({"group_size": 64, "bits": 4, _ATTENTION: {"group_size": 32, "bits": 8}}, 9, 4.5),
        ({"group_size": 64, "bits": 4, _MLP: False}, 4.5, 16),
        ({"group_size": 32, "bits": 4, "mode": "mxfp4"}, 4.25, 4.25),
        # GPTQModel's README, dynamic: "-:" leaves a module out, "+:" and no prefix change its sizes
        ({**CONFIGS["gptq"], "dynamic": {r"-:.*mlp\..*": {}}}, 4 + 20 / 128, 16),
        (
            {**CONFIGS["gptq"], "dynamic": {r"+:.*attn.*": {"bits": 8, "group_size": 32}}},
            8 + 20 / 32,
            4 + 20 / 128,
        ),
        ({**CONFIGS["auto-round"], "extra_config": {_MLP: {"bits": 16}}}, 4 + 20 / 128, 16),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "mixed-precision",
                "config_groups": {
                    "group_0": {
                        "targets": ["re:.*mlp.*"],
                        "weights": {"num_bits": 4, "type": "float", "group_size": 16},
                    },
                    "group_1": {
                        "targets": ["re:.*attn.*"],
                        "weights": {"num_bits": 8, "type": "float", "strategy": "channel"},
                    },
                },
            },
            8,
            4.5,
        ),
    ],
)
def test_bytes_of_layers_with_bits_of_their_own(stated: dict[str, Any], attention: float, mlp: float) -> None:
    found = quantisation.of_statement(stated)
    for name, bits in {_ATTENTION: attention, _MLP: mlp}.items():
        assert quantisation.weight_bytes(found, 256_000, {name: (128_000, 256_000)}) == 16_000 * bits
    mixed = attention != mlp
    assert ("and others" in found.title) is mixed


def test_method_that_is_known_nowhere_is_not_moved() -> None:
    found = quantisation.of_statement({"quant_algo": "NVFP4"}, "hf_quant_config.json", "modelopt")
    answer = quantisation.answer(found, "4.57.1", _NOTHING.get)
    assert "does not know that method at any place" in answer.sentences[-1]
    moved = quantisation.of_statement(CONFIGS["gptq"], "quantize_config.json", "gptq")
    assert 'as "quantization_config"' in quantisation.answer(moved, "4.57.1", _NOTHING.get).sentences[-1]


def test_bitnet_of_two_kinds_is_dequantised() -> None:
    """integrations/bitnet.py, AutoBitLinear: packed weights are unpacked once; "online" ones were never packed."""
    auto = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
    for version, outcome in {"4.51.3": Outcome.PACKED, "4.57.1": Outcome.DEQUANTISES, "5.0.0": Outcome.RAISES,
                             "5.24.0": Outcome.DEQUANTISES}.items():  # fmt: skip
        assert quantisation.answer(quantisation.of_statement(auto), version, _NOTHING.get).outcome is outcome
    online = quantisation.of_statement({**auto, "quantization_mode": "online"})
    assert online.stored_bits == 16
    assert quantisation.answer(online, "5.0.0", _NOTHING.get).outcome is Outcome.DEQUANTISES


@pytest.mark.parametrize(
    "stated", [{}, {"bits": 3, "zero_point": True, "version": "gemm"}, None, [], "awq"], ids=repr
)
def test_a_config_without_a_method_raises_as_in_transformers(stated: Any, tmp_path: Path) -> None:
    """A checkpoint that transformers itself saved, with the statement put into its config."""
    config = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=16
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    content = {**json.loads(path.read_text()), "quantization_config": stated}
    path.write_text(json.dumps(content))
    with pytest.raises((ValueError, AttributeError)) as raised:
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    found = quantisation.find(content)
    assert found is not None
    answer = quantisation.answer(found, transformers.__version__)
    assert answer.raises
    assert raised.type.__name__ in answer.error


@pytest.mark.parametrize(
    ("stated", "reads", "says"),
    [
        # mlx-lm 0.32.2, mlx_lm/utils.py: _transform_awq_weights, _compressed_tensors_quantization, load_model
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, True, "loads this checkpoint as it is:"),
        ({"quant_method": "awq", "bits": 8, "group_size": 128}, False, "convert"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, False, "unless its files hold g_idx"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, False, "convert"),
        ({"quant_method": "mxfp4"}, True, "loads this checkpoint as it is:"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, False, "convert"),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "config_groups": {
            "group_0": {"weights": {"num_bits": 4, "group_size": 16}}}}, True, "loads this checkpoint as it is:"),
        ({"quant_method": "superquant", "bits": 4}, False, "convert"),
    ],
)  # fmt: skip
def test_mlx_reads_what_its_loader_takes(stated: dict[str, Any], reads: bool, says: str) -> None:
    found = quantisation.of_statement(stated)
    assert found.mlx is reads
    assert says in quantisation.other_routes(found)[0]
