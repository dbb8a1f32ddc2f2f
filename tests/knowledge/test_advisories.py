"""Advisories: the committed ones keep the rules and match what their authors wrote down."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
import torch
from torch.nn import functional

from mpsprobe import toml
from mpsprobe.errors import DataError, UsageError
from mpsprobe.knowledge import _calls, advisories
from mpsprobe.knowledge import _conditions as conditions
from mpsprobe.knowledge._calls import tensor
from mpsprobe.knowledge.advisories import Advisory, Certainty, Example
from mpsprobe.knowledge.advisory_lint import RELEASES, answer_to, lint, op_exists
from mpsprobe.run import OpUse, TensorMeta

EXAMPLES = [
    pytest.param(advisory, example, id=f"{advisory.id}-{number}")
    for advisory in advisories.load_all()
    for number, example in enumerate(advisory.examples, 1)
]


@pytest.mark.parametrize(("advisory", "example"), EXAMPLES)
def test_matcher_says_of_an_example_what_its_author_wrote(advisory: Advisory, example: Example) -> None:
    assert answer_to(advisory, example) is example.expect


def test_committed_advisories_keep_the_rules() -> None:
    assert list(lint(advisories.load_all(), RELEASES, op_exists)) == []


def test_every_symptom_and_severity_is_used() -> None:
    found = advisories.load_all()
    assert len(found) >= 80
    assert {advisory.symptom for advisory in found} == set(advisories.Symptom)
    assert {advisory.severity for advisory in found} == set(advisories.Severity)
    assert all(advisories.by_id(advisory.id) is advisory for advisory in found)
    with pytest.raises(UsageError, match="no-such"):
        advisories.by_id("no-such")


def _advisory(**changes: object) -> Advisory:
    fields: dict[str, object] = {
        "id": "made-up",
        "title": "It goes wrong",
        "torch": ">=2.7,<2.9",
        "ops": ["aten::mm"],
        "symptom": "wrong",
        "severity": "high",
        "fix": "Use torch 2.9.",
        "first_good": "2.9.0",
        "links": ["https://example.org/1"],
        "confirmed": "Nobody: made up.",
        "examples": [
            {"expect": "certain", "op": "aten::mm", "torch": "2.8.0"},
            {"op": "aten::mm", "torch": "2.9.0"},
        ],
    }
    return msgspec.convert(fields | changes, Advisory)


class Install(Protocol):
    def __call__(self, *found: Advisory) -> None: ...


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Make the given advisories all there are."""

    def install(*found: Advisory) -> None:
        monkeypatch.setattr(advisories, "load_all", lambda: found)
        advisories.applicable.cache_clear()
        advisories._by_op.cache_clear()

    yield install
    advisories.applicable.cache_clear()
    advisories._by_op.cache_clear()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"id": "Made_Up"}, "kebab"),
        ({"torch": "2.7 to 2.9"}, "no version specifier"),
        ({"torch": ">=2.9,<2.8", "examples": []}, "holds no version"),
        ({"macos": ">=30"}, "holds no version"),
        ({"macos_maybe": ">=15"}, "without macos"),
        ({"first_good": "2.8.1"}, "its own range"),
        ({"fix": " "}, "fix is empty"),
        ({"links": []}, "no link"),
        ({"links": ["https://example.org/1"] * 2}, "appears 2 times"),
        ({"ops": ["mm"]}, "no op name"),
        ({"ops": ["aten::nowhere"]}, "exists in no release"),
        ({"chips": ["Apple7"]}, "no chip"),
        ({"when": [{"tensors": [{"dtype": ["half"]}]}]}, "no dtype"),
        ({"examples": [{"expect": "certain", "op": "aten::mm", "torch": "2.8.0"}]}, "no example outside"),
        ({"examples": [{"op": "aten::mm", "torch": "2.9.0"}]}, "no example inside"),
        ({"examples": [{"expect": "certain", "op": "aten::mm", "torch": "2.9.0"}]}, "says no match"),
        (
            {"examples": [{"expect": "certain", "op": "aten::mm", "torch": "2.8", "inputs": ["x"]}]},
            "no tensor",
        ),
    ],
)
def test_linter_finds_each_breach(only: Install, changes: dict[str, object], complaint: str) -> None:
    advisory = _advisory(**changes)
    only(advisory)
    problems = list(lint([advisory], RELEASES, lambda op, _release: op == "aten::mm"))
    assert any(complaint in problem for problem in problems), problems


