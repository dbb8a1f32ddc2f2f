"""Check that a baseline and the target at hand are the same thing, so that only the machines differ.

Weights are compared by a digest of the tensors, whatever files they are in or however they were made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable

import msgspec
import torch
from safetensors import safe_open

from mpsprobe.errors import UsageError
from mpsprobe.layers.baseline import Baseline
from mpsprobe.layers.module_calls import leaves, replaced
from mpsprobe.layers.opened import Announce, Opened
from mpsprobe.layers.supervised import Job
from mpsprobe.models.adapter import Batch, Weights
from mpsprobe.models.hub.snapshot import Snapshot
from mpsprobe.models.profile import Profile
from mpsprobe.phases.download import Obtained
from mpsprobe.run import Phase

#: Keys of config.json that differ between copies of one model without changing its results.
_INCIDENTAL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "_commit_hash")


def weights_digest(snapshot: Snapshot, progress: Callable[[str], None] = lambda _: None) -> str:
    """Return the SHA-256 of name, dtype, shape and bytes of every stored tensor, in the order of their names.

    Args:
        snapshot: The model's files.
        progress: A function that is called with the progress; slow machines take some seconds for each gigabyte.
    """
    digests: dict[str, str] = {}
    for number, name in enumerate(snapshot.files, start=1):
        progress(f"reading weights to identify them: file {number} of {len(snapshot.files)}")
        with safe_open(snapshot.path / name, framework="pt") as file:
            # a list, not a mapping
            digests |= _digests((key, file.get_tensor(key)) for key in file.keys())  # noqa: SIM118
    return _of_all(digests)


def state_digest(model: torch.nn.Module) -> str:
    """Return the digest of a model's state dict as `weights_digest` makes it, for weights that are not in files."""
    return _of_all(_digests((name, tensor.cpu()) for name, tensor in model.state_dict().items()))


def _digests(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, str]:
    digests = {}
    for name, tensor in tensors:
        digest = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        if tensor.numel():
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        digests[name] = digest.hexdigest()
    return digests


def _of_all(digests: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()


def config_digest(snapshot: Snapshot) -> str:
    """Return the SHA-256 of config.json without the keys that do not change results."""
    kept = {key: value for key, value in snapshot.config.items() if key not in _INCIDENTAL}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


#: The largest difference of a processed input, relative to its scale, that still counts as the same sample:
#: image filters and trigonometry of other builds round differently. The baseline's own input is used anyway.
_SAME_SAMPLE = 1e-2
_ADVICE = "It was made from {target}; name the same model and revision, and make random weights the same way."


def adjusted_profile(
    job: Job, baseline: Baseline | None, announce: Announce
) -> Callable[[Obtained], Profile] | None:
    """Return the `adjust` function of `open_target`, which adopts the baseline's settings; None without a baseline.

    That function raises UsageError if the config, the stored weights, the autocast region or the number of new tokens
    is not the baseline's.

    Raises:
        UsageError: The job names a dtype that is not the baseline's.
    """
    if baseline is None:
        return None
    info = baseline.info
    given = job.settings
    if given.dtype is not None and given.dtype not in (info.asked, info.side.dtype):
        raise UsageError(
            f"--dtype {given.dtype}: the baseline is of a run in {info.side.dtype}.",
            "Leave --dtype out, or write a baseline in that dtype.",
        )

    def adjust(obtained: Obtained) -> Profile:
        made = _ADVICE.format(target=info.target)
        if config_digest(obtained.snapshot) != info.config:
            raise UsageError(f"{job.against}: this baseline is of a model with another config.json.", made)
        if given.autocast is not None and obtained.profile.autocast != info.autocast:
            raise UsageError(
                f"--autocast {given.autocast}: the baseline is of a run with {info.autocast or 'none'}.",
                "Leave --autocast out, or write a baseline with it.",
            )
        if given.new_tokens is not None and obtained.profile.inference != info.inference:
            raise UsageError(
                f"--new-tokens {given.new_tokens}: the baseline is of a run with {info.inference}.",
                "Leave --new-tokens out, or write a baseline with it.",
            )
        if obtained.adapter.weights is not Weights.RANDOM:  # random ones exist only once the model does
            limit = obtained.profile.limit(Phase.TRANSFER)
            _same_weights(
                job, baseline, weights_digest(obtained.snapshot, lambda text: announce(text, limit))
            )
        return msgspec.structs.replace(
            obtained.profile, dtype=info.asked, autocast=info.autocast, inference=info.inference
        )

    return adjust


def check_random_weights(job: Job, baseline: Baseline, opened: Opened) -> None:
    """Refuse random weights that are not the baseline's, because another release of PyTorch may draw others.

    Weights from files are checked earlier, by `adjusted_profile`.

    Raises:
        UsageError: The weights are not the same.
    """
    loaded = opened.prepared.loaded
    if loaded.adapter.weights is Weights.RANDOM:
        opened.announce("reading weights to identify them", opened.limit(Phase.TRANSFER))
        _same_weights(job, baseline, state_digest(loaded.model))


def _same_weights(job: Job, baseline: Baseline, digest: str) -> None:
    if digest != baseline.info.weights:
        raise UsageError(
            f"{job.against}: this baseline is of other weights.", _ADVICE.format(target=baseline.info.target)
        )


def use_batch_of(baseline: Baseline, opened: Opened) -> list[str]:
    """Give the target the baseline's own processed input, after checking that it is the same sample.

    Returns:
        A sentence for the user if this machine's input differs by rounding; empty if it is equal.

    Raises:
        UsageError: The baseline holds another sample.
    """
    own = dict(leaves(opened.prepared.cpu))
    stored = baseline.batch
    if differing := sorted(own.keys() ^ stored.keys()):
        raise UsageError(
            f"The baseline is of another sample: {', '.join(differing)} is only in one of them.", _SAMPLE
        )
    drift = {}
    for place, tensor in own.items():
        drift[place] = _drift(place, tensor, stored[place])
    make = opened.batch

    def batch() -> Batch:
        fed: Batch = replaced(make(), {place: tensor.clone() for place, tensor in stored.items()})
        return fed

    opened.batch = batch
    largest = max(drift, key=lambda place: drift[place], default="")
    if largest and drift[largest]:
        return [
            f"This machine's processing of the sample differs from the baseline's by {drift[largest]:.2g} of the "
            f"scale ({largest.removeprefix('.')}); the baseline's was used."
        ]
    return []


_SAMPLE = "Use the same profile, and the processor files of the same revision."


def _drift(place: str, own: torch.Tensor, stored: torch.Tensor) -> float:
    name = place.removeprefix(".")
    if own.shape != stored.shape or own.dtype != stored.dtype:
        raise UsageError(
            f"The baseline is of another sample: {name} is {own.dtype} {list(own.shape)} here, "
            f"{stored.dtype} {list(stored.shape)} there.",
            _SAMPLE,
        )
    if torch.equal(own, stored):
        return 0.0
    if own.is_floating_point():
        difference = float((own.double() - stored.double()).abs().max())
        drift = difference / (float(stored.double().abs().max()) or 1.0)
        if drift <= _SAME_SAMPLE:
            return drift
    raise UsageError(f"The baseline is of another sample: {name} has other values.", _SAMPLE)
