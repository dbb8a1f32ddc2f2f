"""What the page decides: stages, folds, barriers, anchors."""

from functools import partial

from mpsprobe.report import render
from mpsprobe.report.checkview import FOLD_ROWS
from mpsprobe.report.view import page
from mpsprobe.run import (
    Check,
    DeviceChoice,
    Evidence,
    Forecast,
    HostWait,
    Mac,
    Measurement,
    Outlook,
    Phase,
    Predicted,
    Range,
    RecipeRecord,
    Status,
    Table,
    Timing,
)
from tests.report import example_runs as examples


def test_six_phases_always_have_a_tile() -> None:
    run = examples.passed("cpu", Evidence.MEASURED)
    run.checks = run.of_phase(Phase.PINS)
    view = page(run)
    assert [stage.state for stage in view.phases] == ["not run", "pass", *["not run"] * 4]
    assert view.extras == ()
    assert [stage.name for stage in page(examples.emulated()).extras] == ["ops"]


def test_phases_after_a_crash_were_not_reached() -> None:
    states = [stage.state for stage in page(examples.crashed()).phases]
    assert states == ["pass", "pass", "pass", "crashed", "not reached", "not reached"]
    assert page(examples.interrupted()).phases[2].state == "interrupted"


def test_a_phase_with_unknown_checks_is_no_plain_pass() -> None:
    run = examples.passed("mps", Evidence.MEASURED, examples.M1_MAX)
    examples.find(run, "inference.check2").status = Status.UNKNOWN
    stage = page(run).phases[5]
    assert (stage.state, stage.status.key, stage.counts) == ("pass in part", "partial", "2 pass · 1 unknown")


def test_problems_come_worst_first_and_are_not_told_twice() -> None:
    run = examples.pins_failed()
    run.checks.append(
        Check(id="ops.y", phase=Phase.OPS, title="y", status=Status.CRASHED, output="last words")
    )
    view = page(run)
    assert [check.id for check in view.problems] == ["ops.y", "pins.check1"]
    (again,) = [check for stage in view.stages for check in stage.checks if check.id == "ops.y"]
    assert (again.output, again.see) == ("", view.problems[0].anchor)


def test_wholly_blocked_phases_are_gathered_by_reason() -> None:
    (barrier,) = page(examples.pins_failed()).barriers
    assert barrier.title == "Not run: blocked by phase 2 (pins)"
    assert [fold.title for fold in barrier.folds] == [
        "Phase 3 (download): 1 check",
        "Phase 4 (transfer): 2 checks",
        "Phase 5 (data): 2 checks",
        "Phase 6 (inference): 3 checks",
    ]


def test_a_partly_blocked_phase_keeps_its_line() -> None:
    run = examples.pins_failed()
    examples.find(run, "data.check1").status = Status.PASS
    view = page(run)
    (data,) = [stage for stage in view.stages if stage.name == "data"]
    assert [fold.title for fold in data.blocked] == ["1 check blocked by phase 2 (pins)"]
    assert all("data" not in fold.title for barrier in view.barriers for fold in barrier.folds)


def test_many_passed_checks_are_folded_and_others_never() -> None:
    run = examples.emulated()
    run.checks[-1].status = Status.WARN
    (ops,) = [stage for stage in page(run).stages if stage.name == "ops"]
    assert ops.folded is not None
    assert (ops.folded.title, len(ops.folded.checks)) == ("29 checks passed", 29)
    assert [check.id for check in ops.checks] == [run.checks[-1].id]


def test_long_tables_fold_only_under_a_pass() -> None:
    run = examples.pins_failed()
    for check in run.checks[:3]:
        check.table = Table(columns=["n"], rows=[[n] for n in range(FOLD_ROWS + 1)])
    view = page(run)
    assert view.problems[0].grid is not None
    assert view.problems[0].grid.fold == ""
    assert [check.grid.fold for check in view.stages[0].checks if check.grid] == ["11 rows", "11 rows"]


def test_anchors_differ_where_ids_differ_in_punctuation_only() -> None:
    run = examples.passed("cpu", Evidence.MEASURED)
    run.checks[4].id, run.checks[5].id = "a b", "a/b"
    anchors = [check.anchor for stage in page(run).stages for check in stage.checks if not check.see]
    assert len(set(anchors)) == len(anchors)


