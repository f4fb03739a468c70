"""The error budget: where the risk of one trained network comes from, each part as an interval.

For the risk F, the network h, the best of its class h*, the best function y* and the training minimiser h°:

    F(P, h) = F(P, y*)                         irreducible
            + F(P, h*) − F(P, y*)              approximation
            + F(D, h°) − F(P, h*)              sampling of the minimum (the term the slides' identity leaves out)
            + F(D, h) − F(D, h°)               optimization
            + F(P, h) − F(D, h)                generalization

an identity. The slides' "estimation = optimization + generalization" drops the third part, whose sign is not known (its mean
over samples is at most 0 when h° minimises).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nonvacuous.core.measured import Kind, Measured


@dataclass(frozen=True)
class Part:
    """One row of the budget: its name, the quantity in symbols, its interval, and where the interval comes from."""

    name: str
    symbol: str
    measured: Measured
    source: str


@dataclass(frozen=True)
class Budget:
    """The parts, which add up to the risk, and the risk itself."""

    parts: tuple[Part, ...]
    risk: Part

    @property
    def sum(self) -> Measured:
        """Interval sum of the parts: it contains the true risk. All parts rest on one event, so its δ is theirs, not their sum."""
        total = Measured.exact(0.0)
        for part in self.parts:
            total = total + part.measured
        return replace(total, delta=max(part.measured.delta for part in self.parts))

    def __getitem__(self, name: str) -> Measured:
        for part in self.parts:
            if part.name == name:
                return part.measured
        raise KeyError(name)

    def __str__(self) -> str:
        rows = [*self.parts, self.risk]
        return "\n".join(
            f"{part.name:<16}{part.measured!s:<28}{part.measured.kind.name.lower():<12}{part.source}" for part in rows
        )


def budget(train_risk: Measured, floor: float, risk: Measured, certified: Measured) -> Budget:
    """First form of the budget, from one network and no refit.

    Args:
        train_risk: F(D, h).
        floor: the least training risk any function reaches, because equal inputs carry different labels: F(D, h°) ≥ floor.
        risk: two-sided interval for F(P, h); [0, 1] without a held-out sample.
        certified: [0, best certificate] for F(P, h), which also bounds F(P, h*) and F(P, y*).
    """
    top = Measured(0.0, certified.upper, certified.kind, certified.delta)
    minimum = Measured(-certified.upper, train_risk.upper, certified.kind, certified.delta)
    return Budget(
        parts=(
            Part("irreducible", "F(P, y*)", top, "no more than the certified risk"),
            Part("approximation", "F(P, h*) − F(P, y*)", top, "no more than the certified risk"),
            Part("sampling", "F(D, h°) − F(P, h*)", minimum, "training risk above, certified risk below"),
            Part(
                "optimization",
                "F(D, h) − F(D, h°)",
                Measured(0.0, max(0.0, train_risk.upper - floor), Kind.EXACT),
                "training risk minus what conflicting duplicates force",
            ),
            Part("generalization", "F(P, h) − F(D, h)", risk - train_risk, "risk interval minus training risk"),
        ),
        risk=Part("risk", "F(P, h)", risk, "held-out sample" if risk.kind is not Kind.EXACT else "no held-out sample"),
    )
