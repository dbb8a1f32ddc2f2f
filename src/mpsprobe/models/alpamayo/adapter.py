"""The adapter of Alpamayo-R1: four cameras and a history in, a trajectory and its reasoning out."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from mpsprobe.errors import TargetError
from mpsprobe.models.adapter import Adapter, Batch, Outputs, Weights
from mpsprobe.models.alpamayo import backbone, processor, published, random_weights
from mpsprobe.models.alpamayo.backbone import Backbone
from mpsprobe.models.hub.snapshot import read_config
from mpsprobe.models.profile import Profile
from mpsprobe.models.tiny_drive import trajectories
from mpsprobe.models.tiny_drive.adapter import synthetic_drive
from mpsprobe.models.weightless import from_config
from mpsprobe.options import split_autocast

#: The parts of the class that run under autocast; the rest, its action space, is float32 arithmetic.
_CAST = (("vlm", "generate"), ("diffusion", "sample"))
_REGIONS = (
    'one around the whole call would reach the action space, whose autocast("cuda", enabled=False) ends no '
    "region of another device."
)
#: The number of text layers that `shrink` keeps.
_LAYERS = 3
#: The number of new tokens without computed values, where no token ends the trace and each step is like the last.
_PREDICTED_TOKENS = 3


class AlpamayoAdapter(Adapter):
    """An adapter that loads `AlpamayoR1` and samples trajectories with it.

    `profile.sample` holds `frames`, `height` and `width`; `profile.inference` holds arguments of the class's own
    `sample_trajectories_from_data_with_vlm_rollout`, and `seed`.
    """

    meaning = trajectories.MEANING

    def __init__(self, snapshot: Path, profile: Profile) -> None:
        super().__init__(snapshot, profile)
        self._layers: int | None = None

    def shrink(self) -> list[str]:
        """Keep only a few layers and one frame for each camera, with the same widths, heads and vocabulary.

        Returns:
            A sentence about the changes, in a list.
        """
        self._layers = _LAYERS
        return [
            f"Shrunk: {_LAYERS} layers each of text, expert and vision, where every vision layer feeds a text layer; "
            "one frame a camera instead of four."
        ]

    @property
    def notes(self) -> list[str]:
        """Return sentences about substituted files, autocast regions, planted weights and shortened generation."""
        notes = list(self._backbone.notes)
        if (self.snapshot / published.MARK).is_file():
            notes.insert(0, published.NOTE)
        if self.profile.autocast.startswith("parts:"):
            words = self.profile.autocast_words(self.profile.autocast)
            notes.append(f"{words[0].upper()}{words[1:]}: {_REGIONS}")
        if self.weights is Weights.RANDOM:
            notes.append(f"Random weights, with a trace planted in them: {random_weights.TRACE!r}.")
        if self.weights is Weights.NONE:
            notes.append(
                f"{_PREDICTED_TOKENS} tokens are generated. Each further one calls what the last of them calls."
            )
            notes.append("Images are of the size that the processor makes of 1080 x 1920.")
        return notes

    @property
    def doing(self) -> str:
        """Return in a few words what `infer` does, with the numbers of trajectories and new tokens."""
        inference = self._inference()
        return (
            f"sample_trajectories_from_data_with_vlm_rollout: {inference['num_traj_samples']} trajectory, "
            f"{inference['max_generation_length']} new tokens at most, the flow, action_to_traj"
        )

    def load(self, device: torch.device, dtype: str) -> torch.nn.Module:
        cls, config = published.model_class(), self.config()
        with _quietly():
            if self.weights is Weights.STORED:
                model = self._stored(cls, config, dtype)
            else:
                random = self.weights is Weights.RANDOM
                place = torch.device("cpu") if random else device
                # its constructor reads values of small tensors, which the meta device would not have
                at = torch.device("cpu") if device.type == "meta" else contextlib.nullcontext()
                with at, self._processors.in_use():
                    model = from_config.build(cls, config, place, dtype, initialise=False)
                if random:
                    random_weights.fill(model, from_config.SEED)
                    random_weights.plant(model)
        if dtype not in ("auto", "bfloat16"):
            # the class uses the dtype of the vision-language model's config for its expert, whatever dtype is requested
            model = model.to(getattr(torch, dtype))
        moved: torch.nn.Module = model.to(device).eval()
        return moved

    def sample(self) -> dict[str, Any]:
        """Return four cameras' frames and the vehicle's history, made by `synthetic_drive` in the profile's sizes.

        `image_frames` has one frame for each camera after `shrink`. Without weights, all pixels of an image are equal,
        and it has the size to which the processor resizes images of 1080 x 1920: 320 x 576.
        """
        size = dict(self.profile.sample)
        if self._layers is not None:
            size["frames"] = 1
        if self.weights is not Weights.NONE:
            return synthetic_drive(**size)
        # the size to which images of 1080 x 1920 are resized; drawing sixteen large ones takes 0.2 s
        drive = synthetic_drive(**size | {"height": 1, "width": 1})
        drive["image_frames"] = drive["image_frames"].expand(-1, -1, -1, 320, 576)
        return drive

    def prepare(self, sample: dict[str, Any]) -> Batch:
        frames = sample["image_frames"].flatten(0, 1)
        messages = published.imported("helper").create_message(frames)
        unseen = self.weights is Weights.NONE
        images = self._processor.image_processor
        with processor.one_image_for_all(images) if unseen else contextlib.nullcontext():
            tokenized = self._processor.apply_chat_template(
                messages,
                tokenize=True,
                add_generation_prompt=False,
                continue_final_message=True,
                return_dict=True,
                return_tensors="pt",
            )
        return {
            "tokenized_data": dict(tokenized),
            "ego_history_xyz": sample["ego_history_xyz"].clone(),
            "ego_history_rot": sample["ego_history_rot"].clone(),
        }

    def forward(self, model: torch.nn.Module, batch: Batch) -> Outputs:
        """Run the vision-language model, one step of the expert, and the action space, and return what each computes.

        The outputs are `logits` (1, vocabulary) after the prompt, `velocity` (1, 64, 2) of the flow at its first
        step, and `ego_speed` (1,) in m/s, estimated from the history.
        """
        driver: Any = model
        tokens = dict(batch["tokenized_data"])
        history = {name: batch[name] for name in ("ego_history_xyz", "ego_history_rot")}
        tokens["input_ids"] = driver.fuse_traj_tokens(tokens["input_ids"], history)
        device = tokens["input_ids"].device
        with self._autocast(device):
            seen = driver.vlm(**tokens, use_cache=True, logits_to_keep=1)
            points = torch.arange(published.FUTURE_POINTS, device=device)
            positions = points + tokens["input_ids"].shape[1] + driver.vlm.model.rope_deltas
            action = torch.stack([points.sin(), points.cos()], dim=-1)[None]
            embedded = driver.action_in_proj(action, torch.zeros_like(action[:, :1, :1]))
            hidden = driver.expert(
                inputs_embeds=embedded,
                position_ids=positions.expand(3, 1, -1),
                past_key_values=seen.past_key_values,
                use_cache=True,
                **({"is_causal": False} if driver.config.expert_non_causal_attention else {}),
            ).last_hidden_state
            velocity = driver.action_out_proj(hidden)
        state = driver.action_space.estimate_t0_states(
            history["ego_history_xyz"][:, -1], history["ego_history_rot"][:, -1]
        )
        return {
            "logits": seen.logits[:, -1].cpu(),
            "velocity": velocity.cpu(),
            "ego_speed": state["v"].cpu(),
        }

    def infer(self, model: torch.nn.Module, batch: Batch) -> Any:
        driver: Any = model
        inference = self._inference()
        torch.manual_seed(inference.pop("seed"))
        with _quietly(), self._cast_parts(driver, batch["ego_history_xyz"].device):
            return driver.sample_trajectories_from_data_with_vlm_rollout(
                # the call removes input_ids from its argument
                data={**batch, "tokenized_data": dict(batch["tokenized_data"])},
                return_extra=True,
                **inference,
            )

    def extract(self, raw: Any) -> Outputs:
        """Return `pred_xyz` (1, 1, n, 64, 3) in m, `pred_rot` (1, 1, n, 64, 3, 3), and a list of n texts per section.

        n is `num_traj_samples`. The sections are `cot`, `meta_action` and `answer`.
        """
        xyz, rotation, texts = raw
        named = {name: [str(text) for text in values.ravel()] for name, values in texts.items()}
        return {"pred_xyz": xyz.cpu(), "pred_rot": rotation.cpu(), **named}

    def judge(self, outputs: Outputs) -> list[str]:
        return trajectories.judge(outputs["pred_xyz"], outputs["pred_rot"], reverses=True)

    def _autocast(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """Return an autocast region for one part on `device`; without effect unless the profile asks for `parts`."""
        kind, dtype = split_autocast(self.profile.autocast)
        if kind != "parts":
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=getattr(torch, dtype))

    @contextlib.contextmanager
    def _cast_parts(self, driver: Any, device: torch.device) -> Iterator[None]:
        """Run each method in `_CAST` inside a region of `_autocast` while the context lasts."""

        def within(call: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(call)
            def around(*args: Any, **kwargs: Any) -> Any:
                with self._autocast(device):
                    return call(*args, **kwargs)

            return around

        with contextlib.ExitStack() as regions:
            for part, method in _CAST:
                owner = getattr(driver, part)
                regions.enter_context(mock.patch.object(owner, method, within(getattr(owner, method))))
            yield

    def _inference(self) -> dict[str, Any]:
        options = {"seed": 0, "num_traj_samples": 1, "max_generation_length": 256, **self.profile.inference}
        if self.weights is Weights.NONE:
            options["max_generation_length"] = min(options["max_generation_length"], _PREDICTED_TOKENS)
        return options

    def _stored(self, cls: Any, config: Any, dtype: str) -> Any:
        vlm = str(self._raw.get("vlm_name_or_path"))
        if self._backbone.stand_in and not (self.snapshot / vlm).is_dir():
            raise TargetError(
                f"{self.snapshot}: the tokenizer of {vlm} is needed, and cannot be had from the hub.",
                f"hf download {vlm} --include '*.json' '*.txt'",
            )
        model, info = cls.from_pretrained(
            self.snapshot,
            config=config,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            local_files_only=True,
            output_loading_info=True,
        )
        if missing := sorted(info["missing_keys"]):
            raise TargetError(
                f"{self.snapshot}: {len(missing)} weights of {cls.__name__} are missing, first {missing[0]}."
            )
        return model

    @cached_property
    def _raw(self) -> dict[str, Any]:
        return read_config(self.snapshot)

    @cached_property
    def _backbone(self) -> Backbone:
        return backbone.find(
            str(self._raw.get("vlm_name_or_path") or published.VLM_REPO), self.snapshot, self._layers
        )

    def config(self) -> Any:
        """Return a copy of the model's `AlpamayoR1Config`, because a model changes the config that it is built from.

        In it, the folder of the backbone's files stands in place of its repo id, so that nothing is downloaded.
        """
        return copy.deepcopy(self._config)

    @cached_property
    def _config(self) -> Any:
        """Return the config, made once, because its constructor reads the whole tokenizer."""
        cls = published.model_class().config_class
        processor.register()
        raw = {**self._raw, "vlm_name_or_path": str(self._backbone.folder)}
        # The class reads its attention only from this key, and refuses `attn_implementation=` as an argument.
        raw["attn_implementation"] = self.profile.attention or "sdpa"
        with _quietly(), self._processors.in_use():
            return cls(**{name: value for name, value in raw.items() if name != "model_type"})

    @cached_property
    def _processors(self) -> processor.Once:
        return processor.Once()

    @cached_property
    def _processor(self) -> Any:
        """Return the processor with the tokens and pixel limits of `helper.get_processor`, made without the Hub."""
        helper, config = published.imported("helper"), self.config()
        pixels = {"min_pixels": helper.MIN_PIXELS, "max_pixels": helper.MAX_PIXELS}
        made = self._processors.made(config.vlm_name_or_path, **pixels)
        if made is not None:
            return made  # the config's constructor built it
        config.min_pixels, config.max_pixels = pixels.values()
        return config._build_processor()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silence the package's log below errors: it warns of each sequence without a trajectory token."""
    logger = logging.getLogger(published.NAME)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
