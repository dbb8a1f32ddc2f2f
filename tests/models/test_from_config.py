"""Models from configs: sizes against published figures, made-up inputs against the models themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mpsprobe.errors import TargetError, UsageError
from mpsprobe.models import profile
from mpsprobe.models.adapter import Weights
from mpsprobe.models.tiny_drive.adapter import TinyDriveAdapter
from mpsprobe.models.weightless import from_config, guessed
from mpsprobe.models.weightless.families import family_of
from mpsprobe.models.weightless.from_config import Blueprint
from mpsprobe.models.weightless.random_init import RandomInitAdapter
from mpsprobe.models.weightless.shrink import shrink

_CPU = torch.device("cpu")
_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "dtype": "bfloat16",
}


def _folder(path: Path, config: dict[str, Any]) -> Path:
    (path / "config.json").write_text(json.dumps(config))
    return path


def _blueprint(name: str, **config: Any) -> Blueprint:
    cls = getattr(transformers, name)
    return Blueprint(name, cls, cls.config_class(**config))


def _adapter(blueprint: Blueprint) -> RandomInitAdapter:
    return RandomInitAdapter(Path(), profile.load("transformers"), blueprint)


# ----------------------------------------------------------------------------------------------- class, config


def test_the_class_and_dtype_of_a_folder_without_weights(tmp_path: Path) -> None:
    blueprint = from_config.of_folder(_folder(tmp_path, _LLAMA))
    model = from_config.build(blueprint.model_class, blueprint.config, _CPU, initialise=True)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_random_weights_are_the_same_each_time(tmp_path: Path) -> None:
    blueprint = from_config.of_folder(_folder(tmp_path, _LLAMA))
    first, second = (
        from_config.build(blueprint.model_class, blueprint.config, _CPU, initialise=True) for _ in range(2)
    )
    for (name, one), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_small_parameters_have_values_without_weights() -> None:
    blueprint = _blueprint("LlamaForCausalLM", **_LLAMA)
    model = from_config.build(blueprint.model_class, blueprint.config, _CPU, initialise=False)
    norm = dict(model.named_parameters())["model.norm.weight"]
    assert torch.equal(norm, torch.ones_like(norm))


def test_what_from_pretrained_keeps_in_float32_stays_so() -> None:
    """T5's `wo` overflows in float16, so transformers keeps it (modeling_t5.py: `_keep_in_fp32_modules`)."""
    blueprint = _blueprint(
        "T5ForConditionalGeneration", vocab_size=64, d_model=16, d_kv=4, d_ff=32, num_layers=1
    )
    model = from_config.build(blueprint.model_class, blueprint.config, _CPU, "float16", initialise=True)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert dtypes["encoder.block.0.layer.1.DenseReluDense.wo.weight"] is torch.float32
    assert dtypes["encoder.block.0.layer.1.DenseReluDense.wi.weight"] is torch.float16


def test_a_config_without_architectures_is_its_plain_model(tmp_path: Path) -> None:
    config = {name: value for name, value in _LLAMA.items() if name != "architectures"}
    blueprint = from_config.of_folder(_folder(tmp_path, config))
    assert blueprint.model_class.__name__ == "LlamaModel"
    assert "names no class" in blueprint.notes[0]


def test_a_quantised_config_is_built_plain_and_says_so(tmp_path: Path) -> None:
    config = {**_LLAMA, "quantization_config": {"quant_method": "fp8"}}
    blueprint = from_config.of_folder(_folder(tmp_path, config))
    assert blueprint.quantised is not None
    assert blueprint.quantised.name == "fp8"
    from_config.build(blueprint.model_class, blueprint.config, _CPU, initialise=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "no model_type"),
        ({**_LLAMA, "architectures": ["NoSuchModel"]}, "no class NoSuchModel"),
        ({**_LLAMA, "model_type": "no_such_type"}, "transformers cannot read it"),
        ({**_LLAMA, "architectures": ["PretrainedConfig"]}, "PretrainedConfig"),
    ],
)
def test_a_bad_config_is_one_line(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message) as problem:
        from_config.of_folder(_folder(tmp_path, config))
    assert "\n" not in problem.value.what