def test_linter_wants_ids_and_first_links_once(only: Install) -> None:
    advisory = _advisory()
    only(advisory)
    assert list(lint([advisory], RELEASES, lambda _op, _release: True)) == []
    problems = list(lint([advisory, copy.copy(advisory)], RELEASES))
    assert problems == ["id made-up appears 2 times", "first link https://example.org/1 appears 2 times"]


def _use(*inputs: str, op: str = "aten::mm", **scalars: Any) -> OpUse:
    return OpUse(op=op, inputs=[tensor(text) for text in inputs], scalars=scalars)


def test_facts_that_are_not_known_make_a_match_possible(only: Install) -> None:
    only(
        _advisory(id="os", macos=">=26,<27", macos_maybe=">=27"),
        _advisory(id="chip", chips=["M1", "M2"]),
        _advisory(id="later", torch_maybe=">=2.9"),
    )

    def ids(*mac: str | None) -> dict[str, str]:
        return {m.advisory.id: m.certainty.value for m in advisories.match(_use(), *mac)}  # type: ignore[arg-type]

    assert ids("2.8.0") == {"os": "possible", "chip": "possible", "later": "certain"}
    assert ids("2.8.0", "26.2", "Apple M1 Max") == {"os": "certain", "chip": "certain", "later": "certain"}
    assert ids("2.8.0", "27.0", "m2-pro-32") == {"os": "possible", "chip": "certain", "later": "certain"}
    assert ids("2.8.0", "15.5", "Apple M4") == {"later": "certain"}
    assert ids("2.15.0", "26.2", "Apple M1") == {"later": "possible"}
    assert ids("2.6.0") == {}
    assert ids("2.8.0", "15.5", "Intel(R) Core(TM) i7-9750H") == {"later": "certain"}
    assert ids("2.8.0", "15.5", "Apple virtual processor") == {"chip": "possible", "later": "certain"}
    (found,) = [m for m in advisories.match(_use(), "2.8.0", "26.2") if m.advisory.id == "chip"]
    assert found.unknown == ("the chip",)


def test_nightlies_come_before_their_release(only: Install) -> None:
    only(_advisory(torch=">=2.9,<2.10"))
    assert advisories.match(_use(), "2.9.0+cpu")
    assert not advisories.match(_use(), "2.9.0.dev20250701")
    assert not advisories.match(_use(), "2.10.0.dev20251008")
    for no_version in ("nightly", ""):
        with pytest.raises(UsageError, match=f"'{no_version}' is no version"):
            advisories.match(_use(), no_version)


def test_a_name_without_overload_stands_for_all_of_them(only: Install) -> None:
    only(_advisory(id="all", ops=["aten::add"]), _advisory(id="one", ops=["aten::add.Tensor"]))

    def ids(op: str) -> list[str]:
        return [found.advisory.id for found in advisories.match(_use(op=op), "2.8.0")]

    assert ids("aten::add.Tensor") == ["all", "one"]
    assert ids("aten::add.out") == ["all"]
    assert {found.unknown for found in advisories.match(_use(op="aten::add_.Tensor"), "2.8.0")} == {
        ("whether the in-place form has it too",)
    }
    assert [a.id for a in advisories.of_op("aten::add")] == ["all", "one"]
    assert [a.id for a in advisories.of_op("aten::add.out")] == ["all"]


@pytest.mark.parametrize(
    "written", ["torch.nn.functional.pad", "torch.nn.ConstantPad3d", "torch.nn.ZeroPad1d"]
)
def test_padding_is_found_as_code_writes_it(only: Install, written: str) -> None:
    only(_advisory(id="constant", ops=["aten::constant_pad_nd"]), _advisory(id="sort", ops=["aten::sort"]))
    assert [a.id for a in advisories.of_op(written)] == ["constant"]


def _found(use: OpUse) -> dict[str, str]:
    return {match.advisory.id: match.certainty.value for match in advisories.match(use, "2.8.0")}


