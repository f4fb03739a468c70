"""The empirical tangent kernel against its definition, over architectures, types, outputs and budgets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.oracles.tangent import dense_kernel
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.empirical import ChosenOutputs, MeanDirection, OutputTrace, empirical_ntk
from nonvacuous.measures import tangent
from nonvacuous.measures.gradient_factors import Outer, Rows, Scaled
from nonvacuous.measures.layer_check import Split


def images(n: int = 5, channels: int = 2, size: int = 6) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def vectors(n: int = 5, d: int = 6) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1))


def words(n: int = 5, length: int = 4) -> Tensor:
    return torch.randint(0, 7, (n, length), generator=torch.Generator().manual_seed(1))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.inner, self.head = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        return self.head(F.relu(x + self.inner(x)).mean((2, 3)))


class Words(nn.Module):
    """Embedding, position, attention, layer norm; parameters used by no layer."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4, padding_idx=0)
        self.place = nn.Parameter(torch.randn(1, 4, 4))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x) + self.place
        h = self.norm(h + self.attention(h, h, h, need_weights=False)[0])
        return self.head(h).mean(1)


class Twice(nn.Module):
    """The same layers at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.head = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(self.inner(x)))
        return self.head(torch.tanh(self.norm(self.inner(x))))


class Functional(nn.Module):
    """A layer's weight used beside the layer, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.unused = nn.Linear(6, 6), nn.Linear(6, 2), nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(torch.tanh(self.a(x)) + F.linear(x, self.a.weight), self.b.weight) + self.b.bias.sin()


