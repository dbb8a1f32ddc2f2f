"""GPUs for rent: what they cost, what they hold, and what a user means to run on them."""

from __future__ import annotations

import datetime
import functools
import math
import os
from pathlib import Path

import msgspec

from mpsprobe import toml
from mpsprobe.errors import UsageError

#: Environment variable that names a file to be used in place of the shipped one.
VARIABLE = "MPSPROBE_CLOUD"

_FILE = Path(__file__).parent / "data" / "cloud.toml"


class Offer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GPU that somebody rents out.

    Attributes:
        provider: who.
        gpu: as the seller calls it.
        hardware: name of its row in the hardware table; empty when it has none.
        memory_gib: of the GPU.
        per_hour: US dollars an hour; None where only a subscription is sold.
        per_month: US dollars a month, for a subscription.
        setup_min: minutes from the decision to a shell: the boot of the machine is in it.
        install_min: minutes to install Python packages there.
        source, date: where the row was read, and when.
    """

    provider: str
    gpu: str
    memory_gib: float
    setup_min: float
    source: str
    date: str
    hardware: str = ""
    install_min: float = 5.0
    per_hour: float | None = None
    per_month: float | None = None

    def __post_init__(self) -> None:
        if (self.per_hour is None) == (self.per_month is None):
            raise ValueError(f"{self.provider} {self.gpu}: give per_hour or per_month")
        if min(self.memory_gib, self.setup_min, self.per_hour or self.per_month or 0) < 0:
            raise ValueError(f"{self.provider} {self.gpu}: a figure is below zero")

    def months_old(self, today: datetime.date) -> float | None:
        """Return the age of the price; None where its date is none."""
        try:
            return (today - datetime.date.fromisoformat(self.date)).days / 30.4
        except ValueError:
            return None

    @property
    def name(self) -> str:
        """Return its name for people: `"H100 (Lambda Labs)"`."""
        return f"{self.gpu} ({self.provider})"


class ExperimentPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be run.

    Attributes:
        samples: inferences of the experiment itself; samples of the data where a model is trained.
        perturbations: inferences on altered samples.
        source: where the numbers are from.
        step_rows: samples that an optimisation step takes; None where nothing is trained.
    """

    samples: int
    perturbations: int
    source: str = "given by the user"
    step_rows: int | None = None

    @property
    def inferences(self) -> int:
        """Return the number of inferences of the whole experiment, or of the steps of an epoch."""
        if self.step_rows is not None:
            return math.ceil(self.samples / self.step_rows)
        return self.samples + self.perturbations

    @property
    def unit(self) -> str:
        """Return what is counted: `"inference"` or `"step"`."""
        return "inference" if self.step_rows is None else "step"

    @property
    def counted(self) -> str:
        """Return the number with its unit: `"2,500 steps"`."""
        return f"{self.inferences:,} {self.unit}{'' if self.inferences == 1 else 's'}"

    @property
    def words(self) -> str:
        """Return the plan as part of a sentence."""
        if self.step_rows is not None:
            if self.samples == self.step_rows:
                return "one optimisation step; --samples N counts those of an epoch"
            return (
                f"an epoch of {self.samples:,} samples, {self.counted} of {self.step_rows:,} ({self.source})"
            )
        if self.inferences == 1:
            return "one workload; --samples N counts more"
        more = f" and {self.perturbations:,} perturbation runs" if self.perturbations else ""
        return f"{self.samples:,} samples{more} ({self.source})"


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rates of transfer, bytes a second: assumptions.

    Attributes:
        rented_down: weights to a rented GPU, loading included.
        home_down: weights to the Mac.
        home_up: samples from the Mac to a rented GPU.
        mac_load: weights from the Mac's disk to its GPU.
        source: what they rest on.
    """

    rented_down: float
    home_down: float
    home_up: float
    mac_load: float
    source: str

    def __post_init__(self) -> None:
        if min(self.rented_down, self.home_down, self.home_up, self.mac_load) <= 0:
            raise ValueError("rates of transfer are above zero")


class Cloud(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of offers."""

    offers: list[Offer]
    network: Network
    plan: ExperimentPlan | None = None


@functools.cache
def shipped() -> Cloud:
    """Return the offers that come with the package: see the head of `data/cloud.toml`."""
    return toml.load(_FILE, Cloud)


def current() -> Cloud:
    """Return the file that `MPSPROBE_CLOUD` names, else the shipped one.

    Raises:
        UsageError: as `load` does.
    """
    named = os.environ.get(VARIABLE)
    return load(Path(named).expanduser()) if named else shipped()


def load(path: Path) -> Cloud:
    """Return a user's file of the same form.

    Raises:
        UsageError: it cannot be read or does not have the form (names the key).
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file.", f"The form is that of {_FILE}.")
    return toml.load(path, Cloud, UsageError)