def test_call_is_found_under_each_of_its_names(only: Install) -> None:
    image, kernel, gradient = "float32[2,8,4,4]", "float32[6,8,3,3]", "float32[2,6,4,4]@[96,1,24,6]"
    strided = {"contiguous": False}
    only(
        _advisory(id="conv", ops=["aten::conv2d"], when=[{"tensors": [{"arg": 1, "rank": 4}]}]),
        _advisory(
            id="transposed",
            ops=["aten::convolution"],
            when=[{"scalars": [{"name": "transposed", "one_of": [True]}]}],
        ),
        _advisory(
            id="gradient", ops=["aten::convolution_backward"], when=[{"tensors": [strided | {"arg": 0}]}]
        ),
        _advisory(id="kernel", ops=["aten::_mps_convolution"]),
        _advisory(id="attention", ops=["aten::scaled_dot_product_attention"]),
    )
    assert _found(_use(image, kernel, op="aten::_mps_convolution")) == {
        "conv": "certain",
        "kernel": "certain",
    }
    assert _found(_use(image, kernel, op="aten::convolution", transposed=False)) == {"conv": "certain"}
    # the gradient is the second tensor of MPS's own backward op
    backward = _use(image, gradient, kernel, op="aten::mps_convolution_backward")
    assert _found(backward) == {"gradient": "certain"}
    assert _found(_use(gradient, image, kernel, op="aten::mps_convolution_backward")) == {}
    assert _found(_use(image, kernel, op="aten::_mps_convolution_transpose")) == {"transposed": "certain"}
    keys = ["float16[1,8,4,64]"] * 3
    assert _found(_use(*keys, op="aten::_scaled_dot_product_attention_math_for_mps")) == {
        "attention": "certain"
    }


def test_conv1d_is_also_a_conv2d(only: Install) -> None:
    only(
        _advisory(
            id="one", ops=["aten::conv1d"], when=[{"tensors": [{"arg": 0, "rank": 3, "contiguous": False}]}]
        ),
        _advisory(
            id="two", ops=["aten::conv2d"], when=[{"tensors": [{"arg": 0, "rank": 4, "contiguous": False}]}]
        ),
    )
    flat = ["float32[2,8,1,16]@[128,1,128,8]", "float32[4,8,1,3]"]
    assert _found(_use(*flat, op="aten::_mps_convolution", padding=[0, 1])) == {
        "one": "certain",
        "two": "certain",
    }
    assert _found(_use(*flat, op="aten::_mps_convolution", padding=[1, 1])) == {"two": "certain"}
    whole = ["float32[2,8,16]@[128,1,8]", "float32[4,8,3]"]
    assert _found(_use(*whole, op="aten::convolution", padding=[1])) == {"one": "certain", "two": "certain"}


def test_one_case_is_enough_and_all_its_conditions_are_needed(only: Install) -> None:
    first = {"tensors": [{"arg": 0, "dtype": ["float16"]}, {"arg": 1, "rank": 2}]}
    second = {"scalars": [{"name": "alpha", "one_of": [2]}]}
    only(_advisory(when=[first, second]))
    assert advisories.match(_use("float16[4]", "int8[2,2]", alpha=1), "2.8.0")
    assert advisories.match(_use("int8[4]", "int8[2]", alpha=2), "2.8.0")
    assert not advisories.match(_use("float16[4]", "int8[2]", alpha=1), "2.8.0")
    (possible,) = advisories.match(_use("float16[4]", "int8[2]"), "2.8.0")
    assert possible.certainty is Certainty.POSSIBLE
    assert possible.unknown == ("argument alpha not recorded",)


