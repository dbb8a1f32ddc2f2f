"""Predictions: against the emulating engine, published sizes, PyTorch's own FLOP counts and known findings."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from mpsprobe.device.emulated import Emulated
from mpsprobe.errors import TargetError
from mpsprobe.forecast.trace import stages
from mpsprobe.models import profile
from mpsprobe.models.adapter import Weights
from mpsprobe.models.weightless.from_config import Blueprint
from mpsprobe.models.weightless.random_init import RandomInitAdapter
from mpsprobe.options import Settings
from mpsprobe.prediction import assemble
from mpsprobe.prediction.command import predict_releases
from mpsprobe.prediction.observed import WeightlessTarget, observe, resolve
from mpsprobe.run import Mac, Predicted, Run
from mpsprobe.trace.dispatch import RecorderObserver
from mpsprobe.trace.recorder import Recorder

pytestmark = [
    pytest.mark.own_process,
    pytest.mark.filterwarnings("ignore"),
]  # those of transformers about options of tiny configs

#: Wide enough that weights and what is computed from them have no values: 128 * 600 elements and more.
_TEXT = {
    "vocab_size": 600,
    "hidden_size": 128,
    "intermediate_size": 520,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_VISION = {"hidden_size": 128, "intermediate_size": 520, "num_hidden_layers": 2, "num_attention_heads": 4}
_PATCHED = {**_VISION, "image_size": 96, "patch_size": 8}
_QWEN_TEXT = {
    **_TEXT,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rope_scaling": {"rope_type": "default", "mrope_section": [8, 4, 4], "mrope_interleaved": True},
}
_QWEN_VISION = {
    "depth": 3,
    "hidden_size": 128,
    "num_heads": 4,
    "intermediate_size": 520,
    "out_hidden_size": 128,
    "deepstack_visual_indexes": [0, 1],
    "num_position_embeddings": 1024,
}

_FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("LlamaForCausalLM", {**_TEXT, "num_key_value_heads": 2}),
    ("Gemma3ForCausalLM", {**_TEXT, "num_key_value_heads": 2, "head_dim": 32, "sliding_window": 16}),
    ("MambaForCausalLM", {"vocab_size": 600, "hidden_size": 128, "num_hidden_layers": 1}),
    ("BertModel", _TEXT),
    (
        "T5ForConditionalGeneration",
        {"vocab_size": 600, "d_model": 128, "d_kv": 32, "d_ff": 520, "num_layers": 2},
    ),
    ("ViTForImageClassification", _PATCHED),
    ("DPTForDepthEstimation", {**_PATCHED, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3]}),
    ("MixtralForCausalLM", {**_TEXT, "num_key_value_heads": 2, "num_local_experts": 4}),
    (
        "WhisperForConditionalGeneration",
        {
            "vocab_size": 600,
            "d_model": 128,
            "encoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "decoder_layers": 1,
            "encoder_ffn_dim": 520,
            "decoder_ffn_dim": 520,
            "max_source_positions": 300,
            "decoder_start_token_id": 3,
            "pad_token_id": 0,
            "eos_token_id": 2,
            "bos_token_id": 1,
        },
    ),
    (
        "Qwen3VLForConditionalGeneration",
        {
            "text_config": _QWEN_TEXT,
            "vision_config": _QWEN_VISION,
            "image_token_id": 590,
            "video_token_id": 591,
            "vision_start_token_id": 592,
            "vision_end_token_id": 593,
        },
    ),
]


def _target(name: str, config: dict[str, Any], dtype: str = "auto") -> WeightlessTarget:
    cls = getattr(transformers, name)
    adapter = RandomInitAdapter(
        Path(), profile.load("transformers"), Blueprint(name, cls, cls.config_class(**config))
    )
    adapter.weights = Weights.NONE
    return WeightlessTarget(name, adapter, dtype)


def _emulated_ops(target: WeightlessTarget, mac: Mac) -> Counter[tuple[str, str]]:
    """Calls by op and line of the same inference with real values under MPS's rules."""
    adapter = target.adapter
    device = Emulated(mac)
    with device.opened(), torch.inference_mode():
        adapter.weights = Weights.RANDOM
        model = adapter.load(torch.device("mps", 0), target.dtype)
        batch = {name: value.to("mps") for name, value in adapter.prepare(adapter.sample()).items()}
        recorder = Recorder(model)
        with recorder.paths.following(), device.observed_by(RecorderObserver(recorder)):
            adapter.infer(model, batch)
    return _calls(recorder.op_uses())


