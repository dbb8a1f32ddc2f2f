"""What the emulation cannot follow is said to be unknown; limits of the host are never a Mac's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mpsprobe.device.virtual.session import emulate, predict
from mpsprobe.errors import OutOfReachError

pytestmark = pytest.mark.own_process

OP = "aten::_sparse_coo_tensor_with_dims_and_tensors"


# pytorch issue 143955; SparseMPS registers it from 2.9 on (the wheels' registrations)
@pytest.mark.parametrize("engine", [emulate, predict])
def test_sparse_tensors_by_release(engine: Callable[..., Any]) -> None:
    sparse = torch.eye(3).to_sparse()
    with (
        engine("2.8"),
        pytest.raises(NotImplementedError, match=rf"^Could not run '{OP}' with .* 'SparseMPS'"),
    ):
        sparse.to("mps")
    with engine("2.9"), pytest.raises(OutOfReachError, match="The emulation cannot compute"):
        sparse.to("mps")


@pytest.mark.parametrize(
    "call",
    [
        # each is refused by the CPU ("... not implemented for ...") and has a Metal or MPSGraph kernel for the dtype
        lambda x: torch.histc(x.int(), bins=3, min=0, max=2),
        lambda x: torch.histc(x.to(torch.uint8), bins=3, min=0, max=2),
    ],
)
def test_a_dtype_only_the_host_lacks_is_widened(
    call: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    x = torch.tensor([0, 1, 2, 1, 0])
    with pytest.raises(NotImplementedError, match="_cpu"):
        call(x)
    with emulate("2.15") as session:
        result = call(x.to("mps"))
        assert result.sum().item() == 5
        assert session.findings == []


def test_memory_that_only_the_host_lacks_is_out_of_reach() -> None:
    with emulate(memory_gb=1 << 30), pytest.raises(OutOfReachError, match="too little memory"):
        torch.ones(1 << 50, dtype=torch.uint8, device="mps")
    with emulate(memory_gb=64), pytest.raises(RuntimeError, match=r"^Invalid buffer size: "):
        torch.ones(1 << 50, dtype=torch.uint8, device="mps")


# transformers 38819, pytorch 87688; torch/storage.py of the wheels leaves device memory alone from 2.13 on
@pytest.mark.parametrize(("release", "runs"), [("2.10", False), ("2.13", True)])
def test_memory_is_not_shared_between_processes(release: str, runs: bool) -> None:
    from multiprocessing.reduction import ForkingPickler

    text = "_share_filename_: only available on CPU"
    with emulate(release) as session:
        x = torch.zeros(3, device="mps")
        with pytest.raises(RuntimeError, match=text):
            ForkingPickler.dumps(x)
        if runs:
            x.share_memory_()
        else:
            for share in (x.share_memory_, nn.Linear(2, 2).to("mps").share_memory):
                with pytest.raises(RuntimeError, match=text):
                    share()
        torch.zeros(3, device="cpu").share_memory_()
        assert {one.message for one in session.findings} == {text}
    torch.zeros(3).share_memory_()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", [emulate, predict])
def test_compiled_code_runs_eagerly_and_is_reported(engine: Callable[..., Any]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU())
    with engine("2.8") as session, torch.inference_mode():
        x = torch.ones(1, 4, device="mps")
        compiled = torch.compile(model.to("mps"))
        assert compiled(x).shape == (1, 4)
        # whoever sets another stance meanwhile does not bring the compiler back
        with torch.compiler.set_stance("force_eager"):
            compiled(x)
        assert compiled(x).shape == (1, 4)
    assert [(one.kind, one.op) for one in session.findings] == [("compile", "")]
    assert "eager code ran instead" in session.findings[0].message


@pytest.mark.filterwarnings("ignore")
def test_a_graph_without_breaks_runs_eagerly_too() -> None:
    # with fullgraph=True, 2.13 counts what was compiled, and raises where it was nothing
    with emulate("2.13"):
        assert torch.compile(torch.neg, fullgraph=True)(torch.ones(1, device="mps")).item() == -1


@pytest.mark.filterwarnings(
    "ignore:An output with one or more elements", "ignore:The number of elements in the out"
)
@pytest.mark.parametrize(
    "write",
    [
        lambda out: torch.arange(5.0, 8.0, out=out),
        lambda out: torch.add(torch.ones(3, device=out.device), 1, out=out),
        lambda out: torch.cat([torch.ones(2, device=out.device), torch.zeros(1, device=out.device)], out=out),
    ],
)
@pytest.mark.parametrize(("start", "stop"), [(3, 3), (1, 1), (0, 0), (4, 4), (2, 4), (6, 6)])
def test_out_may_be_an_empty_view(write: Callable[[torch.Tensor], object], start: int, stop: int) -> None:
    def filled(device: str) -> tuple[list[float], list[float], int]:
        whole = torch.zeros(6, device=device)
        part = whole[start:stop]
        write(part)
        return whole.tolist(), part.tolist(), int(part.storage_offset())

    expected = filled("cpu")
    with emulate():
        assert filled("mps") == expected


def test_resize_keeps_offset_and_the_memory_that_is_shared() -> None:
    def resized(device: str) -> tuple[object, ...]:
        whole = torch.arange(6.0, device=device)
        part = whole[2:3].resize_(2, 2)
        part[1, 1] = 9
        grown = whole[4:6].resize_(3)
        return (
            whole.tolist(),
            part.tolist(),
            part.storage_offset(),
            grown[:2].tolist(),
            grown.storage_offset(),
        )

    expected = resized("cpu")
    with emulate():
        assert resized("mps") == expected


def test_frequencies_are_the_cpus() -> None:
    expected = torch.fft.fftfreq(5)
    with emulate():
        assert torch.equal(torch.fft.fftfreq(5, device="mps").cpu(), expected)


@pytest.mark.parametrize("engine", [emulate, predict])
def test_metal_code_is_out_of_reach(engine: Callable[..., Any], tmp_path: Path) -> None:
    """A build without MPS says "MPS is not available", which is no answer of a Mac."""
    with engine():
        with pytest.raises(OutOfReachError, match="no Metal"):
            # what torch.mps.compile_shader calls, which 2.6 does not have yet
            torch._C._mps_compileShader("kernel void f() {}")  # type: ignore[attr-defined]
        if hasattr(torch.mps.profiler, "metal_capture"):
            assert not torch.mps.profiler.is_metal_capture_enabled()
            with (
                pytest.raises(OutOfReachError, match="no Metal"),
                torch.mps.profiler.metal_capture(str(tmp_path)),
            ):
                pass
