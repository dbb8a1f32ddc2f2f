"""The target on its device, and the CPU models that it is compared with, as sides of a comparison."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import torch

from mpsprobe import mac
from mpsprobe.errors import TargetError
from mpsprobe.layers.module_calls import Subject
from mpsprobe.layers.result import Side
from mpsprobe.layers.supervised import Job
from mpsprobe.models import targets
from mpsprobe.models.adapter import Batch
from mpsprobe.models.profile import Profile
from mpsprobe.options import split_autocast
from mpsprobe.phases import data, download, site, transfer
from mpsprobe.phases.target_code import target_code
from mpsprobe.run import Evidence, Phase

#: The relative change of every weight in the noise run of a float32 target, in machine epsilons. It causes an error of
#: the size that the order of sums of some thousand terms causes (about sqrt(terms) / 2 epsilons).
_PERTURBATION = 10

#: A function that is called when a step begins, with its name and its time limit in seconds.
Announce = Callable[[str, float], None]


@dataclass
class Opened:
    """A target that is loaded on its device, with a sample.

    Attributes:
        site: The machine and its device.
        obtained: The files of the target.
        prepared: The model and its input on the device.
        announce: A function that is called with every long step.
        batch: A function that makes the processed input anew.
    """

    site: site.Availability
    obtained: download.Obtained
    prepared: data.Prepared
    announce: Announce
    batch: Callable[[], Batch]

    @property
    def profile(self) -> Profile:
        """Return the active profile, with the changes that the job made."""
        return self.obtained.profile

    @functools.cached_property
    def dtype(self) -> torch.dtype:
        """Return the dtype with the largest machine epsilon among those in which the target computes."""
        found = {p.dtype for p in self.prepared.loaded.model.parameters() if p.is_floating_point()}
        if self.profile.autocast:
            found.add(getattr(torch, split_autocast(self.profile.autocast)[1]))
        return max(found | {torch.float32}, key=lambda dtype: float(torch.finfo(dtype).eps))

    @functools.cached_property
    def subject(self) -> Subject:
        """Return the target itself as a side of the comparison."""
        loaded, device = self.prepared.loaded, self.site.device
        return Subject(
            device.name, loaded.model, loaded.adapter, self.profile, device.torch_device, self.batch, device.synchronize
        )  # fmt: skip

    @functools.cached_property
    def reference(self) -> Subject | None:
        """Return the target in float32 on the CPU; None when it does not fit in memory."""
        model = self._on_cpu("float32", 4, "the float32 reference")
        plain = msgspec.structs.replace(self.profile, autocast="")
        return None if model is None else self._cpu_subject("float32 on the CPU", model, plain)

    @functools.cached_property
    def noisy(self) -> Subject | None:
        """Return the model of the noise run: the target's dtype on the CPU; None when it does not fit in memory.

        For a float32 target it has weights that are changed in their last places, because float32 on the CPU is the
        reference itself.
        """
        if self.dtype is torch.float32:
            model = self._on_cpu("float32", 4, "a float32 copy for the noise")
            if model is not None:
                _perturb(model)
        else:
            size = max(p.element_size() for p in self.prepared.loaded.model.parameters())
            model = self._on_cpu(self.profile.dtype, size, "a copy in the same dtype for the noise")
        if model is None:
            return None
        return self._cpu_subject(f"{self.noise_dtype} on the CPU", model, self.profile)

    @property
    def noise_dtype(self) -> str:
        """Return the dtype of the noise run as a text for readers."""
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"{dtype} with weights off by {_PERTURBATION} units in the last place"
            if dtype == "float32"
            else dtype
        )

    @property
    def side(self) -> Side:
        """Return the document's description of the target's run: device, dtype, evidence, chip and releases."""
        host = self.site.host
        device = self.site.device
        dtype = str(self.dtype).removeprefix("torch.")
        return Side(
            label=f"{dtype} on {device.name}",
            device=device.name,
            dtype=dtype,
            evidence=device.evidence,
            chip=(device.gpu if device.name == "cuda" else None) or host.chip or "",
            torch=host.packages.get("torch", ""),
            transformers=host.packages.get("transformers", ""),
        )

    @property
    def cpu_side(self) -> Side:
        """Return the document's description of the reference's run in float32 on this machine's CPU."""
        return msgspec.structs.replace(
            self.side,
            label="float32 on the CPU",
            device="cpu",
            dtype="float32",
            evidence=Evidence.MEASURED,
            chip=self.site.host.chip or "",
        )

    def limit(self, phase: Phase, *, cpu: bool = False) -> float:
        """Return the time limit of a step of a phase in seconds, which is four times as long for one on the CPU."""
        return self.profile.limit(phase) * (4 if cpu else 1)

    def _cpu_subject(self, label: str, model: torch.nn.Module, profile: Profile) -> Subject:
        adapter = self.prepared.loaded.adapter
        return Subject(label, model, adapter, profile, torch.device("cpu"), self.batch, lambda: None)

    def _on_cpu(self, dtype: str, element_size: int, what: str) -> torch.nn.Module | None:
        needed = element_size * sum(p.numel() for p in self.prepared.loaded.model.parameters())
        if not site.fits(needed):
            return None
        self.announce(f"loading {what}", self.limit(Phase.TRANSFER, cpu=True))
        with target_code(Phase.TRANSFER, f"loading {what}", Evidence.MEASURED, "cpu"):
            return self.prepared.loaded.adapter.load(torch.device("cpu"), dtype)


