"""Hostile certificates: whatever a file holds, loading it gives the certificate that was issued, or CertificateRefused. Quickly."""

from __future__ import annotations

import hashlib
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nonvacuous.core.bound import find, registered
from nonvacuous.core.certificate import SCHEMA, Assumption, Certificate
from nonvacuous.core.errors import CertificateRefused
from nonvacuous.verification import check, check_files


def issued(
    name: str = "binomial-tail", fields: tuple[Any, ...] = (600, 10_000), delta: float = 0.025, **more: Any
) -> Certificate:
    bound = find(name)()
    e = bound.Evidence(*fields)
    return Certificate(
        bound=name,
        parameters=bound.parameters,
        evidence=e._asdict(),
        delta=delta,
        value=bound.solve(e, delta),
        loss="zero_one",
        predictor=bound.predictors[0].name.lower(),
        hypotheses=tuple(Assumption(h.name, h.statement, h.checkable, "a note") for h in bound.hypotheses),
        digests={"weights": "ab" * 32, "sample": "cd" * 32},
        measurement={"sample": "test", "posterior_std": [0.1, 0.2], "how": {"deep": [1, [2, {"x": None}]]}},
        ledger={name: delta, "other": 0.01},
        seed=3,
        **more,
    )


CERTIFICATE = issued()
CONTENT = json.loads(CERTIFICATE.to_json())


def signed(content: Any) -> str:
    """The content with a digest that fits it, as a careful forger would write it."""
    bare = {key: value for key, value in content.items() if key != "digest"}
    canonical = json.dumps(bare, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
    return json.dumps({**bare, "digest": f"sha256:{digest}"})


def outcome(text: str) -> Certificate | str:
    """The certificate, or the message of its refusal; any other exception fails the test. Within a second."""
    begun = time.perf_counter()
    try:
        return Certificate.from_json(text)
    except CertificateRefused as error:
        return str(error)
    finally:
        assert time.perf_counter() - begun < 1.0


def test_the_true_one_loads() -> None:
    again = outcome(CERTIFICATE.to_json())
    assert again == CERTIFICATE and hash(again) == hash(CERTIFICATE)
    assert outcome(signed(CONTENT)) == CERTIFICATE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": 0.05}, "arithmetic"),
        ({"value": CERTIFICATE.value * (1 - 1e-12)}, "arithmetic"),
        ({"value": 1.5}, "arithmetic"),
        ({"value": -0.5}, "arithmetic"),
        ({"evidence": {"errors": 599, "n": 10_000}, "value": 0.0635}, "arithmetic"),
        ({"evidence": {"errors": 600, "n": 10_000, "more": 1}}, "evidence"),
        ({"evidence": {"errors": 600.5, "n": 10_000}}, "whole number"),
        ({"evidence": {"errors": 10_001, "n": 10_000}}, "exceed"),
        ({"delta": 0.001, "ledger": {}}, "arithmetic"),
        ({"delta": 0.001}, "ledger"),
        ({"delta": 0.0, "ledger": {}}, "delta"),
        ({"measurement_delta": 0.02}, "arithmetic"),
        ({"measurement_delta": 0.025}, "measurement_delta"),
        ({"predictor": "gibbs"}, "speaks of"),
        ({"loss": "brier"}, "0–1 loss"),
        ({"bound": "seeger"}, "evidence"),
        ({"bound": "no-such-bound"}, "no bound is named"),
        ({"parameters": {"grid_ratio": 1.05}}, "parameters"),
        ({"hypotheses": []}, "iid"),
        ({"hypotheses": CONTENT["hypotheses"][:1]}, "fixed_predictor"),
        ({"hypotheses": [{**h, "checked": "yes"} for h in CONTENT["hypotheses"]]}, "hypothesis"),
        ({"hypotheses": [{**h, "extra": 1} for h in CONTENT["hypotheses"]]}, "malformed"),
        ({"schema": SCHEMA + 1}, "newer"),
        ({"schema": "1"}, "schema number"),
        ({"ledger": {"a": 0.6, "b": 0.6}}, "ledger"),
        ({"digests": {"weights": 7}}, "digests"),
    ],
)
def test_a_forged_field_with_a_fresh_digest(change: dict[str, Any], message: str) -> None:
    found = outcome(signed({**CONTENT, **change}))
    assert isinstance(found, str) and message in found


