"""Single rules where the examples of the document do not tell enough."""

from __future__ import annotations

import textwrap

import pytest
import torch

from mpsprobe.errors import UsageError
from mpsprobe.scan import Options, all_rules
from mpsprobe.scan.findings import chosen
from mpsprobe.scan.scanner import scan_text


def codes(source: str, release: str = "2.13") -> list[str]:
    text = "import numpy as np\nimport torch\n" + textwrap.dedent(source)
    return [finding.code for finding in scan_text(text, Options(torch=release))]


@pytest.mark.parametrize(
    "source",
    [
        'x = y.to(device="cuda:1")',
        'x = y.to(f"cuda:{rank}")',
        'x = y.to("cuda:" + str(rank))',
        'x = y.to("cuda:%d" % rank)',
        'd = torch.device("cuda", 0)',
        'w = torch.load(file, map_location="cuda")',
        'm = load(name, device_map={"": "cuda"})',
        'target = "cuda"\nx = y.to(target)',
        'x = y.type("torch.cuda.FloatTensor")',
        'self.device = "cuda"',
    ],
)
def test_a_cuda_device_in_any_spelling(source: str) -> None:
    assert codes(source) == ["MPS101"]


@pytest.mark.parametrize(
    "source",
    [
        'parser.add_argument("--device", default="cuda")',
        'd = kwargs.get("device", "cuda")',
        'd = getattr(config, "device", "cuda")',
        'class C:\n    device: str = "cuda"',
        'settings = {"device": "cuda"}',
        'def f(x, *, device=torch.device("cuda")): ...',
    ],
)
def test_a_default_is_a_default(source: str) -> None:
    assert "MPS102" in codes(source)


def test_autocast_off_elsewhere_matters_with_a_lowered_op() -> None:
    region = "with torch.autocast('cuda', enabled=False):\n    y = {}\n"
    assert codes(region.format("a @ b")) == ["MPS202"]
    assert codes(region.format("self.gate(a)")) == ["MPS202"]
    assert codes(region.format("a.cos() + torch.exp(b).float()")) == []


def test_autocast_off_for_one_device_leaves_others_on() -> None:
    # What MPS202 rests on, asked of PyTorch itself (the CPU stands for MPS, of which the same holds).
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autocast("cuda", enabled=False):
        assert torch.is_autocast_enabled("cpu")
        assert not torch.is_autocast_enabled()  # MPS204: without a device it speaks of CUDA
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.bfloat16


def test_a_device_type_that_comes_to_cpu_for_mps() -> None:
    source = """
        def f(model, x):
            kind = "cuda" if "cuda" in x.device.type else "cpu"
            with torch.autocast(kind{}):
                return model(x)
    """
    assert codes(source.format("")) == ["MPS201"]
    assert codes(source.format(", enabled=False")) == ["MPS202"]
    assert codes("with torch.autocast('cpu'):\n    pass\n") == []  # somebody means the CPU


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("y = x.double()", ["MPS301"]),
        ("y = x.type(torch.double)", ["MPS301"]),
        ("y = x.cpu().double()", []),
        ("y = x.detach().to('cpu').double()", []),
        ("x = x.cpu()\ny = x.double()", []),
        ("y = torch.arange(4).double()", []),
        ("y = torch.zeros(2, dtype=torch.float64)", []),  # on the CPU
        ("y = torch.zeros(2, dtype=torch.float64).to(device)", ["MPS301"]),
        ("y = torch.zeros(2, dtype=torch.float64, device='cpu')", []),
        ("kind = torch.float64\ny = torch.zeros(2, dtype=kind, device=x.device)", ["MPS301"]),
        ("self.register_buffer('b', torch.ones(2, dtype=torch.float64))", ["MPS301"]),
        ("y = x.to(torch.float32 if x.device.type == 'mps' else torch.float64)", []),
        ("if x.device.type != 'mps':\n    x = x.double()", []),
        ("torch.set_default_dtype(torch.float64)", ["MPS301"]),
        ("assert x.dtype in (torch.float32, torch.float64)", []),
        ("y = x.to(torch.complex128)", ["MPS302"]),
    ],
)
def test_float64_where_it_can_reach_the_device(source: str, expected: list[str]) -> None:
    assert codes(source) == expected


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        ("np.linspace(0, 1, 3)", torch.float64),
        ("np.array([1.0, 2.0])", torch.float64),
        ("np.array([1, 2])", torch.int64),
        ("np.zeros(3)", torch.float64),
        ("np.zeros(3, dtype=np.float32)", torch.float32),
        ("np.zeros(3, np.float32)", torch.float32),
        ("np.arange(0, 1, 0.5)", torch.float64),
        ("np.arange(3)", torch.int64),
        ("np.linspace(0, 1, 3).astype(np.float32)", torch.float32),
        ("np.linspace(0, 1, 3).astype(float)", torch.float64),
        ("np.linspace(0, 1, 3) * 2", torch.float64),
        ("np.stack([np.zeros(2), np.ones(2)])", torch.float64),
        ("np.full(3, 0.5)", torch.float64),
        ("np.random.rand(3)", torch.float64),
        ("np.eye(2)", torch.float64),
        ("np.ones(3).reshape(3, 1)", torch.float64),
    ],
)
def test_numpys_dtypes_are_those_that_numpy_makes(array: str, dtype: torch.dtype) -> None:
    import numpy as np

    made = torch.as_tensor(eval(array, {"np": np}))
    assert made.dtype is dtype
    found = codes(f"def f(device):\n    return torch.as_tensor({array}).to(device)\n")
    if "stack([" in array:  # a list of arrays is not followed: a miss, not a false alarm
        assert found == []
    else:
        assert (found == ["MPS303"]) == (dtype is torch.float64)


