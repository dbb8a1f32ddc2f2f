"""Determine the purpose of a transformers class, and so its input, from the tables of the Auto classes."""

from __future__ import annotations

import functools
from dataclasses import dataclass

#: Methods that generate.
GENERATE = "generate"
FORWARD = "forward"
#: Models whose images are frames of a video.
VIDEO = "video classifier"


@dataclass(frozen=True)
class Family:
    """A group of models that take the same inputs and run the same way.

    Attributes:
        name: The name for readers.
        tables: Parts of the names of transformers' Auto tables that list its classes
            (`MODEL_FOR_CAUSAL_LM_MAPPING_NAMES` is `FOR_CAUSAL_LM`).
        feeds: The arguments of `forward` that its models get in addition to required ones, if they have them.
        runs: `"generate"` or `"forward"`.
        rows: The number of rows of the batch: 2 for models that usually embed or classify several texts at once, of
            which the second is padded.
    """

    name: str
    tables: tuple[str, ...]
    feeds: tuple[str, ...]
    runs: str = FORWARD
    rows: int = 1


_TEXT = ("input_ids", "attention_mask", "bbox")
#: Arguments that the image side of models for text and images may need in addition to the pixels.
_IMAGE = (
    "pixel_values",
    "image_grid_thw",
    "image_sizes",
    "pixel_attention_mask",
    "aspect_ratio_ids",
    "aspect_ratio_mask",
    "cross_attention_mask",
    "flattened_patches",
    "spatial_shapes",
    "mm_token_type_ids",
)

#: The families in order; a class in several tables belongs to the first.
FAMILIES = (
    Family(
        "image and text to text", ("FOR_IMAGE_TEXT_TO_TEXT", "FOR_VISION_2_SEQ"), _TEXT + _IMAGE, GENERATE
    ),
    Family("causal language model", ("FOR_CAUSAL_LM",), _TEXT, GENERATE),
    Family("speech to text", ("FOR_SPEECH_SEQ_2_SEQ",), ("input_features", "input_values"), GENERATE),
    Family("sequence to sequence", ("FOR_SEQ_TO_SEQ_CAUSAL_LM",), _TEXT, GENERATE),
    Family("masked language model", ("FOR_MASKED_LM",), _TEXT, rows=2),
    Family(
        "text classifier",
        ("FOR_SEQUENCE_CLASSIFICATION", "FOR_TOKEN_CLASSIFICATION", "FOR_QUESTION_ANSWERING"),
        _TEXT,
        rows=2,
    ),
    Family(
        "speech or sound",
        ("FOR_CTC", "FOR_AUDIO_CLASSIFICATION", "FOR_AUDIO_FRAME_CLASSIFICATION", "FOR_AUDIO_XVECTOR"),
        ("input_features", "input_values"),
    ),
    Family(
        "text to speech",
        ("FOR_TEXT_TO_WAVEFORM", "FOR_TEXT_TO_SPECTROGRAM"),
        (*_TEXT, "decoder_input_values", "speaker_embeddings"),
    ),
    Family("object detection", ("FOR_OBJECT_DETECTION",), ("pixel_values", "pixel_mask")),
    Family(
        "image segmentation",
        (
            "FOR_SEMANTIC_SEGMENTATION",
            "FOR_UNIVERSAL_SEGMENTATION",
            "FOR_INSTANCE_SEGMENTATION",
            "FOR_IMAGE_SEGMENTATION",
        ),
        ("pixel_values", "pixel_mask", "task_inputs"),
    ),
    Family(
        "open-vocabulary detection",
        ("FOR_ZERO_SHOT_OBJECT_DETECTION",),
        (*_TEXT, "pixel_values", "pixel_mask"),
    ),
    Family("depth estimation", ("FOR_DEPTH_ESTIMATION",), ("pixel_values",)),
    Family("image classifier", ("FOR_IMAGE_CLASSIFICATION",), _IMAGE),
    Family(VIDEO, ("FOR_VIDEO_CLASSIFICATION",), ("pixel_values", "pixel_values_videos")),
    Family("image and text encoder", ("FOR_ZERO_SHOT_IMAGE_CLASSIFICATION",), (*_TEXT, *_IMAGE), rows=2),
    Family("mask generation", ("FOR_MASK_GENERATION",), ("pixel_values", "input_points", "input_labels")),
    Family(
        "image to image",
        ("FOR_IMAGE_TO_IMAGE", "FOR_MASKED_IMAGE_MODELING", "FOR_BACKBONE", "FOR_KEYPOINT_DETECTION"),
        ("pixel_values",),
    ),
    Family("text encoder", ("FOR_TEXT_ENCODING",), _TEXT, rows=2),
    Family("image encoder", ("FOR_IMAGE",), ("pixel_values",)),
)
#: The family of a class that no table lists, which gets those of the usual inputs that it takes.
OTHER = Family("model", (), (*_TEXT, *_IMAGE, "input_features", "input_values"))


def family_of(class_name: str) -> Family:
    """Return the first family whose tables list a transformers class; `OTHER` when none does."""
    for family in FAMILIES:
        if any(class_name in _classes(table) for table in family.tables):
            return family
    return OTHER


@functools.cache
def _classes(table: str) -> frozenset[str]:
    from transformers.models.auto import modeling_auto

    # Tables change with transformers' releases: 5.0 has no VISION_2_SEQ.
    names = getattr(modeling_auto, f"MODEL_{table}_MAPPING_NAMES", {})
    return frozenset(
        name for value in names.values() for name in ([value] if isinstance(value, str) else value)
    )
