"""The tiny driving model: a VLM that reads cameras and history, and an expert that draws trajectories."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLForConditionalGeneration,
    Qwen3VLTextModel,
)

from mpsprobe.models.tiny_drive.action_space import UnicycleActionSpace
from mpsprobe.models.tiny_drive.configuration import TinyDriveConfig
from mpsprobe.models.tiny_drive.expert import ActionInProjection, integrate, share_prefix, velocity
from mpsprobe.models.tiny_drive.trace import TraceProcessor
from mpsprobe.models.tiny_drive.trajectory_tokens import ActionTokenizer, DeltaTokenizer, UniformBins


@dataclass(frozen=True)
class ForwardOutput:
    """One plain pass.

    Attributes:
        logits: (B, L, vocabulary), in the weights' dtype.
        velocity: (B, T, 2) float32, the flow's field at t = 0 for fixed noise.
    """

    logits: Tensor
    velocity: Tensor


@dataclass(frozen=True)
class Rollout:
    """What one inference yields, on the model's device.

    Attributes:
        pred_xyz: (B, 1, n, T, 3) metres, float32, in the frame of the last history point.
        pred_rot: (B, 1, n, T, 3, 3) float32.
        tokens: (B, new) int64, what followed the prompt; all n trajectories share it.
    """

    pred_xyz: Tensor
    pred_rot: Tensor
    tokens: Tensor


class TinyDrive(PreTrainedModel):  # type: ignore[misc, no-untyped-call, unused-ignore]
    """VLM, action expert and action space in one model, as Alpamayo-R1 has them."""

    config_class = TinyDriveConfig
    base_model_prefix = "vlm"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _no_split_modules = ["Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock"]  # noqa: RUF012

    def __init__(self, config: TinyDriveConfig) -> None:
        super().__init__(config)
        # Any: transformers' own annotations of models are partial, and differ between its releases
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
        """One pass of the VLM over the prompt, and one of the expert after it.

        Args:
            input_ids: (B, L) int64, with placeholders for images and history.
            attention_mask: (B, L) int64.
            pixel_values: (patches, 3 * 2 * patch * patch) float32.
            image_grid_thw: (images, 3) int64.
            ego_history_xyz: (B, 1, 16, 3) metres.
            ego_history_rot: (B, 1, 16, 3, 3).
            seed: of the expert's noise.
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
        """Reason, then draw `num_traj_samples` trajectories that share the trace. Arguments as `forward`."""
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
        # the last token was chosen but never read, so the cache ends with <|traj_future_start|>
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
        """The flow's velocity (N, T, 2), float32, for noisy actions (N, T, 2) after the cached prefix."""
        deltas = self.vlm.model.rope_deltas.to(actions.device)[:, 0]
        repeats = actions.shape[0] // deltas.shape[0]
        first = deltas.repeat_interleave(repeats) + mask.shape[-1]
        embeddings = self.action_in_proj(actions, time)
        hidden = velocity(self.expert, embeddings, cache, mask, first)
        field: Tensor = self.action_out_proj(hidden)
        return field.float()

    def _noise(self, rows: int, seed: int, device: torch.device) -> Tensor:
        """Gaussian noise (rows, T, 2) float32, from a CPU generator: each device gets the same."""
        generator = torch.Generator(device="cpu").manual_seed(seed)
        return torch.randn(rows, self.config.future_points, 2, generator=generator).to(device)

    def _with_history(self, input_ids: Tensor, ego_history_xyz: Tensor) -> Tensor:
        """Put the tokens of the history (B, 1, 16, 3) in place of its placeholders in `input_ids` (B, L)."""
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
        # transformers 5 wants to be told which tokens are images; 4.57 finds out itself and has no such input
        if "mm_token_type_ids" in inspect.signature(self.vlm.forward).parameters:
            inputs["mm_token_type_ids"] = (input_ids == self.config.vlm_config.image_token_id).int()
        return inputs


def register() -> None:
    """Register the model with transformers' Auto classes. An adopted suite takes that back when it ends."""
    AutoConfig.register(TinyDriveConfig.model_type, TinyDriveConfig, exist_ok=True)
    AutoModel.register(TinyDriveConfig, TinyDrive, exist_ok=True)


register()
