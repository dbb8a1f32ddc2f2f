"""Who calls an op: Python, a composite in C++, or autograd in a training step."""

from __future__ import annotations

import dataclasses

import pytest

from mpsprobe.forecast.machine import of_mac
from mpsprobe.forecast.timing import Work, timing
from mpsprobe.forecast.trace import MODULE, OPTIMIZER, Caller, Pass, Trace, callers, stages
from mpsprobe.mac.catalogue import named
from mpsprobe.run import OpUse, OpVerdict, TensorMeta
from mpsprobe.trace.formulas import add_costs


def _use(source: str) -> OpUse:
    x = TensorMeta("float32", (8,), (1,), "mps:0")
    use = OpUse(op="aten::mul.Tensor", inputs=[x, x], outputs=[x], verdict=OpVerdict.NATIVE, source=source)
    add_costs(use)
    return use


def _step(batches: int, gradients: int = 4) -> Trace:
    """Return a step that accumulates batches: a call of a model, its backward pass, and an optimiser at the end."""
    uses = [_use(f"model.py:{k}") for k in range(3)]
    order: list[int] = []
    passes = []
    for _ in range(batches):
        start = len(order)
        order += [MODULE, 0, 1]
        passes.append(Pass("", "Model", 1, start, len(order)))
        order += [2, 1, 0]
    order += [OPTIMIZER, 0, 0, OPTIMIZER]
    return Trace(uses, order, passes, gradients=gradients)


def test_each_batch_has_a_forward_and_a_backward_pass() -> None:
    found = callers(_step(2))
    assert [at for at, who in found.items() if who is Caller.FORWARD] == [1, 2, 7, 8]
    assert [at for at, who in found.items() if who is Caller.BACKWARD] == [3, 4, 5, 9, 10, 11]
    assert len(found) == 10  # the optimiser's ops are called from Python


def test_inference_has_no_autograd() -> None:
    assert not callers(_step(2, gradients=0))


def test_a_long_run_of_one_line_is_called_from_cpp() -> None:
    trace = Trace([_use("rnn.py:7")], [0] * 20)
    assert list(callers(trace).values()) == [Caller.CPP] * 8


def test_autograd_costs_the_host_time_for_each_op() -> None:
    machine = of_mac(named("m1-max-64", "15.5"), "2.13")
    free = dataclasses.replace(machine, host=dataclasses.replace(machine.host, autograd=0.0))
    trace = _step(50)
    spans = [timing(Work.of(trace, stages(trace)), one).per_sample for one in (machine, free)]
    assert spans[0] is not None
    assert spans[1] is not None
    beyond = (spans[0].expected or 0) - (spans[1].expected or 0)
    assert beyond == pytest.approx(250 * machine.host.autograd, rel=0.3)
