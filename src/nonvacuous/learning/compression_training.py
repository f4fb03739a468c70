"""Training that minimises the length of the code together with the error: annealed levels in a random subspace."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from nonvacuous.learning.compression_stream import quarter_octave, start_of
from nonvacuous.learning.quantization import AnnealedLevels
from nonvacuous.learning.subspace import Subspace
from nonvacuous.learning.unfinished import Unfinished
from nonvacuous.runtime.tasks import Advance

DECIDED_FROM = 0.75
"""Part of the training after which the temperature is 0: from here on only the length of the code that is written counts."""

HEADER_NATS = 100.0
"""About what the rest of the message and ln(1/δ) cost: only a weight between terms of the objective."""


@dataclass(frozen=True)
class Settings:
    """How the training goes; see `nonvacuous.learning.compression.Compression`."""

    dimension: int
    levels: int
    epochs: int
    learning_rate: float
    batch_size: int
    active: float
    price: float
    rise: float


@dataclass
class CodeTraining:
    """Training of ``network`` (in evaluation mode throughout) on inputs [n, …] and targets [n], from its weights as they are.

    Outputs are centred on every batch and given trained offsets: the network's own constant is replaced by one that is coded. A
    network that is one linear layer takes its noise independently for every example (local reparameterisation, Kingma et al. 2015).
    """

    network: nn.Module
    inputs: Tensor
    targets: Tensor
    outputs: int
    subspace_seed: int
    settings: Settings
    generator: torch.Generator
    scale: int = field(init=False)
    offsets: Tensor = field(init=False)
    coordinates: Tensor = field(init=False)

    def run(self, advance: Advance, file: Path | None = None) -> None:
        """Train; the results are in ``scale``, ``offsets`` (float, of centred outputs) and ``coordinates``.

        file: where the unfinished training is kept, and gone on with.
        """
        how = self.settings
        self._names = [(name, p.shape) for name, p in self.network.named_parameters() if p.requires_grad]
        self._start = start_of(self.network)
        self._space = Subspace(len(self._start), how.dimension, self.subspace_seed)
        levels = AnnealedLevels(how.dimension, how.levels, how.active, self.generator)
        log_scale = nn.Parameter(torch.tensor(math.log(self._first_scale(levels))))
        offsets = nn.Parameter(torch.zeros(self.outputs))
        optimizer = torch.optim.Adam(
            [{"params": levels.parameters(), "lr": how.learning_rate}, {"params": [log_scale, offsets], "lr": 0.01}],
            betas=(0.9, 0.99),
        )
        rates = [group["lr"] for group in optimizer.param_groups]
        n = len(self.targets)
        batch = min(how.batch_size, n)
        steps = how.epochs * (n // batch)
        trained = {"scores": levels.scores, "log_scale": log_scale, "offsets": offsets}
        facts = {"seed": self.subspace_seed, "n": n, "how": list(astuple(how))}
        unfinished = Unfinished(file, trained, optimizer, (self.generator,), facts)
        begun, (error, mean_loss) = unfinished.resumed(0.5, 1.0)
        step = begun * (n // batch)
        advance(step)
        for epoch in range(begun, how.epochs):
            for rows in torch.randperm(n, generator=self.generator).split(batch):
                if len(rows) < batch:
                    continue
                done = step / steps
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * min(1.0, (step + 1) / 50) * (1 - 0.95 * done)
                outputs = self._noisy(self.inputs[rows], levels, log_scale) + offsets
                loss = cross_entropy(outputs, self.targets[rows])
                wrong = (outputs.argmax(1) != self.targets[rows]).float().mean().item()
                error, mean_loss = 0.98 * error + 0.02 * wrong, 0.98 * mean_loss + 0.02 * loss.item()
                nats = levels.nats(max(0.0, 1 - done / DECIDED_FROM))
                price = (how.price * (1.0 if done >= how.rise else done / how.rise) * nats + HEADER_NATS) / (2 * n)
                objective = ((loss * (error / mean_loss) + price).sqrt() + price.sqrt()) ** 2
                optimizer.zero_grad()
                objective.backward()
                optimizer.step()
                step += 1
                advance(1)
            unfinished.keep(epoch + 1, error, mean_loss)
        self.scale, self.offsets = _grid_step(log_scale.item()), offsets.detach()
        self.coordinates = levels.decided()

    def _noisy(self, x: Tensor, levels: AnnealedLevels, log_scale: Tensor) -> Tensor:
        """Centred outputs ``[b, outputs]`` of one network drawn from the levels' distributions."""
        scale = log_scale.exp()
        scale = scale + (quarter_octave(_grid_step(log_scale.item())) - scale).detach()
        mean, variance = levels.moments()
        if isinstance(self.network, nn.Linear):
            x = x - x.mean(0)
            clean = functional_call(self.network, self._weights(scale, mean), x)
            deviation = scale * x.norm(dim=1, keepdim=True) * (variance.sum() / self._space.order + 1e-12).sqrt()
            outputs = clean + deviation * torch.randn(clean.shape, generator=self.generator)
        else:
            noise = (variance + 1e-12).sqrt() * torch.randn(mean.shape, generator=self.generator)
            outputs = functional_call(self.network, self._weights(scale, mean + noise), x)
        centred: Tensor = outputs - outputs.mean(0)
        return centred

    def _weights(self, scale: Tensor, coordinates: Tensor) -> dict[str, Tensor]:
        flat = self._start + scale * self._space.expand(coordinates)
        parts = flat.split([math.prod(shape) for _, shape in self._names])
        return {name: part.view(shape) for (name, shape), part in zip(self._names, parts, strict=True)}

    @torch.no_grad()
    def _first_scale(self, levels: AnnealedLevels) -> float:
        """Scale at which the first noise moves the outputs by about 0.6, or the weights by half their size where they are not zero."""
        _, variance = levels.moments()
        drawn = variance.sqrt() * torch.randn(variance.shape, generator=self.generator)
        step = self._space.expand(drawn)
        if bool(self._start.any()):
            return float(self._start.norm() / step.norm() / 2)
        moved = functional_call(self.network, self._weights(torch.ones(()), drawn), self.inputs[:500])
        return float(0.6 / (moved - moved.mean(0)).std().clamp_min(1e-12))


def _grid_step(log_scale: float) -> int:
    """The quarter octave nearest to a scale."""
    return round(4 * log_scale / math.log(2))