def test_sizes_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    blueprint = from_config.of_folder(_folder(tmp_path, {**_LLAMA, "hidden_act": "no_such_function"}))
    with pytest.raises(TargetError, match="LlamaForCausalLM cannot be built") as problem:
        from_config.build(blueprint.model_class, blueprint.config, _CPU, initialise=True)
    assert "\n" not in problem.value.what


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("transformers:", "not a class path"),
        ("no_such_package:Model", "cannot be imported"),
        ("transformers:NoSuchModel", "has no NoSuchModel"),
        ("json:JSONDecoder", "neither a class of torch.nn.Module"),
    ],
)
def test_a_bad_class_path_is_one_line(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_config.of_class(spec, None)


def test_a_class_path_of_a_plain_module(tmp_path: Path) -> None:
    file = tmp_path / "sizes.json"
    file.write_text('{"in_features": 3, "out_features": 5}')
    blueprint = from_config.of_class("torch.nn:Linear", file)
    model = from_config.build(blueprint.model_class, blueprint.config, _CPU, "float16", initialise=True)
    assert next(model.parameters()).dtype is torch.float16
    batch = _adapter(blueprint).prepare({})
    assert model(**{name: value.to(torch.float16) for name, value in batch.items()}).shape[-1] == 5


# ------------------------------------------------------------------------------------------------- remote code


def _with_remote_code(path: Path) -> Path:
    (path / "modeling_own.py").write_text(
        "from torch import nn\n"
        "from transformers import PretrainedConfig, PreTrainedModel\n"
        "class OwnConfig(PretrainedConfig):\n    model_type = 'own'\n    width = 4\n"
        "class OwnModel(PreTrainedModel):\n    config_class = OwnConfig\n"
        "    def __init__(self, config):\n        super().__init__(config)\n"
        "        self.linear = nn.Linear(config.width, config.width)\n        self.post_init()\n"
        "    def forward(self, pixel_values):\n        return self.linear(pixel_values)\n"
    )
    config = {
        "architectures": ["OwnModel"],
        "model_type": "own",
        "auto_map": {"AutoConfig": "modeling_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"},
    }
    return _folder(path, config)


def test_remote_code_is_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="code of the repository itself") as problem:
        from_config.of_folder(_with_remote_code(tmp_path))
    told = f"in {tmp_path}: modeling_own.py (13 lines; imports torch, transformers)"
    assert told in problem.value.hint


def test_remote_code_runs_when_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "model"
    folder.mkdir()
    blueprint = from_config.of_folder(_with_remote_code(folder), trust_remote_code=True)
    model = from_config.build(blueprint.model_class, blueprint.config, _CPU, initialise=True)
    assert type(model).__name__ == "OwnModel"


# ------------------------------------------------------------------------------------- inputs that models take

_TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}
_VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
_PATCHED = {**_VISION, "image_size": 32, "patch_size": 8}
_T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1}
_STAGED = {"hidden_sizes": [8, 8, 8, 8], "num_attention_heads": [1, 1, 1, 1], "depths": [1, 1, 1, 1]}
_WAVES = {
    "conv_dim": [8, 8],
    "conv_stride": [20, 16],
    "conv_kernel": [20, 16],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embedding_groups": 4,
}
_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1]}

#: Class, its config, and what its family is called.
_FED: list[tuple[str, dict[str, Any], str]] = [
    ("LlamaForCausalLM", {**_TEXT, "num_key_value_heads": 2}, "causal language model"),
    ("MambaForCausalLM", {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1}, "causal language model"),
    ("BertForMaskedLM", _TEXT, "masked language model"),
    ("RobertaForSequenceClassification", {**_TEXT, "max_position_embeddings": 20}, "text classifier"),
    ("T5ForConditionalGeneration", _T5, "sequence to sequence"),
    ("ViTForImageClassification", _PATCHED, "image classifier"),
    ("ResNetForImageClassification", _RESNET, "image classifier"),
    ("SegformerForSemanticSegmentation", {**_STAGED, "decoder_hidden_size": 8}, "image segmentation"),
    ("YolosForObjectDetection", {**_VISION, "image_size": [64, 64], "num_detection_tokens": 4}, "object detection"),
    ("VideoMAEForVideoClassification", {**_PATCHED, "num_frames": 4}, "video classifier"),
    ("Wav2Vec2ForCTC", {**_TEXT, **_WAVES}, "speech or sound"),
    ("ASTForAudioClassification", {**_VISION, "max_length": 64, "num_mel_bins": 32}, "speech or sound"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "config", "family"), _FED, ids=[name for name, _, _ in _FED])