@contextlib.contextmanager
def open_target(
    job: Job, announce: Announce, adjust: Callable[[download.Obtained], Profile] | None = None
) -> Iterator[Opened]:
    """Load the target to the job's device, with a sample.

    Args:
        job: The job, whose settings choose the target and the device; pinned versions are ignored.
        announce: A function that is called with every long step.
        adjust: A function that gets the files before anything is loaded, and returns the profile to use.

    Yields:
        The target; its device stays open while the context lasts.

    Raises:
        MpsprobeError: The target or the device is unavailable.
        LinkFailed: A phase failed, such as loading the target.
    """
    settings = job.settings.replace(ignore_pins=True)
    announce("looking at the machine", 300)
    with site.open_site(settings, mac.host()) as opened_site:
        device = opened_site.device
        ref = targets.resolve(settings)
        limit = ref.profile.limit(Phase.DOWNLOAD)
        announce("obtaining the target's files", limit)
        obtained = download.obtain(ref, lambda text: announce(text, limit))
        profile = adjust(obtained) if adjust else obtained.profile
        if settings.dtype is not None:
            profile = msgspec.structs.replace(profile, dtype=settings.dtype)
        obtained = dataclasses.replace(obtained, ref=dataclasses.replace(obtained.ref, profile=profile))
        announce(f"loading to {device.name}", profile.limit(Phase.TRANSFER))
        loaded = transfer.load(obtained.adapter, profile, obtained.snapshot, device)
        announce("preparing a sample", profile.limit(Phase.DATA))
        prepared = data.prepare(loaded)
        yield Opened(
            opened_site, obtained, prepared, announce, lambda: loaded.adapter.prepare(prepared.sample)
        )


def needed_reference(opened: Opened) -> Subject:
    """Return the float32 reference, for comparisons that need one.

    Raises:
        TargetError: The reference does not fit in memory.
    """
    reference = opened.reference
    if reference is None:
        raise TargetError(
            site.no_room_for_reference(opened.prepared.loaded.model),
            "Compare with a baseline written on a larger machine: mpsprobe diverge --against FILE.",
        )
    return reference


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Turn TF32 off on CUDA while the context lasts, because its products have mantissas of only 10 bits."""
    before: tuple[Any, Any] = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _perturb(model: torch.nn.Module) -> None:
    """Scale every floating-point weight by 1 plus or minus 10 machine epsilons of its dtype, with a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                signs = torch.randint(0, 2, parameter.shape, generator=generator, dtype=torch.int8) * 2 - 1
                step = _PERTURBATION * torch.finfo(parameter.dtype).eps
                # A new tensor, because the old one may be a map of the weights' file.
                parameter.data = parameter.data * (1 + step * signs.to(parameter.dtype))
