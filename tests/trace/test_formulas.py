"""FLOPs and bytes against PyTorch's own counter where it counts, against arithmetic where it does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from mpsprobe.run import OpUse
from mpsprobe.trace import formulas
from mpsprobe.trace.dispatch import record
from mpsprobe.trace.formulas import pointwise, traffic
from mpsprobe.trace.formulas.registry import FORMULAS, ITEM_BYTES, base_name
from tests.trace.zoo import ZOO, Convolutional, UNet, llama

aten = torch.ops.aten

#: What PyTorch's counter has a formula for, by base name.
COUNTED = {
    packet._qualified_op_name.removeprefix("aten::")
    for packet in flop_registry
    if hasattr(packet, "_schemas")
}


def recorded(run: Callable[[], Any]) -> list[OpUse]:
    with record() as recorder:
        run()
    return recorder.op_uses()


def one(op: str, run: Callable[[], Any]) -> OpUse:
    """The only use of an op in a run."""
    with torch.no_grad():
        (use,) = (use for use in recorded(run) if use.op.split(".")[0] == f"aten::{op}")
    return use


def compare(run: Callable[[], Any]) -> None:
    """Ours, over the ops that PyTorch's counter knows, against that counter."""
    with FlopCounterMode(display=False) as counter:
        run()
    uses = recorded(run)
    ours: dict[str, int] = {}
    for use in uses:
        if base_name(use.op) in COUNTED:
            assert use.flops is not None, use
            ours[base_name(use.op)] = ours.get(base_name(use.op), 0) + use.flops
    theirs = {
        packet._qualified_op_name.removeprefix("aten::"): count
        for packet, count in counter.get_flop_counts()["Global"].items()
    }
    assert theirs
    assert ours == theirs


def test_llama_counts_as_pytorch_counts_it() -> None:
    model = llama("eager")  # PyTorch's counter takes SDPA on the CPU as nothing
    tokens = torch.arange(3, 13)[None]
    with torch.no_grad():
        compare(lambda: model(tokens))


def test_a_training_step_of_llama_too() -> None:
    model = llama("eager").train()
    tokens = torch.arange(3, 13)[None]
    compare(lambda: model(tokens, labels=tokens).loss.backward())


@pytest.mark.parametrize("make", [Convolutional, UNet])
def test_convolutional_networks_too(make: Callable[[], nn.Module]) -> None:
    model = make().eval()
    image = torch.ones(2, 3, 64, 64) if make is Convolutional else torch.ones(1, 4, 16, 16)
    with torch.no_grad():
        compare(lambda: model(image))


def test_a_training_step_of_a_unet_too() -> None:
    model = UNet().train()
    compare(lambda: model(torch.ones(1, 4, 16, 16)).sum().backward())


def test_grouped_convolution_gradients_cost_twice() -> None:
    """PyTorch's counter leaves the groups out of the weight's gradient."""
    model = nn.Conv2d(8, 16, 3, groups=4, padding=1)
    x = torch.ones(2, 8, 6, 6, requires_grad=True)
    uses = {base_name(use.op): use for use in recorded(lambda: model(x).sum().backward())}
    forward = 2 * (2 * 16 * 6 * 6) * (2 * 3 * 3)
    assert uses["convolution"].flops == forward
    assert uses["convolution_backward"].flops == 2 * forward


@pytest.mark.parametrize(
    ("batch", "heads", "shared", "queries", "keys", "width", "causal"),
    [(2, 4, 4, 5, 5, 8, False), (2, 4, 4, 5, 5, 8, True), (1, 8, 2, 1, 33, 16, False)],
)
def test_attention_on_the_cpu(
    batch: int, heads: int, shared: int, queries: int, keys: int, width: int, causal: bool
) -> None:
    q = torch.ones(batch, heads, queries, width)
    k = torch.ones(batch, shared, keys, width)
    group: Any = {"enable_gqa": True} if heads != shared else {}

    def run() -> None:
        nn.functional.scaled_dot_product_attention(q, k, k, is_causal=causal, **group)

    with torch.no_grad():
        uses = recorded(run)
    products = [use for use in uses if "scaled_dot_product" in use.op or "bmm" in use.op]
    assert sum(use.flops or 0 for use in products) == 2 * (2 * batch * heads * queries * keys * width)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    if "flash" in products[0].op:
        assert counter.get_total_flops() == 0  # why there is a formula of ours


