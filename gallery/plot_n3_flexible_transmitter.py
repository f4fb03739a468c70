# slow
"""
The Flexible Transmitter
========================

Zhang and Zhou (2021): a neuron of two variables and two values, s + i·r' = σ((α + βi)(w·x + i·v·r)), which with β = 0 is the ordinary one.
Its memory folds the line as depth does. Beside networks of equal size it reads digits row by row no worse than a plain recurrent layer and
better than an LSTM, and a text letter by letter slightly worse than the first; without its memory it fails on both.
"""

# %%
# Two transmitters of ten parameters, run for t steps, have 2^(t−1) pieces; one hidden layer needs about as many neurons.
import math
import re
import shutil
import subprocess

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from nonvacuous.measures.student import mean_interval
from nonvacuous.networks.complex_activations import CReLU
from nonvacuous.networks.flexible_transmitter import FlexibleTransmitter, FlexibleTransmitterNet, sawtooth_layer
from nonvacuous.runtime.bundled import digits

line = torch.arange(1025) / 1024
stimuli = torch.zeros(1025, 8, 1)
stimuli[:, 0, 0] = line
folds = sawtooth_layer()(stimuli)[..., 0].detach()
for step in range(1, 8):
    turns = int((folds[:, step].diff().sign().diff() != 0).sum())
    assert turns + 1 == 2**step and folds[:: 1024 >> step, step].tolist() == [k % 2 for k in range(2**step + 1)]

ordinary, transmitter = nn.Linear(5, 7), FlexibleTransmitter(5, 7, conversion=1, activation=CReLU())
transmitter.load_state_dict({"weight": ordinary.weight, "bias": ordinary.bias}, strict=False)
anything = torch.randn(3, 4, 5)
assert torch.equal(transmitter(anything), ordinary(anything).relu())  # the ordinary neuron, number by number


# %%
# Networks of equal size: as many parameters as torch's RNN has, to the last, and its LSTM to within a unit.
class Recurrent(nn.Module):
    """Torch's recurrent layer and a readout, with :class:`FlexibleTransmitterNet`'s two ways to be run."""

    def __init__(self, kind, inputs, width, outputs):
        super().__init__()
        self.body, self.readout = kind(inputs, width, batch_first=True), nn.Linear(width, outputs)

    def transmit(self, x, memory=None):
        signals, memory = self.body(x, memory)
        return self.readout(signals), memory

    def forward(self, x):
        return self.readout(self.body(x)[0][:, -1])


def networks(inputs, width, lstm_width, outputs):
    """Makers of the networks compared, and of the transmitter without its memory (β = 0)."""
    return {
        "transmitter": lambda: FlexibleTransmitterNet(inputs, [width], outputs),
        "RNN": lambda: Recurrent(nn.RNN, inputs, width, outputs),
        "LSTM": lambda: Recurrent(nn.LSTM, inputs, lstm_width, outputs),
        "β = 0": lambda: FlexibleTransmitterNet(inputs, [width], outputs, conversion=1),
    }


train, test = digits("train"), digits("test")
rows, held = train.inputs.flatten(1, 2), test.inputs.flatten(1, 2)  # [n, 8 steps, 8 pixels]
readers = networks(8, 32, 15, 10)
sizes = {name: sum(p.numel() for p in make().parameters()) for name, make in readers.items()}
assert sizes["transmitter"] == sizes["RNN"] and abs(sizes["LSTM"] - sizes["RNN"]) < 20


def read(make, seed, rate, inputs, targets, steps=200):
    """Fraction wrong after training on 400 digits, which and in which order by the seed."""
    torch.manual_seed(seed)
    net, order = make(), torch.Generator().manual_seed(seed)
    own = 360 + torch.randperm(train.n - 360, generator=order)[:400]  # the first 360 are spare, to choose rates on
    adam = torch.optim.Adam(net.parameters(), rate)
    for _ in range(steps):
        batch = own[torch.randint(400, (64,), generator=order)]
        adam.zero_grad()
        cross_entropy(net(rows[batch]), train.targets[batch]).backward()
        adam.step()
    with torch.no_grad():
        return (net(inputs).argmax(1) != targets).double().mean().item()


wrong = {}
for name, make in readers.items():
    tried = {
        rate: sum(read(make, seed, rate, rows[:360], train.targets[:360]) for seed in (100, 101)) for rate in (0.01, 0.03)
    }
    wrong[name] = torch.tensor([read(make, seed, min(tried, key=tried.get), held, test.targets) for seed in range(8)])
versus = {name: mean_interval(100 * (wrong["transmitter"] - wrong[name]), 0.95) for name in ("RNN", "LSTM")}
for name, interval in versus.items():
    print(f"digits: transmitter less {name} {interval.lower:+.1f} … {interval.upper:+.1f} points of test error")
