"""The verb ``certify``, resumed runs, files, and the second level of verification."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import nonvacuous
from nonvacuous.cli import main
from nonvacuous.commands.certify import _method
from nonvacuous.core.errors import InvalidInput
from nonvacuous.learning import plain
from nonvacuous.learning.auto import Auto, finished
from nonvacuous.learning.data_dependent import DataDependent
from nonvacuous.learning.files import kept, save
from nonvacuous.learning.holdout import HoldOut
from nonvacuous.learning.method import Task
from nonvacuous.learning.methods import METHODS
from nonvacuous.learning.pac_bayes import PacBayes
from nonvacuous.learning.surrogate import Surrogate
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.models import linear
from nonvacuous.runtime.weights import weights_digest


def blobs(n: int = 300, classes: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(n) % classes
    return torch.randn(n, 2, generator=generator) + 3.0 * torch.eye(2)[y % 2], y


def factory() -> torch.nn.Module:
    return linear(2, 2)


SMALL = HoldOut(epochs=6, learning_rate=0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by the command line on an .npz file. Read only."""
    import numpy as np

    place = tmp_path_factory.mktemp("certify")
    x, y = blobs()
    np.savez(place / "data.npz", x=x.numpy(), y=y.numpy())
    words = [
        "certify",
        "--model",
        "linear:2-2",
        "--train",
        place / "data.npz",
        "--out",
        place / "out",
        "--method",
        "holdout",
        "--quiet",
    ]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr
    return place


def test_command_writes_what_it_promises_and_verify_measures_it_again(folder: Path) -> None:
    out = folder / "out"
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "certificates", "certify.html", "certify.json"}
    assert nonvacuous.verify(out, train=tuple(blobs())).summary == "1 verified, 0 refused"
    result = CliRunner().invoke(main, ["verify", str(out), "--train", str(folder / "data.npz")])
    assert result.exit_code == 0 and "1 verified" in result.stdout
    page = (out / "certify.html").read_text(encoding="utf-8")
    assert "What a person must argue" in page and "http-equiv" in page and "<script" not in page


def test_other_data_and_other_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    x, y = blobs()
    assert not nonvacuous.verify(folder / "out", train=(x + 1, y)).ok
    one = nonvacuous.certify(factory, (x, y), method=SMALL)
    save(one, tmp_path, facts={"model": "linear:2-2"})
    assert nonvacuous.verify(tmp_path, train=(x, y)).ok
    from nonvacuous.runtime.weights import save_weights

    save_weights(factory(), tmp_path / "model.safetensors")
    again = nonvacuous.verify(tmp_path, train=(x, y))
    assert not again.ok and "weights" in again.results[0].message


def test_a_file_cannot_have_code_imported(folder: Path, tmp_path: Path) -> None:
    x, y = blobs()
    save(nonvacuous.certify(factory, (x, y), method=SMALL), tmp_path, facts={"model": "antigravity:fly"})
    with pytest.raises(InvalidInput, match="not imported on the word of a file"):
        nonvacuous.verify(tmp_path, train=(x, y))
    assert nonvacuous.verify(tmp_path, train=(x, y), factory=factory).ok
    index = json.loads((tmp_path / "certify.json").read_text())
    index["certified"][0]["weights"] = "../../secret.safetensors"
    (tmp_path / "certify.json").write_text(json.dumps(index))
    with pytest.raises(InvalidInput, match="outside its folder"):
        nonvacuous.verify(tmp_path, train=(x, y), factory=factory)


def test_interrupted_run_ends_like_an_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = blobs()
    whole = nonvacuous.certify(factory, data, method=SMALL)
    steps = []

    def stop(self: object) -> None:
        steps.append(1)
        if len(steps) == 7:  # in the fourth epoch of six
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(plain._Counting, "advance", stop)
        with pytest.raises(KeyboardInterrupt):
            nonvacuous.certify(factory, data, method=SMALL, folder=tmp_path / "unfinished")
    assert (tmp_path / "unfinished" / "holdout" / "holdout.safetensors").is_file()
    with pytest.raises(InvalidInput, match="another run"):
        nonvacuous.certify(factory, data, method=SMALL, folder=tmp_path / "unfinished", seed=1)
    resumed = nonvacuous.certify(factory, data, method=SMALL, folder=tmp_path / "unfinished")
    assert resumed.certificate.digest == whole.certificate.digest
    assert weights_digest(resumed.model) == weights_digest(whole.model)


