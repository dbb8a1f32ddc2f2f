"""Ordinary models: nothing is refused on the newest release and on 2.8, and few known faults are named on any."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mpsprobe.device.virtual.observer import Finding
from mpsprobe.device.virtual.session import predict as memoryless
from mpsprobe.ops.verdicts import hazards, judge
from mpsprobe.run import Evidence, Hazard, Mac, OpUse, OpVerdict
from mpsprobe.trace.dispatch import RecorderObserver
from mpsprobe.trace.recorder import Recorder

NEWEST = "2.15"
OLD = "2.8"


def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=2,
        num_attention_heads=16,
        num_key_value_heads=4,
    )
    model = LlamaForCausalLM(config).half().eval()
    ids = torch.ones(1, 300, dtype=torch.int64)  # no padding, so no mask
    model.generate(ids, max_new_tokens=2, do_sample=True, pad_token_id=0)


def _vit() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    ViTForImageClassification(ViTConfig(num_hidden_layers=2)).eval()(torch.zeros(4, 3, 224, 224))


def _whisper() -> Any:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        encoder_layers=2, decoder_layers=2, d_model=512, encoder_attention_heads=8, decoder_attention_heads=8
    )
    model = WhisperForConditionalGeneration(config).eval()
    model(input_features=torch.zeros(1, 80, 3000), decoder_input_ids=torch.zeros(1, 4, dtype=torch.int64))


def _sdxl() -> Any:
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 1),  # fewer than 1, 2 and 10: the same op uses again
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        use_linear_projection=True,
    )
    text = {"text_embeds": torch.zeros(2, 1280).half(), "time_ids": torch.zeros(2, 6).half()}
    noise, prompt = torch.zeros(2, 4, 128, 128).half(), torch.zeros(2, 77, 2048).half()
    unet.half().eval()(noise, torch.tensor(1.0), prompt, added_cond_kwargs=text)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
    )
    vae.eval().decode(torch.zeros(1, 4, 128, 128))


MODELS: dict[str, Callable[[], Any]] = {"llama": _llama, "vit": _vit, "whisper": _whisper, "sdxl": _sdxl}


def _predicted(model: str, release: str) -> tuple[list[OpUse], list[Finding]]:
    """Use a model without memory under a release's rules: what it called, and what was refused or fell back."""
    recorder = Recorder()
    with (
        memoryless(release, memory_gb=64, fallback=False, observer=RecorderObserver(recorder)) as session,
        contextlib.ExitStack() as stack,
    ):
        stack.enter_context(torch.device("mps"))
        stack.enter_context(torch.inference_mode())
        MODELS[model]()
    return recorder.op_uses(Evidence.PREDICTED), list(session.findings)


@pytest.fixture(scope="module", params=MODELS)
def predicted(request: pytest.FixtureRequest) -> tuple[str, list[OpUse], list[Finding]]:
    return request.param, *_predicted(request.param, NEWEST)


@pytest.fixture
def uses(predicted: tuple[str, list[OpUse], list[Finding]]) -> list[OpUse]:
    return predicted[1]


@pytest.mark.parametrize(
    "mac", [Mac(NEWEST), Mac(NEWEST, macos="26.5", chip="Apple M4 Max")], ids=["unknown", "m4"]
)
def test_few_faults_may_happen_and_none_is_certain(uses: list[OpUse], mac: Mac) -> None:
    found = hazards(judge(uses, mac, longest=None))
    assert any("attention" in use.op for use in uses)
    assert [one.advisory for one in found if one.is_met] == []
    assert len(_listed(found)) <= 3, _listed(found)


#: What these models meet for certain on older releases, as users of such models reported it; group norm is slow only.
REPORTED = {
    "2.8": {
        "linear-noncontiguous-wrong",
        "group-norm-slow",
    },  # sentence-transformers 3507, TransformerLens 1062
    "2.10": {"group-norm-slow"},
    "2.13": set(),
}


@pytest.mark.parametrize("release", REPORTED)
def test_only_reported_faults_are_certain_on_older_releases(
    predicted: tuple[str, list[OpUse], list[Finding]], release: str
) -> None:
    uses, _ = _predicted(predicted[0], release)
    found = hazards(judge(uses, Mac(release, macos="15.5", chip="Apple M4 Max"), longest=None))
    assert {one.advisory for one in found if one.is_met} <= REPORTED[release]
    assert len(_listed([one for one in found if not one.is_met])) <= 3, _listed(found)


def test_nothing_is_refused_on_an_old_release_and_on_the_newest(
    predicted: tuple[str, list[OpUse], list[Finding]],
) -> None:
    model, uses, findings = predicted
    for release, called, refused in ((NEWEST, uses, findings), (OLD, *_predicted(model, OLD))):
        assert refused == []
        judged = judge(called, Mac(release, macos="15.5"), longest=None)
        assert {one.use.verdict for one in judged} <= {OpVerdict.NATIVE, OpVerdict.COMPOSITE, OpVerdict.WRONG}


def _listed(found: list[Hazard]) -> list[str]:
    return [f"{one.advisory}: {one.op}: {one.why}" for one in found if one.listed]
