from __future__ import annotations

from typing import Any


def tiny_llama(**options: Any) -> Any:
    """A Llama with random weights, in eval mode."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    model: Any = LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, **options}))
    return model.eval()
