"""Programs written for MPS run, give the CPU's results, and leave nothing behind."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mpsprobe.device.virtual.cpp.native import installed_release
from mpsprobe.device.virtual.observer import Quiet
from mpsprobe.device.virtual.session import Session, emulate, predict
from mpsprobe.errors import AlreadyActiveError, VirtualDeviceError
from mpsprobe.knowledge.ops import UnknownReleaseError
from tests.device.virtual.llama import tiny_llama

pytestmark = pytest.mark.own_process


def _answers() -> dict[str, Any]:
    """What a program can see of MPS."""
    watched = [
        torch,
        torch._C,
        torch.mps,
        torch.backends.mps,
        torch.cuda,
        torch.autocast,
        torch.UntypedStorage,
    ]
    state: dict[str, Any] = {
        f"{o}.{n}": v for o in watched for n, v in vars(o).items() if "__warning" not in n
    }
    with pytest.raises(RuntimeError, match="not linked with support for mps") as refused:
        torch.ones(2).to("mps")
    state["refused"] = str(refused.value).split("\n")[0]
    state["available"] = torch.backends.mps.is_available()
    state["accelerator"] = torch.accelerator.is_available()
    for op in ("aten::add.Tensor", "aten::linear", "aten::scaled_dot_product_attention"):
        for key in ("MPS", "AutogradMPS"):
            state[f"{op} {key}"] = torch._C._dispatch_has_kernel_for_dispatch_key(op, key)
    return state


def test_leaves_no_trace() -> None:
    import transformers.utils.import_utils as library

    before = _answers(), library.is_torch_mps_available()
    for release in (None, "2.4"):
        with emulate(release):
            assert library.is_torch_mps_available()
            torch.ones(2, device="mps").add_(1)
    after = _answers(), library.is_torch_mps_available()
    assert after == before


def test_leaves_no_trace_after_an_error() -> None:
    before = _answers()
    with pytest.raises(ZeroDivisionError), emulate():
        _ = 1 / 0
    assert _answers() == before


def test_does_not_nest() -> None:
    with emulate():
        with pytest.raises(AlreadyActiveError, match="already on"), emulate():
            pass
        assert torch.ones(2, device="mps").sum().item() == 2


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(UnknownReleaseError, match=r"1\.13"), emulate("1.13"):
        pass
    with pytest.raises(VirtualDeviceError, match="tape"), emulate(storage="tape"):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize(("platform", "machine"), [("linux", "ppc64le"), ("win32", "AMD64")])
def test_refuses_other_machines(monkeypatch: pytest.MonkeyPatch, platform: str, machine: str) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr("platform.machine", lambda: machine)
    with pytest.raises(VirtualDeviceError, match="does not run on"), emulate():
        pass


def test_a_torch_without_mps_on_a_mac_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    with pytest.raises(VirtualDeviceError, match="built without MPS") as caught, emulate():
        pass
    assert "docker run" in caught.value.hint


@pytest.mark.parametrize("version", ["2.5.1", "2.16.0", "3.0.0"])
def test_refuses_other_releases(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr("torch.__version__", version)
    with pytest.raises(VirtualDeviceError, match="the virtual device was checked with"), emulate():
        pass


class _Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.MaxPool2d(2), nn.GroupNorm(2, 8)
        )
        self.signal = nn.Conv1d(8, 8, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose1d(8, 8, 4, stride=2)
        self.recurrent = nn.LSTM(8, 16, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.up(self.signal(self.convolutions(x).flatten(2)))
        z, _ = self.recurrent(y.transpose(1, 2))
        heads = self.norm(z).unflatten(-1, (4, 8)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        scores: torch.Tensor = self.head(attended.transpose(1, 2).flatten(2))
        return scores


def test_forward_equals_the_cpu(mps: Session) -> None:
    torch.manual_seed(0)
    model, x = _Mixed().eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = model(x)
        got = model.to("mps")(x.to("mps"))
    assert got.device.type == "mps"
    # the bias of the transposed convolution is added by an op of its own, as on a Mac: one rounding differs
    torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=1e-6)


def test_training_equals_the_cpu(mps: Session) -> None:
    def train(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = _Mixed().to(device)
        x = torch.randn(2, 3, 8, 8).to(device)
        # SGD, because Adam makes a step of full length out of a gradient that is zero but for rounding
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            loss = F.cross_entropy(model(x).flatten(0, 1), torch.arange(68, device=device) % 5)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return [loss.detach().cpu(), *(p.detach().cpu() for p in model.parameters())]

    for got, expected in zip(train("mps"), train("cpu"), strict=True):
        # attention is decomposed when gradients are needed, so sums run in another order
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_transformers_model_generates_what_the_cpu_generates(
    mps: Session, tmp_path: Path, implementation: str
) -> None:
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    tiny_llama().save_pretrained(tmp_path)
    ids = torch.arange(3, 12)[None]

    def tokens(device: str, **options: Any) -> Any:
        model = LlamaForCausalLM.from_pretrained(
            tmp_path, device_map=device, attn_implementation=implementation, dtype=torch.bfloat16
        )
        assert model.device.type == device
        torch.manual_seed(1)
        out = model.generate(
            ids.to(device), attention_mask=torch.ones_like(ids).to(device), max_new_tokens=6,
            output_logits=True, return_dict_in_generate=True, **options,
        )  # fmt: skip
        return out.sequences.cpu(), torch.stack(out.logits).cpu()

    for options in ({"do_sample": False}, {"do_sample": True, "top_p": 0.9}):
        (got, scores), (expected, expected_scores) = tokens("mps", **options), tokens("cpu", **options)
        if installed_release() >= (2, 12) or implementation == "eager":
            assert torch.equal(scores, expected_scores)
            assert torch.equal(got, expected)
        else:  # grouped heads are repeated before the kernel there, the CPU groups them inside
            torch.testing.assert_close(scores[0], expected_scores[0], rtol=0, atol=0.02)


def test_autocast_computes_in_half_precision(mps: Session) -> None:
    linear, x = nn.Linear(4, 4), torch.randn(2, 4)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("mps", dtype=dtype):
            assert linear.to("mps")(x.to("mps")).dtype is dtype


def test_autocast_of_the_cpu_says_nothing_to_mps(mps: Session) -> None:
    linear, x = nn.Linear(4, 4).to("mps"), torch.randn(2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x.to("mps")).dtype is torch.float32
        assert (x @ x.T).dtype is torch.bfloat16


def test_usual_ways_of_moving_tensors(mps: Session, tmp_path: Path) -> None:
    x = torch.randn(3, 4)
    file = tmp_path / "x.pt"
    torch.save(x, file)
    copies = [
        x.to("mps"),
        x.to(torch.device("mps:0")),
        torch.as_tensor(x, device="mps"),
        torch.load(file, map_location="mps"),
        pickle.loads(pickle.dumps(x.to("mps"))),
        copy.deepcopy(x.to("mps")),
        torch.empty_like(x, device="mps").copy_(x, non_blocking=True),
    ]
    with torch.device("mps"):
        copies.append(torch.tensor(x.tolist()))
    for one in copies:
        assert one.device == torch.device("mps", 0)
        assert torch.equal(one.cpu(), x)
        assert one.is_mps
        assert one.type() == "torch.mps.FloatTensor"


def test_views_share_memory(mps: Session) -> None:
    x = torch.zeros(4, 6, device="mps")
    x[1:3, ::2] += 1
    x.t()[0] = 5
    x.view(-1)[-1] = 7
    expected = torch.zeros(4, 6)
    expected[1:3, ::2] += 1
    expected.t()[0] = 5
    expected.view(-1)[-1] = 7
    assert torch.equal(x.cpu(), expected)


def test_results_into_given_tensors(mps: Session) -> None:
    x = torch.arange(6.0, device="mps").view(2, 3)
    out = torch.empty(0, device="mps")
    assert torch.add(x, 1, out=out) is out
    assert out.cpu().tolist() == [[1, 2, 3], [4, 5, 6]]
    values, indices = torch.empty(0, device="mps"), torch.empty(0, dtype=torch.int64, device="mps")
    torch.max(x, 0, out=(values, indices))
    assert indices.cpu().tolist() == [1, 1, 1]
    assert torch.empty(2, device="mps").resize_(3, 4).fill_(2).sum().item() == 24


def test_numbers_keep_their_weak_part_in_promotion(mps: Session) -> None:
    half = torch.ones(2, device="mps", dtype=torch.float16)
    assert (half * 2.5).dtype is torch.float16
    assert (torch.ones(2, device="mps", dtype=torch.int32) * 2).dtype is torch.int32
    assert (half + torch.tensor(1.0)).dtype is torch.float16  # a CPU scalar is welcome


def test_threads(mps: Session) -> None:
    sums: list[float] = []
    threads = [
        threading.Thread(target=lambda: sums.append((torch.ones(100, device="mps") * 2).sum().item()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [200.0] * 4


def test_transforms(mps: Session) -> None:
    x = torch.ones(3, 2, device="mps")
    assert torch.vmap(lambda a: a * 2)(x).sum().item() == 12
    assert torch.func.grad(lambda a: (a**2).sum())(x).device.type == "mps"


class _Log(Quiet):
    def __init__(self) -> None:
        self.ops: list[str] = []
        self.syncs: list[str] = []
        self.crossings: list[tuple[int, str]] = []

    def op(self, func: Any, args: Any, kwargs: Any, result: Any, flags: int) -> None:
        self.ops.append(str(func))

    def sync(self, kind: str) -> None:
        self.syncs.append(kind)

    def crossing(self, nbytes: int, direction: str) -> None:
        self.crossings.append((nbytes, direction))


def test_observer_hears_the_ops_of_a_mac() -> None:
    log = _Log()
    with emulate(observer=log), torch.no_grad():
        model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.Flatten(), nn.Linear(12, 2)).to("mps")
        x = torch.ones(1, 2, 4).to("mps")
        log.ops.clear()
        log.crossings.clear()
        log.syncs.clear()
        y = model(x)
        q = torch.ones(1, 1, 4, 8, device="mps")
        F.scaled_dot_product_attention(q, q, q)
        assert "aten._mps_convolution.default" in log.ops
        assert "aten.linear.default" in log.ops  # one kernel on MPS, not addmm
        assert "aten._scaled_dot_product_attention_math_for_mps.default" in log.ops
        assert not [op for op in log.ops if "addmm" in op or "flash" in op]
        y.cpu()
        y.sum().item()
        torch.mps.synchronize()
    assert log.crossings == [(8, "to-host")]
    assert log.syncs == ["copy", "item", "synchronize"]


@pytest.mark.parametrize(
    ("release", "macos", "fused"),
    [("2.6", "14.7", False), ("2.6", "15.5", True), ("2.7", "15.5", True)],
)
def test_attention_on_transposed_heads_is_fused(release: str, macos: str, fused: bool) -> None:
    """By aten/src/ATen/native/transformers/attention.cpp of 2.6.0: contiguous inputs, or macOS 15."""
    log = _Log()
    with emulate(release, macos=macos, observer=log), torch.no_grad():
        q = torch.ones(1, 4, 2, 8, device="mps").transpose(1, 2)
        F.scaled_dot_product_attention(q, q, q)
    assert ("aten._scaled_dot_product_attention_math_for_mps.default" in log.ops) is fused


def test_a_fallback_crosses_twice() -> None:
    log = _Log()
    with emulate("2.13", fallback=True, observer=log):
        x = torch.eye(4, device="mps")
        log.crossings.clear()
        with pytest.warns(UserWarning, match="fall back"):
            torch.linalg.eigvalsh(x)
    assert "fallback" in log.syncs
    # cpu_fallback copies every tensor argument: the matrix (64 bytes), the result to be filled (16), and that one back
    assert log.crossings == [(80, "to-host"), (16, "to-device")]


def test_copies_wait_unless_they_need_not() -> None:
    """copy_and_sync of aten/src/ATen/mps/MPSStream.mm, in both directions; an empty tensor is not copied."""
    log = _Log()
    with emulate(observer=log):
        torch.ones(4).to("mps")
        torch.ones(4).to("mps", non_blocking=True)
        torch.ones(0).to("mps")
    assert log.syncs == ["copy"]
    assert log.crossings == [(16, "to-device"), (16, "to-device")]


def test_the_observer_keeps_nothing_alive() -> None:
    with emulate(observer=_Log()) as session:
        before = session.memory.allocated()
        x = torch.ones(1000, device="mps") * 2
        assert session.memory.allocated() > before
        del x
        gc.collect()
        assert session.memory.allocated() == before


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x[1:].add_(x[:-1]),
        lambda x: torch.mul(x[:-1], 2, out=x[1:]),
        lambda x: torch.cat((x[:2], x[2:4]), out=x[1:5]),
        lambda x: torch.gather(x, 0, torch.zeros(2, dtype=torch.int64, device=x.device), out=x[:2]),
        lambda x: torch.masked_select(x, x > 2, out=x),
        lambda x: x[1:].copy_(x[:-1]),  # copy_impl of Copy.cpp asks before mps_copy_ is called
        lambda x: x.view(2, 3).copy_(x[:3]),
    ],
    ids=["add_", "mul", "cat", "gather", "masked_select", "copy_", "copy_ of rows"],
)
def test_writing_over_what_is_read_is_refused(write: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(RuntimeError, match="refer to a single memory location") as on_cpu:
        write(torch.arange(6.0))
    with emulate():
        x = torch.arange(6.0, device="mps")
        with pytest.raises(RuntimeError) as on_mps:
            write(x)
        assert str(on_mps.value) == str(on_cpu.value)
        assert x.tolist() == [0, 1, 2, 3, 4, 5]
        assert torch.add(x, x, out=x).tolist() == [0, 2, 4, 6, 8, 10]
        assert x[:3].mul_(x[3:]).tolist() == [0, 16, 40]
        assert x.copy_(x.view(-1))[3:].copy_(x[:3]).tolist() == [0, 16, 40]


@pytest.mark.parametrize("under", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_direct_way_looks_at_each_call(under: Callable[[], Any]) -> None:
    """What is remembered of a call's dtypes must not hide what another call meets."""
    with emulate("2.6", fallback=False), under():
        x, w = torch.ones(2, 3, device="mps"), torch.ones(4, 3, device="mps")
        for _ in range(2):
            assert torch.nn.functional.linear(x, w).sum().item() == 24
            with pytest.raises(RuntimeError, match="does not support linear for non-float inputs"):
                torch.nn.functional.linear(x.int(), w.int())
            with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
                x + torch.ones(2, 3)
            with pytest.raises(TypeError, match="float64"):
                x * torch.ones((), dtype=torch.float64).to("cpu").view(1).to("mps")
            with pytest.raises(RuntimeError, match="must match the size"):
                x + torch.ones(2, 4, device="mps")
            assert (x * 2 + 1).dtype is torch.float32
            assert (x.half() + 1.5).dtype is torch.float16  # a wrapped number
            assert torch.cat((x, x.half())).dtype is torch.float32


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # PyTorch's own decompositions
@pytest.mark.parametrize("engine", [emulate, predict])
def test_tensors_of_zeros_without_memory(engine: Callable[..., Any]) -> None:
    """Forward-mode AD makes them for zero tangents; read as they are, they end the process."""

    def f(x: torch.Tensor) -> torch.Tensor:
        return (x.sin() * x).sum()

    expected = torch.func.hessian(f)(torch.arange(3.0))
    with engine("2.13"):
        x = torch.arange(3.0, device="mps")
        torch.testing.assert_close(torch.func.hessian(f)(x).cpu(), expected)
        zeros = torch._efficientzerotensor((2, 3), device="mps")
        assert (zeros + x).tolist() == [[0, 1, 2]] * 2
        assert zeros.clone().sum().item() == 0