@pytest.mark.parametrize(
    ("condition", "inside", "outside"),
    [
        ({"arg": 0, "rank": {"min": 5}}, ["float32[1,1,1,1,1]"], ["float32[1,1,1,1]"]),
        ({"arg": -1, "rank": 1}, ["float32[1,2]", "float32[2]"], ["float32[2]", "float32[1,2]"]),
        ({"arg": [1, 2], "rank": 1}, ["float32[1,2]", "float32[2]"], ["float32[2]", "float32[1,2]"]),
        ({"arg": "any", "numel": {"max": 0}}, ["int8[3]", "int8[2,0]"], ["int8[3]", "int8[2,1]"]),
        ({"arg": "all", "dtype": ["int8"]}, ["int8[3]", "int8[2]"], ["int8[3]", "int16[2]"]),
        ({"arg": "all", "dtype": ["int8"]}, ["int8[3]"], []),
        ({"dims": [{"index": -1, "min": 65537}]}, ["int8[2,65537]"], ["int8[65537,2]"]),
        ({"dims": [{"index": 2, "max": 9}]}, ["int8[1,1,9]"], ["int8[1,9]"]),
        ({"dims": [{"index": 0, "multiple_of": 4}]}, ["int8[8]"], ["int8[9]"]),
        ({"dims": [{"index": 0, "not_multiple_of": 4}]}, ["int8[9]"], ["int8[8]"]),
        ({"largest": {"min": 10}}, ["int8[2,10,3]"], ["int8[2,9,3]"]),
        ({"bytes": {"min": 4294967296}}, ["float32[1073741824]"], ["float16[1073741824]"]),
        ({"expanded": True}, ["int8[4,3]@[0,1]"], ["int8[1,3]@[0,1]"]),
        ({"transposed": True}, ["int8[5,4,3]@[12,1,4]"], ["int8[5,4,3]@[3,15,1]"]),
        ({"channels_last": True}, ["int8[2,3,4,5]@[60,1,15,3]"], ["int8[2,3,4,5]"]),
        ({"heads_inside": True}, ["int8[2,3,4,5]@[60,5,15,1]"], ["int8[2,3,4,5]@[120,5,15,1]"]),
        ({"device": "cpu", "rank": 0}, ["int8[2]", "int8[] on cpu"], ["int8[2] on cpu", "int8[]"]),
    ],
)
def test_tensor_conditions(condition: dict[str, object], inside: list[str], outside: list[str]) -> None:
    parsed = msgspec.convert(condition, conditions.TensorCondition)
    assert parsed.holds(_use(*inside)) is True
    assert parsed.holds(_use(*outside)) is False


def test_layout_agrees_with_torch() -> None:
    image = torch.empty(2, 3, 4, 5)
    layouts = [
        image,
        image.to(memory_format=torch.channels_last),
        image.transpose(-1, -2),
        image[:, :, 1:3],
        image[..., ::2],
        image.transpose(1, 2),
        image.transpose(1, 2)[:1],
        image[:, :2].transpose(1, 2),
        image[:, :1].transpose(1, 2),
        image.permute(0, 2, 3, 1),
        torch.empty(2, 1, 4, 5).expand(2, 3, 4, 5),
        torch.empty(0, 3, 4, 5).transpose(1, 2),
        torch.empty(4, 1).t(),
        torch.empty(3, 1, 2, 2).to(memory_format=torch.channels_last),
        torch.empty(2, 3, 2, 2, 2).to(memory_format=torch.channels_last_3d),
        torch.tensor(1.0),
    ]
    for view in layouts:
        meta = TensorMeta("float32", tuple(view.shape), view.stride())
        assert _calls.is_contiguous(meta) is view.is_contiguous()
        assert _calls.is_transposed(TensorMeta("float32", (3, 4), (1, 3))) is True
        if view.dim() in (4, 5):
            form = torch.channels_last if view.dim() == 4 else torch.channels_last_3d
            expected = view.is_contiguous(memory_format=form) and not view.is_contiguous()
            assert _calls.is_channels_last(meta) is expected
        inside = view.dim() == 4 and view.transpose(1, 2).is_contiguous() and not view.is_contiguous()
        assert _calls.is_heads_inside(meta) is inside


def test_strides_or_outputs_that_were_not_recorded_are_unknown() -> None:
    bare = OpUse(op="aten::mm", inputs=[TensorMeta("float32", (3, 4), ())])
    for field in ("contiguous", "transposed", "expanded", "channels_last", "heads_inside"):
        assert msgspec.convert({field: True}, conditions.TensorCondition).holds(bare) is None
    large = msgspec.convert({"of": "outputs", "numel": {"min": 9}}, conditions.TensorCondition)
    assert large.holds(bare) is None
    unplaced = OpUse(op="aten::mul", inputs=[TensorMeta("float32", (), ())])
    assert msgspec.convert({"device": "cpu"}, conditions.TensorCondition).holds(unplaced) is None
    assert large.holds(msgspec.structs.replace(bare, outputs=[tensor("int8[9]")])) is True