def test_an_honest_change_with_a_fresh_digest_is_another_true_certificate() -> None:
    """What a digest is not: a signature. A worse value follows from the same evidence as well."""
    worse = outcome(signed({**CONTENT, "value": 0.5}))
    assert isinstance(worse, Certificate) and worse.value == 0.5 and worse != CERTIFICATE


@pytest.mark.parametrize("key", sorted(CONTENT))
def test_a_field_changed_and_the_digest_left(key: str) -> None:
    for value in (None, "other", 7, [], {"other": 1}):
        found = outcome(json.dumps({**CONTENT, key: value}))
        assert isinstance(found, str) and ("digest" in found or "schema" in found)
    without = {k: v for k, v in CONTENT.items() if k != key}
    assert isinstance(outcome(json.dumps(without)), str)
    if key != "digest":
        assert isinstance(outcome(signed(without)), str)


WRONG = [None, True, 0, -1, 1.5, 10**400, 10**30, "x", "inf", "\ud800", [], [[1]], {}, {"a": [1]}, [None, "x"], "\0"]


@pytest.mark.parametrize("key", sorted(set(CONTENT) - {"digest"}))
@pytest.mark.parametrize("value", WRONG, ids=lambda v: repr(v)[:12])
def test_every_wrong_type_in_every_field(key: str, value: Any) -> None:
    found = outcome(signed({**CONTENT, key: value}))
    optional = {("seed", None), ("seed", 0), ("seed", -1), ("seed", 10**30), ("seed", 10**400), ("parameters", "{}")}
    harmless = {
        ("digests", "{}"),
        ("measurement", "{}"),
        ("ledger", "{}"),
        ("measurement", "{'a': [1]}"),
        ("measurement_delta", 0),
    }
    texts = {("version", text) for text in ("x", "inf", "\0")}
    fits = (key, value if not isinstance(value, dict) else repr(value)) if not isinstance(value, list) else None
    if fits in optional | harmless | texts and not isinstance(value, bool):
        assert isinstance(found, Certificate)
    else:
        assert isinstance(found, str), f"{key} = {value!r} was taken"


@pytest.mark.parametrize("name", sorted(registered()))
def test_every_wrong_type_in_every_evidence_field_of_every_bound(name: str) -> None:
    kind = registered()[name]
    fields, delta, _ = kind.worked[0]
    content = json.loads(issued(name, fields, delta).to_json())
    for field in kind.Evidence._fields:
        for value in [*WRONG, "-inf", [0.5, "inf"], [10**400]]:
            forged = {**content, "evidence": {**content["evidence"], field: value}}
            found = outcome(signed(forged))
            if isinstance(found, Certificate):  # a number that happens to be a true statement
                assert found.theorem().holds(found.theorem_evidence(), found.theorem_delta(), found.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "7",
        '"certificate"',
        "{",
        "{}",
        "nonsense",
        "\ufeff{}",
        '{"schema": 1, "schema": 1}',
        '{"schema": NaN}',
        '{"schema": Infinity}',
        '{"schema": 1, "delta": 1e999, "digest": "x"}',
        '{"schema": 1' + "0" * 5000 + "}",
        '{"a":' * 600 + "1" + "}" * 600,
        "[" * 100_000,
        '{"schema": 1, "x": ' + "[" * 900 + "]" * 900 + "}",
    ],
    ids=lambda text: text[:16] or "empty",
)
def test_files_that_are_no_certificates(text: str) -> None:
    assert isinstance(outcome(text), str)


@pytest.mark.parametrize("depth", [300, 480, 700, 950])
def test_deep_nesting_in_a_field_that_may_nest(depth: int) -> None:
    deep: Any = 0
    for _ in range(depth):
        deep = [deep]
    try:
        text = signed({**CONTENT, "measurement": {"deep": deep}})
    except RecursionError:
        pytest.skip("this interpreter cannot even write it")
    found = outcome(text)
    if isinstance(found, Certificate):
        assert outcome(found.to_json()) == found