def test_every_form_of_attention_has_the_same_count() -> None:
    shape = ((2, 8, 5, 16), (2, 2, 7, 16), (2, 2, 7, 24))
    wanted = sdpa_flop_count(*shape)
    grad = sdpa_backward_flop_count((2, 8, 5, 24), *shape)
    found = 0
    for name in dir(aten):
        if name.startswith("_scaled_dot_product") and "quantized" not in name and "overrideable" not in name:
            backward = name.endswith("_backward")
            tensors = [
                torch.empty(size, device="meta") for size in ([(2, 8, 5, 24)] if backward else []) + [*shape]
            ]
            use = OpUse(op=f"aten::{name}", inputs=[meta(tensor) for tensor in tensors])
            assert formulas.flops(use) == (grad if backward else wanted), name
            found += 1
    assert found >= 9  # CPU, MPS, the one made of others, and three of CUDA; with their gradients


def meta(tensor: torch.Tensor) -> Any:
    from mpsprobe.trace.signature import freeze, tensor_meta

    return tensor_meta(freeze(tensor))


def test_attention_with_the_length_first() -> None:
    """The kernels under CUDA's forms, dense and packed."""
    q, k = (torch.empty(2, length, 4, 8, device="meta") for length in (5, 7))
    dense = OpUse(op="aten::_flash_attention_forward", inputs=[meta(q), meta(k), meta(k)])
    assert formulas.flops(dense) == 2 * (2 * 2 * 4 * 5 * 7 * 8)
    offsets = torch.empty(4, dtype=torch.int32, device="meta")
    packed = OpUse(
        op="aten::_flash_attention_forward",
        inputs=[
            *(meta(torch.empty(12, 4, 8, device="meta")) for _ in range(3)),
            meta(offsets),
            meta(offsets),
        ],
        scalars={"max_q": 6, "max_k": 6},
    )
    assert formulas.flops(packed) == 3 * 2 * (2 * 4 * 6 * 6 * 8)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_by_their_definition(rank: int, transposed: bool, groups: int) -> None:
    """Counted by running it: an all-ones convolution of ones sums its multiply-adds."""
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{rank}d")
    model = kind(4, 8, 3, stride=2, groups=groups, bias=False)
    nn.init.ones_(model.weight)
    x = torch.ones(2, 4, *[7] * rank)
    with torch.no_grad():
        use = one("convolution", lambda: model(x))
        multiply_adds = int(model(x).sum())
    assert use.flops == 2 * multiply_adds  # stride 2 and no padding: every tap is inside


def test_products_with_vectors_and_batches() -> None:
    a, b, v = torch.ones(3, 4), torch.ones(4, 5), torch.ones(4)
    batch = torch.ones(2, 3, 4)
    cases: list[tuple[str, Callable[[], Any], int]] = [
        ("mv", lambda: a @ v, 2 * 3 * 4),
        ("dot", lambda: v @ v, 2 * 4),
        ("addr", lambda: torch.addr(torch.ones(4, 4), v, v), 2 * 4 * 4),
        ("addmv", lambda: torch.addmv(torch.ones(3), a, v), 2 * 3 * 4),
        ("bmm", lambda: torch.einsum("bij,bjk->bik", batch, torch.ones(2, 4, 5)), 2 * 2 * 3 * 4 * 5),
        ("addbmm", lambda: torch.addbmm(torch.ones(3, 5), batch, torch.ones(2, 4, 5)), 2 * 2 * 3 * 4 * 5),
        ("mm", lambda: a.to(torch.complex64) @ b.to(torch.complex64), 4 * 2 * 3 * 4 * 5),
        ("_int_mm", lambda: torch._int_mm(*[torch.ones(32, 32, dtype=torch.int8)] * 2), 2 * 32**3),
    ]
    for op, run, wanted in cases:
        assert one(op, run).flops == wanted, op