@pytest.mark.parametrize(
    ("condition", "scalars", "expected"),
    [
        ({"name": "p", "min": 0.1}, {"p": 0.1}, True),
        ({"name": "p", "min": 0.1}, {"p": 0}, False),
        ({"name": "p", "min": 0}, {"p": True}, False),
        ({"name": "p", "min": 0}, {}, None),
        ({"name": "p", "one_of": [True], "default": False}, {}, False),
        ({"name": "p", "one_of": [True]}, {"p": 1}, False),
        ({"name": "p", "given": True}, {"p": None}, False),
        ({"name": "p", "given": False}, {"p": None}, True),
        ({"name": "p", "given": False}, {}, True),
        ({"name": "p", "given": True}, {}, False),
        ({"name": "p", "given": True}, {"p": False}, True),
        ({"name": "p", "length": {"min": 2}}, {"p": [1, 2]}, True),
        ({"name": "p", "length": {"min": 2}}, {"p": [1]}, False),
    ],
)
def test_scalar_conditions(
    condition: dict[str, object], scalars: dict[str, Any], expected: bool | None
) -> None:
    assert msgspec.convert(condition, conditions.ScalarCondition).holds(_use(**scalars)) is expected


def test_relations_compare_sizes_and_say_when_one_is_missing() -> None:
    heads = {"left": {"arg": 0, "dim": 1}, "relation": ">", "right": {"arg": 1, "dim": 1}}
    relation = msgspec.convert(heads, conditions.Relation)
    assert relation.holds(_use("int8[1,8]", "int8[1,2]")) is True
    assert relation.holds(_use("int8[1,2]", "int8[1,2]")) is False
    assert relation.holds(_use("int8[1,2]")) is None
    even = {
        "left": {"arg": 0, "dim": -1},
        "relation": "not a multiple of",
        "right": {"scalar": "output_size", "item": 0},
    }
    relation = msgspec.convert(even, conditions.Relation)
    assert relation.holds(_use("int8[7]", output_size=[2])) is True
    assert relation.holds(_use("int8[8]", output_size=[2])) is False
    assert relation.holds(_use("int8[8]")) is None


def test_products_multiply_sizes() -> None:
    scores = {"sizes": [{"arg": 0, "dim": 0}, {"arg": 0, "dim": -2}, {"arg": 1, "dim": -2}], "min": 25}
    product = msgspec.convert(scores, conditions.SizeProduct)
    assert product.holds(_use("int8[1,5,8]", "int8[1,5,8]")) is True
    assert product.holds(_use("int8[1,4,8]", "int8[1,6,8]")) is False
    assert product.holds(_use("int8[1,5,8]")) is None


def test_modes() -> None:
    case = msgspec.convert({"mode": "training"}, conditions.Conditions)
    assert case.holds(_use(), frozenset({conditions.Mode.TRAINING})) is True
    assert case.holds(_use(), frozenset({conditions.Mode.INFERENCE})) is False
    assert case.holds(_use(), None) is None


def test_a_file_with_an_unknown_key_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('[[advisory]]\nid = "x"\ntorhc = ""\n')
    with pytest.raises(DataError, match="torhc"):
        toml.load(file, advisories._File)


LONG_KEYS = {
    "tensors": [
        {"arg": 0, "dims": [{"index": -2, "max": 8}]},
        {"arg": 1, "dims": [{"index": -2, "min": 1024, "grows": "tokens"}]},
    ]
}


def _later(use: OpUse, **when: object) -> list[str]:
    return [str(threshold) for found in advisories.match_later(use, "2.8.0") for threshold in found.later]


def test_size_that_grows_is_met_from_a_threshold_on(only: Install) -> None:
    only(_advisory(when=[LONG_KEYS]))
    short = _use("float16[1,8,1,64]", "float16[1,8,56,64]")
    assert advisories.match(short, "2.8.0") == []
    assert _later(short) == ["from 1,024 tokens on (this call has 56)"]
    assert (
        _later(_use("float16[1,8,9,64]", "float16[1,8,56,64]")) == []
    )  # another condition speaks against it
    long = _use("float16[1,8,1,64]", "float16[1,8,1024,64]")
    assert advisories.match(long, "2.8.0")[0].certainty is Certainty.CERTAIN
    assert _later(long) == []


