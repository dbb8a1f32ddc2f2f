"""Rules against the texts in the wheels, PyTorch's own sizes and lists, and what users report."""

import pytest
import torch

from mpsprobe.errors import UsageError
from mpsprobe.knowledge import dtypes, ops
from mpsprobe.knowledge._pasted import base
from mpsprobe.run import OpVerdict, TensorMeta


def _tensor(dtype: str, *shape: int) -> TensorMeta:
    strides = [1]
    for extent in reversed(shape[1:]):
        strides.insert(0, strides[0] * extent)
    return TensorMeta(dtype, shape, tuple(strides[: len(shape)]))


def _says(rule: dtypes.Rule, texts: tuple[str, ...]) -> bool:
    return any(rule.fragment in text for text in texts) if rule.fragment else rule.message in texts


@pytest.mark.parametrize(
    "rule", [rule for rule in dtypes.all_rules() if not rule.source], ids=lambda rule: rule.id
)
def test_a_rules_text_is_in_its_releases_binaries_only(rule: dtypes.Rule) -> None:
    order = ops.releases()
    first = order.index(rule.since) if rule.since else 0
    last = order.index(rule.until) if rule.until else len(order) - 1
    claimed = set(order[first : last + 1])
    found = set()
    for minor in order:
        for support in ops.release(minor).ops():
            names = {support.op.removeprefix("aten::"), base(support.op).removeprefix("aten::")}
            if names.intersection(rule.ops) and _says(rule, support.messages):
                found.add(minor)
                break
    assert found == claimed


#: Ops that reach a rule's text and are not refused by it: in common code before MPS's (which every device has), by an
#: earlier check of their own, or only without `dim`, which a rule cannot say.
_NOT_REFUSED = {
    "linalg-half": {"_linalg_svd", "linalg_lu_solve", "linalg_matrix_exp", "linalg_polar", "linalg_qr"}
    | {"linalg_vector_norm"},
    "lu-factor-complex": {"linalg_inv_ex"},
    "solve-complex": {"linalg_inv_ex"},
    "unique-dtypes": {"unique_consecutive", "unique_dim_consecutive"},
}


def test_every_op_that_reaches_a_rules_text_has_a_rule() -> None:
    """`scatter_add` has the kernel of `scatter`; backward passes are left out, as their forward pass is refused."""
    order = ops.releases()
    for minor in order:
        at = order.index(minor)
        active = [
            rule
            for rule in dtypes.all_rules()
            if rule.dtypes and (not rule.since or order.index(rule.since) <= at)
            if not rule.until or at <= order.index(rule.until)
        ]
        for support in ops.release(minor).ops():
            name = base(support.op).removeprefix("aten::").rstrip("_")
            saying = [rule for rule in active if _says_one_of(rule, support.messages)]
            named = {one.split(".")[0].rstrip("_") for rule in saying for one in rule.ops}
            stated = [rule.id for rule in saying if not rule.source]
            if stated and name not in named and not name.endswith(("_backward", "_backward_data")):
                assert name in _NOT_REFUSED.get(stated[0], ()), f"{minor}: {stated[0]} and {name}"


def _says_one_of(rule: dtypes.Rule, texts: tuple[str, ...]) -> bool:
    return "*" not in rule.ops and _says(rule, texts)


