"""The chain of links as fixtures: site -> pins -> snapshot -> model -> batch -> prediction.

Requesting a later link makes the earlier ones. When a link cannot be made, its fixture raises `LinkFailed`, which
pytest stores and raises again for every later test; the plugin reports those as `blocked`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import pytest

from mpsprobe.run import Phase

if TYPE_CHECKING:
    from mpsprobe.ops.bench import Bench
    from mpsprobe.ops.checks import Recorded
    from mpsprobe.phases.data import Prepared
    from mpsprobe.phases.download import Obtained
    from mpsprobe.phases.inference import Inferred
    from mpsprobe.phases.requirements import Pins
    from mpsprobe.phases.site import Availability
    from mpsprobe.phases.training_steps import Training
    from mpsprobe.phases.transfer import Loaded
    from mpsprobe.recipe.refused import Refused
    from mpsprobe.suite.run_in_progress import RunInProgress


def _lifetime(fixture_name: str, config: pytest.Config) -> Literal["session", "module"]:
    """Return the scope of a fixture: the session of a supervised run, else the module that adopts the suite.

    Next to other tests, the links must end with the suite's module, because `mps` is a device of the whole process
    while the emulated device is active. A supervised run consists only of the suite, in several modules.
    """
    return "session" if config.getoption("--mpsprobe-journal") else "module"


@contextmanager
def restored() -> Iterator[None]:
    """Restore what a target may change in the process: torch's threads and dtype, `sys.path`, the Auto classes.

    Tests that run after an adopted suite must find the process as the tests before it did.
    """
    import torch

    threads, dtype, path = torch.get_num_threads(), torch.get_default_dtype(), list(sys.path)
    registered = {id(one): dict(one) for one in _auto_registrations()}
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        sys.path[:] = path
        for one in _auto_registrations():
            before = registered.get(id(one), {})
            one.clear()
            one.update(before)


def _auto_registrations() -> Iterator[dict[Any, Any]]:
    """Yield the registrations of each Auto class of transformers that is imported."""
    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.models.auto.") and module is not None:
            for mapping in vars(module).values():
                extra = vars(mapping).get("_extra_content") if hasattr(mapping, "__dict__") else None
                if isinstance(extra, dict):
                    yield extra


@pytest.fixture(scope=_lifetime)
def mps_site(mps_session: RunInProgress) -> Iterator[Availability]:
    """Make the link of phase 1: this machine, and the device that the run uses; restore the process at the end."""
    from mpsprobe.phases import site

    with restored(), site.open_site(mps_session.settings, mps_session.run.host) as opened:
        with mps_session.making(Phase.AVAILABILITY):
            mps_session.learnt(
                host=opened.host,
                device=opened.choice,
                mac=opened.mac,
                limits=[*mps_session.target.limits, *opened.limits],
            )
        yield opened


@pytest.fixture(scope=_lifetime)
def mps_pins(mps_session: RunInProgress, mps_site: Availability) -> Pins:
    """Make the link of phase 2: the target's requirements, met (or ignored on request)."""
    from mpsprobe.phases import pins

    _ = mps_site.device  # raises when there is no device, in which case later phases are useless
    with mps_session.making(Phase.PINS):
        return pins.require(mps_session.target, ignore=mps_session.settings.ignore_pins, mac=mps_site.mac)


@pytest.fixture(scope=_lifetime)
def mps_snapshot(mps_session: RunInProgress, mps_site: Availability, mps_pins: Pins) -> Obtained:
    """Make the link of phase 3: the target's files on this machine."""
    from mpsprobe.phases import download

    with mps_session.making(Phase.DOWNLOAD):
        obtained = download.obtain(
            mps_session.target, mps_session.progress, mps_session.transferred, mps_site.mac
        )
    mps_session.learnt(target=obtained.target, limits=[*obtained.changes, *mps_session.run.limits])
    return obtained