@pytest.mark.filterwarnings("ignore")  # those of transformers about tiny configs
def test_models_take_the_made_up_input(name: str, config: dict[str, Any], family: str) -> None:
    adapter = _adapter(_blueprint(name, **config))
    assert adapter.family.name == family
    model = adapter.load(_CPU, "auto")
    with torch.inference_mode():
        outputs = adapter.infer(model, adapter.prepare(adapter.sample()))
        named = adapter.forward(model, adapter.prepare(adapter.sample()))
    assert outputs
    assert all(bool(value.isfinite().all()) for value in named.values() if value.is_floating_point())
    if "tokens" in outputs:
        assert outputs["tokens"].shape[-1] >= adapter.profile.inference["max_new_tokens"]


def test_prompts_hold_no_special_token() -> None:
    adapter = _adapter(_blueprint("LlamaForCausalLM", **{**_TEXT, "eos_token_id": 30}))
    assert 30 not in adapter.prepare({})["input_ids"]


def test_a_time_series_is_made_up_from_the_config() -> None:
    adapter = _adapter(_blueprint("TimeSeriesTransformerModel", prediction_length=4))
    assert "past_values" in adapter.prepare({})


def test_every_class_of_the_auto_tables_has_a_family() -> None:
    assert family_of("Qwen3VLForConditionalGeneration").runs == "generate"
    assert family_of("WhisperForConditionalGeneration").name == "speech to text"
    assert family_of("BartForConditionalGeneration").name == "sequence to sequence"
    assert family_of("NoSuchModel").name == "model"


# ------------------------------------------------------------------------------------------------------ shrink


def test_shrinking_keeps_every_kind_of_layer() -> None:
    pattern = ["sliding_attention"] * 3 + ["full_attention"]
    blueprint = _blueprint(
        "Gemma3ForCausalLM", **{**_TEXT, "num_hidden_layers": 8}, layer_types=pattern * 2, head_dim=8
    )
    smaller, notes = shrink(blueprint)
    assert smaller.config.num_hidden_layers == 4
    assert smaller.config.layer_types == pattern
    assert notes == ["Shrunk: num_hidden_layers 8 -> 4."]
    assert blueprint.config.num_hidden_layers == 8


def test_shrinking_keeps_widths_and_enough_experts() -> None:
    blueprint = _blueprint(
        "MixtralForCausalLM", **{**_TEXT, "num_hidden_layers": 9}, num_local_experts=16, num_experts_per_tok=3
    )
    smaller = shrink(blueprint)[0].config
    assert (smaller.num_hidden_layers, smaller.num_local_experts, smaller.num_experts_per_tok) == (2, 6, 3)
    assert (smaller.hidden_size, smaller.intermediate_size) == (32, 48)


def test_shrinking_keeps_as_many_taps_as_are_read() -> None:
    blueprint = _blueprint(
        "DPTForDepthEstimation", **{**_PATCHED, "num_hidden_layers": 12}, backbone_out_indices=[2, 5, 8, 11]
    )
    smaller = shrink(blueprint)[0].config
    assert (smaller.num_hidden_layers, smaller.backbone_out_indices) == (4, [0, 1, 2, 3])


def test_nothing_to_shrink_is_said() -> None:
    blueprint = _blueprint("LlamaForCausalLM", **_TEXT)
    same, notes = shrink(blueprint)
    assert same is blueprint
    assert notes[0].startswith("Nothing was shrunk")


# -------------------------------------------------------------------------------------------- other adapters


def test_an_adapter_of_its_own_builds_without_weights(tmp_path: Path) -> None:
    from mpsprobe.models.tiny_drive.repository import CONFIG

    adapter = TinyDriveAdapter(_folder(tmp_path, CONFIG), profile.load("tiny-drive"))
    adapter.weights = Weights.RANDOM
    model = adapter.load(_CPU, "bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("class_name", "argument", "axes"),
    [
        ("DacModel", "input_values", ("batch_size", "1", "time_steps")),
        ("BertModel", "input_ids", ("batch_size", "sequence_length")),
        ("BertModel", "no_such_argument", ()),
    ],
)
def test_shapes_are_read_from_docstrings(class_name: str, argument: str, axes: tuple[str, ...]) -> None:

    assert guessed.documented(getattr(transformers, class_name), argument)[0] == axes


def test_huge_experts_are_not_made_on_the_cpu() -> None:
    """As transformers 5 makes all experts of a layer: 2^40 elements, which no host could hold."""

    class Experts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_up = torch.nn.Parameter(torch.empty(1 << 12, 1 << 14, 1 << 14))
            self.register_buffer("scale", torch.empty(4).fill_(2.0))

    with from_config._no_weights(torch.device("meta")):
        made: Any = Experts()
    assert made.gate_up.is_meta
    assert made.scale.tolist() == [2.0] * 4


