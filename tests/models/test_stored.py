"""Stored weights of classes that the common tasks do not cover, against transformers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mpsprobe.errors import MpsprobeError
from mpsprobe.models import stored
from mpsprobe.models.adapter import Weights
from mpsprobe.models.targets import resolve
from mpsprobe.options import Settings
from mpsprobe.phases import download
from mpsprobe.phases.check import LinkFailed
from tests.models.test_config_only import _remote

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers about options of tiny configs

_WHISPER: dict[str, Any] = {
    "vocab_size": 60,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_source_positions": 20,
    "max_target_positions": 30,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 4,
}


def test_a_speech_model_runs_with_its_own_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    own = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**_WHISPER)).eval()
    own.save_pretrained(tmp_path)
    obtained = download.obtain(resolve(Settings(str(tmp_path))), lambda _: None)
    adapter = obtained.adapter
    assert adapter.weights is Weights.STORED
    model = adapter.load(torch.device("cpu"), "float32")
    batch = adapter.prepare(adapter.sample())
    with torch.inference_mode():
        outputs = adapter.forward(model, batch)
        expected = own(**batch, decoder_input_ids=torch.tensor([[4]])).logits
    # The weights are those of the file to the bit. Mapped from it they are aligned otherwise than those in memory,
    # and a vectorised kernel then adds in another order.
    for name, value in own.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    torch.testing.assert_close(outputs["logits"], expected, rtol=0, atol=1e-6)


def test_phase_3_refuses_repository_code_without_consent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = _remote(tmp_path)
    from safetensors.torch import save_file

    save_file({"layer.weight": torch.ones(4, 4), "layer.bias": torch.zeros(4)}, folder / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(LinkFailed, match="not run unasked"):
        download.obtain(resolve(Settings(str(folder))), lambda _: None)
    assert not (folder / "ran").exists()
    told: list[str] = []
    obtained = download.obtain(resolve(Settings(str(folder), trust_remote_code=True)), told.append)
    assert any("own.py" in line for line in told)
    model = obtained.adapter.load(torch.device("cpu"), "float32")
    assert torch.equal(model.state_dict()["layer.weight"], torch.ones(4, 4))


def test_a_class_that_is_not_there_is_left_to_loading(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["NoSuchModel"], "model_type": "llama"}')
    adapter = stored.make(resolve(Settings(str(tmp_path))), tmp_path)
    with pytest.raises(MpsprobeError, match="NoSuchModel"):
        adapter.load(torch.device("cpu"), "auto")