def test_output_is_cut_to_its_last_lines() -> None:
    run = examples.pins_failed()
    examples.find(run, "pins.check1").output = "\n".join(f"line {n}" for n in range(500))
    output = page(run).problems[0].output
    assert output.startswith("... 440 lines left out\nline 440\n")
    assert output.endswith("line 499")


def test_key_numbers_are_times_and_memory_of_inference_first() -> None:
    names = [number.name for number in page(examples.passed("cpu", Evidence.MEASURED)).key_numbers]
    assert names == [
        "time per sample",
        "peak memory while running",
        "load time",
        "weights on the device",
        "peak memory",
    ]


def test_the_pip_command_names_versions_an_index_has() -> None:
    assert "torch==2.13.0 transformers==4.57.1" in page(examples.passed("cpu", Evidence.MEASURED)).install


def test_waits_of_the_host_stand_on_every_report() -> None:
    run = examples.passed("mps", Evidence.PREDICTED)
    wait = partial(HostWait, module="", bytes=0, source="sampler.py:7")
    waits = [
        wait(kind="item", count=500),
        wait(kind="item", module="model", count=72),
        wait(kind="copy", source="sampler.py:9", count=3),
        wait(kind="to-host", source="sampler.py:9", count=3, bytes=12),
    ]
    run.predicted = Predicted(doing="a call", inputs=[], notes=[], dtypes={}, host_waits=waits)
    for text in (render(run, "md"), render(run, "html")):
        assert "575 waits" in text
        assert "sampler.py:7" in text
        assert "Their cost is not known" in text
    time = Timing(hardware="m4-64", basis="", parts=[], per_sample=Range(1.0, 2.0), wait_seconds=0.0915)
    run.outlook = Outlook(forecast=Forecast(mac=Mac("2.13"), evidence=Evidence.PREDICTED, time=time))
    assert "91.5 ms of 2.00 s a sample on m4-64" in render(run, "md")
    run.predicted.host_waits = [waits[-1]]
    assert "host waits" not in render(run, "md")


def test_a_passed_emulation_says_what_to_do_next() -> None:
    run = examples.passed("emulated", Evidence.EMULATED)
    run.command = ["mpsprobe", "run", "my model", "--device", "emulated", "--steps", "4"]
    advice = page(run).advice
    assert advice is not None
    assert "mpsprobe run 'my model' --steps 4 --device mps" in advice.commands.splitlines()
    run.command = ["pytest", "-m", "phase6"]
    assert page(run).advice is None


def test_a_failure_without_routes_puts_its_remedy_first() -> None:
    run = examples.pins_failed()
    advice = page(run).advice
    assert advice is not None
    assert advice.sentence == page(run).problems[0].remedy != ""
    recipe = RecipeRecord({"fallback": "1"}, tried=True, left=0)
    run.checks.append(
        Check(
            id="inference.recipe",
            phase=Phase.INFERENCE,
            title="t",
            status=Status.PASS,
            message="Set it.",
            data=recipe,
        )
    )
    assert page(run).advice is None  # the banner has the recipe
    assert page(examples.crashed()).advice is None


def test_two_torch_releases_are_told_apart() -> None:
    run = examples.passed("emulated", Evidence.EMULATED)
    run.mac = Mac("2.8", "15.5")
    view = page(run)
    said = "torch 2.13.0 ran here; the rules of MPS are those of torch 2.8"
    assert said in view.install
    assert any(said in limit for limit in view.limits)
    run.mac = Mac("2.13", "15.5")
    assert "ran here" not in page(run).install


def test_times_of_this_machine_are_no_key_numbers_of_a_mac() -> None:
    run = examples.emulated()
    kept = [one.name for one in page(run).key_numbers]
    for check in run.checks:
        check.measurements = [*check.measurements, Measurement("a time", 2.0, "s", Evidence.MEASURED, "host")]
    assert [one.name for one in page(run).key_numbers] == kept
    run.device = DeviceChoice("mps", "mps", "")
    assert "a time" in [one.name for one in page(run).key_numbers]