assert wrong["transmitter"].mean() < 0.12 and versus["RNN"].upper < 1.5 and versus["LSTM"].upper < 0
assert wrong["β = 0"].mean() > 0.35  # without memory the last row is all there is


# %%
# The King James text, where Debian's ``bible`` is installed: every fifth book held out, memories carried from piece to piece.
def letters():
    """Codes of the letters of the books to learn from and of the others, and how many letters there are."""
    books = {}
    for verse in subprocess.run(["bible", "-f", "gen1:1-rev22:21"], capture_output=True, text=True).stdout.splitlines():
        place, _, words = verse.partition(" ")
        books.setdefault(re.match(r"\d?[A-Za-z]+", place).group(), []).append(words.lower())
    texts = [" ".join(verses) + " " for verses in books.values()]
    code = {letter: k for k, letter in enumerate(sorted(set("".join(texts))))}
    held_out = "".join(texts[4::5])
    kept = "".join(text for k, text in enumerate(texts) if k % 5 != 4)
    return torch.tensor([code[c] for c in kept]), torch.tensor([code[c] for c in held_out]), len(code)


def pieces(codes, streams, count):
    """``count`` pieces of 32 steps of as many streams side by side."""
    side = codes[: len(codes) // streams * streams].view(streams, -1)
    return [side[:, 32 * k : 32 * k + 33] for k in range(count)]


def bits_a_letter(make, seed, kept, held_out, alphabet, steps=250):
    """On the held-out books, after one run through the first 250 pieces from a place of the seed's."""
    torch.manual_seed(seed)
    net, memory, total = make(), None, 0.0
    adam = torch.optim.Adam(net.parameters(), 0.02)
    for piece in pieces(kept.roll(-int(torch.randint(len(kept), ()))), 32, steps):
        outputs, memory = net.transmit(one_hot(piece[:, :-1], alphabet).float(), memory)
        memory = tuple(m.detach() for m in memory) if isinstance(memory, tuple) else memory.detach()
        adam.zero_grad()
        cross_entropy(outputs.flatten(0, 1), piece[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
    memory = None
    with torch.no_grad():
        for piece in pieces(held_out, 64, 40):
            outputs, memory = net.transmit(one_hot(piece[:, :-1], alphabet).float(), memory)
            total += cross_entropy(outputs.flatten(0, 1), piece[:, 1:].flatten()).item() / 40 / math.log(2)
    return total


bits = {}
if shutil.which("bible"):
    kept, held_out, alphabet = letters()
    writers = networks(alphabet, 64, 29, alphabet)
    bits = {name: [bits_a_letter(make, s, kept, held_out, alphabet) for s in range(3)] for name, make in writers.items()}
    for name in ("RNN", "LSTM"):
        interval = mean_interval([a - b for a, b in zip(bits["transmitter"], bits[name], strict=True)], 0.95)
        print(f"text: transmitter less {name} {interval.lower:+.2f} … {interval.upper:+.2f} bits a letter")
    gap = sum(bits["transmitter"]) / 3 - sum(bits["RNN"]) / 3
    assert abs(gap) < 0.15 and max(bits["transmitter"]) < min(bits["β = 0"])

# %%
figure, axes = plt.subplots(1, 3, figsize=(13.5, 4), layout="constrained", gridspec_kw={"width_ratios": [1.6, 1, 1]})
for step in range(1, 6):
    axes[0].plot(line, folds[:, step] + 1.25 * (5 - step), color=plt.cm.viridis(step / 6), lw=1.2)
    axes[0].text(1.02, 1.25 * (5 - step) + 0.4, f"step {step + 1}: {2**step} pieces", fontsize=8)
axes[0].set(
    xlim=(0, 1.3), xticks=(0, 0.5, 1), yticks=(), xlabel="x, shown at the first step", title="two transmitters, ten parameters"
)
panels = ((axes[1], {k: 100 * v for k, v in wrong.items()}, "test error, %"), (axes[2], bits, "bits a letter, held-out books"))
for axis, each, label in panels:
    for k, values in enumerate(each.values()):
        interval = mean_interval(values, 0.95)
        axis.plot([k] * len(values), values, "o", color="tab:blue" if k in (0, 3) else "tab:red", alpha=0.5)
        axis.plot([k + 0.15] * 2, [interval.lower, interval.upper], color="0.3", lw=3)
    axis.set(xticks=range(len(each)), xticklabels=each, ylabel=label)
axes[1].set(title="digits read row by row, eight seeds", yscale="log", yticks=(4, 8, 16, 32), yticklabels=(4, 8, 16, 32))
axes[1].minorticks_off()
axes[2].set_title("King James text, three seeds" if bits else "(no text installed)")
plt.show()
