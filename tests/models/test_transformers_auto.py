import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mpsprobe.errors import TargetError
from mpsprobe.models import choose
from mpsprobe.models.adapter import Outputs
from mpsprobe.models.tiny_drive import repository
from mpsprobe.models.transformers_auto import TransformersAdapter

hf: Any = importlib.import_module("transformers")  # its annotations are partial
CPU = torch.device("cpu")
TEXT = {
    "vocab_size": repository.VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
IMAGE = {**{key: value for key, value in TEXT.items() if key != "vocab_size"}, "num_labels": 5}
T5 = {
    "vocab_size": repository.VOCAB_SIZE,
    "d_model": 32,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "d_kv": 8,
}
BART = {
    "vocab_size": repository.VOCAB_SIZE,
    "d_model": 32,
    **{
        f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 32))
    },
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
}


def save_tokenizer(folder: Path) -> None:
    hf.PreTrainedTokenizerFast(
        tokenizer_object=repository.build_tokenizer(),
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        mask_token="<|answer_end|>",
    ).save_pretrained(folder)


def save_image_processor(folder: Path) -> None:
    values = {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))


def make(folder: Path, model: Any, save_processor: Callable[[Path], None]) -> TransformersAdapter:
    model.save_pretrained(folder)
    save_processor(folder)
    chosen = choose.for_folder(folder)
    adapter = choose.make_adapter(chosen, folder)
    assert isinstance(adapter, TransformersAdapter)
    return adapter


def run(adapter: TransformersAdapter) -> tuple[Outputs, Outputs]:
    model = adapter.load(CPU, "auto")
    with torch.inference_mode():
        forward = adapter.forward(model, adapter.prepare(adapter.sample()))
        return forward, adapter.extract(adapter.infer(model, adapter.prepare(adapter.sample())))


CASES: dict[str, tuple[Callable[[], Any], Callable[[Path], None], str, set[str]]] = {
    "llama": (
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)),
        save_tokenizer,
        "causal language model",
        {"text", "tokens"},
    ),
    "masked": (
        lambda: hf.BertForMaskedLM(hf.BertConfig(**TEXT)),
        save_tokenizer,
        "masked language model",
        {"text", "tokens"},
    ),
    "encoder": (
        lambda: hf.BertModel(hf.BertConfig(**TEXT), add_pooling_layer=False),
        save_tokenizer,
        "text encoder",
        {"embedding"},
    ),
    "any text model": (
        lambda: hf.LlamaModel(hf.LlamaConfig(**TEXT)),
        save_tokenizer,
        "text encoder",
        {"embedding"},
    ),
    "text classifier": (
        lambda: hf.BertForSequenceClassification(hf.BertConfig(**TEXT)),
        save_tokenizer,
        "text classifier",
        {"label", "probabilities"},
    ),
    "t5": (
        lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5, decoder_start_token_id=0)),
        save_tokenizer,
        "sequence to sequence",
        {"text", "tokens"},
    ),
    "bart": (
        lambda: hf.BartForConditionalGeneration(hf.BartConfig(**BART)),
        save_tokenizer,
        "sequence to sequence",
        {"text", "tokens"},
    ),
    "t5 encoder": (
        lambda: hf.T5EncoderModel(hf.T5Config(**T5)),
        save_tokenizer,
        "text encoder",
        {"embedding"},
    ),
    "image classifier": (
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**IMAGE)),
        save_image_processor,
        "image classifier",
        {"label", "probabilities"},
    ),
    "image encoder": (
        lambda: hf.ViTModel(hf.ViTConfig(**IMAGE)),
        save_image_processor,
        "image encoder",
        {"embedding"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_kind_runs_from_its_own_repository(case: str, tmp_path: Path) -> None:
    build, save_processor, task, names = CASES[case]
    adapter = make(tmp_path, build(), save_processor)
    assert adapter.task.name == task
    forward, outputs = run(adapter)
    assert forward
    assert outputs.keys() == names
    for value in (*forward.values(), *outputs.values()):
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert bool(torch.isfinite(value).all())


def test_generates_what_the_class_itself_would(tmp_path: Path) -> None:
    original = hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)).eval()
    adapter = make(tmp_path, original, save_tokenizer)
    _, outputs = run(adapter)
    prompt = adapter.tokenizer(adapter.sample()["text"], return_tensors="pt").input_ids
    step = prompt
    for _ in range(outputs["tokens"].shape[1] - prompt.shape[1]):
        step = torch.cat([step, original(step).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(outputs["tokens"], step)


def test_embedding_leaves_padding_out(tmp_path: Path) -> None:
    adapter = make(tmp_path, hf.BertModel(hf.BertConfig(**TEXT)), save_tokenizer)
    model = adapter.load(CPU, "auto")
    batch = adapter.prepare(adapter.sample())
    padded = {name: torch.nn.functional.pad(value, (0, 3)) for name, value in batch.items()}
    with torch.inference_mode():
        plain, with_padding = (adapter.infer(model, b)["embedding"] for b in (batch, padded))
    torch.testing.assert_close(plain, with_padding, atol=1e-5, rtol=1e-5)


def test_chat_models_get_a_chat(tmp_path: Path) -> None:
    adapter = make(tmp_path, hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)), save_tokenizer)
    adapter.tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}<|cot_start|>"
    )
    ids = adapter.prepare({"text": "stop"})["input_ids"][0].tolist()
    special = repository.SPECIAL_IDS
    assert (ids[0], ids[-2:]) == (special["<|im_start|>"], [special["<|im_end|>"], special["<|cot_start|>"]])


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "names no class"),
        ({"architectures": ["NoSuchForCausalLM"]}, "has no class NoSuchForCausalLM"),
        ({"architectures": ["Mine"], "auto_map": {"AutoModel": "modeling.Mine"}}, "code of the repository"),
    ],
)
def test_class_that_cannot_be_loaded(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    adapter = choose.make_adapter(choose.for_config(tmp_path), tmp_path)
    with pytest.raises(TargetError, match=said):
        adapter.load(CPU, "auto")


@pytest.mark.parametrize("named", ["WhisperForConditionalGeneration", "CLIPModel", "Mine"])
def test_unknown_task_is_an_error(named: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [named]}))
    adapter = choose.make_adapter(choose.for_config(tmp_path), tmp_path)
    with pytest.raises(TargetError, match=f"no known task for {named}"):
        adapter.sample()


def test_missing_tokenizer_is_an_error(tmp_path: Path) -> None:
    adapter = make(tmp_path, hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)), lambda _: None)
    with pytest.raises(TargetError, match="tokenizer cannot be loaded"):
        adapter.prepare(adapter.sample())
