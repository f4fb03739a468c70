"""The training loop: reproducible to the bit, resumable to the bit, interruptible, and clear about what went wrong."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime import progress
from nonvacuous.runtime.checkpoints import Checkpoint
from nonvacuous.runtime.data import Sample, as_sample
from nonvacuous.runtime.models import initialise, load_model, weights_digest
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.training import OPTIMIZERS, TrainingRecord, resolved_device, train

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 6)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 0).astype(np.int64) + (X[:, 2] > 0)


def net(seed: int = 0) -> nn.Module:
    """Has batch normalisation (buffers) and dropout (global randomness)."""
    return initialise(
        lambda: nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)), seed
    )


def run(model: nn.Module | None = None, sample: Sample | None = None, **options: Any) -> tuple[str, TrainingRecord]:
    model = model or net()
    arguments: dict[str, Any] = {"epochs": 4, "learning_rate": 0.01, "batch_size": 32, "progress": False}
    record = train(model, sample or as_sample((X, Y)), **arguments | options)
    return weights_digest(model), record


class Items(Dataset[Any]):
    def __len__(self) -> int:
        return len(Y)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return torch.from_numpy(X[i]), int(Y[i])


def test_training_learns() -> None:
    model = initialise(lambda: load_model("mlp:64-64-10"), 0)
    train_part, test = load("digits", "train"), load("digits", "test")
    record = train(model, train_part, epochs=10, batch_size=32, learning_rate=3e-3, progress=False)
    assert record.epochs == 10 == len(record.accuracies) == len(record.seconds)
    assert record.losses[-1] < 0.15 < 1.0 < record.losses[0] and record.accuracies[-1] > 0.96
    assert not record.interrupted and record.seed == 0 and all(s > 0 for s in record.seconds)
    with torch.no_grad():
        right = [(model(b.inputs).argmax(1) == b.targets).float().mean() for b in test.batches(10**6)]
    assert float(right[0]) > 0.93


def test_the_seed_and_the_data_decide_everything() -> None:
    digest, record = run(seed=3)
    torch.rand(5)
    again, same = run(seed=3)
    assert digest == again and record.losses == same.losses and record.accuracies == same.accuracies
    assert run(seed=4)[0] != digest
    assert run(sample=as_sample(Items()), seed=3)[0] == digest, "lazily read data give the same"
    assert run(sample=as_sample((X * 1.01, Y)), seed=3)[0] != digest


def test_the_first_losses_are_those_of_a_loop_written_by_hand() -> None:
    plain = initialise(lambda: nn.Linear(6, 3), 1)
    expected = cross_entropy(plain(torch.from_numpy(X)), torch.from_numpy(Y)).detach()
    accuracy = (plain(torch.from_numpy(X)).argmax(1) == torch.from_numpy(Y)).float().mean()
    record = train(plain, as_sample((X, Y)), epochs=1, batch_size=200, progress=False)
    assert record.losses[0] == pytest.approx(float(expected), rel=1e-5) and record.accuracies[0] == pytest.approx(
        float(accuracy)
    )
    small_batches = initialise(lambda: nn.Linear(6, 3), 1)
    record = train(small_batches, as_sample((X, Y)), epochs=1, batch_size=7, learning_rate=1e-12, progress=False)
    assert record.losses[0] == pytest.approx(float(expected), rel=1e-5), "the mean is over examples, not over batches"


def test_global_generator_and_modes_are_put_back() -> None:
    model = net()
    model[1].eval()  # type: ignore[index]
    modes = [m.training for m in model.modules()]
    before = torch.random.get_rng_state()
    run(model)
    assert torch.equal(before, torch.random.get_rng_state())
    assert [m.training for m in model.modules()] == modes


@pytest.mark.parametrize("name", [*OPTIMIZERS, "callable"])
def test_resuming_gives_the_bits_of_an_unbroken_run(name: str, tmp_path: Path) -> None:
    optimizer = torch.optim.RMSprop if name == "callable" else name
    unbroken, full = run(optimizer=optimizer)
    file = tmp_path / "run.checkpoint"
    run(optimizer=optimizer, epochs=2, checkpoint=file)
    resumed, record = run(net(99), optimizer=optimizer, epochs=4, checkpoint=file, resume=True)
    assert resumed == unbroken and record.losses == full.losses and record.epochs == 4
    finished, record = run(net(99), optimizer=optimizer, epochs=4, checkpoint=file, resume=True)
    assert finished == unbroken and record.losses == full.losses, "a finished run is only read"
    assert [p.name for p in tmp_path.iterdir()] == ["run.checkpoint"]


class Interrupting:
    """A loss that raises on call number ``at``."""

    def __init__(self, at: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.left, self.error = at, error

    def __call__(self, answers: Tensor, targets: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return cross_entropy(answers, targets)


def test_ctrl_c_leaves_the_last_finished_epoch(tmp_path: Path) -> None:
    file = tmp_path / "run.checkpoint"
    two, _ = run(epochs=2)
    model = net()
    interrupted, record = run(model, checkpoint=file, loss=Interrupting(2 * 7 + 3))
    assert record.interrupted and record.epochs == 2
    assert interrupted == two, "the model is that of the second epoch"
    assert model.training
    assert run(net(9), checkpoint=file, resume=True)[0] == run()[0]
    at_once, record = run(loss=Interrupting(3))
    assert record.interrupted and record.losses == () and at_once == weights_digest(net())


def test_ctrl_c_while_the_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.checkpoint"
    run(epochs=1, checkpoint=file)
    before = file.read_bytes()

    def half(tensors: Any, path: Path, **_: Any) -> None:
        Path(path).write_bytes(before[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr("nonvacuous.runtime.checkpoints.save_file", half)
    _, record = run(net(), checkpoint=file, resume=True)
    assert record.interrupted and record.epochs == 1
    assert file.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["run.checkpoint"]


def test_an_error_also_leaves_the_last_finished_epoch() -> None:
    model = net()
    with pytest.raises(ZeroDivisionError):
        run(model, loss=Interrupting(7, ZeroDivisionError))
    assert weights_digest(model) == run(epochs=1)[0]


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def _epochs_in(file: Path) -> int:
    return len(Checkpoint(file).facts()["history"]) if file.exists() else 0


def test_a_real_ctrl_c(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from nonvacuous.runtime.training import initialise, train\n"
        "from nonvacuous.runtime.models import load_model\nfrom nonvacuous.runtime.sources import load\n"
        "model = initialise(lambda: load_model('mlp:64-32-10'), 0)\n"
        "record = train(model, load('digits'), epochs=100000, checkpoint=Path(sys.argv[1]))\n"
        "print(record.interrupted, record.epochs)\n"
    )
    file = tmp_path / "run.checkpoint"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not _epochs_in(file) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    interrupted, epochs = out.split()
    assert interrupted == "True" and int(epochs) >= 1
    history = Checkpoint(file).facts()["history"]
    assert len(history) in (int(epochs), int(epochs) + 1)
    assert err.startswith("epoch 1/100000: loss ") and len(err.splitlines()) in (int(epochs), int(epochs) - 1)


def test_regression() -> None:
    target = X @ np.arange(6, dtype=np.float32)
    sample = as_sample((X, target), regression=True)
    model = initialise(lambda: nn.Linear(6, 1), 0)
    record = train(model, sample, epochs=60, learning_rate=0.1, progress=False)
    assert record.accuracies == () and record.losses[-1] < 1e-3 < record.losses[0]
    flat = initialise(lambda: nn.Sequential(nn.Linear(6, 1), nn.Flatten(0)), 0)
    train(flat, sample, epochs=1, progress=False)
    with pytest.raises(InvalidInput, match=r"outputs of shape \(128, 3\); regression needs \[b\] or \[b, 1\]"):
        train(nn.Linear(6, 3), sample, epochs=1, progress=False)


def test_frozen_parameters_stay() -> None:
    model = net()
    model[0].requires_grad_(False)  # type: ignore[index]
    before = model[0].weight.clone()  # type: ignore[index,operator]
    run(model)
    assert torch.equal(before, model[0].weight)  # type: ignore[index]
    model.requires_grad_(False)
    with pytest.raises(InvalidInput, match=r"no parameters to train. Unfreeze"):
        run(model)


def test_divergence_is_told() -> None:
    model = initialise(lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), 0)
    before = weights_digest(model)
    with pytest.raises(
        InvalidInput, match=r"the training loss became (nan|inf): .* learning rate 1e\+30. Lower it \(try 1e\+29\)"
    ):
        run(model, learning_rate=1e30, optimizer="sgd")
    assert weights_digest(model) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "epochs = -1: it must be 0 or more"),
        ({"batch_size": 0}, "batch size 0"),
        ({"learning_rate": 0.0}, "learning rate 0.0: it must be positive"),
        ({"learning_rate": float("nan")}, "learning rate nan"),
        ({"optimizer": "adamx"}, "unknown optimizer 'adamx'. Possible: adam, adamw, sgd, momentum"),
        ({"device": "cuda:77"}, "device 'cuda:77' cannot be used"),
        ({"device": "gpu"}, "device 'gpu' cannot be used.*Use 'cpu' or 'auto'"),
        ({"resume": True}, "resume needs the checkpoint"),
        ({"resume": True, "checkpoint": Path("none.checkpoint")}, "there is no checkpoint none.checkpoint to resume from"),
        ({"checkpoint": Path("none/run.checkpoint")}, "folder of checkpoint none/run.checkpoint does not exist"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match=message):
        run(**options)


def test_a_model_that_does_not_fit_the_data() -> None:
    with pytest.raises(InvalidInput, match=r"outputs of shape \(32, 2\) for data with 3 classes; expected \[b, 3\]"):
        run(nn.Linear(6, 2))
    with pytest.raises(InvalidInput, match=r"outputs of shape \(32, 1\) for data with 1 classes; expected \[b, 2\]"):
        run(nn.Linear(6, 1), as_sample((X, np.zeros(len(X), dtype=int))))
    with pytest.raises(InvalidInput, match=r"failed on a batch of shape \(32, 6\)"):
        run(nn.Linear(5, 3))
    with pytest.raises(InvalidInput, match=r"outputs of shape \(192,\) for 32 examples"):
        run(nn.Sequential(nn.Linear(6, 6), nn.Flatten(0)))


def test_no_epochs_change_nothing() -> None:
    digest, record = run(epochs=0)
    assert digest == weights_digest(net()) and record == TrainingRecord((), (), (), 0)


def test_bad_checkpoints(tmp_path: Path) -> None:
    file = tmp_path / "run.checkpoint"
    run(epochs=2, checkpoint=file)
    with pytest.raises(InvalidInput, match=r"exists. Pass resume=True"):
        run(checkpoint=file)
    with pytest.raises(InvalidInput, match=r"belongs to another run: seed was 0, now 5; learning_rate was 0.01, now 0.1"):
        run(checkpoint=file, resume=True, seed=5, learning_rate=0.1)
    with pytest.raises(InvalidInput, match="already holds 2 epochs, more than 1"):
        run(checkpoint=file, resume=True, epochs=1)
    with pytest.raises(InvalidInput, match="checkpoint of another model"):
        run(nn.Linear(6, 3), checkpoint=file, resume=True)
    save_file({"a": torch.ones(1)}, file)
    with pytest.raises(InvalidInput, match="not a checkpoint of this version"):
        run(checkpoint=file, resume=True)
    file.write_bytes(b"scribble" * 4)
    with pytest.raises(InvalidInput, match="not a readable checkpoint"):
        run(checkpoint=file, resume=True)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters())
    optimizer.state[model.weight]["history"] = [1, 2]
    with pytest.raises(InvalidInput, match=r"the state of SGD holds a list \(history\), which a checkpoint cannot keep"):
        Checkpoint(tmp_path / "other").write(model, optimizer, {})
    assert not (tmp_path / "other").exists()


def test_a_checkpoint_holds_no_code(tmp_path: Path) -> None:
    file = tmp_path / "run.checkpoint"
    run(epochs=1, checkpoint=file)
    size = int.from_bytes(file.read_bytes()[:8], "little")
    header = json.loads(file.read_bytes()[8 : 8 + size])
    assert {"model/0.weight", "model/1.running_mean", "optimizer/0/exp_avg", "optimizer/0/step"} <= set(header)


def test_resolved_device() -> None:
    assert resolved_device("cpu") == torch.device("cpu")
    assert resolved_device("auto").type in ("cpu", "cuda")


def test_named_inputs() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, values: Tensor, scale: Tensor) -> dict[str, Tensor]:
            return {"logits": self.layer(values * scale)}

    sample = as_sample(({"values": X, "scale": np.ones((len(X), 1))}, Y))
    _, record = run(initialise(Named, 0), sample)
    assert record.losses[-1] < record.losses[0]


# Progress -------------------------------------------------------------------------------------------------------------------


def test_progress_elsewhere_is_one_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    run(epochs=2, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in err.splitlines()] == ["epoch 1/2", "epoch 2/2"] and "% right" in err
    run(epochs=2, progress=False)
    assert capsys.readouterr() == ("", "")
    sample = as_sample((X, X[:, 0]), regression=True)
    train(nn.Linear(6, 1), sample, epochs=1)
    assert "right" not in capsys.readouterr().err


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100))
    run(epochs=2, progress=True)
    shown = screen.getvalue()
    assert "training" in shown and "14/14" in shown and "% right" in shown
    assert capsys.readouterr() == ("", "")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
