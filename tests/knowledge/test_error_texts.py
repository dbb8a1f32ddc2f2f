"""The catalogue of messages, against users' own texts and the strings of PyTorch's wheels."""

import pytest

from mpsprobe.knowledge import environment
from mpsprobe.knowledge.error_texts import by_id, find, messages
from mpsprobe.knowledge.explain import explain
from tests.knowledge.real_texts import BROADCAST, REAL


@pytest.mark.parametrize(
    ("link", "text", "expected", "values"), REAL, ids=[f"{r[2]}-{i}" for i, r in enumerate(REAL)]
)
def test_users_texts_are_recognised(link: str, text: str, expected: str, values: dict[str, str]) -> None:
    found = find(text)
    assert expected in [hit.message.id for hit in found], link
    hit = next(hit for hit in found if hit.message.id == expected)
    assert values.items() <= hit.values.items()


@pytest.mark.parametrize(
    ("message", "text", "first", "last"),
    [(m.id, *entry) for m in messages() for entry in m.texts],
)
def test_every_string_of_the_wheels_is_found_with_its_releases(
    message: str, text: str, first: str, last: str
) -> None:
    hits = [hit for hit in find(text) if hit.message.id == message]
    assert [hit.wheels for hit in hits] == [(first, last)]


def test_releases_of_the_strings_are_wheels_that_exist() -> None:
    wheels = [version for entry in environment.releases() for version in entry.commits]
    for message in messages():
        for text, first, last in message.texts:
            assert wheels.index(first) <= wheels.index(last), text


def test_a_text_that_says_nothing_of_mps_gives_nothing() -> None:
    for text in (
        "",
        "hello",
        "RuntimeError: the plan has no step 7",
        "KeyError: 'model.layers.0.weight'",
        "CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 7.80 GiB total capacity)",
        "Epoch 3/10 step 100 loss=0.31",
        "The operator 'aten::foo' is not currently implemented for the XLA device.",
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
        "RuntimeError: Expected a 'cuda' device type for generator but found 'cpu'",
        "Input type (torch.cuda.FloatTensor) and weight type (torch.FloatTensor) should be the same",
    ):
        assert find(text) == [], text


@pytest.mark.parametrize(
    "text",
    [
        "Expected all tensors to be on the same device, but found at least two devices, mps:0 and cpu!",
        "Expected all tensors to be on the same device, but got index is on cpu, different from other tensors on mps:0 "
        "(when checking argument in method wrapper_MPS__index_select)",
    ],
)
def test_both_wordings_of_two_devices_name_them(text: str) -> None:
    (hit,) = find(text)
    assert {hit.values["device"], hit.values["device2"]} == {"cpu", "mps:0"}


def test_mpsgraph_and_llvm_lines_are_one_finding() -> None:
    assert [finding.message for finding in explain(BROADCAST).findings] == ["llvm-broadcast"]


def test_an_unknown_restriction_is_told_as_generic() -> None:
    (hit,) = find("RuntimeError: frobnicate is not supported on MPS with purple tensors")
    assert hit.message.id == "does-not-support"
    assert hit.message.generic


def test_a_specific_message_hides_the_generic_one() -> None:
    ids = [hit.message.id for hit in find("TypeError: BFloat16 is not supported on MPS")]
    assert ids == ["bfloat16-none"]


def test_wrapped_lines_are_read_across() -> None:
    text = "RuntimeError: Placeholder storage\n   has not been allocated\n   on MPS device!"
    assert [hit.message.id for hit in find(text)] == ["placeholder-storage"]


def test_ids_are_unique_and_hidden_ids_exist() -> None:
    ids = [message.id for message in messages()]
    assert len(ids) == len(set(ids))
    for message in messages():
        assert set(message.hides) <= set(ids), message.id


def test_every_message_says_what_to_do() -> None:
    for message in messages():
        assert message.means.endswith(".") or message.means.endswith(")"), message.id
        assert message.fix.endswith((".", ")")), message.id
        assert message.anchors, message.id


def test_an_unknown_id_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="no-such"):
        by_id("no-such")