@pytest.mark.parametrize(
    ("class_name", "config", "fed"),
    [
        (
            "DacModel",
            transformers.DacConfig(
                encoder_hidden_size=8,
                decoder_hidden_size=16,
                downsampling_ratios=[2, 4],
                n_codebooks=2,
                hidden_size=16,
            ),
            {"input_values": [1, 1, 16000]},
        ),
        (
            "DecisionTransformerModel",
            transformers.DecisionTransformerConfig(hidden_size=16, n_layer=1, n_head=2),
            {"states": [1, 20, 17], "attention_mask": [1, 20], "timesteps": [1, 20]},
        ),
        (
            "ClapModel",
            transformers.ClapConfig(
                text_config={
                    "hidden_size": 16,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "intermediate_size": 16,
                },
                audio_config={
                    "patch_embeds_hidden_size": 8,
                    "depths": [1, 1],
                    "num_attention_heads": [1, 2],
                    "hidden_size": 16,
                },
            ),
            {"input_features": [1, 1, 1001, 64], "is_longer": [1, 1]},
        ),
    ],
)
def test_made_up_inputs_are_taken(class_name: str, config: Any, fed: dict[str, list[int]]) -> None:
    """transformers' own forward pass decides whether an input has the right shape."""
    cls = getattr(transformers, class_name)
    adapter = RandomInitAdapter(Path(), profile.load("transformers"), Blueprint(class_name, cls, config))
    batch = adapter.prepare({})
    assert {name: list(batch[name].shape) for name in fed} == fed
    outputs = adapter.forward(adapter.load(_CPU, "float32"), batch)
    assert outputs


def test_extension_that_is_not_built_is_no_missing_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As monotonic_align of VITS: its folder holds Cython's sources, and no package of that name helps."""
    (tmp_path / "aligner").mkdir()
    for name, text in {"__init__.py": "from aligner.core import run", "core.pyx": "", "setup.py": ""}.items():
        (tmp_path / "aligner" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError) as raised:
        from_config.of_class("aligner:Model", None)
    assert "holds the sources of aligner.core" in raised.value.hint


def test_config_that_a_class_refuses_has_a_next_step(tmp_path: Path) -> None:
    stated = tmp_path / "config.json"
    stated.write_text('{"hidden_size": {}, "num_attention_heads": "many", "rope_scaling": "none"}')
    with pytest.raises(UsageError) as raised:
        from_config.of_class("transformers:LlamaForCausalLM", stated)
    assert f"{transformers.__version__} is installed" in raised.value.hint


@pytest.mark.parametrize(
    "stated",
    [
        {"": "bfloat16", "vision_config": "float32"},
        {"": "float16"},
        {"text_config": "bfloat16"},
        {"text_config": "float16", "vision_config": "bfloat16", "": "bfloat16"},
    ],
)
def test_dtypes_by_part_are_those_of_from_pretrained(tmp_path: Path, stated: dict[str, str]) -> None:
    """The dict is what `from_pretrained` takes as its argument; no release of 4.57 reads one in a config."""
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**small, image_size=28, patch_size=14),
        text_config=transformers.LlamaConfig(**small, num_key_value_heads=2, vocab_size=64),
        image_token_index=63,
    )
    whole: Any = transformers.LlavaForConditionalGeneration
    whole(config).save_pretrained(tmp_path)
    loaded = whole.from_pretrained(tmp_path, dtype=stated)
    file = tmp_path / "config.json"
    raw = json.loads(file.read_text())
    for part in ("vision_config", "text_config"):
        raw[part].pop("dtype", None)
    file.write_text(json.dumps({**raw, "dtype": stated}))
    if transformers.__version__ < "5":
        with pytest.raises(AttributeError):
            whole.from_pretrained(tmp_path, dtype="auto")
        assert whole.from_pretrained(tmp_path).dtype is torch.float32
    blueprint = from_config.of_folder(tmp_path)
    assert "dtypes by part" in " ".join(blueprint.notes)
    for asked in ("auto", "float16"):
        built = from_config.build(whole, blueprint.config, torch.device("meta"), asked, initialise=False)
        ours = {name: one.dtype for name, one in built.named_parameters()}
        if asked == "float16":
            assert set(ours.values()) == {torch.float16}
        else:
            assert ours == {name: one.dtype for name, one in loaded.named_parameters()}


def test_an_unknown_dtype_by_part_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path, {"model_type": "llama", "dtype": {"": "bf16"}})
    with pytest.raises(TargetError, match="'bf16'"):
        from_config.of_folder(folder)