def test_a_linear_layer_as_one_op_is_its_product() -> None:
    """How MPS runs it."""
    x, weight = torch.empty(2, 3, 4, device="meta"), torch.empty(5, 4, device="meta")
    assert formulas.flops(OpUse(op="aten::linear", inputs=[meta(x), meta(weight)])) == 2 * (2 * 3) * 4 * 5
    grad = torch.empty(2, 3, 5, device="meta")
    backward = OpUse(
        op="aten::linear_backward",
        inputs=[meta(x), meta(grad), meta(weight)],
        scalars={"output_mask": [True, True, True]},
    )
    assert formulas.flops(backward) == 2 * (2 * (2 * 3) * 4 * 5)


def test_recurrent_layers_in_either_form() -> None:
    """As one kernel (MPS) and as the products of its steps (here): the same multiply-adds."""
    model = nn.LSTM(8, 12, num_layers=2, bidirectional=True)
    x = torch.ones(5, 3, 8)
    with torch.no_grad():
        uses = recorded(lambda: model(x))
    products = sum(use.flops or 0 for use in uses if base_name(use.op) in ("mm", "addmm", "mkldnn_rnn_layer"))
    hidden = torch.ones(4, 3, 12)
    parameters = [meta(weight) for weight in model.parameters()]
    kernel = OpUse(op="aten::_lstm_mps", inputs=[meta(x), meta(hidden), meta(hidden), *parameters])
    assert (
        formulas.flops(kernel)
        == products
        == 2 * 15 * sum(p.numel() for p in model.parameters() if p.dim() == 2)
    )


N, M, K = 6, 9, 4


@pytest.mark.parametrize(
    ("op", "run", "wanted"),
    [
        ("linalg_cholesky_ex", lambda: torch.linalg.cholesky(torch.eye(N)), N**3 / 3),
        ("cholesky_solve", lambda: torch.cholesky_solve(torch.ones(N, K), torch.eye(N)), 2 * N * N * K),
        ("linalg_lu_factor_ex", lambda: torch.linalg.lu_factor(torch.eye(N)), 2 * N**3 / 3),
        (
            "_linalg_solve_ex",
            lambda: torch.linalg.solve(torch.eye(N), torch.ones(N, K)),
            2 * N**3 / 3 + 2 * N * N * K,
        ),
        (
            "_linalg_solve_ex",
            lambda: torch.linalg.solve(torch.eye(N), torch.ones(N)),
            2 * N**3 / 3 + 2 * N * N,
        ),
        ("linalg_inv_ex", lambda: torch.linalg.inv(torch.eye(N)), 2 * N**3),
        (
            "linalg_solve_triangular",
            lambda: torch.linalg.solve_triangular(torch.eye(N), torch.ones(N, K), upper=True),
            N * N * K,
        ),
        ("linalg_qr", lambda: torch.linalg.qr(torch.ones(M, N), mode="r"), 2 * N * N * (M - N / 3)),
        ("linalg_qr", lambda: torch.linalg.qr(torch.ones(M, N)), 4 * N * N * (M - N / 3)),
        (
            "_linalg_svd",
            lambda: aten._linalg_svd(torch.ones(M, N), False, False),
            4 * M * N * N - 4 * N**3 / 3,
        ),
        (
            "_linalg_svd",
            lambda: torch.linalg.svd(torch.ones(M, N)),
            4 * M * M * N + 8 * M * N * N + 9 * N**3,
        ),
        (
            "_linalg_svd",
            lambda: torch.linalg.svd(torch.ones(M, N), full_matrices=False),
            14 * M * N * N + 8 * N**3,
        ),
        ("_linalg_eigh", lambda: torch.linalg.eigh(torch.eye(N)), 9 * N**3),
        ("_linalg_eigh", lambda: aten._linalg_eigh(torch.eye(N), compute_v=False), 4 * N**3 / 3),
        ("linalg_eig", lambda: torch.linalg.eig(torch.eye(N)), 25 * N**3),
        ("_fft_c2c", lambda: torch.fft.fft(torch.ones(3, 16, dtype=torch.complex64)), 3 * 5 * 16 * 4),
        ("_fft_r2c", lambda: torch.fft.rfft2(torch.ones(3, 4, 8)), 3 * 2.5 * 32 * 5),
        ("_fft_c2r", lambda: torch.fft.irfft(torch.ones(3, 9, dtype=torch.complex64)), 3 * 2.5 * 16 * 4),
    ],
)
def test_textbook_counts(op: str, run: Callable[[], Any], wanted: float) -> None:
    assert one(op, run).flops == round(wanted)


