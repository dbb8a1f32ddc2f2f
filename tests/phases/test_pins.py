"""Requirements against what is installed; the seed's three cases first."""

from __future__ import annotations

import shlex

import pytest
from packaging.requirements import Requirement

from mpsprobe.models.profile import Profile
from mpsprobe.models.targets import TargetRef
from mpsprobe.options import Settings
from mpsprobe.phases.check import LinkFailed
from mpsprobe.phases.pins import require, verdict
from mpsprobe.phases.requirements import Pins, installed_version, resolve
from mpsprobe.run import Phase, Status

#: What the seed's progress report found installed, and what Alpamayo-R1-10B's package needs.
SEED_FOUND = {"huggingface-hub": "1.3.2", "transformers": "4.55.4", "tokenizers": "0.21.4", "torch": "2.8.0"}
SEED_NEEDS = ["torch==2.8.0", "transformers==4.57.1", "huggingface-hub<1.0", "tokenizers>=0.22.0,<=0.23.0"]


def profile(*requires: str, python: str = "") -> Profile:
    return Profile(name="x", title="x", adapter="a:b", requires=list(requires), python=python)


def pins(requires: list[str], found: dict[str, str], metadata: dict[str, list[str]] | None = None) -> Pins:
    return resolve(profile(*requires), found.get, lambda name: (metadata or {}).get(name, []), "3.12.1")


def test_one_command_fixes_the_seeds_three_mismatches() -> None:
    found = pins(SEED_NEEDS, SEED_FOUND)
    assert {(pin.name, pin.found) for pin in found.unmet} == {
        ("huggingface-hub", "1.3.2"),
        ("transformers", "4.55.4"),
        ("tokenizers", "0.21.4"),
    }
    result = verdict(found)
    assert result.status is Status.FAIL
    words = shlex.split(result.remedy)
    assert words[:4] == ["python", "-m", "pip", "install"]
    wanted = {(r := Requirement(word)).name: r.specifier for word in words[4:]}
    # The versions that the seed's author ended with satisfy the command; those found do not.
    for name, fixed in {
        "huggingface-hub": "0.36.0",
        "transformers": "4.57.1",
        "tokenizers": "0.22.2",
    }.items():
        assert wanted[name].contains(fixed)
        assert not wanted[name].contains(SEED_FOUND[name])
    assert "torch" not in wanted


def test_each_row_says_required_found_and_verdict() -> None:
    table = verdict(pins(SEED_NEEDS, SEED_FOUND)).table
    assert table is not None
    assert table.columns[1:3] == ["required", "found"]
    assert {row[0]: row[-1] for row in table.rows} == {
        "torch": "ok", "transformers": "mismatch", "huggingface-hub": "mismatch", "tokenizers": "mismatch",
    }  # fmt: skip


def test_a_missing_package_is_not_called_a_mismatch() -> None:
    table = verdict(pins(["einops>=0.7"], {})).table
    assert table is not None
    assert table.rows[0][2:] == ["not installed", "profile", "missing"]


def test_metadata_of_a_version_that_stays_counts() -> None:
    """transformers 4.57.1 itself says hub < 1.0: a profile need not repeat it."""
    metadata = {"transformers": ["huggingface-hub<1.0,>=0.34.0", 'pytest; extra == "testing"']}
    found = pins(["transformers==4.57.1"], {"transformers": "4.57.1", "huggingface-hub": "1.3.2"}, metadata)
    assert [(pin.name, pin.stated_by) for pin in found.unmet] == [("huggingface-hub", "transformers 4.57.1")]
    assert found.status is Status.FAIL


def test_metadata_of_a_version_to_be_replaced_does_not() -> None:
    metadata = {"transformers": ["tokenizers<0.22,>=0.21"]}
    needs = ["transformers==4.57.1", "tokenizers>=0.22"]
    found = pins(needs, {"transformers": "4.55.4", "tokenizers": "0.22.2"}, metadata)
    assert [pin.name for pin in found.unmet] == ["transformers"]


def test_what_torch_says_of_its_build_tools_is_a_warning() -> None:
    found = pins(["torch>=2.4"], {"torch": "2.13.0", "setuptools": "65"}, {"torch": ["setuptools>=77"]})
    assert verdict(found).status is Status.WARN


def test_a_pre_release_of_a_satisfying_version_counts() -> None:
    assert not pins(["torch>=2.4"], {"torch": "2.14.0.dev20260901"}).unmet
    assert not pins(["torch==2.13.0"], {"torch": "2.13.0+cpu"}).unmet


def test_a_wrong_python_is_told_apart_from_packages() -> None:
    result = verdict(resolve(profile(python=">=3.12"), lambda _: None, lambda _: [], "3.10.13"))
    assert result.status is Status.FAIL
    assert "Python >=3.12" in result.remedy
    assert "pip" not in result.remedy


def test_an_unmet_pin_stops_the_chain_unless_ignored() -> None:
    impossible = TargetRef("x", profile("torch>=99"), Settings())
    with pytest.raises(LinkFailed) as caught:
        require(impossible)
    assert caught.value.phase is Phase.PINS
    assert require(impossible, ignore=True).unmet


def test_installed_versions_are_those_of_this_environment() -> None:
    import torch

    assert installed_version("torch") == torch.__version__
    assert installed_version("no-such-distribution-here") is None