def test_duplicate_keys_and_not_a_number_anywhere() -> None:
    text = CERTIFICATE.to_json()
    assert isinstance(outcome(text.replace('"n": 10000', '"n": 10000, "n": 10000')), str)
    for bad in ("NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400):
        assert isinstance(outcome(text.replace("10000", bad)), str)


def test_truncated_at_every_byte(tmp_path: Path) -> None:
    raw = CERTIFICATE.to_json().encode()
    for end in range(0, len(raw) - 2, 7):
        path = tmp_path / "cut.json"
        path.write_bytes(raw[:end])
        checked = check(path)
        assert not checked.ok and checked.certificate is None


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(bytes(range(256)))
    (tmp_path / "folder.json").mkdir()
    for path in (tmp_path / "binary.json", tmp_path / "folder.json", tmp_path / "absent.json", "nul\0l"):
        assert not check(path).ok
    CERTIFICATE.save(tmp_path / "true.json")
    both = check_files([tmp_path / "binary.json", tmp_path / "true.json"])
    assert (both.verified, both.refused, both.ok) == (1, 1, False)


@settings(max_examples=150)
@given(st.data())
def test_mutated_text_gives_the_same_content_or_a_refusal(data: st.DataObject) -> None:
    text = list(CERTIFICATE.to_json())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        edit = data.draw(st.sampled_from(["drop", "swap", "put", "copy"]))
        if edit == "drop":
            del text[place]
        elif edit == "put":
            text.insert(place, data.draw(st.sampled_from(list('0123456789.,:{}[]"eE+- \n\\u∞tfn'))))
        elif edit == "swap":
            other = data.draw(st.integers(0, len(text) - 1))
            text[place], text[other] = text[other], text[place]
        else:
            end = min(len(text), place + data.draw(st.integers(1, 60)))
            text[place:place] = text[place:end]
    found = outcome("".join(text))
    assert isinstance(found, str) or (found == CERTIFICATE and found.to_json() == CERTIFICATE.to_json())


def leaves(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(found for key, value in inside for found in leaves(value, (*path, key)))]


PLACES = [path for path in leaves(CONTENT) if path and path[0] != "digest"]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200)
@given(st.sampled_from(PLACES), JSON)
def test_any_value_anywhere_with_a_fresh_digest_gives_only_true_statements(path: tuple[Any, ...], value: Any) -> None:
    content = json.loads(json.dumps(CONTENT))
    inside = content
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    found = outcome(signed(content))
    if isinstance(found, Certificate):
        assert found.theorem().holds(found.theorem_evidence(), found.theorem_delta(), found.value)
        assert outcome(found.to_json()) == found


N = 2**53
HOSTILE = [
    ("binomial-tail", (N // 2, N), 0.05),
    ("binomial-tail", (N // 4, N), 1e-300),
    ("occam-binomial", (N // 3, N, N), 0.05),
    ("vc", (0.3, 1e300, N // 2), 0.05),
    ("vc", (0.3, 1e15, N // 2 - 1), 0.05),
    ("growth-function", (0.3, 1e308, N), 0.05),
    ("seeger", (0.1, 1e308, N), 0.05),
    ("seeger", (5e-324, 5e-324, N), 5e-324),
    ("catoni", (0.1, 1e308, N, 1e12 * N), 0.05),
    ("catoni", (0.0, 5e-324, 1, 1e-12), 1 - 2**-53),
    ("lambda", (0.1, 1e308, 8, 5e-324), 0.05),
    ("empirical-bernstein", (0.0, 0.5, 2), 5e-324),
    ("betting", (tuple(random.Random(0).random() for _ in range(20_000)), 20_000), 1e-300),
]


@pytest.mark.parametrize(("name", "fields", "delta"), HOSTILE)
def test_hostile_numbers_do_not_hang_the_verifier(name: str, fields: tuple[Any, ...], delta: float) -> None:
    content = json.loads(issued(name, registered()[name].worked[0][0], registered()[name].worked[0][1]).to_json())
    evidence = dict(zip(registered()[name].Evidence._fields, fields, strict=True))
    for value in (0.0, 0.3, 0.5000001, 0.999, 1.0):
        outcome(signed({**content, "evidence": evidence, "delta": delta, "ledger": {}, "value": value}))


@pytest.mark.parametrize("ratio", [1.0001, 10.0, 1.00005, 1e300, 2, "2", None])
def test_hostile_grids_do_not_hang_the_verifier(ratio: Any) -> None:
    content = json.loads(issued("catoni", (0.1, 100.0, 1000, 1000.0), 0.05).to_json())
    for temperature in (1e-9, 1000.0, 1e15):
        evidence = {**content["evidence"], "inverse_temperature": temperature}
        outcome(signed({**content, "evidence": evidence, "parameters": {"grid_ratio": ratio}, "value": 0.9999}))
