import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from mpsprobe.models.tiny_drive.adapter import TinyDriveAdapter
from mpsprobe.models.tiny_drive.modeling import TinyDrive, TraceProcessor, integrate, share_prefix


@pytest.fixture
def batch(adapter: TinyDriveAdapter) -> dict[str, Any]:
    return adapter.prepare(adapter.sample())


def test_auto_classes_know_it(snapshot: Path) -> None:
    assert AutoConfig.from_pretrained(snapshot).flow_steps == 10
    model = AutoModel.from_pretrained(snapshot, dtype=torch.bfloat16)
    assert isinstance(model, TinyDrive)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_saved_and_loaded_again_it_is_the_same(
    model: TinyDrive, tmp_path: Path, batch: dict[str, Any]
) -> None:
    model.save_pretrained(tmp_path)
    again = TinyDrive.from_pretrained(tmp_path, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    assert torch.equal(again(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_every_part_has_the_dtype_asked_for(adapter: TinyDriveAdapter, dtype: str) -> None:
    model = adapter.load(torch.device("cpu"), dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


def test_history_takes_the_place_of_its_placeholders(model: TinyDrive, batch: dict[str, Any]) -> None:
    ids = batch["input_ids"]
    placeholders = ids == model.config.special_ids["<|traj_history|>"]
    assert int(placeholders.sum()) == 48
    filled = model._with_history(ids, batch["ego_history_xyz"])
    assert torch.equal(filled[~placeholders], ids[~placeholders])
    decoded = model.history_tokenizer.decode(filled[placeholders])
    torch.testing.assert_close(decoded, batch["ego_history_xyz"][0, 0], atol=0.3, rtol=0)


@pytest.mark.parametrize("changed", ["pixel_values", "ego_history_xyz"])
def test_every_input_matters(model: TinyDrive, batch: dict[str, Any], changed: str) -> None:
    before = model(**batch)
    after = model(**{**batch, changed: batch[changed] * 0.5})
    assert not torch.equal(before.velocity, after.velocity)
    assert not torch.equal(before.logits[:, -1], after.logits[:, -1])


def test_waypoints_see_each_other_both_ways(reference: TinyDrive, batch: dict[str, Any]) -> None:
    cache = reference.vlm(
        **reference._vlm_inputs(
            batch["input_ids"], batch["attention_mask"], batch["pixel_values"], batch["image_grid_thw"]
        )
    ).past_key_values
    noise, time = torch.zeros(1, 64, 2), torch.zeros(1)
    before = reference._field(noise, time, cache, batch["attention_mask"])
    for waypoint in (0, 63):
        changed = noise.clone()
        changed[:, waypoint] = 1.0
        after = reference._field(changed, time, cache, batch["attention_mask"])
        assert bool((after != before).any(dim=-1).all()), waypoint


def test_cached_prefix_is_not_touched(reference: TinyDrive, batch: dict[str, Any]) -> None:
    cache = reference.vlm(
        **reference._vlm_inputs(
            batch["input_ids"], batch["attention_mask"], batch["pixel_values"], batch["image_grid_thw"]
        )
    ).past_key_values
    length = cache.get_seq_length()
    keys = cache.layers[0].keys.clone()
    view = share_prefix(cache, repeats=3)
    view.update(torch.zeros(3, 2, 5, 32), torch.zeros(3, 2, 5, 32), 0)
    grown = view.layers[0].keys
    assert grown is not None
    assert grown.shape == (3, 2, length + 5, 32)
    assert cache.get_seq_length() == length
    assert torch.equal(cache.layers[0].keys, keys)


def test_padding_before_the_prompt_changes_nothing(reference: TinyDrive, batch: dict[str, Any]) -> None:
    plain = reference(**batch)
    pad = torch.full((1, 5), reference.config.special_ids["<|endoftext|>"])
    batch["input_ids"] = torch.cat([pad, batch["input_ids"]], dim=1)
    batch["attention_mask"] = torch.cat([torch.zeros_like(pad), batch["attention_mask"]], dim=1)
    padded = reference(**batch)
    torch.testing.assert_close(padded.logits[:, 5:], plain.logits, atol=1e-4, rtol=1e-4)


def test_euler_follows_an_ordinary_differential_equation() -> None:
    # dx/dt = -x from 1: Euler's own answer is (1 - 1/n) ** n, and it nears 1/e
    start = torch.ones(2, 3)
    ten = integrate(lambda x, _: -x, start, 10)
    torch.testing.assert_close(ten, torch.full((2, 3), 0.9**10))
    assert math.isclose(float(integrate(lambda x, _: -x, start, 2000)[0, 0]), math.exp(-1), rel_tol=1e-3)
    # dx/dt = t: the times must be those at the beginning of each step
    found = integrate(lambda x, t: t[:, None].expand_as(x), torch.zeros(2, 3), 10)
    torch.testing.assert_close(found, torch.full((2, 3), 0.45))


def test_rollout_of_several_trajectories(model: TinyDrive, batch: dict[str, Any]) -> None:
    rollout = model.rollout(**batch, num_traj_samples=3, trace_tokens=1)
    assert rollout.pred_xyz.shape == (1, 1, 3, 64, 3)
    assert rollout.pred_rot.shape == (1, 1, 3, 64, 3, 3)
    assert rollout.pred_xyz.dtype == rollout.pred_rot.dtype == torch.float32
    first, second, third = rollout.pred_xyz[0, 0]
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_seed_decides(model: TinyDrive, batch: dict[str, Any]) -> None:
    one, same = (model.rollout(**batch, trace_tokens=3, seed=3) for _ in range(2))
    other = model.rollout(**batch, trace_tokens=3, seed=4)
    assert torch.equal(one.tokens, same.tokens)
    assert torch.equal(one.pred_xyz, same.pred_xyz)
    assert not torch.equal(one.tokens, other.tokens)
    assert not torch.equal(one.pred_xyz, other.pred_xyz)


def test_trace_has_its_form(model: TinyDrive, batch: dict[str, Any]) -> None:
    tokens = model.rollout(**batch, trace_tokens=6).tokens[0].tolist()
    ids = model.config.special_ids
    first, end = model.config.word_ids
    assert all(first <= token < end for token in tokens[:6])
    assert tokens[6:] == [ids["<|cot_end|>"], ids["<|traj_future_start|>"], ids["<|im_end|>"]]


def test_trajectory_starts_at_the_speed_of_the_history(model: TinyDrive, batch: dict[str, Any]) -> None:
    xyz = model.rollout(**batch, num_traj_samples=4, trace_tokens=1).pred_xyz[0, 0]
    history = batch["ego_history_xyz"][0, 0]
    driven = float((history[-1] - history[-2]).norm())
    torch.testing.assert_close(xyz[:, 0].norm(dim=-1), torch.full((4,), driven), atol=0.05, rtol=0)


def test_words_are_drawn_from_the_softmax() -> None:
    """Gumbel's trick must give the frequencies that a softmax at that temperature gives."""
    logits = torch.tensor([[5.0, 0.3, 1.0, -0.5, 9.0]])
    processor = TraceProcessor(0, (1, 4), 10**6, [0], temperature=0.6, top_p=1.0, seed=0)
    empty = torch.zeros(1, 0, dtype=torch.int64)
    draws = torch.stack([processor(empty, logits).argmax() for _ in range(4000)])
    found = torch.bincount(draws, minlength=5)[1:4] / 4000
    expected = (logits[0, 1:4] / 0.6).softmax(-1)
    assert set(draws.tolist()) <= {1, 2, 3}
    # four standard deviations of a share of 4000 draws
    assert bool(((found - expected).abs() < 4 * (expected * (1 - expected) / 4000).sqrt()).all())


def test_nucleus_leaves_out_the_unlikely() -> None:
    logits = torch.tensor([[0.0, 0.0, -3.0]])
    processor = TraceProcessor(0, (0, 3), 10**6, [0], temperature=1.0, top_p=0.9, seed=0)
    empty = torch.zeros(1, 0, dtype=torch.int64)
    assert {int(processor(empty, logits).argmax()) for _ in range(300)} == {0, 1}
