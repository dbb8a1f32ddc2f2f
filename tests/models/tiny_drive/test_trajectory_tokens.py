import torch

from mpsprobe.models.tiny_drive.adapter import synthetic_drive
from mpsprobe.models.tiny_drive.trajectories import ActionTokenizer, DeltaTokenizer, UniformBins

BINS = UniformBins(4.0, 256)
WIDTH = 8.0 / 256


def test_each_value_lies_in_its_bin() -> None:
    values = torch.linspace(-4, 3.999, 5001)
    indices = BINS.encode(values)
    assert indices.dtype == torch.int64
    assert set(indices.tolist()) == set(range(256))
    assert float((BINS.decode(indices) - values).abs().max()) <= WIDTH / 2 + 1e-6


def test_values_outside_go_to_the_ends() -> None:
    assert BINS.encode(torch.tensor([-1e9, -4.0, 4.0, 1e9])).tolist() == [0, 0, 255, 255]


def test_history_survives_within_half_a_bin_a_step() -> None:
    tokenizer = DeltaTokenizer(BINS, offset=1000)
    xyz = synthetic_drive()["ego_history_xyz"]
    tokens = tokenizer.encode(xyz)
    assert tokens.shape == (1, 1, 48)
    assert 1000 <= int(tokens.min()) <= int(tokens.max()) < 1256
    decoded = tokenizer.decode(tokens)
    assert decoded.shape == xyz.shape
    assert not decoded[..., -1, :].any()
    steps_to_the_end = torch.arange(15, -1, -1)[:, None]
    assert bool(((decoded - xyz).abs() <= steps_to_the_end * WIDTH / 2 + 1e-4).all())


def test_history_tokens_do_not_depend_on_where_it_is() -> None:
    tokenizer = DeltaTokenizer(BINS, offset=0)
    # away from the edges of bins, where rounding of the sum could decide
    xyz = (BINS.decode(torch.randint(0, 256, (16, 3), generator=torch.Generator().manual_seed(0)))).cumsum(0)
    assert torch.equal(tokenizer.encode(xyz), tokenizer.encode(xyz + 7.0))


def test_actions_survive_within_half_a_bin() -> None:
    tokenizer = ActionTokenizer(UniformBins(10.0, 512), offset=5)
    actions = torch.randn(2, 64, 2, generator=torch.Generator().manual_seed(0))
    tokens = tokenizer.encode(actions)
    assert tokens.shape == (2, 128)
    assert float((tokenizer.decode(tokens) - actions).abs().max()) <= 10 / 512 + 1e-5
