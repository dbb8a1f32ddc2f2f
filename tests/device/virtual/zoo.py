"""Small models of many architectures, with random weights, and one use of each: a forward pass or `generate`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

Inputs = Callable[[Any], dict[str, torch.Tensor]]

_TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_GROUPED = {**_TEXT, "num_key_value_heads": 2, "pad_token_id": 0, "max_position_embeddings": 128}
_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


def _ids(_config: Any) -> dict[str, torch.Tensor]:
    ids = torch.arange(3, 15).view(2, 6)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _image(_config: Any) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)}


def _text_and_image(config: Any) -> dict[str, torch.Tensor]:
    return {**_ids(config), **_image(config)}


def _audio(_config: Any) -> dict[str, torch.Tensor]:
    return {"input_values": torch.sin(torch.arange(2000.0) / 7)[None]}


def _mel(config: Any) -> dict[str, torch.Tensor]:
    features = torch.linspace(-1, 1, config.num_mel_bins * 40).view(1, config.num_mel_bins, 40)
    return {"input_features": features, "attention_mask": torch.ones(1, 40, dtype=torch.int64)}


def _points(_config: Any) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64),
        "input_points": torch.tensor([[[[10.0, 12.0]]]]),
        "input_labels": torch.tensor([[[1]]]),
    }


def _patches(config: Any) -> dict[str, torch.Tensor]:
    vision, height, width = config.vision_config, 4, 8
    size = 3 * vision.temporal_patch_size * vision.patch_size**2
    image = [config.image_token_id] * (height * width // 4)
    ids = torch.tensor([[5, config.vision_start_token_id, *image, config.vision_end_token_id, 6]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.linspace(-1, 1, height * width * size).view(height * width, size),
        "image_grid_thw": torch.tensor([[1, height, width]]),
    }


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        name: of the architecture.
        config, model: class names in transformers.
        options: of the config.
        inputs: makes the inputs, on the CPU.
        tokens: how many to generate; 0 for a forward pass.
    """

    name: str
    config: str
    model: str
    options: dict[str, Any]
    inputs: Inputs = _ids
    tokens: int = 0
    generate: dict[str, Any] = field(default_factory=dict)

    def build(self) -> Any:
        """The model, in eval mode; the caller seeds."""
        import transformers

        config = getattr(transformers, self.config)(**self.options)
        return getattr(transformers, self.model)(config).eval()

    def run(self, model: Any, device: str) -> list[torch.Tensor]:
        """Use the model once; all floating-point and token results, on the host."""
        inputs = {name: value.to(device) for name, value in self.inputs(model.config).items()}
        with torch.no_grad():
            if self.tokens:
                out = model.generate(
                    **inputs, max_new_tokens=self.tokens, **{"do_sample": False, **self.generate}
                )
                return [out.cpu()]
            out = model(**inputs)
        return [value.cpu() for value in out.to_tuple() if isinstance(value, torch.Tensor)]


_CLIP = {"text_config": {**_TEXT, "eos_token_id": 2}, "vision_config": _VISION, "projection_dim": 16}
_QWEN_VL = {
    "text_config": {
        **_GROUPED,
        "vocab_size": 256,
        "head_dim": 8,
        "rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True},
    },
    "vision_config": {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 4,
        "intermediate_size": 64,
        "out_hidden_size": 32,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 64,
    },
    "image_token_id": 200,
    "video_token_id": 201,
    "vision_start_token_id": 202,
    "vision_end_token_id": 203,
}

