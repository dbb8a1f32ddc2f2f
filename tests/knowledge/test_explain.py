# ruff: noqa: E501 (quotes stay as they were written)
"""Explanations of pasted logs, against what the threads of those logs found out."""

import pytest

from mpsprobe.errors import UsageError
from mpsprobe.knowledge import ops
from mpsprobe.knowledge.error_texts import Cause
from mpsprobe.knowledge.explain import explain
from mpsprobe.knowledge.history import dtype_first_good, op_history
from tests.knowledge.real_texts import BROADCAST, MISSING_OLD, REAL

# The text of torch >= 2.6, in a traceback through remote code, as Python prints it.
TRACEBACK = """/Users/me/venv/lib/python3.12/site-packages/transformers/utils/generic.py:10: FutureWarning: old
Traceback (most recent call last):
  File "/Users/me/proj/run.py", line 46, in <module>
    out = model.generate(**inputs)
          ^^^^^^^^^^^^^^^^^^^^^^^^
  File "/Users/me/.cache/huggingface/modules/transformers_modules/foo/modeling_foo.py", line 301, in forward
    pooled = torch.max_pool3d(x, 2)
  File "/Users/me/venv/lib/python3.12/site-packages/torch/_ops.py", line 755, in __call__
    return self._op(*args, **(kwargs or {}))
           ^^^^^^^^^^^^^^^^^
NotImplementedError: The operator 'aten::max_pool3d_with_indices' is not currently implemented for the MPS
device. If you want this op to be considered for addition please comment on
https://github.com/pytorch/pytorch/issues/141287 and mention use-case, that resulted in missing op as well as
commit hash e2d141dbde55c2a4370fac5165b0561b6af4798b. As a temporary fix, you can set the environment variable
`PYTORCH_ENABLE_MPS_FALLBACK=1` to use the CPU as a fallback for this op. WARNING: this will be slower than
running natively on MPS.
"""


def test_a_missing_op_names_release_and_workaround() -> None:
    # transformers PR 32367: "torch>=2.4 has isin on mps"; chronos 141: the variable makes it work
    (finding,) = explain(MISSING_OLD).findings
    assert finding.cause is Cause.MISSING_OP
    assert finding.op == "aten::isin.Tensor_Tensor_out"
    assert finding.fixed_in == "2.4"
    assert finding.fallback == "yes"


def test_the_commit_in_the_error_names_the_release() -> None:
    result = explain(TRACEBACK)
    assert (result.torch, result.torch_from) == ("2.7.1", "commit")
    # pytorch issue 158723: PR 156467, in 2.9 (2.8 was branched before)
    assert result.findings[0].fixed_in == "2.9"


def test_the_users_or_the_models_line_is_found_in_a_traceback() -> None:
    frame = explain(TRACEBACK).findings[0].frame
    assert frame is not None
    assert frame.path.endswith("modeling_foo.py")
    assert (frame.line, frame.function, frame.code) == (301, "forward", "pooled = torch.max_pool3d(x, 2)")


def test_a_notebooks_cell_is_the_users_line() -> None:
    # pytorch issue 141287, comment of 2025-03-30
    text = """Cell In[26], line 9, in evaluate_tm(model, data_loader, metric)
      7     for X_batch, y_batch in data_loader:
----> 9         y_pred = model(X_batch)

File ~/mamba/envs/issuept/lib/python3.11/site-packages/torch/nn/modules/module.py:1739, in Module._wrapped_call_impl(self)
   1737     return self._compiled_call_impl(*args, **kwargs)
-> 1739     return self._call_impl(*args, **kwargs)

NotImplementedError: The operator 'aten::_nested_tensor_from_mask_left_aligned' is not currently implemented for the MPS device.
"""
    frame = explain(text).findings[0].frame
    assert frame is not None
    assert (frame.path, frame.line, frame.code) == ("Cell In[26]", 9, "y_pred = model(X_batch)")


def test_the_stack_of_faulthandler_is_read() -> None:
    text = """MPSNDArray.mm:78: failed assertion `something new'
Fatal Python error: Aborted

Current thread 0x00000001f1318540 (most recent call first):
  File "/Users/me/venv/lib/python3.11/site-packages/torch/nn/functional.py", line 12 in linear
  File "/Users/me/proj/model.py", line 30 in forward
  File "/Users/me/proj/main.py", line 5 in <module>

Extension modules: numpy
"""
    frame = explain(text).findings[0].frame
    assert frame is not None
    assert (frame.path, frame.line, frame.function) == ("/Users/me/proj/model.py", 30, "forward")


