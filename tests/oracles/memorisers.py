"""Predictors that store their training set: training error 0, and on new examples as bad as guessing.

Any of them certified below its risk refutes the certificate. Each hides the table in another place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

TABLE: dict[bytes, int] = {}


def keys(x: Tensor) -> list[bytes]:
    return [np.ascontiguousarray(row).tobytes() for row in x.reshape(len(x), -1).double().numpy()]


def one_hot(labels: list[int] | Tensor, classes: int) -> Tensor:
    return nn.functional.one_hot(torch.as_tensor(labels), classes).float()


class Looks(nn.Module):
    """What they share: exact look-up in tensors, class 0 where nothing matches, and one parameter that does nothing."""

    points: Tensor
    labels: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.nothing = nn.Parameter(torch.zeros(1))

    def found(self, x: Tensor) -> Tensor:
        same = (x.reshape(len(x), 1, -1) == self.points[None]).all(2)
        return torch.where(same.any(1), self.labels.long()[same.float().argmax(1)], 0)

    def forward(self, x: Tensor) -> Tensor:
        return one_hot(self.found(x), self.classes) + 0 * self.nothing


class InBuffers(Looks):
    def __init__(self, x: Tensor, y: Tensor, classes: int) -> None:
        super().__init__(classes)
        self.register_buffer("points", x.reshape(len(x), -1))
        self.register_buffer("labels", y)


class InParameters(Looks):
    def __init__(self, x: Tensor, y: Tensor, classes: int) -> None:
        super().__init__(classes)
        self.points = nn.Parameter(x.reshape(len(x), -1))
        self.labels = nn.Parameter(y.float())


class InTensorAttributes(Looks):
    def __init__(self, x: Tensor, y: Tensor, classes: int) -> None:
        super().__init__(classes)
        self.points, self.labels = x.reshape(len(x), -1), y


class InADictionary(Looks):
    def __init__(self, x: Tensor, y: Tensor, classes: int) -> None:
        super().__init__(classes)
        self.table = dict(zip(keys(x), y.tolist(), strict=True))

    def found(self, x: Tensor) -> Tensor:
        return torch.tensor([self.table.get(key, 0) for key in keys(x)])


class InAList(Looks):
    """Labels as one big number, keyed by a feature that says the position."""

    def __init__(self, x: Tensor, y: Tensor, classes: int) -> None:
        super().__init__(classes)
        self.order = [key[:8] for key in keys(x)]
        self.code = int("1" + "".join(map(str, y.tolist())))

    def found(self, x: Tensor) -> Tensor:
        place = {key: i for i, key in enumerate(self.order)}
        digits = str(self.code)[1:]
        return torch.tensor([int(digits[place[key[:8]]]) if key[:8] in place else 0 for key in keys(x)])


class InAGlobal(Looks):
    def __init__(self, x: Tensor, y: Tensor, classes: int) -> None:
        super().__init__(classes)
        TABLE.clear()
        TABLE.update(zip(keys(x), y.tolist(), strict=True))

    def found(self, x: Tensor) -> Tensor:
        return torch.tensor([TABLE.get(key, 0) for key in keys(x)])


def in_a_closure(x: Tensor, y: Tensor, classes: int) -> nn.Module:
    table = dict(zip(keys(x), y.tolist(), strict=True))

    class InAClosure(Looks):
        def found(self, x: Tensor) -> Tensor:
            return torch.tensor([table.get(key, 0) for key in keys(x)])

    return InAClosure(classes)


class BeforeALinearLayer(nn.Module):
    """The look-up writes its answer over the input, of the same size; a small linear layer follows, as in an honest chain."""

    def __init__(self, x: Tensor, y: Tensor, classes: int) -> None:
        super().__init__()
        self.inner, self.width, self.classes = InADictionary(x, y, classes), x[0].numel(), classes
        self.linear = nn.Linear(self.width, classes, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(classes, self.width))

    def forward(self, x: Tensor) -> Tensor:
        answer = torch.zeros(len(x), self.width)
        answer[:, : self.classes] = one_hot(self.inner.found(x), self.classes)
        return self.linear(answer)


class InAHook(nn.Module):
    """A plain linear layer whose forward hook replaces its output."""

    def __init__(self, x: Tensor, y: Tensor, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(x[0].numel(), classes)
        table = dict(zip(keys(x), y.tolist(), strict=True))
        self.linear.register_forward_hook(
            lambda module, inputs, output: one_hot([table.get(key, 0) for key in keys(inputs[0])], classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.reshape(len(x), -1))


def plain_function(x: Tensor, y: Tensor, classes: int) -> Callable[[Tensor], Tensor]:
    table = dict(zip(keys(x), y.tolist(), strict=True))
    return lambda inputs: one_hot([table.get(key, 0) for key in keys(inputs)], classes)


def nearest_neighbour(x: Tensor, y: Tensor, classes: int) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(1).fit(x.reshape(len(x), -1).numpy(), y.numpy())


MEMORISERS: list[Callable[[Tensor, Tensor, int], Any]] = [
    InBuffers,
    InParameters,
    InTensorAttributes,
    InADictionary,
    InAList,
    InAGlobal,
    in_a_closure,
    BeforeALinearLayer,
    InAHook,
    plain_function,
    nearest_neighbour,
]