def predict(target: WeightlessTarget, mac: Mac) -> tuple[Run, Predicted]:
    """The run of a prediction, and what only a prediction has."""
    run = assemble.predict(target, mac)
    assert run.predicted is not None
    return run, run.predicted


def _calls(uses: Any) -> Counter[tuple[str, str]]:
    calls: Counter[tuple[str, str]] = Counter()
    for use in uses:
        calls[use.op, use.source] += use.count
    return calls


@pytest.mark.parametrize(("name", "config"), _FAMILIES, ids=[name for name, _ in _FAMILIES])
def test_the_ops_are_those_of_a_run_with_real_values(name: str, config: dict[str, Any]) -> None:
    mac = Mac("2.13", "15.5")
    run, predicted = predict(_target(name, config), mac)
    assert predicted.stopped == ""
    assert predicted.refusals == []
    emulated = _emulated_ops(_target(name, config), mac)
    assert {op for op, _ in _calls(run.op_uses)} == {op for op, _ in emulated}
    if not any(one.dependents for one in predicted.assumptions):
        assert _calls(run.op_uses) == emulated


def test_published_sizes_without_memory() -> None:
    """Llama 3 8B: 8,030,261,248 parameters, as its model card's safetensors index counts them."""
    config = {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    }
    run, predicted = predict(_target("LlamaForCausalLM", config, "bfloat16"), Mac("2.13"))
    assert run.target.parameters == 8_030_261_248
    assert predicted.dtypes == {"bfloat16": 8_030_261_248}
    # two operations a weight and token, embeddings aside, in 32 prompt tokens, whose last alone has logits,
    # then in fifteen of the sixteen new ones
    weights, head = 8_030_261_248 - 2 * 128256 * 4096, 128256 * 4096
    matmuls = 2 * (weights * (32 + 15) + head * 16)
    assert sum(use.flops or 0 for use in run.op_uses) == pytest.approx(matmuls, rel=0.01)
    assert run.fully_native


def test_op_uses_say_where_and_how_often() -> None:
    run, _ = predict(_target(*_FAMILIES[0]), Mac("2.13"))
    linear = [use for use in run.op_uses if use.module == "model.layers.1.self_attn.q_proj"]
    assert [use.inputs[0].shape for use in linear] == [(1, 32, 128), (1, 1, 128)]
    assert [use.count for use in linear] == [1, 15]
    assert {use.op for use in linear} == {"aten::linear"}
    assert all("modeling_llama.py:" in use.source for use in linear)


