"""The evidence of the norm-based and partition bounds against plain numpy, on small trained networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nonvacuous
from nonvacuous.auditing.result import Audit
from nonvacuous.bounds.margin import row_product
from nonvacuous.bounds.spectral_complexity import LayerNorms, spectral_complexity
from nonvacuous.core.certificate import Certificate
from nonvacuous.measures.inputs import Summing
from nonvacuous.measures.margins import choices, risk_at, scale_free

N, D = 300, 5


def clouds(classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points of the cube [0, 1]^5 whose label depends on their first coordinates."""
    x = torch.rand(N, D, generator=torch.Generator().manual_seed(seed))
    return x, ((x[:, 0] + x[:, 1]) * classes / 2).long().clamp(0, classes - 1)


def trained(model: nn.Sequential, x: Tensor, y: Tensor, steps: int = 80) -> nn.Sequential:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def network(classes: int, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(classes)
    return nn.Sequential(
        nn.Linear(D, 8, bias=bias), nn.ReLU(), nn.Linear(8, 6, bias=bias), nn.ReLU(), nn.Linear(6, classes, bias=bias)
    )


def matrices(model: nn.Sequential, classes: int, bias: bool) -> list[np.ndarray]:
    """Ã₁ … Ã_L by hand."""
    linear = [part for part in model if isinstance(part, nn.Linear)]
    found = []
    for i, layer in enumerate(linear):
        w = layer.weight.detach().double().numpy()
        if bias:
            w = np.hstack([w, layer.bias.detach().double().numpy()[:, None]])
        if i == len(linear) - 1:
            w = w[1:] - w[:1] if classes == 2 else w
        elif bias:
            w = np.vstack([w, np.eye(w.shape[1])[-1:]])
        found.append(w)
    return found


def by_bound(audit: Audit) -> dict[str, Certificate]:
    return {certificate.bound: certificate for certificate in audit.certificates}


def above(number: float, exact: float, room: float = 1e-4) -> bool:
    """Rounded up, and by no more than the room."""
    return exact - 1e-12 <= number <= exact + room * max(1.0, abs(exact))


@pytest.mark.parametrize(("classes", "bias", "with_initial"), [(2, True, False), (3, True, True), (3, False, False)])
def test_evidence_of_a_small_network(classes: int, bias: bool, with_initial: bool) -> None:
    x, y = clouds(classes)
    model, initial = network(classes, bias), network(classes, bias)
    trained(model, x, y)
    audit = nonvacuous.audit(model, train=(x, y), delta=0.05, initial=initial if with_initial else None, input_range=(0, 1))
    found, a = by_bound(audit), matrices(model, classes, bias)
    with torch.no_grad():
        logits = model(x).double().numpy()
    own = logits[np.arange(N), y]
    margins = own - np.where(np.eye(classes, dtype=bool)[y], -np.inf, logits).max(1)

    for name in (
        "golowich",
        "neyshabur-tomioka-srebro",
        "small-weights",
        "spectral-margin",
        "spectral-pac-bayes",
        "covering-number",
    ):
        e = found[name].evidence
        assert e["margin_risk"] == np.mean(margins <= e["margin"]) and e["n"] == N
        assert found[name].measurement["margin"] == e["margin"] > 0

    rms = math.sqrt(float((x.double().numpy() ** 2).sum(1).mean()) + bias)
    spectral = [np.linalg.norm(m, 2) for m in a]
    golowich = found["golowich"].evidence
    assert above(golowich["log_frobenius_product_nats"], sum(math.log(np.linalg.norm(m)) for m in a))
    assert above(golowich["input_rms"], rms)
    assert (golowich["depth"], golowich["classes"]) == (3, classes)

    pac = found["spectral-pac-bayes"].evidence
    assert above(pac["log_spectral_product_nats"], sum(map(math.log, spectral)))
    assert pac["stable_rank_sum"] == pytest.approx(sum((np.linalg.norm(m) / s) ** 2 for m, s in zip(a, spectral, strict=True)))
    assert above(pac["input_bound"], math.sqrt(D + bias))
    assert pac["widest"] == max(max(m.shape) for m in a)

    small = found["small-weights"].evidence
    rows = row_product([np.abs(m).sum(1).max() for m in a])
    assert above(small["log_row_product_nats"], rows.log_row_product_nats)
    assert small["row_grid_nats"] == pytest.approx(rows.row_grid_nats) and small["inputs"] == D
    assert small["largest_coordinate_rms"] == 1.0

    hidden = [*(m[:-1] if bias else m for m in a[:-1]), a[-1]]  # [A, b], the appended row left out
    origin = matrices(initial, classes, bias) if with_initial else [np.zeros_like(m) for m in a]
    moved = [np.linalg.norm(m - o[: len(m)], axis=1).sum() for m, o in zip(hidden, origin, strict=True)]
    parts = [(m[:, :-1], m[:, -1]) if bias else (m, None) for m in hidden]
    expected = spectral_complexity(
        [
            LayerNorms(np.linalg.norm(w, 2) * (1 + 1e-9), d * (1 + 1e-9), bias=None if b is None else float(np.linalg.norm(b)))
            for (w, b), d in zip(parts, moved, strict=True)
        ]
    )
    margin = found["spectral-margin"].evidence
    assert margin["log_spectral_complexity_nats"] == pytest.approx(expected.log_spectral_complexity_nats, abs=1e-6)
    assert margin["norm_grid_nats"] == pytest.approx(expected.norm_grid_nats)

    free = sum(m[:-1].size + 1 if bias else m.size for m in a[:-1]) + a[-1].size
    assert found["covering-number"].evidence["parameters"] == free


def test_biases_that_happen_to_be_zero_are_counted() -> None:
    """Leaving them out would choose the class by the trained weights."""
    x, y = clouds(2)
    model = network(2)
    with torch.no_grad():
        for part in model:
            if isinstance(part, nn.Linear):
                part.bias.zero_()
    found = by_bound(nonvacuous.audit(model, train=(x, y)))
    assert found["golowich"].evidence["input_rms"] > 1
    assert found["spectral-margin"].evidence["widest"] == 9


def test_a_linear_model() -> None:
    x, y = clouds(3)
    torch.manual_seed(0)
    model = trained(nn.Sequential(nn.Flatten(), nn.Linear(D, 3)), x, y)
    w = np.hstack([model[1].weight.detach().numpy(), model[1].bias.detach().numpy()[:, None]]).astype(float)
    found = by_bound(nonvacuous.audit(model, train=(x, y)))
    assert above(found["linear-margin"].evidence["weight_norm"], float(np.linalg.norm(w)))


@pytest.mark.parametrize("loss", ["zero_one", "brier", "bounded_cross_entropy:0.01"])
def test_cells_and_their_variation(loss: str) -> None:
    """Two coordinates, so that the grid is finer than the cube: cells, occupied cells and variation by hand."""
    x = torch.rand(2000, 2, generator=torch.Generator().manual_seed(1))
    y = (x[:, 0] > 0.5).long()
    model = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
        model[0].bias.copy_(torch.tensor([0.5, -0.5]))
    found = by_bound(nonvacuous.audit(model, train=(x, y), loss=loss, input_range=(0.0, 1.0)))
    e, wide = found["occupied-cells"].evidence, found["partition"].evidence
    side = found["occupied-cells"].measurement["cells_a_side"]
    assert side == 7 and e["cells"] == wide["cells"] == 2 * side**2
    keys = {(int(a * side), int(b * side), int(label)) for (a, b), label in zip(x.tolist(), y.tolist(), strict=True)}
    assert e["occupied_cells"] == len(keys)
    reach = math.sqrt(2) * math.sqrt(2) / side  # the spectral norm √2 times the diameter √2/side
    if loss == "zero_one":
        margins = (2 * x[:, 0].double() - 1).abs().numpy()
        expected = np.mean(margins <= math.sqrt(2) * reach)
        assert e["risk"] == 0 and 0.3 < expected < 1
    else:
        with torch.no_grad():
            p = model(x).double().softmax(1).numpy()[np.arange(2000), y]
        values = (1 - p) ** 2 if loss == "brier" else -np.log(p) / math.log(100)
        slope = math.sqrt(0.5) if loss == "brier" else math.sqrt(2) / math.log(100)
        expected = np.mean(np.minimum(1 - values, slope * reach))
    assert e["cell_variation"] == wide["cell_variation"] == pytest.approx(expected, rel=0.02)
    assert e["cell_variation"] >= expected - 1e-9


def test_the_variation_bounds_what_the_loss_does_in_a_cell() -> None:
    """Many points of every cell: the loss never exceeds a training example's by more than its share of the variation."""
    x, y = clouds(2)
    model = trained(network(2), x, y)
    found = by_bound(nonvacuous.audit(model, train=(x, y), loss="brier", input_range=(0.0, 1.0)))
    z = torch.rand(5000, D, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        worst = [
            float(((model(z).softmax(1) - nn.functional.one_hot(torch.tensor(k), 2)) ** 2).sum(1).max() / 2) for k in (0, 1)
        ]
        own = ((model(x).softmax(1) - nn.functional.one_hot(y, 2)) ** 2).sum(1) / 2
    seen = float(np.mean([max(0.0, worst[int(k)] - float(v)) for k, v in zip(y, own, strict=True)]))
    assert found["partition"].measurement["cells_a_side"] == 1
    assert found["partition"].evidence["cell_variation"] >= seen - 1e-6


# -- what cannot be measured


def reasons(audit: Audit) -> dict[str, str]:
    return {skipped.bound: skipped.reason for skipped in audit.skipped}


NORMS = ("golowich", "neyshabur-tomioka-srebro", "small-weights", "spectral-margin", "spectral-pac-bayes", "covering-number")


class Twisted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sin() if bool(x.sum() > 0) else x.cos()


@pytest.mark.parametrize("layer", [Twisted(), nn.GLU()])
def test_an_unknown_layer_is_named_and_the_audit_goes_on(layer: nn.Module) -> None:
    x, y = clouds(2)
    model = nn.Sequential(nn.Linear(D, 4), layer, nn.Linear(2 if isinstance(layer, nn.GLU) else 4, 2))
    audit = nonvacuous.audit(model, train=(x, y), test=clouds(2, 5), input_range=(0, 1))
    for name in NORMS:
        assert type(layer).__name__ in reasons(audit)[name]
    if isinstance(layer, Twisted):
        assert "@lipschitz.register(Twisted)" in reasons(audit)["golowich"]
    assert audit.best.bound == "binomial-tail"


def test_without_a_declared_range_a_bound_says_how_to_declare_it() -> None:
    x, y = clouds(2)
    said = reasons(nonvacuous.audit(network(2), train=(x, y)))
    for name in ("spectral-pac-bayes", "covering-number", "partition", "occupied-cells"):
        assert "input_range=(low, high)" in said[name] and "--input-range" in said[name]


def test_a_range_that_the_sample_contradicts_is_refused() -> None:
    x, y = clouds(2)
    said = reasons(nonvacuous.audit(network(2), train=(x, y), input_range=(0.0, 0.5)))
    assert "outside the declared range [0, 0.5]" in said["covering-number"]
    for wrong in ((1.0, 0.0), (0.0, math.inf), (0.0,)):
        with pytest.raises(nonvacuous.core.errors.InvalidInput, match="low < high"):
            nonvacuous.audit(network(2), train=(x, y), input_range=wrong)


def test_bytes_declare_their_own_range() -> None:
    x, y = clouds(2)
    found = by_bound(nonvacuous.audit(network(2), train=((x * 255).byte(), y)))
    assert found["covering-number"].measurement["input_range"] == (0.0, 1.0)


def test_weights_of_zero_and_of_nan() -> None:
    x, y = clouds(2)
    zero = network(2)
    with torch.no_grad():
        for parameter in zero.parameters():
            parameter.zero_()
    found = by_bound(nonvacuous.audit(zero, train=(x, y), input_range=(0, 1)))
    assert all(found[name].value == 1.0 for name in NORMS)
    assert found["spectral-margin"].evidence["margin_risk"] == 1.0
    broken = network(2)
    with torch.no_grad():
        broken[0].weight[0, 0] = math.nan
    with pytest.raises(nonvacuous.core.errors.InvalidInput, match=r"NaN.*0\.weight"):
        nonvacuous.audit(broken, train=(x, y))


def test_batch_norm_is_folded_and_one_of_no_variance_is_named() -> None:
    x, y = clouds(2)
    model = nn.Sequential(nn.Linear(D, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    model[1].running_var.fill_(0.25)
    found = by_bound(nonvacuous.audit(model.eval(), train=(x, y), input_range=(0, 1)))
    w = model[0].weight.detach().double().numpy() / math.sqrt(0.25 + 1e-5)
    b = model[0].bias.detach().double().numpy() / math.sqrt(0.25 + 1e-5)
    first = np.vstack([np.hstack([w, b[:, None]]), [[0] * D + [1]]])
    last = np.hstack([model[3].weight.detach().numpy(), model[3].bias.detach().numpy()[:, None]])
    expected = math.log(np.linalg.norm(first)) + math.log(np.linalg.norm(last[1] - last[0]))
    assert above(found["golowich"].evidence["log_frobenius_product_nats"], expected)
    model[1].eps = 0.0
    model[1].running_var[2] = 0.0
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = 0.0, 1.0  # so that its output is infinite
    with pytest.raises(nonvacuous.core.errors.InvalidInput, match="infinite"):
        nonvacuous.audit(model, train=(x, y))


def test_inputs_of_the_wrong_shape() -> None:
    _, y = clouds(2)
    with pytest.raises(nonvacuous.core.errors.InvalidInput, match="could not be applied"):
        nonvacuous.audit(network(2), train=(torch.rand(N, D + 1), y))


# -- the pieces


def test_margins_are_counted_on_the_same_side_when_measured_again() -> None:
    margins = np.sort(np.random.default_rng(0).normal(2.0, 1.0, 5000))
    found = choices(margins)
    assert len(found) == 40
    for choice in found:
        assert choice.margin_risk == risk_at(margins, choice.margin)
        assert (
            risk_at(margins * (1 + 1e-6), choice.margin) == choice.margin_risk == risk_at(margins * (1 - 1e-6), choice.margin)
        )
    assert choices(-margins[margins > 0]) == []
    assert scale_free(found).margin_risk < 0.6


def test_sizes_of_the_inputs() -> None:
    x = np.random.default_rng(0).normal(0, 3, (700, 4)).astype(np.float32)
    summing = Summing()
    for start in range(0, 700, 256):
        summing.update(torch.from_numpy(x[start : start + 256]))
    found: Any = summing.summary
    exact = x.astype(float)
    assert above(found.rms(True), math.sqrt((exact**2).sum(1).mean() + 1))
    assert above(found.largest_coordinate_rms, math.sqrt((exact**2).mean(0).max()))
    assert (found.low, found.high, found.coordinates) == (float(x.min()), float(x.max()), 4)
    summing.update({"tokens": torch.ones(3, 4)})
    assert summing.summary is None
