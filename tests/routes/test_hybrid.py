"""The hybrid route."""

from __future__ import annotations

from mpsprobe.routes import hybrid, mps
from mpsprobe.run import Fit, OpVerdict, Viability
from tests.routes.cases import case, memory, timing, use

SHARE = timing("M1 Max", 1.0, 2.0, share=0.8)


def test_crossings_are_every_input_and_result_of_each_call() -> None:
    uses = [use(count=3, shapes=[(2, 3), (3, 4)], outputs=[(2, 4)])]
    assert hybrid.crossing(uses) == 3 * 4 * (6 + 12 + 8)


def test_a_broadcast_input_crosses_as_it_is_stored() -> None:
    one = use(shapes=[(5,)], outputs=[(5,)])
    one.inputs[0] = type(one.inputs[0])("float32", (5,), (0,))
    assert hybrid.crossing([one]) == 4 * (1 + 5)


def test_an_unknown_dtype_is_an_unknown_size() -> None:
    assert hybrid.crossing([use(dtype="mystery8")]) is None


def test_layers_are_one_place_and_the_busiest_comes_first() -> None:
    uses = [
        use("aten::nonzero", OpVerdict.FALLBACK, module=f"model.layers.{n}.router", count=2) for n in range(3)
    ]
    uses += [use("aten::nonzero", OpVerdict.FALLBACK, module="", source="action.py:7"), use(count=50)]
    found = hybrid.regions(case(uses))
    assert [(one.name, one.calls) for one in found] == [("model.layers.*.router", 6), ("action.py:7", 1)]


def test_what_falls_back_is_named_and_the_rest_is_native() -> None:
    made = case([use(count=9), use("aten::nonzero", OpVerdict.FALLBACK, module="model.router")], time=SHARE)
    found = hybrid.route(made, mps.judge(made), None)
    assert found.viability is Viability.CHANGES
    assert "model.router" in found.sentence


def test_the_cpu_has_no_memory_of_its_own() -> None:
    made = case([use()], held=memory(Fit.NO))
    assert hybrid.route(made, mps.judge(made), None).viability is Viability.NO


def test_an_op_that_the_cpu_lacks_too_cannot_be_left_there() -> None:
    # no kernel anywhere but CUDA, on every release
    op = "aten::_cudnn_rnn"
    made = case([use(op, OpVerdict.RAISES)])
    assert hybrid.route(made, mps.judge(made), None).viability is Viability.NO
