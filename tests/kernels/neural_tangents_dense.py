"""Makes neural_tangents_dense.json: values of neural-tangents 0.6.5 that tests compare with.

In an environment of its own, since that library needs an old jax:
    pip install "jax==0.4.30" "jaxlib==0.4.30" "neural-tangents==0.6.5"
    python tests/kernels/neural_tangents_dense.py
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
from neural_tangents import stax

jax.config.update("jax_enable_x64", True)
SQRT2 = 2**0.5
ACTIVATIONS = {
    "relu": stax.Relu,
    "leaky_relu": lambda: stax.LeakyRelu(0.01),
    "abs": stax.Abs,
    "erf": stax.Erf,
    "gelu": stax.Gelu,
    "sin": stax.Sin,
    "cos": stax.Cos,
    "exp": lambda: stax.Exp(a=1, b=1),
    "gaussian": lambda: stax.Gaussian(a=1, b=-1),
    "sign": stax.Sign,
    "identity": stax.Identity,
}


def chain(activation, depth, w, b):
    layers = [stax.Dense(1, W_std=w, b_std=b)]
    for _ in range(depth):
        layers += [ACTIVATIONS[activation](), stax.Dense(1, W_std=w, b_std=b)]
    return stax.serial(*layers)


def dense(w=SQRT2, b=0.0):
    return stax.Dense(1, W_std=w, b_std=b)


COMPOSED = {
    "residual": stax.serial(
        dense(b=0.2),
        stax.FanOut(2),
        stax.parallel(stax.Identity(), stax.serial(stax.Erf(), dense(b=0.2))),
        stax.FanInSum(),
        stax.Relu(),
        dense(),
    ),
    "layer norm": stax.serial(
        dense(1.1, 0.4), stax.LayerNorm(), stax.Relu(), dense(1.3), stax.LayerNorm(), stax.Gelu(), dense()
    ),
}


def main():
    x = np.random.default_rng(0).normal(size=(6, 5)).round(3)
    y = np.random.default_rng(1).normal(size=(3, 5)).round(3)
    y[1] = -x[2]
    cases = []
    for activation in ACTIVATIONS:
        for depth, w, b in ((1, SQRT2, 0.0), (2, 1.3, 0.4), (5, 1.1, 0.1)):
            if (activation, depth) in (("exp", 2), ("exp", 5), ("sign", 5)):
                continue
            kernel = jax.jit(chain(activation, depth, w, b)[2], static_argnames="get")(x, y, get=("nngp", "ntk"))
            cases.append(
                {"activation": activation, "depth": depth, "weight_std": w, "bias_std": b}
                | {name: np.asarray(getattr(kernel, name)).tolist() for name in ("nngp", "ntk")}
            )
    for name, network in COMPOSED.items():
        kernel = network[2](x, y, ("nngp", "ntk"))
        cases.append({"composed": name} | {part: np.asarray(getattr(kernel, part)).tolist() for part in ("nngp", "ntk")})
    text = json.dumps({"x": x.tolist(), "y": y.tolist(), "cases": cases})
    Path(__file__).with_suffix(".json").write_text(
        text.replace('{"activation', '\n{"activation').replace('{"composed', '\n{"composed') + "\n"
    )


if __name__ == "__main__":
    main()