X = torch.ones(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("op", "run", "wanted"),
    [
        ("add", lambda: X + X, 384),
        ("add_", lambda: X.clone().add_(1), 384),
        ("gelu", lambda: nn.functional.gelu(X), 384),
        ("addcmul", lambda: torch.addcmul(X, X, X), 3 * 384),
        ("mul", lambda: X[:1] * X, 384),
        ("mul", lambda: X.to(torch.complex64) * X.to(torch.complex64), 6 * 384),
        ("add", lambda: X.long() + X.long(), 0),
        ("clone", lambda: X.clone(), 0),
        ("view", lambda: X.view(-1), 0),
        ("sum", lambda: X.sum(-1), 384),
        ("var", lambda: X.var(), 4 * 384),
        ("_softmax", lambda: X.softmax(-1), 5 * 384),
        ("native_layer_norm", lambda: nn.functional.layer_norm(X, [8]), 7 * 384),
        ("avg_pool2d", lambda: nn.functional.avg_pool2d(X, 2), 384),
        ("max_pool2d_with_indices", lambda: nn.functional.max_pool2d(X, (2, 4)), 384),
        (
            "upsample_bilinear2d",
            lambda: nn.functional.interpolate(X, scale_factor=2.0, mode="bilinear"),
            7 * 4 * 384,
        ),
        ("index_add", lambda: X.index_add(0, torch.tensor([0]), X[:1]), 192),
        ("_foreach_add_", lambda: torch._foreach_add_([X.clone(), X.clone()], 1.0), 2 * 384),
        ("embedding", lambda: nn.functional.embedding(torch.tensor([1, 2]), torch.ones(9, 4)), 0),
    ],
)
def test_pointwise_ops_and_reductions(op: str, run: Callable[[], Any], wanted: int) -> None:
    assert one(op, run).flops == wanted


TABLE = torch.ones(1000, 4)
INDEX = torch.tensor([1, 2, 3])