def test_storages_of_the_device() -> None:
    with emulate():
        storage = torch.arange(4, dtype=torch.uint8, device="mps").untyped_storage()
        other = torch.UntypedStorage(4, device="mps").copy_(storage)
        assert other.device.type == "mps"
        assert torch.UntypedStorage([1, 2], device="mps").cpu().tolist() == [1, 2]
        assert torch.empty(0, dtype=torch.uint8, device="mps").set_(other).tolist() == [0, 1, 2, 3]
        assert storage.clone().cpu().tolist() == [0, 1, 2, 3]
    assert torch.UntypedStorage(2).device.type == "cpu"
    with pytest.raises(RuntimeError, match="not recognized"):
        torch.UntypedStorage(2, device="mps")


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # no batching rule for MPS's own ops
@pytest.mark.parametrize("release", ["2.6", "2.13"])
def test_transforms_of_ops_with_a_way_of_their_own(release: str) -> None:
    """Under torch.func, composite ops run at the transform's key, not at the device's."""

    def results(device: str) -> list[torch.Tensor]:
        x = torch.arange(24.0, device=device).view(2, 1, 3, 4) / 24
        found = []
        for f in (
            lambda a: nn.functional.scaled_dot_product_attention(a, a, a),
            lambda a: nn.functional.rms_norm(a, (4,)),
        ):
            g = torch.func.grad(lambda a, f=f: f(a).square().sum())
            found += [torch.func.vmap(f)(x), g(x), torch.func.vmap(g)(x)]
        return [one.cpu() for one in found]

    expected = results("cpu")
    with emulate(release, fallback=False):
        torch.testing.assert_close(results("mps"), expected)
        torch.testing.assert_close(results("cpu"), expected)