class Shuffled(nn.Module):
    """A layer sees the examples in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x.flip(0)).flip(0)))


class Looped(nn.Module):
    """Control flow that depends on the data, so that nothing can be vectorised."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 2))
        self.slope = nn.Parameter(torch.tensor([0.3, 0.1]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([F.prelu(row[None] @ self.w, self.slope)[0] * (2.0 if float(row[0]) > 0 else 1.0) for row in x])


class Routed(nn.Module):
    """Layers that only some batches call, and one that is called without the batch axis later on."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        chosen = x[:, 0] > 0
        out = x.new_zeros(len(x), 2)
        for mask, layer in ((chosen, self.a), (~chosen, self.b)):
            if bool(mask.any()):
                out = out.index_put((mask,), layer(x[mask]))
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.GRU(6, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x.reshape(len(x), 1, 6).expand(-1, 2, -1))[0][:, -1])


def conv(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(3))


def weight_normed() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 2))


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3)),
        vectors,
    ),
    "one output, no axis for it": (lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)), vectors),
    "several output axes": (
        lambda: nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Unflatten(1, (2, 3)), nn.Linear(3, 2)),
        vectors,
    ),
    "no biases": (lambda: nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)), vectors),
    "convolution": (lambda: conv(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3)), images),
    "stride, dilation": (
        lambda: conv(nn.Conv2d(2, 4, 3, stride=2, padding=2, dilation=2), nn.Tanh(), nn.Conv2d(4, 4, 2)),
        images,
    ),
    "groups": (lambda: conv(nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 8, (1, 2), groups=4, bias=False)), images),
    "same padding": (lambda: conv(nn.Conv2d(2, 4, (2, 3), padding="same"), nn.ReLU(), nn.Conv2d(4, 4, 3)), images),
    "circular": (lambda: conv(nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="circular")), images),
    "reflected": (lambda: conv(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.Conv2d(3, 3, 3)), images),
    "replicated": (lambda: conv(nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate", groups=1)), images),
    "1-d": (
        lambda: nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)),
        vectors,
    ),
    "3-d": (
        lambda: nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv3d(1, 2, (1, 3, 3)), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)),
        images,
    ),
    "transposed": (lambda: conv(nn.ConvTranspose2d(2, 3, 2), nn.ReLU(), nn.Conv2d(3, 3, 3)), images),
    "batch norm": (
        lambda: conv(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.BatchNorm2d(4)),
        images,
    ),
    "normalizers": (
        lambda: conv(nn.GroupNorm(2, 2), nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.Tanh()),
        images,
    ),
    "layer norm": (
        lambda: nn.Sequential(nn.LayerNorm([2, 6, 6]), nn.Flatten(), nn.Linear(72, 4), nn.RMSNorm(4), nn.Linear(4, 2)),
        images,
    ),
    "residual": (Residual, images),
    "attention": (lambda: Words(False), words),
    "tied": (lambda: Words(True), words),
    "bag of words": (lambda: nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(12, 2)), words),
    "transformer": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (3, 2)), nn.TransformerEncoderLayer(2, 1, 4, 0.0, batch_first=True), nn.Flatten()
        ),
        vectors,
    ),
    "one layer twice": (Twice, vectors),
    "functional": (Functional, vectors),
    "shuffled": (Shuffled, vectors),
    "looped": (Looped, vectors),
    "routed": (Routed, vectors),
    "recurrent": (Recurrent, vectors),
    "weight norm": (weight_normed, vectors),
    "prelu, bilinear": (lambda: nn.Sequential(nn.Linear(6, 4), nn.PReLU(4), nn.Linear(4, 2)), vectors),
}


def built(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    make, inputs = CASES[name]
    torch.manual_seed(0)
    model, x = make(), inputs()
    model(x)  # lazy layers; running statistics of their own
    x = x.to(dtype) if x.is_floating_point() else x
    model = model.to(dtype).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, dtype=dtype))
    return model, x


def near(found: Tensor, expected: Tensor, dtype: torch.dtype = torch.float64) -> bool:
    return float((found - expected).abs().max()) <= (1e-12 if dtype is torch.float64 else 2e-5) * float(expected.abs().max())


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_gram_of_the_jacobian(name: str) -> None:
    model, x = built(name)
    expected = dense_kernel(model, x)
    k = expected.shape[2]
    assert near(empirical_ntk(model, x), expected)
    assert near(empirical_ntk(model, x[:2], x[1:]), expected[:2, 1:])
    assert near(empirical_ntk(model, x, outputs=OutputTrace()), torch.einsum("ijaa->ij", expected))
    assert near(empirical_ntk(model, x, outputs=MeanDirection()), expected.sum((2, 3)) / k)
    chosen = (k - 1, 0)
    assert near(empirical_ntk(model, x, outputs=ChosenOutputs(chosen)), expected[:, :, chosen][:, :, :, chosen])


@pytest.mark.parametrize("name", ["mlp", "convolution", "batch norm", "residual", "tied", "one layer twice"])
def test_single_precision(name: str) -> None:
    model, x = built(name, torch.float32)
    found = empirical_ntk(model, x)
    assert found.dtype == torch.float32
    expected = dense_kernel(model.double(), x.double() if x.is_floating_point() else x)
    assert near(found.double(), expected, torch.float32)
    wide = empirical_ntk(model.float(), x, dtype=torch.float64)
    assert wide.dtype == torch.float64 and near(wide, expected, torch.float32)


def test_the_layers_with_a_rule_use_it_and_the_others_do_not() -> None:
    def rest(name: str) -> set[str]:
        model, x = built(name)
        split = Split.of(model)
        tangent.probe(split, x[:2], tangent.Task(1, False, 5, 2**30, torch.float64), 2**30)
        return set(split.rest)

    assert (
        rest("convolution")
        == rest("batch norm")
        == rest("residual")
        == rest("one layer twice")
        == rest("normalizers")
        == set()
    )
    assert rest("functional") == {"a.weight", "a.bias", "b.weight", "b.bias", "scale"}
    assert rest("shuffled") == {"a.weight", "a.bias"}
    assert rest("tied") == {"embedding.weight", "place"} | {
        f"attention.{part}" for part in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    }


def forms(model: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, set[type]]:
    seen: dict[str, set[type]] = {}
    original = tangent.add_gram

    def spy(total: Tensor, left: Any, right: Any, traced: bool) -> None:
        seen.setdefault("forms", set()).update((type(left), type(right)))
        original(total, left, right, traced)

    monkeypatch.setattr(tangent, "add_gram", spy)
    empirical_ntk(model, x, **options)
    return seen


def test_every_factored_form_is_met_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 8)]
    pooled = nn.Sequential(nn.Conv2d(2, 16, 3), *head).double()
    few_places = nn.Sequential(nn.Conv2d(32, 16, 2), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)).double()
    x, deep = images(20).double(), images(5, 32, 3).double()
    assert forms(pooled, x, monkeypatch)["forms"] == {Scaled, Outer}
    assert forms(few_places, deep, monkeypatch)["forms"] == {Outer}
    assert near(empirical_ntk(pooled, x), dense_kernel(pooled, x))
    assert near(empirical_ntk(few_places, deep), dense_kernel(few_places, deep))
    assert near(
        empirical_ntk(few_places, deep, outputs=OutputTrace()), torch.einsum("ijaa->ij", dense_kernel(few_places, deep))
    )
    alone = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)).double().eval()
    assert Rows in forms(alone, x, monkeypatch)["forms"]


def test_frozen_parameters_do_not_count() -> None:
    model, x = built("batch norm")
    for p in list(model.parameters())[:3]:
        p.requires_grad_(False)
    model[4].bias.requires_grad_(False)
    model[3].weight.requires_grad_(False)
    assert near(empirical_ntk(model, x), dense_kernel(model, x))


def test_a_dict_of_inputs_and_an_object_with_logits() -> None:
    class Answer(dict):
        @property
        def logits(self) -> Tensor:
            return self["logits"]

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 2)

        def forward(self, features: Tensor, factor: Tensor) -> Any:
            return Answer(logits=self.inner(features).tanh() * factor[:, None])

    model = Named().double()
    x = {"features": vectors().double(), "factor": torch.arange(5).double()}
    plain = lambda features, factor: model(features, factor).logits  # noqa: E731
    oracle = nn.Module()
    oracle.inner = model.inner
    oracle.forward = plain  # type: ignore[method-assign]
    assert near(empirical_ntk(model, x), dense_kernel(oracle, x))


def test_the_model_is_left_as_it_was() -> None:
    model, x = built("residual")
    model.register_buffer("count", torch.zeros(1))
    hook = model.register_forward_pre_hook(lambda module, args: module.count.add_(1) and None)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        empirical_ntk(model, x)
    hook.remove()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules()) and not model.training


@pytest.mark.parametrize(
    ("model", "x", "said"),
    [
        (nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), vectors(), "Call model.eval"),
        (
            nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval(),
            vectors(),
            "track_running_stats",
        ),
        (nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.1)), vectors(), "at random"),
        (nn.Sequential(nn.Linear(6, 3)).requires_grad_(False), vectors(), "no trainable"),
        (nn.Linear(6, 3), vectors().where(vectors() < 1, torch.nan), "example 2"),
        (nn.Linear(6, 3), vectors()[:0], "at least one"),
        (nn.Linear(5, 3), vectors(), "Check that the model's"),
        (nn.Sequential(nn.Linear(6, 3), nn.Softmax(0)), vectors(), "other examples"),
        (nn.Linear(6, 3, dtype=torch.complex64), vectors(), "complex"),
    ],
)
def test_what_has_no_kernel_is_refused(model: nn.Module, x: Tensor, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        empirical_ntk(model, x)


def test_hidden_chance_and_infinite_outputs_are_refused() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.randn(len(x), 1)

    with pytest.raises(InvalidInput, match="draws at random"):
        empirical_ntk(Noisy(6, 2), vectors())
    big = nn.Linear(6, 2)
    with torch.no_grad():
        big.weight.mul_(math.inf)
    with pytest.raises(InvalidInput, match="not finite"):
        empirical_ntk(big, vectors())
    with pytest.raises(InvalidInput, match="positive whole number"):
        empirical_ntk(nn.Linear(6, 2), vectors(), memory=0)
    with pytest.raises(InvalidInput, match="from 0 to 1"):
        empirical_ntk(nn.Linear(6, 2), vectors(), outputs=ChosenOutputs((2,)))
    with pytest.raises(InvalidInput, match="shape"):
        empirical_ntk(nn.Linear(6, 2), vectors(), out=torch.zeros(5, 5))
    with pytest.raises(InvalidInput, match="trace"):
        empirical_ntk(nn.Linear(6, 2), vectors(), memory=256)
