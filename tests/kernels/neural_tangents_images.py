"""Makes neural_tangents_images.json: values of neural-tangents 0.6.5 that tests compare with.

In an environment of its own, since that library needs an old jax:
    pip install "jax==0.4.30" "jaxlib==0.4.30" "neural-tangents==0.6.5"
    python tests/kernels/neural_tangents_images.py
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
from neural_tangents import stax

jax.config.update("jax_enable_x64", True)

ROOT2 = 2**0.5


def conv(size=(3, 3), stride=(1, 1), padding="SAME", w=ROOT2, b=0.1):
    return stax.Conv(16, size, stride, padding, W_std=w, b_std=b)


def dense(w=1.5, b=0.2):
    return stax.Dense(1, W_std=w, b_std=b)


def block(branch, shortcut):
    return stax.serial(stax.FanOut(2), stax.parallel(branch, shortcut), stax.FanInSum())


NETWORKS = {
    "flatten": (conv(), stax.Relu(), conv(), stax.Relu(), stax.Flatten(), dense()),
    "global pooling": (conv(), stax.Relu(), conv(b=0.0), stax.Relu(), stax.GlobalAvgPool(), dense()),
    "valid": (
        conv((3, 2), padding="VALID"),
        stax.Relu(),
        conv((2, 3), padding="VALID"),
        stax.Relu(),
        stax.GlobalAvgPool(),
        dense(),
    ),
    "strides": (
        conv(stride=(2, 2)),
        stax.Relu(),
        conv(stride=(1, 2), padding="VALID"),
        stax.Relu(),
        stax.GlobalAvgPool(),
        dense(),
    ),
    "average pooling": (
        conv(),
        stax.Relu(),
        stax.AvgPool((2, 2), (2, 2), "VALID"),
        conv(),
        stax.Relu(),
        stax.AvgPool((2, 3), (1, 1), "VALID"),
        stax.Flatten(),
        dense(),
        stax.Relu(),
        dense(),
    ),
    "residual": (
        conv(),
        block(stax.serial(stax.Relu(), conv(), stax.Relu(), conv()), stax.Identity()),
        block(stax.serial(stax.Relu(), conv(stride=(2, 2)), stax.Relu(), conv()), conv((1, 1), (2, 2), "VALID", 1.0, 0.0)),
        stax.Relu(),
        stax.GlobalAvgPool(),
        dense(),
    ),
    "residual, flatten": (
        conv(),
        block(stax.serial(stax.Relu(), conv()), stax.Identity()),
        stax.Relu(),
        stax.Flatten(),
        dense(),
    ),
    "layer norm": (
        conv(),
        stax.LayerNorm((1, 2, 3), 1e-3),
        stax.Relu(),
        conv(),
        stax.Relu(),
        stax.GlobalAvgPool(),
        dense(),
        stax.LayerNorm(-1),
        stax.Relu(),
        dense(),
    ),
    "erf": (conv(), stax.Erf(), conv(), stax.Erf(), stax.GlobalAvgPool(), dense()),
}


def main() -> None:
    generator = np.random.default_rng(0)
    first, second = (np.round(generator.normal(size=(n, 7, 7, 2)), 3) for n in (3, 2))
    values = {"x1": first.transpose(0, 3, 1, 2).tolist(), "x2": second.transpose(0, 3, 1, 2).tolist(), "kernels": {}}
    for name, layers in NETWORKS.items():
        kernel = stax.serial(*layers)[2](first, second, ("nngp", "ntk"))
        values["kernels"][name] = {"nngp": np.asarray(kernel.nngp).tolist(), "ntk": np.asarray(kernel.ntk).tolist()}
    Path(__file__).with_suffix(".json").write_text(json.dumps(values) + "\n")


if __name__ == "__main__":
    main()
