"""Search among the floats themselves: the answer is always a float that the predicate accepted."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable


def ordinal(x: float) -> int:
    """The place of a float ≥ 0 among the floats; 0.0 ↦ 0, and consecutive floats have consecutive places.

    >>> ordinal(5e-324), ordinal(math.nextafter(1.0, 2.0)) - ordinal(1.0)
    (1, 1)
    """
    (bits,) = struct.unpack("<q", struct.pack("<d", abs(x)))
    return int(bits)


def float_at(place: int) -> float:
    """Inverse of :func:`ordinal`."""
    (x,) = struct.unpack("<d", struct.pack("<q", place))
    return float(x)


def boundary(accepts: Callable[[float], bool], accepted: float, refused: float, guess: float) -> float:
    """A float that ``accepts``, next to one that it does not, between an accepted end and a refused end, both ≥ 0.

    Neither end is evaluated; ``accepted`` is returned if nothing nearer is accepted.  The guess only saves time: steps away
    from it grow by 8 until they straddle the boundary, which bisection then finds.  If ``accepts`` is monotone the result is
    the accepted float nearest ``refused``; if not, it is still accepted.

    >>> boundary(lambda x: x * x >= 2, 2.0, 0.0, 1.4)
    1.4142135623730951
    """
    yes, no = ordinal(accepted), ordinal(refused)
    direction = 1 if yes > no else -1
    place = ordinal(guess) if math.isfinite(guess) and guess >= 0 else (yes + no) // 2
    step, last = 1, 0
    while abs(yes - no) > 1:
        inside = (place - no) * direction > 0 and (yes - place) * direction > 0
        if not inside or step > 2**40:
            place = (yes + no) // 2
        answer = accepts(float_at(place))
        toward = -direction if answer else direction
        if answer:
            yes = place
        else:
            no = place
        if last and toward != last:
            step = 2**62
        last = toward
        place += toward * step
        step *= 8
    return float_at(yes)
