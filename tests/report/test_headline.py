"""The verdict's words, and above all: it is never better than its evidence."""

import pytest

from mpsprobe.report import Headline, render, verdict
from mpsprobe.run import Check, Evidence, Interruption, Phase, RecipeRecord, Run, Status
from tests.report import example_runs as examples


def test_a_pass_on_a_cpu_says_that_no_mac_was_involved() -> None:
    headline = verdict(examples.passed("cpu", Evidence.MEASURED))
    assert headline.sentence == (
        "tiny-drive passed all six phases on cpu (measured on this machine), with 1 warning; "
        "nothing here was measured on a Mac."
    )
    assert headline.standing == "measured on cpu"
    assert headline.counts == {Status.PASS: 9, Status.WARN: 1, Status.SKIPPED: 1}
    assert any("nothing of whether the target runs on a Mac" in limit for limit in headline.limits)


def test_only_a_real_macs_mps_has_no_caveat() -> None:
    headline = verdict(examples.passed("mps", Evidence.MEASURED, examples.M1_MAX))
    assert (
        headline.sentence == "tiny-drive passed all six phases on mps (measured on this Mac, Apple M1 Max)."
    )
    assert headline.caveat == ""
    assert headline.status is Status.PASS
    assert any("another chip, macOS or torch release can differ" in limit for limit in headline.limits)


def test_a_virtual_gpu_is_no_evidence_for_real_macs() -> None:
    headline = verdict(examples.virtual_gpu())
    assert headline.caveat == "a virtual GPU is no evidence for real Macs"
    assert headline.standing == "measured on mps (virtual GPU)"
    assert "Apple Paravirtual device" in headline.limits[0]
    assert "this Mac" not in headline.outcome


def test_cpu_on_a_mac_is_not_mps() -> None:
    headline = verdict(examples.passed("cpu", Evidence.MEASURED, examples.M1_MAX))
    assert headline.caveat == "nothing here was measured on MPS"


def test_emulated_stays_emulated_though_pins_were_measured() -> None:
    headline = verdict(examples.passed("emulated", Evidence.EMULATED))
    assert headline.evidence is Evidence.EMULATED
    assert headline.standing == "emulated"
    assert headline.caveat == "nothing here was measured on a Mac"
    assert "passed all six phases on an emulated MPS device" in headline.outcome


def test_a_phase_that_passed_in_part_is_named() -> None:
    run = examples.passed("mps", Evidence.MEASURED, examples.M1_MAX)
    examples.find(run, "inference.check2").status = Status.UNKNOWN
    outcome = verdict(run).outcome
    assert "passed all six phases (phase 6 in part) on mps" in outcome
    assert "1 check unknown (inference.check2)" in outcome


@pytest.mark.parametrize("status", [Status.PASS, Status.UNKNOWN, Status.SKIPPED])
def test_a_recipe_stands_at_the_top_of_every_report(status: Status) -> None:
    run = examples.passed("emulated", Evidence.EMULATED)
    message = "PYTORCH_ENABLE_MPS_FALLBACK=1 before Python starts: verified by another run."
    run.checks.append(
        Check(
            id="inference.recipe",
            phase=Phase.INFERENCE,
            title="There is one",
            status=status,
            message=message,
            data=RecipeRecord({"fallback": "1"}, tried=True, left=0),
        )
    )
    found = status is not Status.SKIPPED
    assert verdict(run).recipe == (message if found else "")
    tops = [
        render(run, "md")[:700],
        render(run, "summary")[:700],
        render(run, "html").split("</main>")[0].split('class="chips"')[0],
    ]
    assert [("Fix:" in top) for top in tops] == [found] * 3


def test_an_emulated_device_cannot_be_said_to_be_measured() -> None:
    assert verdict(examples.passed("emulated", Evidence.MEASURED)).evidence is Evidence.EMULATED


def test_a_linux_document_that_claims_mps_is_not_believed() -> None:
    headline = verdict(examples.passed("mps", Evidence.MEASURED, examples.LINUX))
    assert headline.caveat == "nothing here was measured on a Mac"
    assert "this Mac" not in headline.sentence


def test_one_predicted_check_among_measured_ones_shows() -> None:
    run = examples.passed("mps", Evidence.MEASURED, examples.M1_MAX)
    examples.find(run, "inference.check3").evidence = Evidence.PREDICTED
    headline = verdict(run)
    assert headline.evidence is Evidence.PREDICTED
    assert "in part predicted" in headline.outcome
    assert headline.caveat == "1 check of it is only predicted"


@pytest.mark.parametrize("build", examples.ALL.values(), ids=examples.ALL)
def test_measured_on_a_mac_is_said_only_where_it_holds(build: examples.Build) -> None:
    run = build()
    real = run.host.system == "Darwin" and not run.host.virtual_gpu
    headline = verdict(run)
    if not real:
        assert "this Mac" not in headline.sentence
        assert headline.caveat