def test_a_numpy_tensor_that_is_cast_or_stays_is_left_alone() -> None:
    assert codes("x = torch.from_numpy(np.zeros(2)).float().to(device)") == []
    assert codes("x = torch.from_numpy(np.zeros(2)).to(device, torch.float32)") == []
    assert codes("x = torch.from_numpy(np.zeros(2))") == []
    assert codes("def f(device):\n    x = torch.from_numpy(np.zeros(2))\n    return x.to(device)\n") == [
        "MPS303"
    ]
    assert codes("x = torch.tensor(np.zeros(2), dtype=torch.float32, device=device)") == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import triton", ["MPS401"]),
        ("from mamba_ssm.ops import x\nimport mamba_ssm", ["MPS401"]),  # one finding a package
        ("if is_torch_available():\n    import triton", ["MPS401"]),
        ("if has_gpu:\n    import triton", []),
        ("with contextlib.suppress(ImportError):\n    import triton", []),
        ("from .triton import kernel", []),
        ("import tritonclient", []),
        ("try:\n    import triton\nexcept KeyError:\n    pass", ["MPS401"]),
    ],
)
def test_imports(source: str, expected: list[str]) -> None:
    assert codes("import contextlib\n" + source) == expected


@pytest.mark.parametrize(
    ("loop", "found"),
    [
        ("while True:\n    try:\n        f()\n        break\n    except RuntimeError:\n        g()", True),
        (
            "done = False\nwhile not done:\n    try:\n        f()\n        done = True\n    except:\n        g()",
            True,
        ),
        ("while True:\n    try:\n        f()\n        break\n    except RuntimeError:\n        raise", False),
        ("while True:\n    try:\n        f()\n        break\n    except ValueError:\n        g()", False),
        # counts its tries
        (
            "n = 0\nwhile n < 3:\n    try:\n        f()\n        n = 9\n    except RuntimeError:\n        n += 1",
            False,
        ),
        # serves for ever: success does not end it
        ("while True:\n    try:\n        serve()\n    except Exception:\n        log()", False),
        (
            "for i in range(3):\n    try:\n        f()\n        break\n    except RuntimeError:\n        g()",
            False,
        ),
        (
            "while True:\n    try:\n        f()\n        break\n    except RuntimeError as e:\n"
            "        if 'memory' not in str(e):\n            raise",
            False,
        ),
    ],
)
def test_a_retry_loop_without_end(loop: str, found: bool) -> None:
    assert ("MPS501" in codes(loop)) is found


def test_the_ops_of_the_release_that_is_asked_about() -> None:
    # QR has a kernel from 2.12 on: its error text about sizes is in no earlier wheel.
    source = "def f(x):\n    return torch.linalg.qr(x)\n"
    assert codes(source, "2.8") == ["MPS802"]
    assert codes(source, "2.13") == []
    assert codes("x = torch.logspace(0, 1, 5)") == []  # made on the CPU
    assert codes("x = torch.logspace(0, 1, 5, device=y.device)") == ["MPS802"]


def test_in_place_ops_on_views_by_the_advisories_of_the_release() -> None:
    assert codes("x.t().normal_()", "2.9") == ["MPS801"]
    assert codes("x[:, 0].normal_()", "2.9") == ["MPS801"]
    assert codes("x[0].normal_()", "2.9") == []
    assert codes("x.t().normal_()", "2.13") == []  # fixed in 2.10


def test_copies_into_views_need_gaps_in_both() -> None:
    """Advisory copy-equal-strides-not-dense-wrong: equal strides with gaps, which no slice of a cache shows."""
    assert codes("self.keys[:, :, start:end].copy_(states)", "2.13") == []


def test_code_for_nccl_and_cuda_graphs_is_not_reached() -> None:
    chosen = """
    def flag(backend):
        if "nccl" in backend:
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")
    """
    assert codes(chosen) == []
    assert codes(chosen.replace('"nccl" in backend', 'backend == "nccl"')) == []
    assert codes(chosen.replace('"nccl" in backend', "backend")) == ["MPS101", "MPS103"]
    captured = "def {}(call):\n    with torch.cuda.graph(torch.cuda.CUDAGraph()):\n        call()\n"
    assert codes(captured.format("_capture_cuda_graph")) == []
    assert codes(captured.format("capture")) != []


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_llm", "pycuda.driver"])
def test_engines_of_nvidia_do_not_import(name: str) -> None:
    assert codes(f"import {name} as engine") == ["MPS401"]


def test_seeds_count_only_where_nothing_else_seeds() -> None:
    assert codes("def f(s):\n    torch.cuda.manual_seed(s)\n") == ["MPS703"]
    assert codes("def f(s):\n    torch.manual_seed(s)\n    torch.cuda.manual_seed(s)\n") == []


@pytest.mark.parametrize(
    "call", ["os.environ.setdefault(NAME, '1')", "os.environ.update({NAME: '1'})", "os.environ[NAME] = '1'"]
)
def test_variables_set_too_late(call: str) -> None:
    line = call.replace("NAME", "'PYTORCH_MPS_HIGH_WATERMARK_RATIO'")

    def found(before: str, after: str) -> list[str]:
        text = f"import os\n{before}{line}\n{after}"
        return [finding.code for finding in scan_text(text, Options(torch="2.13"))]

    assert found("import torch\n", "") == ["MPS901"]
    assert found("from diffusers import DiffusionPipeline\n", "") == ["MPS901"]
    assert found("", "import torch\n") == []


def test_codes_groups_and_names_choose_rules() -> None:
    assert chosen(["MPS1"]) == {code for code in all_rules() if code.startswith("MPS1")}
    assert chosen(["float64,MPS302"]) == {"MPS301", "MPS302"}
    assert chosen([], ["MPS"]) == set()
    assert chosen() == set(all_rules())
    for wrong in ("MPS999", "E501", "mps-101"):
        with pytest.raises(UsageError, match=wrong):
            chosen([wrong])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('x = Pipeline(path, "cuda")', ["MPS110"]),
        ('x = build(model, f"cuda:{rank}")', ["MPS110"]),
        ('if text.startswith("cuda"):\n    pass', []),
        ('print("cuda")', []),
        ('raise ValueError("cuda")', []),
        ('with torch.autocast("cuda", enabled=False):\n    pass', []),
    ],
)
def test_device_handed_on_by_position(source: str, expected: list[str]) -> None:
    assert [code for code in codes(source) if code == "MPS110"] == expected


@pytest.mark.parametrize(
    ("test", "found"),
    [
        ('device == "mps"', True),
        ('device.type == "mps"', True),
        ('"mps" in str(device)', True),
        ('device in ("mps", "xpu")', True),
        ('device.startswith("mps")', True),
        ('device == "xpu"', False),
    ],
)
def test_mps_turned_away(test: str, found: bool) -> None:
    assert (
        "MPS111" in codes(f'def f(device):\n    if {test}:\n        device = "cpu"\n    return device\n')
    ) is found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('assert device in ["cuda", "cpu"]', True),
        ('if device not in {"cuda", "cpu", "xpu"}:\n    raise ValueError(device)', True),
        ('parser.add_argument("--device", choices=["cuda", "cpu"])', True),
        ('@click.option("--device", type=click.Choice(["cuda", "cpu"]))\ndef f(device):\n    pass', True),
        ('if device in ("cuda", "cpu"):\n    x = 1', False),
        ('assert device in ["cuda", "mps", "cpu"]', False),
        ('assert backend in ["cuda", "cpu"]', False),
    ],
)
def test_list_of_devices_without_mps(source: str, found: bool) -> None:
    assert ("MPS112" in codes(source)) is found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("model.share_memory()", True),
        ("model.cpu().share_memory()", False),
        ("torch.zeros(3).share_memory_()", False),
        ('import torch.multiprocessing as mp\nqueue.put(x.to("mps"))', True),
        ("import torch.multiprocessing as mp\nmp.Process(target=f, args=(x.to(device),))", True),
        ("import torch.multiprocessing as mp\nqueue.put(x.cpu())", False),
        ('queue.put(x.to("mps"))', False),
    ],
)
def test_tensor_sent_to_a_worker(source: str, found: bool) -> None:
    assert ("MPS602" in codes(source)) is found


@pytest.mark.parametrize(("release", "found"), [("2.12", True), ("2.13", False)])
def test_beta_on_the_device_by_release(release: str, found: bool) -> None:
    """`_sample_dirichlet` came to MPS with torch 2.13, by the wheels' registrations."""
    source = "def f(a, b):\n    return torch.distributions.Beta(a, b).sample()\n"
    assert ("MPS802" in codes(source, release)) is found
    assert "MPS802" not in codes("x = torch.distributions.Beta(1.5, 1.0).sample()", release)


@pytest.mark.parametrize(("release", "found"), [("2.10", True), ("2.11", False)])
def test_border_grid_sample_by_release(release: str, found: bool) -> None:
    source = 'import torch.nn.functional as F\ny = F.grid_sample(x, grid, padding_mode="border")\n'
    assert ("MPS803" in codes(source, release)) is found


def test_module_that_was_moved_to_the_cpu_may_be_shared() -> None:
    assert "MPS602" not in codes('def f(self):\n    self.to("cpu")\n    self.share_memory()\n')


@pytest.mark.parametrize(
    ("source", "release", "expected"),
    [
        ('torch.amp.GradScaler("mps")', "2.7", ["MPS205"]),
        ("torch.amp.GradScaler(device.type)", "2.7", ["MPS205"]),
        ('torch.amp.GradScaler("mps")', "2.8", []),
        ('torch.amp.GradScaler("mps", enabled=False)', "2.7", []),
        ('torch.amp.GradScaler("cpu")', "2.7", []),
    ],
)
def test_a_scaler_before_its_release(source: str, release: str, expected: list[str]) -> None:
    assert codes(f"scaler = {source}", release) == expected


LOADER = """
    from torch.utils.data import DataLoader, Dataset
    class Data(Dataset):
        def __getitem__(self, index):
            return {item}
    def collate(samples):
        return {batch}
    loader = DataLoader(Data(), num_workers={workers}, collate_fn=collate)
"""


@pytest.mark.parametrize(
    ("item", "batch", "workers", "found"),
    [
        ("self.x[index].to(self.device)", "samples", 2, True),
        ("torch.tensor(self.x[index], device='mps')", "samples", 2, True),
        ("self.x[index]", "torch.stack(samples).to('mps')", 2, True),
        ("self.x[index].to(self.device)", "samples", 0, False),
        ("self.x[index].to(torch.float32)", "torch.stack(samples)", 2, False),
        ("self.x[index].to('cpu')", "samples", 2, False),
    ],
)
def test_a_worker_that_places_tensors(item: str, batch: str, workers: int, found: bool) -> None:
    given = codes(LOADER.format(item=item, batch=batch, workers=workers))
    assert given.count("MPS603") == found


@pytest.mark.parametrize(
    ("body", "release", "found"),
    [
        ('y = x.to("cpu", non_blocking=True)', "2.13", True),
        ("y = x.cpu(non_blocking=True)", "2.13", True),
        ('y = x.to("cpu", non_blocking=True)\n    torch.mps.synchronize()', "2.13", False),
        ("y = x.to(device, non_blocking=True)", "2.13", False),  # x lives on in the caller
        ("y = x.to(device, non_blocking=True)", "2.5", True),
        ("y = torch.stack(x).to(device, non_blocking=True)", "2.13", True),
        ('y = torch.stack(x).to("cuda", non_blocking=True)', "2.13", False),
    ],
)
def test_a_copy_that_does_not_wait(body: str, release: str, found: bool) -> None:
    assert ("MPS113" in codes(f"def f(x, device):\n    {body}\n    return y.sum()", release)) is found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("@torch.compile\ndef step(x):\n    x.mean().backward()", True),
        ("@torch.compile(mode='default')\ndef step(x):\n    x.mean().backward()", True),
        ("@torch.compile(backend='aot_eager')\ndef step(x):\n    x.mean().backward()", False),
        ("@torch.compile\ndef f(x):\n    return x.mean()", False),
        ("def train(model, x):\n    model = torch.compile(model)\n    model(x).backward()", True),
        ("def infer(model, x):\n    return torch.compile(model)(x)", False),
    ],
)
def test_a_compiled_training_step(source: str, found: bool) -> None:
    assert ("MPS804" in codes(source)) is found


def test_a_double_in_a_loss_and_a_distribution_on_the_device() -> None:
    loss = "def loss(x, y):\n    return (x.double() - y).square().mean()"
    assert codes(loss) == ["MPS301"]
    drawn = "def weight(a, b):\n    return torch.distributions.Beta(a, b).sample()"
    assert codes(drawn, "2.10") == ["MPS802"]
