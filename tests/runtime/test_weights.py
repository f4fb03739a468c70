"""Weights: what is saved comes back, what does not fit is listed, and no file can run code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from nonvacuous.core.errors import InvalidInput, UntrustedCode
from nonvacuous.runtime.models import initialise, load_model, load_weights, save_weights, weights_digest


def net(seed: int = 0) -> nn.Module:
    return initialise(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), seed)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4, bias=False)
        self.outer = nn.Linear(4, 4, bias=False)
        self.outer.weight = self.inner.weight


def refused(path: Path, message: str, model: nn.Module | None = None, error: type[Exception] = InvalidInput) -> None:
    model = model or net()
    before = weights_digest(model)
    with pytest.raises(error, match=message):
        load_weights(model, path)
    assert weights_digest(model) == before, "a refused file changes nothing"


@pytest.mark.parametrize("form", ["safetensors", "pt", "nested", "ckpt", "parallel", "compiled", "parameters"])
def test_weights_come_back(form: str, tmp_path: Path) -> None:
    model = net(1)
    model[1].running_mean.fill_(3.0)  # type: ignore[index]
    path = tmp_path / f"w.{'safetensors' if form == 'safetensors' else 'ckpt' if form == 'ckpt' else 'pth'}"
    state = model.state_dict()
    if form == "safetensors":
        save_weights(model, path)
    elif form in ("nested", "ckpt"):
        torch.save({"state_dict": state, "epoch": 3}, path)
    elif form in ("parallel", "compiled"):
        prefix = "module." if form == "parallel" else "_orig_mod."
        torch.save({prefix + name: x for name, x in state.items()}, path)
    else:
        torch.save({name: nn.Parameter(x) if x.is_floating_point() else x for name, x in state.items()}, path)
    other = net(2)
    load_weights(other, path)
    assert weights_digest(other) == weights_digest(model)
    assert not list(tmp_path.glob(".*")), "no partial file stays behind"


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    model, other = Tied(), Tied()
    path = tmp_path / "w.safetensors"
    save_weights(model, path)
    load_weights(other, path)
    assert other.outer.weight is other.inner.weight
    assert weights_digest(other) == weights_digest(model)
    save_model(model, str(path))  # safetensors' own way keeps whichever name it likes
    load_weights(other, path)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    load_weights(other, tmp_path / "w.pt")
    assert weights_digest(other) == weights_digest(model)


def test_views_and_half_precision_are_saved(tmp_path: Path) -> None:
    model = nn.Linear(3, 3).to(torch.bfloat16)
    model.weight = nn.Parameter(model.weight.detach().t())
    save_weights(model, tmp_path / "w.safetensors")
    other = nn.Linear(3, 3).to(torch.bfloat16)
    load_weights(other, tmp_path / "w.safetensors")
    assert weights_digest(other) == weights_digest(model)


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    state = net().state_dict()
    save_file({k: v for k, v in state.items() if not k.startswith("2.")}, path)
    refused(path, "does not fit the model: missing 2.weight, 2.bias. Name the model that these weights were saved from")
    save_file(state | {f"extra.{i}": torch.ones(1) for i in range(9)}, path)
    refused(path, "unexpected extra.0, extra.1, extra.2, extra.3 and 5 more")
    save_file(state | {"0.weight": torch.ones(5, 3)}, path)
    refused(path, r"other shapes: 0.weight \(5, 3\) in the file, \(4, 3\) in the model")
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    save_file(old, path)
    load_weights(net(), path)  # files of before that counter existed


def test_nan_weights_are_refused(tmp_path: Path) -> None:
    model = net()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")  # type: ignore[index]
        model[2].bias[0] = float("inf")  # type: ignore[index]
    save_weights(model, tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", "NaN or Inf in 2.bias, 2.weight|NaN or Inf in 2.weight, 2.bias")


class Malicious:
    """Pickles to an instruction to create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_a_checkpoint_with_code_in_it_is_refused_and_nothing_runs(
    suffix: str, nested: bool, old: bool, tmp_path: Path
) -> None:
    target, path = tmp_path / "ran", tmp_path / f"w{suffix}"
    payload: Any = Malicious(target)
    torch.save(
        {"state_dict": net().state_dict(), "hook": payload} if nested else payload,
        path,
        _use_new_zipfile_serialization=not old,
    )
    refused(path, "holds more than tensors and could run code.*nothing ran.*safetensors", error=UntrustedCode)
    assert not target.exists()
    path.write_bytes(pickle.dumps(payload))
    refused(path, "could run code|is damaged")
    assert not target.exists()
    pickle.loads(path.read_bytes())
    assert target.exists(), "the payload does work where someone is careless"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_pickled_module_or_script_is_refused(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "holds more than tensors", error=UntrustedCode)
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "s.pt")  # type: ignore[no-untyped-call]
    refused(tmp_path / "s.pt", "holds more than tensors", error=UntrustedCode)


def test_unreadable_files(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "does not exist")
    refused(tmp_path, "does not exist")
    for name, content in (
        ("a.safetensors", b""),
        ("b.safetensors", b"scribble" * 9),
        ("c.pt", b""),
        ("d.pt", b"scribble" * 9),
    ):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "is not a readable safetensors file|is damaged or not a torch file")
    save_weights(net(), tmp_path / "e.safetensors")
    (tmp_path / "e.safetensors").write_bytes((tmp_path / "e.safetensors").read_bytes()[:-9])
    refused(tmp_path / "e.safetensors", "is not a readable safetensors file")
    torch.save(net().state_dict(), tmp_path / "f.pt")
    (tmp_path / "f.pt").write_bytes((tmp_path / "f.pt").read_bytes()[:-200])
    refused(tmp_path / "f.pt", "is damaged or not a torch file")
    (tmp_path / "g.h5").write_bytes(b"")
    refused(tmp_path / "g.h5", "weights are read from .safetensors, or from .bin, .ckpt, .pt, .pth")
    torch.save([1, 2], tmp_path / "h.pt")
    refused(tmp_path / "h.pt", "holds a list; expected a state dict")
    torch.save({"weights": torch.ones(1), "epoch": 3}, tmp_path / "i.pt")
    refused(tmp_path / "i.pt", "entries that are not tensors: epoch")


def test_saving_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match=r"cannot be written: No such file or directory. Choose a folder that exists"):
        save_weights(net(), tmp_path / "nowhere" / "w.safetensors")
    path = tmp_path / "w.safetensors"
    save_weights(net(1), path)
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nonvacuous.runtime.weights.save_file", full)
    with pytest.raises(InvalidInput, match=r"No space left on device. Free some space"):
        save_weights(net(2), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_the_digest_sees_every_change() -> None:
    model = net()
    digests = {weights_digest(model)}
    with torch.no_grad():
        model[0].weight[0, 0] += 1e-3  # type: ignore[index]
    digests.add(weights_digest(model))
    model[1].running_var[2] += 1.0  # type: ignore[index]
    digests.add(weights_digest(model))
    digests.add(weights_digest(model.double()))
    assert len(digests) == 4
    assert weights_digest(nn.Linear(2, 3, bias=False)) != weights_digest(nn.Linear(3, 2, bias=False))


def test_the_digest_is_fixed_for_ever() -> None:
    model = load_model("linear:2-2")
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.arange(p.numel()).reshape(p.shape))
    assert weights_digest(model) == "e2325378bbb7ee1a61aac5e0d33dc2ecaf599b5c9a5b02d1a113fd4133dcd643"
