"""The empirical tangent kernel of a batch-norm convnet, 200 × 200 × 10 × 10: ours beside the torch.func recipe, on one thread.

Run: ``python benchmarks/bench_empirical_ntk.py [examples] [--out FILE]``, pinned to one core (``taskset -c 0``). The recipe is the usual
one (jacrev under vmap, then a sum of einsums over the parameters); in the table it is the peer. Both run in turn, five times; wall and
processor time are the medians. Peak memory is that of a process of its own for each, beyond what it held before. The floor: the
multiplications of the symmetric half of the largest product that is left (the second convolution's), at this machine's speed of matrix
products, and the backward passes that any method takes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from _peer_process import COLUMNS, kept, machine
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from nonvacuous.kernels.empirical import empirical_ntk


def network() -> nn.Module:
    """23,946 parameters."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels, out in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if out < 64 else []
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    net(2 * torch.randn(64, 1, 28, 28))
    return net.eval()


def recipe(model: nn.Module, x: Tensor) -> Tensor:
    """``[n, n, k, k]`` from whole Jacobians."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def one(values: dict[str, Tensor], example: Tensor) -> Tensor:
        result: Tensor = functional_call(model, values, (example[None],))[0]
        return result

    rows = [j.flatten(2) for j in vmap(jacrev(one), (None, 0))(parameters, x).values()]
    total = torch.einsum("naf,mbf->nmab", rows[0], rows[0])
    for row in rows[1:]:
        total += torch.einsum("naf,mbf->nmab", row, row)
    return total


METHODS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {"ours": empirical_ntk, "recipe": recipe}


def peak(method: str, n: int) -> float:
    """MiB beyond the start, by the kernel's high-water mark."""
    net, x = network(), torch.randn(n, 1, 28, 28)
    METHODS[method](net, x[:2])
    Path("/proc/self/clear_refs").write_text("5")

    def mark(word: str) -> int:
        return next(
            int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(word)
        )

    before = mark("VmRSS")
    METHODS[method](net, x)
    return (mark("VmHWM") - before) / 1024


def backward_seconds(net: nn.Module, x: Tensor) -> float:
    """Processor seconds of ten backward passes to the layers' outputs."""
    begun = time.process_time()
    for chunk in x.split(25):
        values = net(chunk)
        inputs = [net[0].weight]
        for a in range(10):
            torch.autograd.grad(values[:, a].sum(), inputs, retain_graph=True)
    return time.process_time() - begun


def main(n: int, out: str | None = None) -> None:
    """Print times, memory, ratios and the floor."""
    torch.set_num_threads(1)
    net, x = network(), torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in METHODS}
    found: dict[str, Tensor] = {}
    for method in METHODS.values():
        method(net, x[:4])
    for _ in range(5):
        for name, method in METHODS.items():
            wall, cpu = time.perf_counter(), time.process_time()
            found[name] = method(net, x)
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    off = float((found["ours"] - found["recipe"]).abs().max() / found["recipe"].abs().max())
    a = torch.randn(250, 4640)
    begun = time.process_time()
    for _ in range(10):
        a @ a.mT
    speed = 10 * 2 * 250 * 250 * 4640 / (time.process_time() - begun)
    product = (10 * n) ** 2 * 4640 / speed
    memory = {
        name: float(
            subprocess.run([sys.executable, __file__, str(n), name], capture_output=True, text=True, check=True).stdout
        )
        for name in METHODS
    }
    seconds = {name: [median(part) for part in zip(*runs, strict=True)] for name, runs in times.items()}
    for name in METHODS:
        print(f"{name:8} {seconds[name][0]:6.2f} s wall {seconds[name][1]:6.2f} s processor {memory[name]:7.0f} MiB")
    print(
        f"ratio: {seconds['recipe'][0] / seconds['ours'][0]:.1f} wall, {seconds['recipe'][1] / seconds['ours'][1]:.1f} processor, "
        f"{memory['recipe'] / memory['ours']:.1f} memory; largest difference {off:.1e} of the largest entry"
    )
    backward = backward_seconds(net, x)
    print(f"floor: {product:.2f} s of products at {speed / 1e9:.0f} GFLOP/s and {backward:.2f} s of backward passes")
    row = {"case": f"empirical batch-norm-convnet {n} 10", "floor_seconds": f"{product + backward:.4f}", "machine": machine()}
    for side, name in (("ours", "ours"), ("peer", "recipe")):
        wall, cpu = seconds[name]
        row |= {
            f"{side}_seconds": f"{wall:.4f}",
            f"{side}_processor_seconds": f"{cpu:.4f}",
            f"{side}_mib": f"{memory[name]:.0f}",
        }
    kept(
        out,
        [
            {
                **dict.fromkeys(COLUMNS, ""),
                **row,
                "command": "python " + " ".join(["benchmarks/bench_empirical_ntk.py", *sys.argv[1:]]),
            }
        ],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("examples", nargs="?", type=int, default=200)
    parser.add_argument("method", nargs="?", help="measure this one's peak memory alone")
    parser.add_argument("--out", help="keep the numbers in this table")
    options = parser.parse_args()
    if options.method:
        torch.set_num_threads(1)
        print(peak(options.method, options.examples))
    else:
        main(options.examples, options.out)