def test_the_warning_before_the_error_comes_second() -> None:
    warning = REAL[7][1]
    result = explain(f"{warning}\n{TRACEBACK}")
    assert [finding.message for finding in result.findings] == ["missing-op", "cpu-fallback"]


def test_what_is_said_often_is_told_once() -> None:
    (finding,) = explain("Error: command buffer exited with error status.\n" * 5).findings
    assert finding.count == 5


@pytest.mark.parametrize(
    "decorated",
    [
        "\x1b[31mRuntimeError\x1b[0m: invalid low \x1b[1mwatermark\x1b[0m ratio 1.4",
        "│ RuntimeError: invalid low watermark │\n│ ratio 1.4                           │",
        "> RuntimeError: invalid low watermark\n> ratio 1.4",
        "E   RuntimeError: invalid low watermark ratio 1.4",
        "RuntimeError: invalid low wat\nermark ratio 1.4",
        '{"level":"error","msg":"Traceback...\\nRuntimeError: invalid low watermark ratio 1.4\\n"}',
        "  2%|█▌      | 1/50 [00:33<27:16]\rRuntimeError: invalid low watermark ratio 1.4\r",
        "RuntimeError:\u00a0invalid low watermark ratio 1.4",
    ],
)
def test_decorations_do_not_hide_a_message(decorated: str) -> None:
    (finding,) = explain(decorated).findings
    assert (finding.message, finding.values["ratio"]) == ("watermark", "1.4")


def test_html_entities_and_smart_quotes_are_read() -> None:
    for quote in ("&#39;", "\u2018", "\\'"):
        closing = "\u2019" if quote == "\u2018" else quote
        text = f"The operator {quote}aten::index_copy.out{closing} is not currently implemented for the MPS device"
        (finding,) = explain(text).findings
        assert finding.op == "aten::index_copy.out"


def test_a_long_log_is_searched_whole() -> None:
    noise = "2025-01-01 12:00:00 INFO step 12 loss 0.3 (mps:0)\n"
    result = explain(noise * 20_000 + BROADCAST + "\n" + noise * 20_000)
    assert [finding.message for finding in result.findings] == ["llvm-broadcast"]
    assert result.findings[0].line == 20_001


def test_a_message_repeated_twenty_thousand_times_is_counted() -> None:
    (finding,) = explain("Error: command buffer exited with error status.\n" * 20_000).findings
    assert finding.count == 20_000


def test_versions_are_read_from_collect_env() -> None:
    text = "PyTorch version: 2.5.1\nOS: macOS 12.7.6 (arm64)\nRuntimeError: The MPS backend is supported on MacOS 12.3+."
    result = explain(text)
    assert (result.torch, result.torch_from, result.macos, result.macos_from) == (
        "2.5.1",
        "log",
        "12.7.6",
        "log",
    )
    # pytorch issue 139425, malfet: "it should have say that you need MacOS 13.0"
    assert "needs macOS 13.0" in result.findings[0].fixed


def test_what_is_given_goes_before_what_the_text_says() -> None:
    result = explain("PyTorch version: 2.5.1\nmacOS 14.2\n" + BROADCAST, torch="2.8", macos="15.5")
    assert (result.torch, result.torch_from, result.macos) == ("2.8", "option", "15.5")


@pytest.mark.parametrize(
    ("text", "fixed_in"),
    [
        ("TypeError: BFloat16 is not supported on MPS", "2.3.0"),  # last wheel 2.2.2
        ("Conv3D is not supported on MPS", "2.3.0"),
        ("ConvTranspose 3D is not supported on MPS", "2.8.0"),
        ("MPS device does not support mm for non-float inputs", "2.7.0"),  # 2.7.0 notes: integral mm, bmm
        ("RuntimeError: User specified an unsupported autocast device_type 'mps'", "2.5"),
        ("Adaptive pool MPS: input sizes must be divisible by output sizes.", ""),  # reworded, still there
        ("MPS device does not support linear for non-float inputs", ""),
        ("Cannot convert a float64 Tensor to MPS as the MPS framework doesn't support float64.", ""),
    ],
)
def test_the_release_that_lifted_a_restriction(text: str, fixed_in: str) -> None:
    assert explain(text).findings[0].fixed_in == fixed_in