def test_products_and_element_counts_grow_by_the_sizes_named(only: Install) -> None:
    sizes = [{"arg": 0, "dim": d} for d in (0, 1, 2)] + [{"arg": 1, "dim": 2}]
    only(_advisory(when=[{"products": [{"sizes": sizes, "min": 2**32, "grows": ["tokens", [2, 3]]}]}]))
    # 1 x 16 heads x n x n = 2**32 at n = 2**14
    assert _later(_use("float16[1,16,8,64]", "float16[1,16,8,64]")) == [
        "from 16,384 tokens on (this call has 8)"
    ]
    only(_advisory(when=[{"tensors": [{"arg": 0, "numel": {"min": 2**31}, "grows": ["tokens", [1]]}]}]))
    assert _later(_use("float16[1,8,1024]")) == ["from 2,097,152 tokens on (this call has 8)"]


def test_circumstances_are_told_apart_from_unknown_facts(only: Install) -> None:
    only(_advisory(macos=">=26", when=[{"unrecorded": "the input holds NaN"}]))
    (found,) = advisories.match(_use(), "2.8.0")
    assert found.unknown == ("the macOS version",)
    assert found.circumstances == ("the input holds NaN",)
    assert found.why == "not known: the macOS version; only if: the input holds NaN"


def _growing() -> list[Any]:
    """Return each example that lies certainly or possibly inside an advisory with a size that grows."""
    return [
        pytest.param(advisory, example, id=advisory.id)
        for advisory in advisories.load_all()
        if "grows" in msgspec.json.encode([_given(case) for case in advisory.when]).decode()
        for example in [one for one in advisory.examples if one.expect][:1]
    ]


def _given(case: conditions.Conditions) -> object:
    return (
        [tensor.grows or [dim.grows for dim in tensor.dims] for tensor in case.tensors],
        [product.grows and "grows" for product in case.products],
        "grows" if any(t.grows or any(d.grows for d in t.dims) for t in case.tensors) else "",
    )


@pytest.mark.parametrize(("advisory", "example"), _growing())
def test_smaller_workload_meets_it_from_the_threshold_on(advisory: Advisory, example: Example) -> None:
    where = example.torch, example.macos or None, example.chip or None
    modes = None if example.modes is None else frozenset(example.modes)
    use = example.use()

    def smaller(one: TensorMeta) -> TensorMeta:
        # one half of every size that could grow: large ones only, so that heads and channels stay
        shape = tuple(size // 2 if size >= 64 else size for size in one.shape)
        packed = tensor(f"{one.dtype}[{','.join(map(str, shape))}]").strides
        strides = packed if _calls.is_contiguous(one) else one.strides
        return msgspec.structs.replace(one, shape=shape, strides=strides)

    small = msgspec.structs.replace(
        use, inputs=[smaller(one) for one in use.inputs], outputs=[smaller(one) for one in use.outputs]
    )
    later = {found.advisory.id: found for found in advisories.match_later(small, *where, modes)}
    now = {found.advisory.id for found in advisories.match(small, *where, modes)}
    assert advisory.id in later or advisory.id in now
    if advisory.id in later:
        threshold = later[advisory.id].later[0]
        assert threshold.now < threshold.needed


def test_adaptive_max_pooling_is_wrong_where_its_windows_differ() -> None:
    """MPS pools with one window and stride; the release's own formula, computed here, is right for some sizes."""
    for size in range(2, 25):
        image = torch.rand(1, 64, size, size)  # so many that a wrong window shows in one
        for wanted in range(1, size + 1):
            stride = size // wanted
            uniform = functional.max_pool2d(image, size - (wanted - 1) * stride, stride)
            use = OpUse(
                op="aten::adaptive_max_pool2d",
                inputs=[TensorMeta("float32", tuple(image.shape), image.stride())],
                scalars={"output_size": [wanted, wanted]},
            )
            met = "adaptive-max-pool-indivisible-wrong" in {
                match.advisory.id for match in advisories.match(use, "2.13.0")
            }
            assert met != torch.equal(uniform, functional.adaptive_max_pool2d(image, wanted)), (size, wanted)
