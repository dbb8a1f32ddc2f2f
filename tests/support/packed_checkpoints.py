"""Tiny checkpoints of each method of quantisation: made by its package, or packed in the layout of its tool."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

TINY: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": "bfloat16",
    "torch_dtype": "bfloat16",
}
#: transformers, whose lazy modules a type checker does not see through.
_HF: Any = transformers
#: Packages without which a checkpoint cannot be made here.
MADE_BY = {
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "torchao": "torchao",
    "hqq": "hqq",
    "compressed-tensors": "compressed_tensors",
    "quanto_own": "optimum.quanto",
}


def plain(folder: Path) -> Path:
    """Write a Llama of one layer in bfloat16."""
    torch.manual_seed(0)
    config = _HF.LlamaConfig(**{name: value for name, value in TINY.items() if "dtype" not in name})
    _HF.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def write(folder: Path, tensors: dict[str, torch.Tensor], stated: Any, **more: Any) -> Path:
    """Write tensors and a config that states their quantisation."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**TINY, **more} | ({} if stated is None else {"quantization_config": stated})
    (folder / "config.json").write_text(json.dumps(config))
    whole = {name: value.contiguous() for name, value in tensors.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def parts(source: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the tensors that stay plain, and the weights of linear layers by module."""
    tensors = load_file(source / "model.safetensors")
    linear = {name.removesuffix(".weight"): one for name, one in tensors.items() if "proj" in name}
    return {name: one for name, one in tensors.items() if "proj" not in name}, linear


def _words(*shape: int) -> torch.Tensor:
    return torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int32)


# ------------------------------------------------------------------------------ packed in the layout of each tool


def gptq(source: Path, folder: Path, stated: dict[str, Any]) -> Path:
    """Pack as AutoGPTQ and GPTQModel do: eight weights of a column in an int32."""
    tensors, linear = parts(source)
    for name, weight in linear.items():
        rows, columns = weight.shape
        tensors[f"{name}.qweight"] = _words(columns // 8, rows)
        tensors[f"{name}.qzeros"] = torch.full((columns // 128, rows // 8), 0x77777777, dtype=torch.int32)
        tensors[f"{name}.scales"] = torch.full((columns // 128, rows), 0.003, dtype=torch.float16)
        tensors[f"{name}.g_idx"] = (torch.arange(columns) // 128).int()
    return write(folder, tensors, stated)


def awq(source: Path, folder: Path, stated: dict[str, Any]) -> Path:
    """Pack as AutoAWQ does: eight weights of a row in an int32."""
    tensors, linear = parts(source)
    for name, weight in linear.items():
        rows, columns = weight.shape
        tensors[f"{name}.qweight"] = _words(columns, rows // 8)
        tensors[f"{name}.qzeros"] = torch.full((columns // 128, rows // 8), 0x77777777, dtype=torch.int32)
        tensors[f"{name}.scales"] = torch.full((columns // 128, rows), 0.003, dtype=torch.float16)
    return write(folder, tensors, stated)


def aqlm(source: Path, folder: Path, stated: dict[str, Any]) -> Path:
    """Pack as aqlm does: a code for eight weights, and the codebook."""
    width = stated["nbits_per_codebook"]
    kind = torch.int8 if width == 8 else torch.int16
    tensors, linear = parts(source)
    for name, weight in linear.items():
        rows, columns = weight.shape
        half = 2 ** (width - 1)
        tensors[f"{name}.codes"] = torch.randint(-half, half - 1, (rows, columns // 8, 1)).to(kind)
        tensors[f"{name}.codebooks"] = torch.randn(1, 2**width, 1, 8).half() * 0.02
        tensors[f"{name}.scales"] = torch.ones(rows, 1, 1, 1).half()
    return write(folder, tensors, {**stated, "linear_weights_not_to_quantize": ["lm_head.weight"]})


def bitnet(source: Path, folder: Path, stated: dict[str, Any]) -> Path:
    """Pack as transformers' BitLinear expects: four ternary weights in a byte."""
    tensors, linear = parts(source)
    for name, weight in linear.items():
        rows, columns = weight.shape
        tensors[f"{name}.weight"] = torch.randint(0, 255, (rows // 4, columns), dtype=torch.uint8) & 0xAA
        tensors[f"{name}.weight_scale"] = torch.tensor([30.0], dtype=torch.bfloat16)
    return write(folder, tensors, {**stated, "modules_to_not_convert": ["lm_head"]})


def fp8(source: Path, folder: Path, stated: dict[str, Any]) -> Path:
    """Pack as DeepSeek's checkpoints: float8 and a scale for each block."""
    block = stated.get("weight_block_size") or [128, 128]
    tensors, linear = parts(source)
    for name, weight in linear.items():
        rows, columns = weight.shape
        tensors[f"{name}.weight"] = (weight * 100).to(torch.float8_e4m3fn)
        scale = torch.full((rows // block[0], columns // block[1]), 0.01)
        tensors[f"{name}.weight_scale_inv"] = scale if block[0] > 1 else torch.full_like(scale, 120).byte()
    return write(folder, tensors, stated)


def affine(source: Path, folder: Path, stated: Any, bias: str, **more: Any) -> Path:
    """Pack as MLX does: eight weights of a row in a uint32, with a scale and a bias for 64."""
    tensors, linear = parts(source)
    for name, weight in linear.items():
        rows, columns = weight.shape
        tensors[f"{name}.weight"] = _words(rows, columns // 8).view(torch.uint32)
        tensors[f"{name}.scales"] = torch.full((rows, columns // 64), 0.003, dtype=torch.bfloat16)
        tensors[f"{name}.{bias}"] = torch.full((rows, columns // 64), -0.02, dtype=torch.bfloat16)
    return write(folder, tensors, stated, **more)


def mxfp4(folder: Path, stated: dict[str, Any]) -> Path:
    """Pack as OpenAI's gpt-oss: the experts' weights in blocks of 32 with a scale of 8 bits."""
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 2, "vocab_size": 64}
    config = _HF.GptOssConfig(**sizes, num_experts_per_tok=1, pad_token_id=0)
    model = _HF.GptOssForCausalLM(config).to(torch.bfloat16)
    tensors = dict(model.state_dict())
    for part in ("gate_up_proj", "down_proj"):
        name = f"model.layers.0.mlp.experts.{part}"
        experts, columns, rows = tensors.pop(name).shape
        tensors[f"{name}_blocks"] = torch.randint(
            0, 255, (experts, rows, columns // 32, 16), dtype=torch.uint8
        )
        tensors[f"{name}_scales"] = torch.full((experts, rows, columns // 32), 120, dtype=torch.uint8)
    folder.mkdir()
    config.architectures = ["GptOssForCausalLM"]
    config.dtype = "bfloat16"
    stored = {**config.to_dict(), "quantization_config": stated}
    (folder / "config.json").write_text(json.dumps(stored, default=str))
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


# --------------------------------------------------------------------------------------- made by their own packages


def by_transformers(source: Path, folder: Path, method: str) -> Path:
    """Quantise with the package of a method through transformers, and save."""
    made: dict[str, Callable[[], Any]] = {
        "bitsandbytes_4bit": lambda: _HF.BitsAndBytesConfig(load_in_4bit=True),
        "bitsandbytes_8bit": lambda: _HF.BitsAndBytesConfig(load_in_8bit=True),
        "hqq": lambda: _HF.HqqConfig(nbits=4, group_size=64),
        "torchao": lambda: _HF.TorchAoConfig(_module("torchao.quantization").Int8WeightOnlyConfig()),
    }
    model = _HF.AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.bfloat16, device_map="cpu", quantization_config=made[method]()
    )
    old = method == "torchao" and transformers.__version__ < "5"
    model.save_pretrained(folder, **({"safe_serialization": False} if old else {}))
    return folder


def _module(name: str) -> Any:
    """Import a package that is not of the test environment."""
    return importlib.import_module(name)


def by_optimum_quanto(source: Path, folder: Path) -> Path:
    """Quantise and save with optimum-quanto alone."""
    quanto = _module("optimum.quanto")
    model = _HF.AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    quanto.QuantizedModelForCausalLM.quantize(model, weights=quanto.qint4, exclude="lm_head").save_pretrained(
        folder
    )
    return folder


def by_compressed_tensors(source: Path, folder: Path, preset: str) -> Path:
    """Compress the weights with compressed-tensors, by one of its presets."""
    scheme_of = _module("compressed_tensors.quantization")
    model = _HF.AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    scheme = scheme_of.preset_name_to_scheme(preset, ["Linear"])
    stated = scheme_of.QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"])
    scheme_of.apply_quantization_config(model, stated)
    for name, parameter in model.named_parameters():
        if "scale" in name:
            parameter.data.fill_(0.01)
    compressor = _module("compressed_tensors.compressors").ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    return folder


def installed(method: str) -> bool:
    """Return whether the package that makes a checkpoint of the method is there."""
    name = MADE_BY.get(method)
    try:
        return name is None or importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
