"""What a trace cannot follow is refused: never taken for a constant, nor for a copy."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nonvacuous.core.errors import UnsupportedModule
from nonvacuous.measures.lipschitz import global_upper

JUMPS: dict[str, Callable[[Tensor], Tensor]] = {
    "comparison": lambda x: (x > 0).float(),
    "mask": lambda x: x * (x > 0).float(),
    "integers": lambda x: x.to(torch.int32).to(torch.float64),
    "half precision": lambda x: x.to(torch.float16).double(),
    "dtype by keyword": lambda x: x.to(dtype=torch.int64).to(torch.float64),
}
HIDDEN: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed attribute": lambda x: 3 * x.T.T,
    "data": lambda x: 3 * x.data,
    "adjoint": lambda x: 3 * x.H.H,
    "real part": lambda x: 3 * x.real,
    "branch": lambda x: x if x[0, 0] > 0 else 100 * x,
    "branch on any": lambda x: x if (x > 0).any() else 100 * x,
    "number as factor": lambda x: x * x[0, 0].item(),
    "float as factor": lambda x: x * float(x[0, 0]),
    "list": lambda x: x * torch.tensor(x.tolist()),
    "numpy": lambda x: torch.from_numpy(100 * x.detach().numpy()),
}


class Bent(nn.Module):
    """A linear layer and a function of what it says."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(4, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.linear(x))


@pytest.mark.parametrize("function", [*JUMPS.values(), *HIDDEN.values()], ids=[*JUMPS, *HIDDEN])
def test_no_constant_is_claimed_for_what_is_not_seen(function):
    with pytest.raises(UnsupportedModule, match=r"Lipschitz rule|depend on the input"):
        global_upper(Bent(function), (4,))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.reshape(x.shape[0], -1) if x.shape[1] == 3 else x,
        lambda x: x.to(torch.float64).contiguous().view(x.size(0), 3),
        lambda x: x.to(device="cpu", dtype=torch.float64),
    ],
)
def test_shapes_and_plain_conversions_are_followed(function):
    model = Bent(function)
    factor = float(torch.linalg.matrix_norm(model.linear.weight, 2).detach())
    assert global_upper(model, (4,)).upper == pytest.approx(factor, rel=1e-6)


def test_complex_weights_are_refused_with_the_remedy():
    with pytest.raises(UnsupportedModule, match=r"weight holds complex numbers.*in_pairs"):
        global_upper(nn.Linear(4, 3, dtype=torch.cfloat), (4,))