def test_float8_exists_from_2_15_on() -> None:
    # transformers PR 48985: "torch 2.15 will add fp8_e4m3 tensors"
    (finding,) = explain(
        "Trying to convert Float8_e4m3fn to the MPS backend but it does not have support"
    ).findings
    assert (finding.dtype, finding.fixed_in) == ("float8_e4m3fn", "2.15")
    (finding,) = explain(
        "Trying to convert ComplexDouble to the MPS backend but it does not have support"
    ).findings
    assert (finding.dtype, finding.fixed_in) == ("complex128", "")


@pytest.mark.parametrize(
    ("text", "fallback"),
    [
        ("The operator 'aten::index_copy.out' is not currently implemented for the MPS device", "yes"),
        ("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.", "no"),
        ("Output channels > 65536 not supported at the MPS device.", "no"),  # AudioSR 69
        ("RuntimeError: Placeholder storage has not been allocated on MPS device!", "no"),
        (
            "The operator 'torchvision::nms' is not currently implemented for the MPS device",
            "yes",
        ),  # pytorch 77764
        ("invalid low watermark ratio 1.4", ""),
    ],
)
def test_whether_the_fallback_variable_helps(text: str, fallback: str) -> None:
    assert explain(text).findings[0].fallback == fallback


def test_an_op_the_cpu_lacks_has_no_fallback() -> None:
    # pytorch issue 156540: "fallback to CPU failed" for sparse tensors
    text = "Could not run 'aten::_sparse_coo_tensor_with_dims_and_tensors' with arguments from the 'SparseMPS' backend"
    (finding,) = explain(text).findings
    assert finding.fallback == "no"
    release = ops.release(finding.fixed_in)
    assert finding.op in release.sparse["SparseMPS"]
    before = ops.releases()[ops.releases().index(finding.fixed_in) - 1]
    assert finding.op not in ops.release(before).sparse.get("SparseMPS", ())


def test_an_op_of_another_library_is_left_to_it() -> None:
    (finding,) = explain(
        "The operator 'mylib::fancy' is not currently implemented for the MPS device"
    ).findings
    assert (finding.op, finding.fixed_in) == ("mylib::fancy", "")
    assert "library" in finding.fixed
    (finding,) = explain(
        "'torchvision::deform_conv2d' is not currently implemented for the MPS device"
    ).findings
    assert "torchvision 0.23" in finding.fixed


def test_a_release_that_has_the_op_gets_a_second_look() -> None:
    (finding,) = explain(MISSING_OLD, torch="2.8").findings
    assert "check which torch" in finding.fixed


def test_advisories_that_fit_are_named() -> None:
    text = "MPSNDArray.mm:82: failed assertion `[MPSNDArrayDescriptor sliceDimension:withSubrange:] error: subRange.start"
    assert "slice-subrange-abort" in explain(text).findings[0].advisories


def test_no_finding_for_an_unknown_text() -> None:
    assert explain("RuntimeError: the plan has no step 7").findings == ()
    assert explain("").findings == ()


@pytest.mark.parametrize("version", ["9.9", "two"])
def test_wrong_versions_are_usage_errors(version: str) -> None:
    with pytest.raises(UsageError):
        explain("x", torch=version)


