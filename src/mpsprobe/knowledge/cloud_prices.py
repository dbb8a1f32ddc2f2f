"""GPUs for rent: their prices and memory, and the plan of experiments to run on them."""

from __future__ import annotations

import datetime
import functools
import math
import os
from pathlib import Path

import msgspec

from mpsprobe import toml
from mpsprobe.errors import UsageError

#: The environment variable that names a file to use instead of the shipped one.
VARIABLE = "MPSPROBE_CLOUD"

_FILE = Path(__file__).parent / "data" / "cloud.toml"


class Offer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GPU that a provider rents out, at a price by the hour or by the month.

    Attributes:
        provider: The name of the provider.
        gpu: The name of the GPU in the offer.
        memory_gib: The memory of the GPU in GiB.
        setup_min: The minutes from the decision to rent until a shell is open on the booted machine.
        source: Where the row was read.
        date: When the row was read, as an ISO 8601 date.
        hardware: The name of its row in the hardware table; empty when it has none.
        install_min: The minutes for installing Python packages there.
        per_hour: The price in US dollars per hour; None where only a subscription is sold.
        per_month: The price of a subscription in US dollars per month; None without one.
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
        """Return the age of the price in months of 30.4 days; None when its date is malformed."""
        try:
            return (today - datetime.date.fromisoformat(self.date)).days / 30.4
        except ValueError:
            return None

    @property
    def name(self) -> str:
        """Return the offer's name for readers: `"H100 (Lambda Labs)"`."""
        return f"{self.gpu} ({self.provider})"


class ExperimentPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The amount of computing that a user plans: inferences of an experiment, or an epoch of training.

    Attributes:
        samples: The number of inferences of the experiment itself, or of samples in the data where a model is
            trained.
        perturbations: The number of inferences on altered samples.
        source: Where the numbers come from.
        step_rows: The number of samples in an optimisation step; None where nothing is trained.
    """

    samples: int
    perturbations: int
    source: str = "given by the user"
    step_rows: int | None = None

    @property
    def inferences(self) -> int:
        """Return the number of inferences of the whole experiment, or of steps in an epoch."""
        if self.step_rows is not None:
            return math.ceil(self.samples / self.step_rows)
        return self.samples + self.perturbations

    @property
    def unit(self) -> str:
        """Return what `inferences` counts: `"inference"` or `"step"`."""
        return "inference" if self.step_rows is None else "step"

    @property
    def counted(self) -> str:
        """Return the number of inferences or steps with its unit: `"2,500 steps"`."""
        return f"{self.inferences:,} {self.unit}{'' if self.inferences == 1 else 's'}"

    @property
    def words(self) -> str:
        """Return the plan as a phrase for reports: `"300 samples and 2,000 perturbation runs (given by the user)"`."""
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
    """Assumed transfer rates, in bytes per second.

    Attributes:
        rented_down: The rate at which weights are downloaded to a rented GPU and loaded.
        home_down: The rate of fetching weights to the Mac.
        home_up: The rate of sending samples from the Mac to a rented GPU.
        mac_load: The rate of loading weights from the Mac's disk to its GPU.
        source: What the assumptions are based on.
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
    """The content of a price file: offers, network rates and an optional plan."""

    offers: list[Offer]
    network: Network
    plan: ExperimentPlan | None = None


@functools.cache
def shipped() -> Cloud:
    """Return the offers that ship with the package; the head of `data/cloud.toml` describes them."""
    return toml.load(_FILE, Cloud)


def current() -> Cloud:
    """Return the file that `MPSPROBE_CLOUD` names, else the shipped one.

    Raises:
        UsageError: The named file cannot be used; see `load`.
    """
    named = os.environ.get(VARIABLE)
    return load(Path(named).expanduser()) if named else shipped()


def load(path: Path) -> Cloud:
    """Load a user's price file, which has the schema of the shipped one.

    Raises:
        UsageError: The file cannot be read, or does not fit the schema (the message names the key).
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file.", f"The form is that of {_FILE}.")
    return toml.load(path, Cloud, UsageError)