@pytest.fixture(scope=_lifetime)
def mps_model(mps_session: RunInProgress, mps_site: Availability, mps_snapshot: Obtained) -> Loaded:
    """Make the link of phase 4: the model on the device, which all later phases share."""
    from mpsprobe.phases import transfer

    with mps_session.making(Phase.TRANSFER):
        loaded = transfer.load(
            mps_snapshot.adapter,
            mps_snapshot.profile,
            mps_snapshot.snapshot,
            mps_site.device,
            mps_session.flight,
        )
        mps_session.learnt(target=transfer.described(loaded, mps_session.run.target))
    return loaded


@pytest.fixture(scope=_lifetime)
def mps_batch(mps_session: RunInProgress, mps_model: Loaded) -> Prepared:
    """Make the link of phase 5: a sample, processed and on the device."""
    from mpsprobe.phases import data

    with mps_session.making(Phase.DATA):
        return data.prepare(mps_model, mps_session.flight)


@pytest.fixture(scope=_lifetime)
def mps_prediction(mps_session: RunInProgress, mps_batch: Prepared) -> Inferred:
    """Make the link of phase 6: the outputs of the target for the sample."""
    from mpsprobe.phases import inference

    with mps_session.making(Phase.INFERENCE):
        return inference.predict(mps_batch, mps_session.flight)


@pytest.fixture(scope=_lifetime)
def mps_refused(request: pytest.FixtureRequest, mps_session: RunInProgress, mps_batch: Prepared) -> Refused:
    """Provide the ops that the Mac refused up to the end of phase 6, or up to the error that ended it."""
    from mpsprobe.phases.check import LinkFailed
    from mpsprobe.recipe import refused

    retry = refused.retry(mps_session.settings, mps_session.progress)
    link = refused.Refused(mps_batch, refused.own_autocast(mps_session.target), retry)
    try:
        return link.after(request.getfixturevalue("mps_prediction"))
    except LinkFailed as failure:
        return link.ended_by(failure)


@pytest.fixture(scope=_lifetime)
def mps_training(mps_session: RunInProgress, mps_batch: Prepared, mps_prediction: Inferred) -> Training:
    """Make the link of the training stage: optimisation steps on the model as phase 6 left it."""
    from mpsprobe.phases import training_steps

    with mps_session.making(Phase.TRAINING):
        return training_steps.train(mps_batch, mps_session.flight)


@pytest.fixture(scope=_lifetime)
def mps_bench(mps_session: RunInProgress, mps_site: Availability) -> Iterator[Bench]:
    """Provide the process that replays op uses, which the first replay starts."""
    from mpsprobe.ops import bench

    device, profile = mps_site.device, mps_session.target.profile
    made = bench.make(
        device.name,
        device.evidence,
        mps_site.mac,
        threads=profile.cpu_threads,
        op_limit_s=profile.limit(Phase.OPS),
        expected=mps_session.expected(mps_site.mac),
    )
    with made.isolation:
        yield made


@pytest.fixture(scope=_lifetime)
def mps_op_uses(mps_session: RunInProgress, mps_bench: Bench, mps_batch: Prepared) -> Recorded:
    """Provide the target's op uses with their verdicts on the target Mac, and store them for later runs."""
    from mpsprobe.ops import checks
    from mpsprobe.phases import known_bad, recording

    recorded = recording.record_inference(mps_batch)
    link = checks.recorded(recorded, mps_bench)
    mps_session.learnt(op_uses=link.uses)
    known_bad.remember(mps_session.target, link.uses, recorded.token_limit)
    return link


@pytest.fixture
def mps_emulated() -> Iterator[Any]:
    """Activate the emulated MPS device for one test: `.to("mps")` works, and refuses what a Mac refuses.

    For another Mac than the default one use `mpsprobe.emulate(torch=..., macos=..., memory_gb=...)`.
    """
    from mpsprobe import emulate

    with emulate() as session:
        yield session