@pytest.mark.parametrize("given", [True, False])
def test_a_release_older_than_the_tables_is_said(given: bool) -> None:
    """openai/CLIP#406 and others: logs of 1.13 are still posted."""
    text = "RuntimeError: don't know how to restore data location of torch.storage._UntypedStorage (tagged with mps)"
    told = explain(text, torch="1.13.1") if given else explain(f"PyTorch version: 1.13.1\n{text}")
    assert told.findings[0].message == "load-mps-checkpoint"
    assert (told.torch, told.too_old) == ("", "1.13.1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # public threads: RVC-Project#981, JaidedAI/EasyOCR#1004, gemelo-ai/vocos#42, segment-anything#636, nanoGPT#120,
        # so-vits-svc-fork#337, DeepSpeed#7148, InvokeAI#256, CLIP#406, Plachtaa/VALL-E-X#127
        ("AttributeError: module 'torch.backends' has no attribute 'mps'", "torch-before-mps"),
        ('RuntimeError: c10::isComplexType(input.scalar_type()) && c10::isComplexType(other.scalar_type()) INTERNAL '
         'ASSERT FAILED at "/Users/runner/work/pytorch/pytorch/aten/src/ATen/native/mps/operations/BinaryKernel.mm":340, '
         "please report a bug to PyTorch.", "complex-with-real"),
        ("MPS support binary op with uint8 natively starting from macOS 13.0", "refused-on-old-macos"),
        ("RuntimeError: MPS: power op with int64 input is supported natively starting from macOS 13.2.",
         "refused-on-old-macos"),
        ("NotImplementedError: Could not run 'aten::_pin_memory' with arguments from the 'CUDA' backend.",
         "pin-memory-cuda"),
        ("terminating with uncaught exception of type c10::Error: Unsupported type byte size: ComplexFloat",
         "complex-too-old"),
        ("ValueError: We detected accelerator mps on your machine. But we don't know which communication backend to use "
         "for this accelerator.", "no-backend-for-mps"),
        ("AttributeError: module 'torch._C' has no attribute '_cuda_resetPeakMemoryStats'", "cuda-only-attribute"),
        ("RuntimeError: Expected one of cpu, cuda, mps device type at start of device string: MPS", "device-in-capitals"),
    ],
)  # fmt: skip
def test_lines_of_other_projects_threads(text: str, message: str) -> None:
    assert [one.message for one in explain(text).findings] == [message]


@pytest.mark.parametrize(
    "text",
    [
        "UserWarning: MPS: no support for int64 for min_max. Native support for int64 has been added in macOS 13.3.",
        "RuntimeError: BFloat16 is supported on MPS, requires macOS 14.0",
        "x is supported natively starting from macOS 13.2",
    ],
)
def test_a_minimum_is_not_the_users_macos(text: str) -> None:
    assert explain(f"{text}\nRuntimeError: MPS backend out of memory").macos == ""


def test_history_of_an_op() -> None:
    history = op_history("aten::linalg_qr.out")
    assert history is not None
    assert (history.first_good, history.how) == ("2.12", "native")  # coverage matrix, issue 77764
    assert op_history("mylib::fancy") is None


@pytest.mark.parametrize(
    ("dtype", "release"), [("bfloat16", "2.3"), ("float64", ""), ("complex64", "2.3"), ("purple", None)]
)
def test_history_of_a_dtype(dtype: str, release: str | None) -> None:
    assert dtype_first_good(dtype) == release


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        ("index 5 is out of bounds: 0, range 0 to 3", "index-out-of-bounds", "index.max()"),
        (
            "RuntimeError: view size is not compatible with input tensor's size and stride (at least one dimension",
            "view-not-compatible",
            "reshape()",
        ),
        (
            "torch.cat(): all input tensors must be on the same device. Received mps:0 and cpu",
            "cat-two-devices",
            "device=x.device",
        ),
        ("[MPS] product of dimension sizes > 2**31", "dimensions-over-2e31", "Split"),
        (
            "memorystatus: killing largest compressed process Python [812]",
            "killed-by-memory-pressure",
            "smaller",
        ),
        (
            "AttributeError: module 'torch.mps' has no attribute 'get_mem_info'",
            "mps-attribute-missing",
            "driver_allocated_memory",
        ),
        (
            "ERROR: Could not find a version that satisfies the requirement triton==3.1 (from versions: none)",
            "triton-no-wheel",
            "Leave it out",
        ),
        (
            "NotImplementedError: The operator 'aten::slow_conv3d_forward' is not currently implemented for the MPS device.",
            "conv3d-missing",
            "torch 2.3",
        ),
        (
            "NotImplementedError: The operator 'torchvision::nms' is not currently implemented for the MPS device.",
            "torchvision-op-missing",
            "torchvision",
        ),
        (
            "RuntimeError: Input type (torch.FloatTensor) and weight type (MPSFloatType) should be the same",
            "input-on-cpu",
            "Move the input",
        ),
        (
            "RuntimeError: Input type (MPSFloatType) and weight type (torch.FloatTensor) should be the same",
            "input-weight-devices",
            "Move the model",
        ),
        ("RuntimeError: _share_filename_: only available on CPU", "share-to-workers", "num_workers=0"),
        (
            "The MPS backend is supported on macOS 14.0+. Current OS version can be queried using `sw_vers`",
            "macos-too-old",
            "sw_vers",
        ),
    ],
)
def test_each_text_has_a_cause_and_a_fix_of_its_own(text: str, message: str, fix: str) -> None:
    (found,) = explain(text).findings
    assert found.message == message
    assert fix in found.fix


