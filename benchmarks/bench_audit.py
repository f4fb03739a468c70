"""What an audit costs beyond the network's own forward passes, at n = 60,000 and 10,000: against a bare evaluation loop.

Run: ``python benchmarks/bench_audit.py [--n 60000]``. Data are random pixels (their values do not change the cost); the network is the
benchmark's convnet. The bare loop is what anybody writes to measure accuracy; the audit reads the same data once, hashes them,
finds overlaps, issues every certificate it can, and draws networks from a posterior besides.
"""

from __future__ import annotations

import argparse
import time

import torch

import nonvacuous
from nonvacuous.runtime.models import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=60_000, help="training examples")
    n = parser.parse_args().n
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = load_model("convnet:28x28x1-10")
    data = [(torch.rand(m, 1, 28, 28, generator=generator), torch.randint(10, (m,), generator=generator)) for m in (n, n // 6)]

    def bare() -> float:
        start = time.perf_counter()
        model.eval()
        with torch.no_grad():
            for x, y in data:
                sum(int((model(x[i : i + 256]).argmax(1) == y[i : i + 256]).sum()) for i in range(0, len(x), 256))
        return time.perf_counter() - start

    bare()
    loop = bare()
    begun = time.perf_counter()
    audit = nonvacuous.audit(model, train=data[0], test=data[1], initial=load_model("convnet:28x28x1-10"))
    total = time.perf_counter() - begun
    again = bare()
    seconds = audit.facts.seconds
    print(f"n = {n:,} + {n // 6:,}, convnet of {audit.facts.parameters:,} parameters, {torch.get_num_threads()} threads")
    print(f"bare evaluation loop        {loop:8.2f} s   (after the audit: {again:.2f} s)")
    print(f"audit, all of it            {total:8.2f} s   {audit.facts.passes:.2f} passes over the training sample")
    print(f"  the network's own         {seconds['forward']:8.2f} s")
    share = seconds["own"] / seconds["forward"]
    print(f"  the audit's own           {seconds['own']:8.2f} s   {share:.1%} of the network's (to stay under 20 %)")


if __name__ == "__main__":
    main()
