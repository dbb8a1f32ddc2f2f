from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mpsprobe.models import choose, profile
from mpsprobe.models.tiny_drive import repository
from mpsprobe.models.tiny_drive.adapter import TinyDriveAdapter
from mpsprobe.models.tiny_drive.modeling import TinyDrive


@pytest.fixture(scope="session")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-drive")
    repository.build(folder)
    return folder


@pytest.fixture(scope="session")
def adapter(snapshot: Path) -> TinyDriveAdapter:
    made = choose.make_adapter(profile.load("tiny-drive"), snapshot)
    assert isinstance(made, TinyDriveAdapter)
    return made


@pytest.fixture(scope="session")
def model(adapter: TinyDriveAdapter) -> TinyDrive:
    """In bfloat16, as the profile says."""
    return adapter.load(torch.device("cpu"), adapter.profile.dtype)


@pytest.fixture(scope="session")
def reference(adapter: TinyDriveAdapter) -> TinyDrive:
    """In float32."""
    return adapter.load(torch.device("cpu"), "float32")


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield
