"""`predict` on a PyTorch with MPS: a Linux build in the role of a Mac's, whose kernels count their calls.

Every program runs in a child process, a fork of one that has imported torch: what the stand-in registers cannot be
taken back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import stand_in

pytestmark = pytest.mark.slow

#: Tests of `predict` itself, as they run on Linux. Those of keeping answers concern files only, and the slow ones
#: predict the same models again for every release.
_SUITE = (
    "tests/device/virtual/test_predict.py",
    "tests/device/virtual/test_repeats.py",
    "tests/device/virtual/test_planted.py",
    "tests/prediction/test_fitting.py",
    "tests/prediction/test_predict.py",
    "tests/prediction/test_releases.py",
    "tests/prediction/test_training.py",
    "-m",
    "not slow",
)

#: What a child prints: how many of the stand-in's kernels ran, and what its allocator gave, since `start()`.
_COUNTING = """
import torch
from mpsprobe.device.virtual.session import predict
from tests.support.stand_in.plugin import called
"""


@pytest.fixture(scope="module")
def mac(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stand_in.Zygote]:
    zygote = stand_in.Zygote(tmp_path_factory.mktemp("mac"))
    yield zygote
    zygote.close()


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stand_in.Zygote]:
    zygote = stand_in.Zygote(tmp_path_factory.mktemp("linux"), mps=False)
    yield zygote
    zygote.close()


def program(module: str, *arguments: str) -> str:
    """Write `python -m MODULE ARGUMENTS` as code."""
    return (
        f"import runpy, sys\nsys.argv = {[module, *arguments]!r}\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    )


def printed(mac: stand_in.Zygote, code: str) -> list[str]:
    """Run code in a child with the stand-in; its lines."""
    ran = mac.run(_COUNTING + code)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout.splitlines()


def test_the_stand_in_computes_as_the_cpu_does(mac: stand_in.Zygote) -> None:
    lines = printed(
        mac,
        "before = called()\n"
        "x = torch.randn(4, 5, device='mps', generator=torch.Generator('mps').manual_seed(0))\n"
        "w = torch.ones(5, 3, device='mps', requires_grad=True)\n"
        "loss = (x @ w).relu().sum(); loss.backward()\n"
        "y = (x.cpu() @ torch.ones(5, 3)).relu()\n"
        "print(torch.allclose(loss.cpu(), y.sum()), w.grad.device, called() > before)\n"
        "print(torch.backends.mps.is_available(), torch.mps.current_allocated_memory() > 0)\n",
    )
    assert lines == ["True mps:0 True", "True True"]


def test_the_suite_of_predict_reaches_no_kernel() -> None:
    command = (
        "-m",
        "pytest",
        "-q",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.support.stand_in.plugin",
    )
    ran = stand_in.run(*command, *_SUITE, timeout=3000)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-1000:]


def test_thirty_models_are_predicted_as_on_linux(mac: stand_in.Zygote, linux: stand_in.Zygote) -> None:
    code = program("tests.support.platform_rows", "30")
    there, here = mac.run(code), linux.run(code)
    assert there.returncode == here.returncode == 0, there.stderr[-2000:] + here.stderr[-2000:]
    rows, expected = json.loads(there.stdout), json.loads(here.stdout)
    assert len(expected) == 30
    assert [name for name in expected if rows[name] != expected[name]] == []


def test_readmes_first_example_is_as_on_linux(
    tmp_path: Path, mac: stand_in.Zygote, linux: stand_in.Zygote
) -> None:
    code = program("tests.support.readme_example", str(tmp_path))
    there, here = mac.run(code), linux.run(code)
    assert there.returncode == here.returncode == 0, there.stderr[-2000:] + here.stderr[-2000:]
    predicted, expected = json.loads(there.stdout), json.loads(here.stdout)
    assert expected["command"].startswith("predict ./my-model")
    assert (expected["exit"], len(expected["op_uses"]) > 100) == (0, True)
    assert [name for name in expected if predicted[name] != expected[name]] == []


def test_the_build_is_left_as_it_was(mac: stand_in.Zygote) -> None:
    lines = printed(
        mac,
        "names = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith('aten::')]\n"
        "def table():\n"
        "    return [torch._C._dispatch_dump_table(n) for n in names]\n"
        "held = vars(torch._C).copy(), torch.Generator, torch.ops.load_library, torch.library.Library.define\n"
        "before = table()\n"
        "with predict():\n"
        "    during = table()\n"
        "    (torch.ones(9, 9, device='mps') @ torch.ones(9, 9, device='mps')).sum()\n"
        "print(sum(a != b for a, b in zip(before, during)) > 900)\n"
        "print(table() == before)\n"
        "print(held == (vars(torch._C), torch.Generator, torch.ops.load_library, torch.library.Library.define))\n"
        "count = called()\n"
        "print((torch.ones(3, device='mps') + 1).sum().item(), called() > count)\n",
    )
    assert lines == ["True", "True", "True", "6.0 True"]


def test_memory_generators_and_events_are_ours(mac: stand_in.Zygote) -> None:
    lines = printed(
        mac,
        "count, made = called(), torch._stand_in.stand_in_events()\n"
        "waited = torch._stand_in.stand_in_synchronized()\n"
        "with predict() as session:\n"
        "    x = torch.ones(3).pin_memory()\n"
        "    print(x.is_pinned(), x.tolist())\n"
        "    large = torch.empty(1 << 40, device='mps'); torch.randn(4, device='mps').to('cpu').to('mps')\n"
        "    torch.randn(3, generator=torch.Generator('mps').manual_seed(1), device='mps')\n"
        "    torch.manual_seed(0); torch.mps.manual_seed(0)\n"
        "    event = torch.mps.Event(enable_timing=True); event.record(); event.synchronize(); event.query()\n"
        "    torch.mps.synchronize(); torch.accelerator.synchronize(); torch.mps.empty_cache()\n"
        "    print(torch.accelerator.current_accelerator(), session.memory.allocated() > 1 << 41)\n"
        "print(called() - count, torch._stand_in.stand_in_events() - made,\n"
        "      torch._stand_in.stand_in_synchronized() - waited)\n",
    )
    assert lines == ["False [1.0, 1.0, 1.0]", "mps True", "0 0 0"]


def test_missing_and_later_ops_do_not_reach_the_macs_fallback(mac: stand_in.Zygote) -> None:
    lines = printed(
        mac,
        "count = called()\n"
        "with predict('2.8') as session:\n"
        "    torch.linalg.eigh(torch.ones(3, 3, device='mps'))\n"
        "    library = torch.library.Library('later', 'DEF')\n"
        "    library.define('twice(Tensor x) -> Tensor')\n"
        "    library.impl('twice', lambda x: x * 2, 'CPU')\n"
        "    print(torch.ops.later.twice(torch.ones(2, device='mps')).cpu().tolist())\n"
        "    print(sorted({one.kind for one in session.findings}))\n"
        "print(called() - count)\n",
    )
    assert lines == ["[2.0, 2.0]", "['missing-op']", "0"]


def test_a_process_with_metals_own_tensors_is_refused(mac: stand_in.Zygote) -> None:
    lines = printed(
        mac,
        "held = torch.ones(1000, device='mps')\n"
        "try:\n"
        "    with predict():\n"
        "        pass\n"
        "except Exception as problem:\n"
        "    print(type(problem).__name__, problem)\n"
        "del held\n"
        "with predict():\n"
        "    print(torch.ones(2, device='mps').sum().item())\n",
    )
    assert lines[0].startswith("UnsupportedInstallError This process holds 4,000 bytes")
    assert lines[1] == "2.0"


def test_a_kernel_that_the_release_lacks_decomposes(mac: stand_in.Zygote) -> None:
    lines = printed(
        mac,
        "assert torch._stand_in.stand_in_register(b'isclose', b'MPS') == 0\n"
        "count = called()\n"
        "with predict('2.8'):\n"
        "    x = torch.ones(3, device='mps')\n"
        "    print(torch.isclose(x, x).tolist())\n"
        "print(called() - count)\n",
    )
    assert lines == ["[True, True, True]", "0"]


def test_sparse_kernels_of_a_mac_are_refused(mac: stand_in.Zygote) -> None:
    lines = printed(
        mac,
        "assert torch._stand_in.stand_in_register(b'neg', b'SparseMPS') == 0\n"
        "count = called()\n"
        "with predict():\n"
        "    x = torch.ones(2, 2, device='mps')\n"
        "    keys = torch._C.DispatchKeySet(torch._C._dispatch_key_parse('SparseMPS'))\n"
        "    try:\n"
        "        torch.ops.aten.neg.default.redispatch(keys, x)\n"
        "    except NotImplementedError as problem:\n"
        "        print(problem)\n"
        "print(called() - count)\n",
    )
    assert lines[0].startswith("Could not run 'aten::neg' with arguments from the 'SparseMPS' backend")
    assert lines[1] == "0"


def test_metal_code_is_refused(mac: stand_in.Zygote) -> None:
    (line,) = printed(
        mac,
        "torch._C._mps_compileShader = lambda source: 1 / 0\n"
        "with predict():\n"
        "    try:\n"
        "        torch.mps.compile_shader('kernel void f() {}')\n"
        "    except Exception as problem:\n"
        "        print(problem.what)\n",
    )
    assert line == "The virtual device compiles and captures no Metal."


def test_emulate_is_refused_with_the_reason_and_two_ways() -> None:
    ran = stand_in.run("-m", "mpsprobe", "run", "--device", "emulated", "--phase", "1", mac="m2")
    assert ran.returncode == 1
    text = ran.stdout + ran.stderr
    assert "does not run where PyTorch has MPS" in text
    assert "--device mps" in text
    assert "docker run" in text


def test_the_evidence_says_that_no_mac_has_confirmed_it(
    tmp_path: Path, mac: stand_in.Zygote, linux: stand_in.Zygote
) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500,
        "torch_dtype": "bfloat16",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    code = program("mpsprobe", "predict", str(tmp_path), "--torch", "2.8", "--json")
    there, here = mac.run(code), linux.run(code)
    assert there.returncode == here.returncode == 0, there.stderr[-2000:] + here.stderr[-2000:]
    predicted, expected = json.loads(there.stdout), json.loads(here.stdout)
    said, unsaid = predicted["predicted"]["unknowns"], expected["predicted"]["unknowns"]
    assert any("has not been confirmed on a Mac yet" in text for text in said)
    assert not any("confirmed on a Mac" in text for text in unsaid)
    assert predicted["op_uses"] == expected["op_uses"] != []