ZOO = [
    # text, decoders
    Entry("llama", "LlamaConfig", "LlamaForCausalLM", _GROUPED, tokens=4),
    Entry(
        "llama, sampling", "LlamaConfig", "LlamaForCausalLM", _GROUPED, tokens=4, generate={"do_sample": True}
    ),
    Entry("mistral", "MistralConfig", "MistralForCausalLM", {**_GROUPED, "sliding_window": 4}, tokens=4),
    Entry("qwen2", "Qwen2Config", "Qwen2ForCausalLM", _GROUPED, tokens=4),
    Entry("qwen3", "Qwen3Config", "Qwen3ForCausalLM", {**_GROUPED, "head_dim": 8}, tokens=4),
    Entry("gemma2", "Gemma2Config", "Gemma2ForCausalLM", {**_GROUPED, "head_dim": 8}, tokens=4),
    Entry("gemma3", "Gemma3TextConfig", "Gemma3ForCausalLM", {**_GROUPED, "head_dim": 8}, tokens=4),
    Entry("phi3", "Phi3Config", "Phi3ForCausalLM", _GROUPED, tokens=4),
    Entry(
        "gpt2",
        "GPT2Config",
        "GPT2LMHeadModel",
        {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4},
        tokens=4,
    ),
    Entry("gpt-neox", "GPTNeoXConfig", "GPTNeoXForCausalLM", _TEXT, tokens=4),
    Entry(
        "opt", "OPTConfig", "OPTForCausalLM", {**_TEXT, "ffn_dim": 64, "word_embed_proj_dim": 32}, tokens=4
    ),
    Entry(
        "bloom",
        "BloomConfig",
        "BloomForCausalLM",
        {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        tokens=4,
    ),
    Entry("falcon", "FalconConfig", "FalconForCausalLM", {**_TEXT, "alibi": False}, tokens=4),
    Entry(
        "mixtral (MoE)", "MixtralConfig", "MixtralForCausalLM", {**_GROUPED, "num_local_experts": 4}, tokens=3
    ),
    Entry(
        "qwen3-moe",
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        {**_GROUPED, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        tokens=3,
    ),
    Entry(
        "llama4 (MoE, complex rope)",
        "Llama4TextConfig",
        "Llama4ForCausalLM",
        {**_GROUPED, "intermediate_size_mlp": 64, "head_dim": 8, "num_local_experts": 4},
        tokens=3,
    ),
    Entry(
        "mamba",
        "MambaConfig",
        "MambaForCausalLM",
        {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
        tokens=3,
    ),
    # text, encoders and encoder-decoders
    Entry("bert", "BertConfig", "BertForSequenceClassification", _TEXT),
    Entry("roberta", "RobertaConfig", "RobertaForMaskedLM", _TEXT),
    Entry(
        "distilbert",
        "DistilBertConfig",
        "DistilBertModel",
        {"vocab_size": 96, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    ),
    Entry(
        "deberta-v2",
        "DebertaV2Config",
        "DebertaV2Model",
        {**_TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    ),
    Entry(
        "t5",
        "T5Config",
        "T5ForConditionalGeneration",
        {
            "vocab_size": 96,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
        tokens=3,
        generate={"num_beams": 2},
    ),
    Entry(
        "bart",
        "BartConfig",
        "BartForConditionalGeneration",
        {
            "vocab_size": 96,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
        },
        tokens=3,
        generate={"num_beams": 1},
    ),
    # speech
    Entry(
        "whisper",
        "WhisperConfig",
        "WhisperForConditionalGeneration",
        {
            "vocab_size": 96,
            "num_mel_bins": 8,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_source_positions": 20,
            "max_target_positions": 40,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 3,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
        },
        _mel,
        tokens=3,
    ),
    Entry(
        "wav2vec2",
        "Wav2Vec2Config",
        "Wav2Vec2ForCTC",
        {
            **_TEXT,
            "conv_dim": [16] * 3,
            "conv_stride": [5, 4, 2],
            "conv_kernel": [10, 8, 4],
            "num_conv_pos_embeddings": 16,
        },
        _audio,
    ),
    Entry(
        "hubert",
        "HubertConfig",
        "HubertModel",
        {
            **_TEXT,
            "conv_dim": [16] * 3,
            "conv_stride": [5, 4, 2],
            "conv_kernel": [10, 8, 4],
            "num_conv_pos_embeddings": 16,
        },
        _audio,
    ),
    # vision
    Entry("vit", "ViTConfig", "ViTForImageClassification", _VISION, _image),
    Entry("dinov2", "Dinov2Config", "Dinov2Model", {**_VISION, "mlp_ratio": 2}, _image),
    Entry(
        "swin",
        "SwinConfig",
        "SwinModel",
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [2, 2],
            "window_size": 4,
        },
        _image,
    ),
    Entry(
        "convnext",
        "ConvNextConfig",
        "ConvNextModel",
        {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]},
        _image,
    ),
    Entry(
        "resnet",
        "ResNetConfig",
        "ResNetModel",
        {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]},
        _image,
    ),
    Entry(
        "segformer",
        "SegformerConfig",
        "SegformerForSemanticSegmentation",
        {
            "hidden_sizes": [8, 16, 16, 32],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 2, 4],
            "decoder_hidden_size": 16,
        },
        _image,
    ),
    Entry(
        "detr",
        "DetrConfig",
        "DetrForObjectDetection",
        {
            "use_timm_backbone": False,
            "use_pretrained_backbone": False,
            "backbone": None,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "num_queries": 6,
            "backbone_config": {
                "model_type": "resnet",
                "embedding_size": 8,
                "hidden_sizes": [8, 16, 16, 32],
                "depths": [1, 1, 1, 1],
                "out_features": ["stage4"],
            },
        },
        _image,
    ),
    Entry(
        "sam",
        "SamConfig",
        "SamModel",
        {
            "vision_config": {
                "hidden_size": 32,
                "output_channels": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": 64,
                "patch_size": 8,
                "global_attn_indexes": [1],
                "mlp_dim": 64,
                "window_size": 4,
                "num_pos_feats": 8,
            },
            "prompt_encoder_config": {"hidden_size": 16, "image_size": 64, "patch_size": 8},
            "mask_decoder_config": {
                "hidden_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "mlp_dim": 32,
                "iou_head_hidden_dim": 16,
            },
        },
        _points,
    ),
    # images and text
    Entry("clip", "CLIPConfig", "CLIPModel", _CLIP, _text_and_image),
    Entry(
        "siglip",
        "SiglipConfig",
        "SiglipModel",
        {"text_config": {**_TEXT, "max_position_embeddings": 16}, "vision_config": _VISION},
        _text_and_image,
    ),
    Entry("qwen3-vl", "Qwen3VLConfig", "Qwen3VLForConditionalGeneration", _QWEN_VL, _patches, tokens=3),
]