def test_rules_name_dtypes_ops_and_releases_that_exist() -> None:
    known = {base(op).removeprefix("aten::") for op in ops.known_ops()}
    known |= {op.removeprefix("aten::") for op in ops.known_ops()} | {"*"}
    for rule in dtypes.all_rules():
        assert known.issuperset(rule.ops), rule.id
        assert rule.refused <= dtypes.DTYPES, rule.id
        assert {rule.since, rule.until} <= {"", *ops.releases()}, rule.id
    ids = [rule.id for rule in dtypes.all_rules()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", sorted(dtypes.DTYPES - {"float4_e2m1fn_x2"}))
def test_sizes_are_pytorchs(name: str) -> None:
    dtype = getattr(torch, name)
    assert dtypes.item_size(name) == dtype.itemsize


def test_what_the_backend_accepts_grew_with_2_3_and_2_9() -> None:
    always = {"uint8", "int8", "int16", "int32", "int64", "float16", "float32", "bool"}
    assert dtypes.accepted("2.2") == always
    assert dtypes.accepted("2.8", "13.6") == always
    assert dtypes.accepted("2.8", "14.0") == always | {"bfloat16", "complex32", "complex64"}
    assert dtypes.accepted("2.9") - dtypes.accepted("2.8") == {"uint16", "uint32", "uint64"}
    for minor in ops.releases():
        assert not dtypes.accepted(minor) & {"float64", "complex128", "float8_e5m2"}
        assert ("float8_e4m3fn" in dtypes.accepted(minor)) is (minor == "2.15")  # pytorch pull request 194074


def test_float8_is_only_sure_for_ops_that_are_known_to_take_it() -> None:
    assert dtypes.check("aten::cat", ["float8_e4m3fn"], "2.15") is None
    found = dtypes.check("aten::mm", ["float8_e4m3fn"], "2.15")
    assert found is not None
    assert not found.certain


def test_memory_is_not_asked_what_it_holds() -> None:
    # pytorch issue 176981: a complex128 tensor can be moved, and not multiplied; float64 cannot even be moved
    assert dtypes.check("aten::copy_", ["complex128"], "2.10") is None
    found = dtypes.check("aten::mul.Tensor", ["complex128"], "2.10")
    assert found is not None
    assert found.message.startswith("Trying to convert ComplexDouble to the MPS backend")
    assert dtypes.check("aten::copy_", ["float64"], "2.10") is not None


def test_ops_that_move_memory_exist() -> None:
    assert dtypes.moves() <= {base(op).removeprefix("aten::") for op in ops.known_ops()}


@pytest.mark.parametrize(
    ("op", "dtype", "torch_release", "macos", "message"),
    [
        # each message as users pasted it: pytorch issues 77754, 100175, 99624 (macOS 13.3), 110975, 132605
        ("aten::add.Tensor", "float64", "2.13", None, "Cannot convert a MPS Tensor to float64 dtype"),
        ("aten::add.Tensor", "bfloat16", "2.2", "14.4", "BFloat16 is not supported on MPS"),
        (
            "aten::add.Tensor",
            "bfloat16",
            "2.5",
            "13.6.1",
            "MPS BFloat16 is only supported on MacOS 14 or newer",
        ),
        ("aten::cumsum", "int64", "2.1", "13.2", "MPS does not support cumsum op with int64 input"),
        ("aten::repeat", "complex64", "2.6", "15.0", "repeat(): Not supported for complex yet!"),
        ("aten::mm", "float8_e4m3fn", "2.5", "15.0", "Trying to convert Float8_e4m3fn to the MPS backend"),
        ("aten::mm", "int64", "2.6", None, "MPS device does not support mm for non-float inputs"),
        ("aten::linear", "int8", "2.15", None, "MPS device does not support linear for non-float inputs"),
    ],
)
def test_messages_that_users_report(
    op: str, dtype: str, torch_release: str, macos: str | None, message: str
) -> None:
    found = dtypes.check(op, [dtype], torch_release, macos)
    assert found is not None
    assert found.certain
    assert found.message.startswith(message)
    assert found.source


@pytest.mark.parametrize(
    ("op", "dtype", "torch_release", "macos"),
    [
        ("aten::add.Tensor", "bfloat16", "2.5", "14.0"),
        ("aten::add.Tensor", "bfloat16", "2.9", "14.0"),
        ("aten::cumsum", "int64", "2.1", "13.3"),
        ("aten::repeat", "complex64", "2.12", "15.0"),
        ("aten::mm", "int64", "2.7", None),
        ("aten::mm", "float16", "2.1", None),
        ("aten::linear", "bfloat16", "2.15", None),
    ],
)
def test_just_outside_a_rule_nothing_is_said(
    op: str, dtype: str, torch_release: str, macos: str | None
) -> None:
    assert dtypes.check(op, [dtype], torch_release, macos) is None


def test_an_unknown_macos_is_taken_as_new_enough() -> None:
    assert dtypes.check("aten::_fft_r2c", ["float32"], "2.5") is None
    found = dtypes.check("aten::_fft_r2c", ["float32"], "2.5", "13.6")
    assert found is not None
    assert found.message == "FFT operations are only supported on MacOS 14+"


def test_an_older_macos_can_also_mean_the_cpu() -> None:
    found = dtypes.check("aten::grid_sampler_2d", ["float32"], "2.5", "13.1")
    assert found is not None
    assert found.effect is dtypes.Effect.FALLBACK
    assert found.effect.verdict is OpVerdict.FALLBACK
    cast = dtypes.check("aten::repeat_interleave.Tensor", ["int64"], "2.5", "13.2")
    assert cast is not None
    assert cast.effect is dtypes.Effect.CASTS
    assert cast.effect.verdict is None


@pytest.mark.parametrize(
    ("torch_release", "macos", "length", "raises"),
    [
        ("2.4", "15.0", 70_000, False),
        ("2.5", "15.2", 70_000, True),
        ("2.7", "15.0", 70_000, True),
        ("2.7", "15.1", 70_000, False),
        ("2.7", "15.0", 65_536, False),
    ],
)
def test_conv_refuses_65537_outputs_before_macos_15_1(
    torch_release: str, macos: str, length: int, raises: bool
) -> None:
    """neural-amp-modeler issue 507: Conv1d over more than 65,536 samples with one channel, torch 2.5."""
    inputs = [_tensor("float32", 1, 1, length), _tensor("float32", 1, 1, 1)]
    found = dtypes.check_tensors(
        "aten::convolution", inputs, [_tensor("float32", 1, 1, length)], torch_release, macos
    )
    assert (found is not None) == raises
    if found is not None:
        assert found.message == "Output channels > 65536 not supported at the MPS device."


def test_three_dimensional_convolutions() -> None:
    volume, weight = _tensor("float32", 1, 3, 8, 8, 8), _tensor("float32", 4, 3, 3, 3, 3)
    flat, kernel = _tensor("float32", 1, 3, 8, 8), _tensor("float32", 4, 3, 3, 3)
    found = dtypes.check_tensors("aten::convolution", [volume, weight], [], "2.2")
    assert found is not None
    assert found.certain
    assert found.message == "Conv3D is not supported on MPS"
    assert dtypes.check_tensors("aten::convolution", [volume, weight], [], "2.8", "14.0") is None
    assert dtypes.check_tensors("aten::convolution", [flat, kernel], [], "2.2") is None
    half = dtypes.check_tensors("aten::convolution", [_tensor("float16", 1, 3, 8, 8, 8)], [], "2.15")
    assert half is not None
    assert not half.certain  # only a transposed one


@pytest.mark.parametrize(
    ("side", "pooled", "raises"), [(7, 7, False), (14, 7, False), (8, 7, True), (3, 7, True), (1, 6, False)]
)
def test_adaptive_pooling_wants_sizes_that_divide_each_other(side: int, pooled: int, raises: bool) -> None:
    """https://github.com/pytorch/pytorch/issues/96056"""
    image, result = _tensor("float32", 1, 64, side, side), _tensor("float32", 1, 64, pooled, pooled)
    found = dtypes.check_tensors("aten::_adaptive_avg_pool2d", [image], [result], "2.13")
    assert (found is not None) == raises


def test_more_than_four_gigabytes_may_abort() -> None:
    found = dtypes.check_tensors("aten::bmm", [_tensor("float32", 2, 40_000, 40_000)], [], "2.5", "15.2")
    assert found is not None
    assert not found.certain
    assert found.effect is dtypes.Effect.ABORTS
    assert (
        dtypes.check_tensors("aten::bmm", [_tensor("float16", 1, 40_000, 40_000)], [], "2.5", "15.2") is None
    )


def test_expected_failures_are_of_their_release() -> None:
    found = dtypes.check("aten::relu", ["bool"], "2.13")
    assert found is not None
    assert not found.certain
    assert "2.13" in found.source
    assert dtypes.check("aten::relu", ["float16"], "2.13") is None
    # of three convolution tests that share one op only one is expected to fail in bfloat16
    assert dtypes.check("aten::convolution", ["bfloat16"], "2.13") is None


def test_usable_dtypes_leave_out_what_is_certainly_refused() -> None:
    assert "int64" not in dtypes.usable("aten::mm", "2.6")
    assert "int64" in dtypes.usable("aten::mm", "2.7")
    assert "bfloat16" not in dtypes.usable("aten::mm", "2.8", "13.6")


@pytest.mark.parametrize(
    ("written", "name"),
    [("torch.half", "float16"), ("BF16", "bfloat16"), ("long", "int64"), ("Float8_e5m2", "float8_e5m2")],
)
def test_dtypes_as_people_write_them(written: str, name: str) -> None:
    assert dtypes.dtype_name(written) == name


def test_bad_questions_are_errors() -> None:
    with pytest.raises(dtypes.UnknownDtypeError):
        dtypes.dtype_name("float17")
    with pytest.raises(UsageError):
        dtypes.check("aten::mm", ["bfloat16"], "2.5", "Ventura")
