"""The tiny driving model: a VLM that reads cameras and history, and an expert that samples trajectories."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache
from transformers.generation.logits_process import (
    LogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLForConditionalGeneration,
    Qwen3VLTextModel,
)

from mpsprobe.models.tiny_drive.configuration import TinyDriveConfig
from mpsprobe.models.tiny_drive.trajectories import (
    ActionTokenizer,
    DeltaTokenizer,
    UnicycleActionSpace,
    UniformBins,
)


class TraceProcessor(LogitsProcessor):  # type: ignore[misc, unused-ignore]
    """A logits processor that samples `length` words by temperature and nucleus, then forces `closing`.

    It adds Gumbel noise, so that the maximum of the scores is a sample of their softmax. `generate` itself would
    sample with the device's own generator, so that CPU, CUDA and MPS would produce different words from the same seed;
    this noise comes from a CPU generator and is moved to the device.

    Attributes:
        prompt_length: The number of tokens before the first generated one.
        words: The first id, and the one after the last, that a trace may hold.
        length: The number of words in the trace.
        closing: The ids that follow the trace; the last one ends generation.
    """

    def __init__(
        self,
        prompt_length: int,
        words: tuple[int, int],
        length: int,
        closing: Sequence[int],
        temperature: float,
        top_p: float,
        seed: int,
    ) -> None:
        self.prompt_length = prompt_length
        self.words = words
        self.length = length
        self.closing = closing
        self._warpers = [TemperatureLogitsWarper(temperature), TopPLogitsWarper(top_p)]
        self._generator = torch.Generator(device="cpu").manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores (batch, vocabulary) whose maximum is the next token."""
        step = input_ids.shape[1] - self.prompt_length
        allowed = torch.full_like(scores, -torch.inf)
        if step >= self.length:
            allowed[:, self.closing[min(step - self.length, len(self.closing) - 1)]] = 0
            return allowed
        first, end = self.words
        allowed[:, first:end] = scores[:, first:end]
        for warper in self._warpers:
            allowed = warper(input_ids, allowed)
        uniform = torch.rand(scores.shape, generator=self._generator).clamp_min(1e-9)
        gumbel = -(-uniform.log()).log()
        return allowed + gumbel.to(device=scores.device, dtype=scores.dtype)


#: The number of Fourier frequencies of a scalar: 2 pi 2^0 ... 2 pi 2^(n-1), over the scale of normalised actions.
_FREQUENCIES = 8
_SCALE = 16.0


class ActionInProjection(nn.Module):
    """Project noisy actions and the flow's time to decoder inputs: Fourier features, then two layers."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(3 * 2 * _FREQUENCIES, hidden)
        self.outer = nn.Linear(hidden, hidden)

    def forward(self, actions: Tensor, time: Tensor) -> Tensor:
        """Map actions (B, T, 2) and times (B,), float32, to decoder inputs (B, T, hidden) in the weights' dtype."""
        values = torch.cat([actions, time[:, None, None].expand(*actions.shape[:2], 1) * _SCALE], dim=-1)
        octaves = torch.arange(_FREQUENCIES, device=actions.device, dtype=torch.float32)
        phases = (values / _SCALE)[..., None] * (2 * math.pi / _FREQUENCIES) * torch.exp2(octaves)
        features = torch.cat([phases.sin(), phases.cos()], dim=-1).flatten(-2)
        hidden: Tensor = self.outer(nn.functional.silu(self.inner(features.to(self.inner.weight.dtype))))
        return hidden


def share_prefix(cache: DynamicCache, repeats: int = 1) -> DynamicCache:
    """Return a cache that begins with the tensors of `cache` and grows without changing it.

    Layers replace their tensors when they grow (`torch.cat`), so copies of the layer objects suffice. Keys and values
    are shared, unless `repeats` is above 1: then each row of the batch is copied that many times.
    """
    view = copy.copy(cache)
    view.layers = [copy.copy(layer) for layer in cache.layers]
    if repeats > 1:
        view.batch_repeat_interleave(repeats)
    return view


def velocity(
    decoder: Qwen3VLTextModel,
    embeddings: Tensor,
    prefix: DynamicCache,
    prefix_mask: Tensor,
    first_position: Tensor,
) -> Tensor:
    """Return the expert's last hidden states (B, T, hidden) for waypoints after the cached `prefix`.

    The caller projects them to the flow's velocity. The prefix is not changed.

    Args:
        decoder: The expert's layers.
        embeddings: The embeddings of the waypoints, (B, T, hidden).
        prefix: The VLM's keys and values, with B rows.
        prefix_mask: A mask (B, P) that is 0 where the prefix is padding.
        first_position: The rotary position (B,) of the first waypoint.
    """
    batch, count = embeddings.shape[:2]
    # additive and four-dimensional, so that transformers keeps it and waypoints attend in both directions
    blocked = (1 - prefix_mask[:, None, None, :].to(embeddings.dtype)) * torch.finfo(embeddings.dtype).min
    mask = nn.functional.pad(blocked.expand(batch, 1, count, -1), (0, count))
    positions = first_position[:, None] + torch.arange(count, device=embeddings.device)
    output: Tensor = decoder(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=positions.expand(3, -1, -1),
        past_key_values=share_prefix(prefix),
        use_cache=True,
    ).last_hidden_state
    return output