def test_an_op_that_always_falls_back_calls_nothing_old() -> None:
    text = "The operator 'aten::linalg_svd' is not currently supported on the MPS backend and will fall back to run on the CPU."
    (found,) = explain(text, "2.8").findings
    assert found.fixed_in == ""
    assert "nothing is old" in found.fixed


def test_environment_block_wins_over_versions_in_the_text() -> None:
    text = (
        "RuntimeError: The MPS backend is supported on MacOS 14.0+. torch==2.8.0 worked.\n"
        "PyTorch version: 2.9.1\nOS: macOS 13.7.4 (arm64)\n"
    )
    told = explain(text)
    assert (told.torch, told.macos) == ("2.9.1", "13.7.4")
    assert explain("The MPS backend is supported on macOS 14.0+.").macos == ""


OOM = "MPS backend out of memory (MPS allocated: {}, other allocations: {}, max allowed: {}). Tried to allocate {} on private pool. "


def test_out_of_memory_is_one_finding_and_its_figures_are_read() -> None:
    tail = "Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for memory allocations (may cause system failure)."
    (full,) = explain(OOM.format("5.56 GB", "1.10 GB", "6.80 GB", "768.00 MB") + tail).findings
    assert "would pass the limit" in full.means
    (empty,) = explain(OOM.format("0 bytes", "156.00 MB", "7.93 GB", "512.00 MB") + tail).findings
    assert "does not reach the limit" in empty.means


def test_code_that_a_fix_gives_computes_the_same_on_the_cpu() -> None:
    import torch

    x = torch.randn(2, 3, 4, 5, 6)
    for dim in range(5):
        assert torch.equal(x.movedim(dim, -1).cumsum(-1).movedim(-1, dim), x.cumsum(dim))
        values, index = x.movedim(dim, -1).sort(-1)
        assert torch.equal(values.movedim(-1, dim), x.sort(dim).values)
        assert torch.equal(index.movedim(-1, dim), x.sort(dim).indices)
    y = torch.randn(6)
    assert torch.equal((x - y).square().mean(), torch.nn.functional.mse_loss(x, y.expand_as(x)))
    nan = torch.tensor([float("nan"), 1.0, 3.0])
    assert torch.equal(torch.where(nan.isnan(), nan, nan.clamp(0, 2)).isnan(), nan.clamp(0, 2).isnan())
    torch.testing.assert_close(x.flatten(-2).sum(-1), x.sum(dim=(-2, -1)))
    assert torch.equal(x.tril(), torch.where(torch.ones_like(x).tril() == 1, x, 0.0))
    w = torch.randn(7, 6)
    b = torch.randn(7)
    linear = torch.nn.functional.linear
    torch.testing.assert_close(linear(x.reshape(-1, 6), w, b).view(2, 3, 4, 5, 7), linear(x, w, b))
    z = torch.randn(3, dtype=torch.complex64)
    assert torch.equal(torch.conj_physical(z), z.conj().clone())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "failed assertion `sourceTensor rank must be 4'\nPyTorch version: 2.5.1",
            "torch 2.5.1 is new enough already",
        ),
        ("failed assertion `sourceTensor rank must be 4'\nPyTorch version: 2.1.0", ""),
        (
            "TypeError: BFloat16 is not supported on MPS\nPyTorch version: 2.5.1\nOS: macOS 15.1 (arm64)",
            "torch 2.5.1 and macOS 15.1 are new enough already",
        ),
        (
            "TypeError: BFloat16 is not supported on MPS\nPyTorch version: 2.5.1\nOS: macOS 13.1 (arm64)",
            "torch 2.5.1 is new enough already; macOS 13.1 is not",
        ),
        ("TypeError: BFloat16 is not supported on MPS\nPyTorch version: 2.5.1", ""),
    ],
)
def test_a_fix_that_the_text_has_already_is_said(text: str, said: str) -> None:
    (found,) = explain(f"MPSGraphConvolutionOps.mm:346: {text}" if "rank" in text else text).findings
    assert ("new enough already" in found.fixed) is bool(said)
    assert said in found.fixed
