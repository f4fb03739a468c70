"""The command line: ``nonvacuous train | audit | certify | verify | bounds | gallery | build``. Loads no torch until a command needs it."""

from __future__ import annotations

import click

from nonvacuous._version import __version__
from nonvacuous.commands.audit import audit
from nonvacuous.commands.bounds import bounds
from nonvacuous.commands.budget import budget
from nonvacuous.commands.build import build
from nonvacuous.commands.certify import certify
from nonvacuous.commands.curvature import curvature
from nonvacuous.commands.gallery import gallery
from nonvacuous.commands.landscape import landscape
from nonvacuous.commands.program import Program
from nonvacuous.commands.study import study
from nonvacuous.commands.train import train
from nonvacuous.commands.verify import verify


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="nonvacuous", message="%(prog)s %(version)s")
def main() -> None:
    """What can be promised about a trained network, where its error is, and what would reduce it.

    Train a small network, audit it, and check the certificates; no download needed:

    \b
      nonvacuous train --model mlp:64-64-10 --train digits --epochs 30 --out w.safetensors
      nonvacuous audit --model mlp:64-64-10 --weights w.safetensors --train digits --test digits --out audit
      nonvacuous verify audit

    MODEL is mlp:64-64-10, convnet:28x28x1-10, linear:30-2, or pkg.module:factory (a file in the current directory will do).
    DATA is digits, breast-cancer, fashion-mnist, file.npz (arrays x and y), a .csv or .parquet table, a folder of images,
    hf:NAME, series:elnino:lags=12 (a series split by time), or pkg.module:factory.
    """


for command in (train, audit, certify, budget, verify, bounds, landscape, curvature, study, gallery, build):
    main.add_command(command)