def test_auto_pays_for_its_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "half", "tests.learning.soundness:Half")
    auto = Auto(candidates=("holdout", "half"), weights=(3.0, 1.0))
    one = nonvacuous.certify(factory, blobs(), method=auto, comparator=False)
    issued = (one, *one.others)
    assert len(issued) == 2
    assert sum(each.certificate.delta for each in issued) <= 0.05
    assert one.certificate.value == min(each.certificate.value for each in issued)
    assert all(set(each.certificate.ledger) == {"method holdout", "method half"} for each in issued)
    alone = nonvacuous.certify(factory, blobs(), method="holdout")
    assert (
        next(e for e in issued if e.certificate.measurement["method"] == "holdout").certificate.value > alone.certificate.value
    )


def test_comparator_is_a_statement_of_its_own() -> None:
    one = nonvacuous.certify(factory, blobs(), method=Auto(candidates=("holdout",), weights=(1.0,)))
    assert one.comparator is not None and one.comparator.certificate.delta == 0.05 and not one.comparator.certificate.ledger
    assert one.record.multiple is not None and one.record.multiple > 0


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(InvalidInput, match="strictly between 0 and 1"):
        nonvacuous.certify(factory, blobs(), method=HoldOut(fraction=fraction))


def test_too_few_examples_says_how_many_would_do() -> None:
    x, y = blobs(8)
    with pytest.raises(InvalidInput, match=r"8 examples are too few.*38 examples will do"):
        nonvacuous.certify(factory, (x, y), method="holdout")
    assert nonvacuous.certify(factory, blobs(38), method=SMALL).certificate.value <= 1


def test_class_that_only_the_held_out_part_has() -> None:
    x, y = blobs(200)
    for rare in range(200):  # the split does not look at labels: give class 2 to one example that is held out
        labels = y.clone()
        labels[rare] = 2
        sample = as_sample((x, labels), classes=3)
        try:
            nonvacuous.certify(lambda: linear(2, 3), sample, method=HoldOut(epochs=0))
        except InvalidInput as error:
            assert "class 2" in str(error)
            return
    pytest.fail("no example was held out")


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="Did you mean 'holdout'"):
        nonvacuous.certify(factory, blobs(), method="hold-out")


def test_resume_notices_other_samples_and_other_weights(tmp_path: Path) -> None:
    data, (x, y) = blobs(), blobs(120)
    network = factory()
    given = {"method": Surrogate(members=1, epochs=1), "model": network, "folder": tmp_path / "unfinished"}
    nonvacuous.certify(factory, data, unlabelled=(x + 5, y), **given)
    nonvacuous.certify(factory, data, unlabelled=(x + 5, y), **given)
    with pytest.raises(InvalidInput, match="unlabelled was"):
        nonvacuous.certify(factory, data, unlabelled=(x + 6, y), **given)
    with pytest.raises(InvalidInput, match="weights was"):
        nonvacuous.certify(factory, data, unlabelled=(x + 5, y), **{**given, "model": factory()})
    with pytest.raises(InvalidInput, match="source was"):
        nonvacuous.certify(factory, data, unlabelled=(x + 5, y), source=(x + 7, y), **given)


def test_what_a_method_certifies_beside_its_result_is_kept_too(tmp_path: Path) -> None:
    x, y = blobs(120)
    task = Task(
        factory, as_sample(blobs(), classes=2), model=factory(), unlabelled=as_sample((x + 5, y), classes=2), folder=tmp_path
    )
    first = finished(Surrogate(members=2, epochs=1), task)
    again = kept(tmp_path, factory)
    assert again is not None and first.comparator is not None and again.comparator is not None
    assert again.certificate.digest == first.certificate.digest
    assert again.comparator.certificate.digest == first.comparator.certificate.digest
    assert weights_digest(again.comparator.model) == weights_digest(first.comparator.model)
    assert again.comparator.record == first.comparator.record and again.others == ()


def test_options_that_a_method_lacks_are_refused_and_others_reach_it() -> None:
    assert _method("pac-bayes", None, True, 16.0) == PacBayes(mirrored=True, scale=16.0)
    assert _method("data-dependent", 0.7, True, None) == DataDependent(prior_fraction=0.7, mirrored=True)
    with pytest.raises(InvalidInput, match="--mirrored: the method holdout does not"):
        _method("holdout", None, True, None)
    with pytest.raises(InvalidInput, match="--scale: the method compression has no scale"):
        _method("compression", None, False, 2.0)
    with pytest.raises(InvalidInput, match="not on the grid that is paid for"):
        _method("pac-bayes", None, False, 3.0)
