"""The workload: how much is requested of a target, and how often."""

from __future__ import annotations

import msgspec

#: Bits of a cached key or value by the name of `--kv-dtype`. 4- and 8-bit caches also hold scales: transformers'
#: QuantizedCache keeps a 16-bit scale and shift for 64 values.
KV_BITS = {"float32": 32.0, "float16": 16.0, "bfloat16": 16.0, "int8": 8.5, "int4": 4.5}
#: The default number of new tokens of a generation.
NEW_TOKENS = 128
#: The greatest number of iterations of a loop that are run; longer loops are extrapolated linearly.
RUN_TURNS, RUN_STEPS = 8, 3


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The workload that the user requests. A field is None where the target's own input decides.

    Attributes:
        prompt_tokens: The length of the prompt, or of each text, in tokens.
        new_tokens: The number of tokens to generate.
        batch: The number of prompts, images or clips that are processed at once.
        image_size: The side of a square image in pixels.
        frames: The number of frames of a video.
        steps: The number of steps of a diffusion or flow model.
        audio_seconds: The length of the sound in seconds.
        kv_dtype: The dtype of the key-value cache, a key of `KV_BITS`.
        samples: The number of samples that the owner plans, which recommendations count with.
    """

    prompt_tokens: int | None = None
    new_tokens: int | None = None
    batch: int | None = None
    image_size: int | None = None
    frames: int | None = None
    steps: int | None = None
    audio_seconds: int | None = None
    kv_dtype: str | None = None
    samples: int = 1


class Fed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sizes of the input that a run really received.

    Attributes:
        rows: The number of prompts, images or clips that are processed at once.
        tokens: The length of each text in tokens; 0 without text.
        audio_seconds: The length of each clip in seconds; 0 without sound.
        image: The height and width of each picture in pixels; empty without pictures.
        batches: The number of batches whose gradients accumulate in one optimisation step.
    """

    rows: int = 1
    tokens: int = 0
    audio_seconds: float = 0.0
    image: tuple[int, ...] = ()
    batches: int = 1
