"""The virtual device is entered, used and left wherever a user may stand."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import torch

from mpsprobe.device.virtual.session import emulate, predict
from mpsprobe.models.weightless.weights_dtype import default_dtype

pytestmark = pytest.mark.own_process


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


PLACES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default_device_cpu": lambda: torch.device("cpu"),
    "default_device_meta": lambda: torch.device("meta"),
    "default_dtype_half": lambda: default_dtype(torch.float16),
    "default_dtype_double": lambda: default_dtype(torch.float64),
    "deterministic": _deterministic,
}


def _trains() -> None:
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.ones(3, dtype=torch.float32, device="mps", requires_grad=True)
        (x * 2).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == [2, 2, 2]


@pytest.mark.parametrize("engine", [emulate, predict])
@pytest.mark.parametrize("place", PLACES)
def test_enter_and_leave(place: str, engine: Callable[[], AbstractContextManager[object]]) -> None:
    with PLACES[place]():
        with engine():
            x = torch.arange(3, device="mps")
            assert (x + x).tolist() == [0, 2, 4]
        assert torch.ones(2, device="cpu", dtype=torch.float32).tolist() == [1, 1]
    with emulate():
        _trains()


@pytest.mark.parametrize("place", ["no_grad", "inference_mode"])
def test_a_first_backward_is_asked_for_where_gradients_are_off(place: str) -> None:
    # in a process of its own the engine's thread for mps does not exist yet
    code = (
        "import torch; from mpsprobe.device.virtual.session import emulate\n"
        f"with torch.{place}():\n  with emulate(): torch.ones(1, device='mps')\n"
        "with emulate():\n  x = torch.ones(3, device='mps', requires_grad=True); (x * 2).sum().backward()\n"
        "  print(x.grad.tolist())"
    )

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "[2.0, 2.0, 2.0]", ran.stderr[-500:]


def test_other_threads_enter_and_use_it() -> None:
    errors: list[BaseException] = []

    def guarded(body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as problem:
            errors.append(problem)

    def entered() -> None:
        with emulate():
            _trains()

    inside = threading.Thread(target=guarded, args=(entered,))
    inside.start()
    inside.join()
    with emulate():
        used = threading.Thread(target=guarded, args=(_trains,))
        used.start()
        used.join()
    assert errors == []


def test_a_default_device_set_inside_holds() -> None:
    with emulate():
        torch.set_default_device("mps")
        try:
            assert torch.ones(2).device.type == "mps"
        finally:
            torch.set_default_device(None)