class _Planted(nn.Module):
    """A model with one thing wrong in each line."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        return {"x": torch.linspace(0, 1, 400 * 400, device="cpu").view(400, 400)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.linear(x)
        hidden = hidden + torch.linalg.eigh(hidden @ hidden.T)[0]
        half = hidden.double()
        if (half > 2).sum() > 3:
            hidden = hidden * 2
        return hidden[hidden > 0]


def _planted() -> WeightlessTarget:
    blueprint = Blueprint("planted", _Planted, {"size": 400})
    adapter = RandomInitAdapter(Path(), profile.load("transformers"), blueprint)
    adapter.weights = Weights.NONE
    return WeightlessTarget("planted", adapter, "float32")


class _BeamSearch(RandomInitAdapter):
    def load(self, device: torch.device, dtype: str) -> nn.Module:
        model: Any = super().load(device, dtype)
        model.generation_config.update(num_beams=3, eos_token_id=None, pad_token_id=0)
        return model


def test_a_beam_search_goes_on_to_its_last_token() -> None:
    """Its end depends on scores, which nobody computes; on the CPU it calls the decoder once a token."""
    config: dict[str, Any] = {**_TEXT, "num_key_value_heads": 2}
    real: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).eval()
    real.generation_config.update(num_beams=3, eos_token_id=None, pad_token_id=0)
    calls = []
    real.model.register_forward_hook(lambda *_: calls.append(1))
    real.generate(torch.ones(1, 4, dtype=torch.int64), max_new_tokens=6, do_sample=False)
    generic = profile.load("transformers")
    generic.inference["max_new_tokens"] = 6
    blueprint = Blueprint("beams", transformers.LlamaForCausalLM, transformers.LlamaConfig(**config))
    adapter = _BeamSearch(Path(), generic, blueprint)
    adapter.weights = Weights.NONE
    seen = observe(WeightlessTarget("beams", adapter, "auto"), Mac("2.13"))
    assert not seen.stopped
    assert sum(stage.repeats for stage in stages(seen.trace)) == len(calls) == 6


def _line(text: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    return f"test_predict.py:{next(i for i, line in enumerate(lines, 1) if text in line)}"


@pytest.fixture(scope="module")
def planted() -> tuple[Run, Predicted]:
    return predict(_planted(), Mac("2.8", "15.5"))


def test_a_missing_op_is_found_at_its_line(planted: tuple[Run, Predicted]) -> None:
    (use,) = [use for use in planted[0].op_uses if use.op.startswith("aten::_linalg_eigh")]
    assert use.verdict == "raises"
    assert use.grade == "certain"
    assert use.source.endswith(_line("torch.linalg.eigh(hidden"))
    assert "not currently implemented for the MPS device" in use.reason


def test_a_float64_tensor_is_refused_in_pytorchs_words(planted: tuple[Run, Predicted]) -> None:
    (finding,) = [finding for finding in planted[1].refusals if finding.kind == "dtype"]
    assert finding.source.endswith(_line("half = hidden.double()"))
    assert "float64" in finding.message
    assert not planted[0].fully_native


def test_a_branch_on_an_unknown_value_is_listed(planted: tuple[Run, Predicted]) -> None:
    dependents = [text for one in planted[1].assumptions for text in one.dependents]
    assert any(text.endswith(_line("if (half > 2)")) for text in dependents)
    assert any("assumed values decided" in text for text in planted[1].unknowns)


def test_fallback_turns_a_missing_op_into_a_trip_to_the_cpu() -> None:
    run, _ = predict(_planted(), Mac("2.8", "15.5", fallback=True))
    (use,) = [use for use in run.op_uses if use.op.startswith("aten::_linalg_eigh")]
    assert use.verdict == "fallback"


def test_the_release_asked_about_decides_not_the_installed_one() -> None:
    """`isin` came in 2.4 (pytorch 124896), `isneginf` on MPS in 2.6."""
    table = predict_releases(_target(*_FAMILIES[0]), Mac("2.13", "15.5")).predicted
    assert table is not None
    rows = {row.torch: row for row in table.releases}
    assert "aten::isin.Tensor_Tensor_out" in rows["2.3"].not_native["raises"]
    assert "aten::isin.Tensor_Tensor_out" not in rows["2.4"].not_native.get("raises", [])
    assert rows["2.13"].fully_native
    assert table.first_fully_native is not None
    newest = table.releases[-1]
    assert newest.fully_native
    assert sum(newest.calls.values()) > sum(newest.op_uses.values())


def test_memory_is_judged_for_a_named_mac_only() -> None:
    config = {**_TEXT, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 8}
    _, small = predict(_target("LlamaForCausalLM", config), Mac("2.13", "15.5", "Apple M1", 8))
    assert [finding.kind for finding in small.refusals] == ["memory"]
    assert "MPS backend out of memory" in small.refusals[0].message
    _, unnamed = predict(_target("LlamaForCausalLM", config), Mac("2.13", "15.5"))
    assert unnamed.refusals == []
    assert any("nothing is said of memory" in text for text in unnamed.unknowns)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError("lost"), "KeyError: 'lost'"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt("mine"), "KeyboardInterrupt: mine"),
        (GeneratorExit(), "GeneratorExit: no reason given"),
    ],
)
def test_code_that_raises_ends_the_prediction_not_the_program(error: BaseException, told: str) -> None:
    class Broken(nn.Module):
        dummy_inputs = {"x": torch.ones(3)}  # noqa: RUF012

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + 1
            raise error

    blueprint = Blueprint("broken", Broken, {})
    adapter = RandomInitAdapter(Path(), profile.load("transformers"), blueprint)
    adapter.weights = Weights.NONE
    run, predicted = predict(WeightlessTarget("broken", adapter, "auto"), Mac("2.13"))
    assert predicted.stopped.startswith(f"{told} (at ")
    assert predicted.stopped.endswith(f"{_line('raise error')})")
    assert [use.op for use in run.op_uses] == ["aten::add.Tensor"]
    assert not run.fully_native


class _Unfed(RandomInitAdapter):
    """A target whose own code raises while it makes its input."""

    error: BaseException

    def prepare(self, sample: object) -> dict[str, torch.Tensor]:
        raise self.error


class _Odd(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize("error", [KeyError("lost"), KeyboardInterrupt(), SystemExit(0), _Odd()])
def test_an_input_that_cannot_be_made_is_the_targets(error: BaseException) -> None:
    adapter = _Unfed(Path(), profile.load("transformers"), Blueprint("unfed", nn.Identity, {}))
    adapter.error = error
    with pytest.raises(TargetError, match=f"{type(error).__name__}.*{_line('raise self.error')}"):
        predict(WeightlessTarget("unfed", adapter, "auto"), Mac("2.13"))


def test_an_odd_size_in_a_config_is_named() -> None:
    config = {**_TEXT, "vocab_size": {"x": None}}
    with pytest.raises(TargetError, match="no `input_ids` can be made from its config: TypeError"):
        predict(_target("LlamaForCausalLM", config), Mac("2.13"))


class _Tables(nn.Module):
    """As diffusers' transformers: positions are computed in float64 on the CPU, and kept in float32."""

    dummy_inputs = {"count": 4}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        print("built")  # noqa: T201
        self.linear = nn.Linear(8, 8)
        self.register_buffer("table", torch.arange(8, dtype=torch.float64).sin().float())

    def forward(self, count: int) -> torch.Tensor:
        steps = torch.linspace(0, 1, count, dtype=torch.float64)
        return self.linear(self.table) + steps.to("mps", torch.float32)[:1]


def test_float64_that_stays_on_the_cpu_is_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    """A Mac builds on the CPU, and casts there what it copies (Copy.mm: copy_to_mps_)."""
    blueprint = Blueprint("tables", _Tables, {})
    adapter = RandomInitAdapter(Path(), profile.load("transformers"), blueprint)
    adapter.weights = Weights.NONE
    run, predicted = predict(WeightlessTarget("tables", adapter, "auto"), Mac("2.13"))
    assert predicted.refusals == []
    assert {use.verdict for use in run.op_uses} <= {"native", "composite"}
    assert any(one.dtype == "float64" for use in run.op_uses for one in use.inputs)
    assert capsys.readouterr().out == ""  # stdout is the document's


def test_the_default_target_runs_its_own_inference() -> None:
    run, _ = predict(resolve(Settings()), Mac("2.13"))
    assert run.target.architecture == "TinyDrive"
    assert run.fully_native
    assert any("trajectories.py" in use.source for use in run.op_uses)


def test_shrinking_keeps_the_lines_and_ops_of_the_whole(tmp_path: Path) -> None:
    name, config = _FAMILIES[-1]
    larger = {**config, "text_config": {**_QWEN_TEXT, "num_hidden_layers": 4}}
    cls = getattr(transformers, name)
    cls.config_class(**larger, architectures=[name]).save_pretrained(tmp_path)
    whole, shrunk = (
        predict(resolve(Settings(str(tmp_path), random_init=True, shrink=shrink)), Mac("2.13"))[0]
        for shrink in (False, True)
    )
    assert (shrunk.target.parameters or 0) < (whole.target.parameters or 0)
    assert {*_calls(whole.op_uses)} == {*_calls(shrunk.op_uses)}