@pytest.mark.parametrize(
    ("op", "run", "wanted"),
    [
        ("add", lambda: X + X, 3 * 4 * 384),
        ("add_", lambda: X.clone().add_(1.0), 2 * 4 * 384),
        ("add", lambda: torch.add(X, X, out=torch.empty_like(X)), 3 * 4 * 384),
        ("add", lambda: torch.ones(1, 8).expand(100, 8) + torch.ones(100, 8), 4 * (8 + 800 + 800)),
        ("exp", lambda: torch.ones(10).unfold(0, 4, 1).exp(), 4 * (10 + 7 * 4)),
        ("view", lambda: X.view(-1), 0),
        ("t", lambda: TABLE.t(), 0),
        ("_unsafe_view", lambda: torch.ones(1, 2, 3) @ torch.ones(3, 4), 0),
        ("empty", lambda: torch.empty(100), 0),
        ("zeros", lambda: torch.zeros(100), 400),
        ("fill_", lambda: torch.empty(100).fill_(1.0), 400),
        ("copy_", lambda: torch.empty(100).copy_(torch.ones(100, dtype=torch.float64)), 800 + 400),
        ("_to_copy", lambda: torch.ones(100).half(), 400 + 200),
        ("normal_", lambda: torch.empty(100).normal_(), 400),
        ("embedding", lambda: nn.functional.embedding(INDEX, TABLE), 2 * (3 * 4 * 4) + 3 * 8),
        ("index_select", lambda: TABLE.index_select(0, INDEX), 2 * (3 * 4 * 4) + 3 * 8),
        ("index", lambda: TABLE[INDEX], 2 * (3 * 4 * 4) + 3 * 8),
        ("index_put_", lambda: TABLE.clone().index_put_((INDEX,), torch.ones(3, 4)), 2 * (3 * 4 * 4) + 3 * 8),
        ("index_add_", lambda: TABLE.clone().index_add_(0, INDEX, torch.ones(3, 4)), 3 * (3 * 4 * 4) + 3 * 8),
        ("index_add", lambda: TABLE.index_add(0, INDEX, torch.ones(3, 4)), 2 * 16000 + 3 * 4 * 4 + 3 * 8),
        ("mm", lambda: torch.ones(2, 3) @ torch.ones(3, 4), 4 * (6 + 12 + 8)),
        ("_local_scalar_dense", lambda: torch.ones(()).item(), 4),
        ("_foreach_add_", lambda: torch._foreach_add_([X.clone(), X.clone()], 1.0), 2 * (2 * 4 * 384)),
        ("cat", lambda: torch.cat([X, X]), 4 * 4 * 384),
    ],
)
def test_bytes(op: str, run: Callable[[], Any], wanted: int) -> None:
    assert one(op, run).bytes == wanted


def test_costs_are_those_of_all_calls() -> None:
    with record() as recorder:
        for _ in range(3):
            X.exp()
    (use,) = recorder.op_uses()
    assert (use.count, use.flops, use.bytes) == (3, 3 * 384, 3 * 2 * 4 * 384)


def test_unknown_is_not_zero() -> None:
    use = OpUse(op="mylib::op", inputs=[meta(X)], outputs=[meta(X)])
    assert formulas.flops(use) is None
    assert (
        formulas.flops(OpUse(op="aten::convolution", inputs=[meta(X), meta(X)])) is None
    )  # raised: no result


@pytest.mark.parametrize("name", ZOO)
def test_no_op_of_the_zoo_is_without_a_cost(name: str) -> None:
    run = ZOO[name]()
    with torch.no_grad():
        uses = recorded(run)
    assert [use.op for use in uses if use.flops is None or use.bytes is None] == []


def schemas() -> list[Any]:
    """Every ATen overload of the installed torch that is not made of others."""
    found = []
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith("aten::") and not torch._C._dispatch_has_kernel_for_dispatch_key(
            name, "CompositeImplicitAutograd"
        ):
            packet, _, overload = name.removeprefix("aten::").partition(".")
            found.append(getattr(getattr(aten, packet), overload or "default", None))
    return [func for func in found if func is not None]


def test_every_view_of_the_installed_torch_is_known_as_one() -> None:
    missing = set()
    for func in schemas():
        aliases = [result.alias_info for result in func._schema.returns]
        if any(alias is not None and not alias.is_write for alias in aliases):
            missing |= {base_name(func._schema.name)} - traffic.VIEWS
    assert missing == set()


def test_every_pointwise_op_has_a_formula() -> None:
    names = {base_name(func._schema.name) for func in schemas() if torch.Tag.pointwise in func.tags}
    assert names - set(FORMULAS) == set()
    assert len(names) > 100


def test_every_op_pytorch_counts_has_a_formula() -> None:
    assert {name for name in COUNTED if not name.startswith("torch_attn")} - set(FORMULAS) == set()


def test_names_are_not_listed_twice() -> None:
    names = [*pointwise.ONE, *pointwise.NONE, *pointwise.SEVERAL]
    assert len(names) == len(set(names))


def test_element_sizes_are_those_of_torch() -> None:
    for name, size in ITEM_BYTES.items():
        if hasattr(torch, name):
            assert getattr(torch, name).itemsize == size, name


def test_formulas_need_no_torch() -> None:
    code = "import sys, mpsprobe.trace.formulas; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
