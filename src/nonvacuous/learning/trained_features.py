"""A trained network as fixed features and a linear layer, and the Gibbs classifier that moves that layer a little."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import UnsupportedModule
from nonvacuous.learning.gaussian_head import LEAD, GaussianHead


class TrainedFeatures(nn.Module):
    """The inputs of a network's last linear layer, ``[b, size]``, in units of that layer's root-mean-square weight; never in training mode.

    Raises :class:`UnsupportedModule` for a network that has no linear layer, or one whose last layer's weights are all zero.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
        if not layers:
            raise UnsupportedModule(
                f"{type(network).__name__} has no nn.Linear: the prior is a Gaussian around the last one's weights"
            )
        self.network, self._last = network.eval(), (layers[-1],)
        self.size, self.classes = layers[-1].in_features, layers[-1].out_features

    @property
    def last(self) -> nn.Linear:
        """The layer whose weights the prior is centred on."""
        return self._last[0]

    def train(self, mode: bool = True) -> TrainedFeatures:
        """Stays in evaluation mode: batch statistics would make the features depend on other examples."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        handle = self.last.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            answers = self.network(x)
        finally:
            handle.remove()
        if len(seen) != 1 or seen[0].ndim != 2 or not torch.allclose(self.last(seen[0]), answers, rtol=1e-4, atol=1e-5):
            raise UnsupportedModule(
                "the network's outputs are not those of its last nn.Linear: let it end with that layer, or use the method holdout"
            )
        return seen[0] * self.unit().to(seen[0])

    def unit(self) -> Tensor:
        """Root mean square of the last layer's weights."""
        found = self.last.weight.detach().double().square().mean().sqrt()
        if not float(found) > 0:
            raise UnsupportedModule("the last linear layer's weights are all zero: they give the prior no scale")
        return found

    @torch.no_grad()
    def own_logits(self, features: Tensor) -> Tensor:
        """What the network itself answers, [b, classes] in float64, from its features."""
        answers = features.double() @ (self.last.weight.double() / self.unit()).T
        return answers if self.last.bias is None else answers + self.last.bias.double()


class GibbsOnNetwork(nn.Module):
    """The Gibbs classifier: every call draws, for every example, fresh weights of the last layer around the trained ones."""

    def __init__(self, features: TrainedFeatures, head: GaussianHead) -> None:
        super().__init__()
        self.features, self.head = features, head

    def law(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Means and deviations of the logits, each [b, classes]."""
        mean, std = self.head.law(features)
        return self.features.own_logits(features) + mean, std

    def least_lead(self, features: Tensor) -> Tensor:
        """By how much the right logit must lead to count as right, [b]: fixed by prior and input, far above the rounding of features."""
        own = LEAD * self.features.size**0.5 * features.double().square().sum(1).sqrt()
        return own + self.head.least_lead(features)

    @torch.no_grad()
    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean, std = self.law(self.features(x))
        return mean + std * torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