def test_a_failed_phase_and_what_it_blocked() -> None:
    headline = verdict(examples.pins_failed())
    assert headline.status is Status.FAIL
    assert headline.outcome == (
        "tiny-drive failed the one check of phase 2 (pins), measured on this Mac, Apple M1 Max; "
        "phases 3 to 6 were blocked"
    )


def test_a_failure_counts_within_its_phase() -> None:
    headline = verdict(examples.emulated())
    assert "failed 1 of 3 checks of phase 6 (inference)" in headline.outcome
    assert headline.status is Status.FAIL


def test_failed_ops_are_not_hidden_behind_passed_phases() -> None:
    run = examples.passed("mps", Evidence.MEASURED, examples.M1_MAX)
    run.checks.append(
        Check(
            id="ops.x",
            phase=Phase.OPS,
            title="x",
            status=Status.FAIL,
            evidence=Evidence.MEASURED,
            device="mps",
        )
    )
    headline = verdict(run)
    assert headline.status is Status.FAIL
    assert "passed all six phases but failed 1 check of ops" in headline.outcome


@pytest.mark.parametrize("build", [examples.crashed, examples.crashed_with_check])
def test_a_crash_names_signal_phase_and_check(build: examples.Build) -> None:
    headline = verdict(build())
    assert headline.status is Status.CRASHED
    assert headline.outcome == (
        "tiny-drive crashed with SIGABRT in phase 4 (transfer), in the check transfer.placement; "
        "phases 1 to 3 had passed"
    )
    assert headline.counts[Status.CRASHED] == 1


def test_a_crash_that_cost_one_check_is_the_verdict_too() -> None:
    run = examples.passed("mps", Evidence.MEASURED, examples.M1_MAX)
    examples.find(run, "inference.check1").status = Status.CRASHED
    headline = verdict(run)
    assert headline.status is Status.CRASHED
    assert "crashed in phase 6 (inference), in the check inference.check1" in headline.outcome


def test_a_crash_between_checks() -> None:
    run = examples.crashed()
    run.interruption = Interruption("crashed", "exit status 3", "", "")
    assert verdict(run).outcome.startswith(
        "tiny-drive crashed with exit status 3 after 4 checks, between two"
    )


def test_a_timeout() -> None:
    headline = verdict(examples.timed_out())
    assert headline.status is Status.TIMEOUT
    assert headline.outcome.startswith("tiny-drive ran past its limit in phase 6 (inference)")


def test_an_interrupt_by_the_user_is_no_verdict_on_the_target() -> None:
    headline = verdict(examples.interrupted())
    assert (headline.word, headline.status) == ("interrupted", Status.UNKNOWN)
    assert "interrupted (SIGINT) in phase 3 (download)" in headline.outcome


def test_an_error_of_ours_is_not_a_failure_of_the_model() -> None:
    run = examples.passed("cpu", Evidence.MEASURED)
    examples.find(run, "data.check1").status = Status.ERROR
    headline = verdict(run)
    assert headline.status is Status.ERROR
    assert headline.outcome == "mpsprobe itself failed in phase 5 (data): that says nothing about tiny-drive"


def test_phases_that_were_not_asked_for_are_not_claimed() -> None:
    run = examples.passed("cpu", Evidence.MEASURED)
    run.checks = [check for check in run.checks if check.phase in (Phase.PINS, Phase.DOWNLOAD, Phase.DATA)]
    assert "passed phases 2, 3 and 5 on cpu" in verdict(run).outcome


def test_a_phase_of_unknowns_is_not_passed() -> None:
    run = examples.passed("cpu", Evidence.MEASURED)
    for check in run.of_phase(Phase.INFERENCE):
        check.status, check.evidence = Status.UNKNOWN, None
    headline = verdict(run)
    assert "passed phases 1 to 5" in headline.outcome
    assert "3 checks unknown" in headline.outcome


def test_a_run_of_nothing() -> None:
    run = examples.passed("cpu", Evidence.MEASURED)
    run.checks = []
    headline = verdict(run)
    assert headline.outcome == "tiny-drive was not checked"
    assert (headline.status, headline.evidence, headline.standing) == (Status.UNKNOWN, None, "no evidence")


def test_a_run_without_an_end_is_unfinished() -> None:
    run: Run = examples.passed("mps", Evidence.MEASURED, examples.M1_MAX)
    run.ended = ""
    headline: Headline = verdict(run)
    assert (headline.word, headline.status) == ("unfinished", Status.UNKNOWN)
    assert "no end yet" in headline.outcome


def test_limits_of_the_run_come_first_and_once() -> None:
    run = examples.emulated()
    run.limits *= 2
    limits = verdict(run).limits
    assert limits[0] == run.limits[0]
    assert len(set(limits)) == len(limits)