def integrate(field: Callable[[Tensor, Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Return the state (B, ...) after `steps` Euler steps of `field(x, t)`, with t (B,) float32, from t = 0 to 1."""
    state = start
    for step in range(steps):
        time = torch.full((start.shape[0],), step / steps, device=start.device, dtype=torch.float32)
        state = state + field(state, time) / steps
    return state


@dataclass(frozen=True)
class ForwardOutput:
    """The named outputs of one forward pass without sampling.

    Attributes:
        logits: The logits (B, L, vocabulary), in the weights' dtype.
        velocity: The flow's field (B, T, 2) at t = 0 for fixed noise, float32.
    """

    logits: Tensor
    velocity: Tensor


@dataclass(frozen=True)
class Rollout:
    """The result of one inference, on the model's device.

    Attributes:
        pred_xyz: The positions (B, 1, n, T, 3) in metres, float32, in the frame of the last history point.
        pred_rot: The rotations (B, 1, n, T, 3, 3), float32.
        tokens: The generated tokens (B, new) int64, which all n trajectories share.
    """

    pred_xyz: Tensor
    pred_rot: Tensor
    tokens: Tensor


class TinyDrive(PreTrainedModel):  # type: ignore[misc, no-untyped-call, unused-ignore]
    """The VLM, the action expert and the action space in one model, as in Alpamayo-R1."""

    config_class = TinyDriveConfig
    base_model_prefix = "vlm"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _no_split_modules = ["Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock"]  # noqa: RUF012

    def __init__(self, config: TinyDriveConfig) -> None:
        super().__init__(config)
        # Any, because transformers' own annotations of models are partial, and differ between its releases
        self.vlm: Any = Qwen3VLForConditionalGeneration(config.vlm_config)  # type: ignore[no-untyped-call, unused-ignore]
        self.expert: Any = Qwen3VLTextModel(config.expert_config)
        self.expert.embed_tokens = None  # type: ignore[assignment, unused-ignore]  # it reads actions
        self.action_in_proj = ActionInProjection(config.expert_config.hidden_size)
        self.action_out_proj = nn.Linear(config.expert_config.hidden_size, 2)
        self.action_space = UnicycleActionSpace(config.time_step, config.acceleration, config.curvature)
        self.future_tokenizer = ActionTokenizer(
            UniformBins(config.future_range, config.future_bins), config.trajectory_start
        )
        self.history_tokenizer = DeltaTokenizer(
            UniformBins(config.history_range, config.history_bins),
            config.trajectory_start + config.future_bins,
        )
        self.post_init()  # type: ignore[no-untyped-call, unused-ignore]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor,
        image_grid_thw: Tensor,
        ego_history_xyz: Tensor,
        ego_history_rot: Tensor,
        seed: int = 0,
    ) -> ForwardOutput:
        """Run one pass of the VLM over the prompt, and one of the expert after it.

        Args:
            input_ids: Tokens (B, L) int64, with placeholders for images and history.
            attention_mask: A mask (B, L) int64.
            pixel_values: Patches (patches, 3 * 2 * patch * patch) float32.
            image_grid_thw: Frames, rows and columns of patches (images, 3) int64.
            ego_history_xyz: Positions (B, 1, 16, 3) in metres.
            ego_history_rot: Rotations (B, 1, 16, 3, 3), which this pass does not use.
            seed: The seed of the expert's noise.
        """
        del ego_history_rot
        input_ids = self._with_history(input_ids, ego_history_xyz)
        output = self.vlm(**self._vlm_inputs(input_ids, attention_mask, pixel_values, image_grid_thw))
        noise = self._noise(input_ids.shape[0], seed, input_ids.device)
        time = torch.zeros(noise.shape[0], device=noise.device)
        field = self._field(noise, time, output.past_key_values, attention_mask)
        return ForwardOutput(output.logits, field)

    @torch.no_grad()
    def rollout(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor,
        image_grid_thw: Tensor,
        ego_history_xyz: Tensor,
        ego_history_rot: Tensor,
        num_traj_samples: int = 1,
        trace_tokens: int = 16,
        temperature: float = 0.6,
        top_p: float = 0.98,
        seed: int = 0,
    ) -> Rollout:
        """Generate a trace, then sample `num_traj_samples` trajectories that share it.

        Args:
            input_ids: Tokens (B, L) int64, with placeholders for images and history.
            attention_mask: A mask (B, L) int64.
            pixel_values: Patches (patches, 3 * 2 * patch * patch) float32.
            image_grid_thw: Frames, rows and columns of patches (images, 3) int64.
            ego_history_xyz: Positions (B, 1, 16, 3) in metres.
            ego_history_rot: Rotations (B, 1, 16, 3, 3); with the positions they give the speed at the start.
            num_traj_samples: The number of trajectories.
            trace_tokens: The number of words in the trace.
            temperature: The temperature by which words are sampled.
            top_p: The probability that the nucleus of each word holds.
            seed: The seed of the words and of the trajectories' noise.
        """
        ids = self.config.special_ids
        closing = [ids["<|cot_end|>"], ids["<|traj_future_start|>"], ids["<|im_end|>"]]
        prompt = self._with_history(input_ids, ego_history_xyz)
        generated = self.vlm.generate(
            **self._vlm_inputs(prompt, attention_mask, pixel_values, image_grid_thw),
            logits_processor=[
                TraceProcessor(
                    prompt.shape[1], self.config.word_ids, trace_tokens, closing, temperature, top_p, seed
                )
            ],
            do_sample=False,
            max_new_tokens=trace_tokens + len(closing),
            eos_token_id=closing[-1],
            pad_token_id=ids["<|endoftext|>"],
            return_dict_in_generate=True,
        )
        # the last token was sampled but never read, so the cache ends with <|traj_future_start|>
        cache = generated.past_key_values
        seen = attention_mask.new_ones(attention_mask.shape[0], cache.get_seq_length() - prompt.shape[1])
        mask = torch.cat([attention_mask, seen], dim=-1).repeat_interleave(num_traj_samples, dim=0)
        cache = share_prefix(cache, num_traj_samples)

        def field(actions: Tensor, time: Tensor) -> Tensor:
            return self._field(actions, time, cache, mask)

        noise = self._noise(mask.shape[0], seed, mask.device)
        actions = integrate(field, noise, self.config.flow_steps)
        speed = self.action_space.last_speed(ego_history_xyz, ego_history_rot)  # (B, 1)
        shape = (prompt.shape[0], 1, num_traj_samples)
        xyz, rotation = self.action_space.to_trajectory(
            actions.reshape(*shape, *actions.shape[1:]), speed[..., None].expand(shape)
        )
        return Rollout(xyz, rotation, generated.sequences[:, prompt.shape[1] :])

    def _field(self, actions: Tensor, time: Tensor, cache: DynamicCache, mask: Tensor) -> Tensor:
        """Return the flow's velocity (N, T, 2), float32, at actions (N, T, 2) and times (N,), given the prefix."""
        deltas = self.vlm.model.rope_deltas.to(actions.device)[:, 0]
        repeats = actions.shape[0] // deltas.shape[0]
        first = deltas.repeat_interleave(repeats) + mask.shape[-1]
        embeddings = self.action_in_proj(actions, time)
        hidden = velocity(self.expert, embeddings, cache, mask, first)
        field: Tensor = self.action_out_proj(hidden)
        return field.float()

    def _noise(self, rows: int, seed: int, device: torch.device) -> Tensor:
        """Return Gaussian noise (rows, T, 2) float32 from a CPU generator, so that every device gets the same."""
        generator = torch.Generator(device="cpu").manual_seed(seed)
        return torch.randn(rows, self.config.future_points, 2, generator=generator).to(device)

    def _with_history(self, input_ids: Tensor, ego_history_xyz: Tensor) -> Tensor:
        """Return `input_ids` (B, L) with the tokens of the history (B, 1, 16, 3) in place of its placeholders."""
        tokens = self.history_tokenizer.encode(ego_history_xyz)
        placeholder = self.config.special_ids["<|traj_history|>"]
        return input_ids.masked_scatter(input_ids == placeholder, tokens)

    def _vlm_inputs(
        self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor, image_grid_thw: Tensor
    ) -> dict[str, Any]:
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "pixel_values": pixel_values,
            "image_grid_thw": image_grid_thw,
            "use_cache": True,
        }
        # transformers 5 needs to know which tokens are images; 4.57 derives it and has no such input
        if "mm_token_type_ids" in inspect.signature(self.vlm.forward).parameters:
            inputs["mm_token_type_ids"] = (input_ids == self.config.vlm_config.image_token_id).int()
        return inputs


def register() -> None:
    """Register the model with transformers' Auto classes; registering it again has no effect."""
    AutoConfig.register(TinyDriveConfig.model_type, TinyDriveConfig, exist_ok=True)
    AutoModel.register(TinyDriveConfig, TinyDrive, exist_ok=True)


register()
