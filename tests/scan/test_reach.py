"""What a Mac comes to, and what it does not: guards, early exits, code that only CUDA paths use."""

from __future__ import annotations

import textwrap

import pytest

from mpsprobe.scan import Options
from mpsprobe.scan.scanner import scan_text

OPTIONS = Options(torch="2.13")


def codes(source: str) -> list[str]:
    return [finding.code for finding in scan_text("import torch\n" + textwrap.dedent(source), OPTIONS)]


@pytest.mark.parametrize(
    "test",
    [
        "torch.cuda.is_available()",
        "x.is_cuda",
        "x.device.type == 'cuda'",
        "x.device == torch.device('cuda')",
        "'cuda' in str(x.device)",
        "'cuda' in x.device.type and y",
        "str(x.device).startswith('cuda')",
        "x.device.type in ('cuda', 'xpu')",
        "not x.device.type != 'cuda'",
        "x.device.type == 'cpu'",
        "torch.cuda.device_count() > 0",
        "torch.version.cuda is not None",
        "args.use_cuda",
        "not args.no_cuda",
        "is_flash_attn_2_available()",
        "sys.platform == 'linux'",
        "importlib.util.find_spec('triton') is not None",
        "all((torch.cuda.is_available(), y))",
        "self.config._attn_implementation == 'flash_attention_2'",
    ],
)
def test_code_behind_what_no_mac_has_is_left_alone(test: str) -> None:
    imports = "import importlib.util\nimport sys\n"
    source = imports + "def f(self, x, y, args):\n    if {}:\n        return x.cuda()\n    return x\n"
    assert codes(source.format(test)) == []
    assert codes(source.format("y")) == ["MPS101"]
    # ... and so it is in the other arm of the opposite question.
    opposite = imports + "def f(self, x, y, args):\n    return x if not ({}) else x.cuda()\n"
    assert codes(opposite.format(test)) == []


@pytest.mark.parametrize(
    "test", ["torch.backends.mps.is_available()", "x.device.type == 'mps'", "x.device.type != 'cpu'"]
)
def test_what_a_mac_has_does_not_hide_code(test: str) -> None:
    assert codes(f"def f(x):\n    if {test}:\n        return x.cuda()\n") == ["MPS101"]
    assert codes(f"def f(x):\n    if {test}:\n        return x\n    return x.cuda()\n") == []


def test_a_name_bound_to_a_guard_is_followed() -> None:
    assert codes("ready = torch.cuda.is_available()\nif ready:\n    x = torch.ones(1).cuda()\n") == []
    source = """
        ready = torch.cuda.is_available()
        ready = True
        if ready:
            x = torch.ones(1).cuda()
    """
    assert codes(source) == ["MPS101"]  # bound twice: not followed


def test_what_a_failed_import_leaves_behind_is_known() -> None:
    source = """
        try:
            import flash_attn
            FAST = True
        except ImportError:
            FAST = False

        def f(x):
            if FAST:
                return x.cuda()
            return x
    """
    assert codes(source) == []
    assert codes(source.replace("flash_attn", "einops")) == ["MPS101"]


def test_a_return_hides_code_below_and_a_refusal_does_not() -> None:
    leaves = "def f(x):\n    if not torch.cuda.is_available():\n        return x\n    return x.cuda()\n"
    assert codes(leaves) == []
    # The check is one hazard, what it protects is the next one.
    refuses = "def f(x):\n    if not torch.cuda.is_available():\n        raise OSError\n    return x.cuda()\n"
    assert codes(refuses) == ["MPS106", "MPS101"]


def test_functions_that_only_cuda_paths_call_are_left_alone() -> None:
    source = """
        class Mixer:
            def fast(self, x):
                torch.cuda.set_device(0)
                return x

            def forward(self, x):
                if x.is_cuda:
                    return self.fast(x)
                return x
    """
    assert codes(source) == []
    assert codes(source.replace("if x.is_cuda", "if self.training")) == ["MPS103"]
    assert codes(source.replace("return self.fast(x)", "pass")) == ["MPS103"]  # others may call it


def test_loops_over_cuda_devices_run_zero_times() -> None:
    assert codes("names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]") == []
    assert codes("for i in range(torch.cuda.device_count()):\n    torch.cuda.set_device(i)\n") == []
    assert codes("for i in range(2):\n    torch.cuda.set_device(i)\n") == ["MPS103"]


def test_a_probe_is_left_alone_and_a_program_in_a_try_is_not() -> None:
    probe = "try:\n    torch.cuda.synchronize()\nexcept Exception:\n    pass\n"
    assert codes(probe) == []
    assert codes(probe.replace("    pass", "    raise")) == ["MPS105"]
    assert codes(probe.replace("except Exception", "except KeyError")) == ["MPS105"]
    assert codes(probe.replace("try:", "try:\n    a = 1\n    b = 2\n    c = 3")) == ["MPS105"]


def test_names_are_resolved_through_imports() -> None:
    assert codes("from torch import cuda as c\nc.synchronize()\n") == ["MPS105"]
    assert codes("from torch.cuda import amp\nwith amp.autocast():\n    pass\n") == ["MPS201"]
    assert codes("from tensorflow import cuda\ncuda.synchronize()\n") == []


def test_strings_that_are_no_device_are_left_alone() -> None:
    assert codes('name = "cuda"\nprint(name == "cuda", {"backend": "cuda"})\n') == []
    assert codes('def f(x: "cuda") -> "cuda":\n    """Call x.to("cuda")."""\n') == []
    assert codes('def f(x, device_type="cuda"):\n    return x\n') == []


def test_code_of_every_statement_kind_is_walked() -> None:
    source = """
        async def f(x, items):
            async with x as y:
                async for i in items:
                    match i:
                        case 1:
                            await y.cuda()
                        case _:
                            z = lambda v: v.cuda()
            while (w := x.cuda()):
                del w
    """
    assert codes(source) == ["MPS101"] * 3
