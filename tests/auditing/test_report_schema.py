"""audit.json follows its schema, and the schema its documentation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from nonvacuous.auditing.files import write
from nonvacuous.auditing.result import AUDIT_SCHEMA, Audit
from nonvacuous.core.certificate import SCHEMA

DOCS = Path(__file__).resolve().parents[2] / "docs" / "audit_schema.md"


@pytest.fixture(scope="module")
def schema() -> Any:
    return json.loads(files("nonvacuous.auditing").joinpath("audit.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def written(example_audit: Audit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(example_audit, tmp_path_factory.mktemp("schema") / "out")


def test_the_schema_is_one(schema: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema"]["const"] == AUDIT_SCHEMA
    assert schema["$defs"]["certificate"]["properties"]["schema"]["const"] == SCHEMA


def test_an_audit_follows_it(schema: Any, written: Path) -> None:
    content = json.loads((written / "audit.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(content)


def test_a_certificate_file_follows_its_part(schema: Any, written: Path) -> None:
    part = {**schema, **schema["$defs"]["certificate"]}
    for file in (written / "certificates").iterdir():
        jsonschema.Draft202012Validator(part).validate(json.loads(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), 3),
        (("facts", "delta"), 1.5),
        (("facts", "train", "n"), 0),
        (("budget", "risk", "kind"), "sure"),
        (("budget", "risk", "extra"), 1),
        (("certificates", 0, "value"), 1.5),
        (("certificates", 0, "predictor"), "oracle"),
        (("extra",), 1),
    ],
)
def test_it_refuses_what_is_not_an_audit(schema: Any, example_audit: Audit, path: tuple[Any, ...], value: object) -> None:
    content: Any = json.loads(json.dumps(example_audit.to_dict()))
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(content)


def names(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from part.get("properties", {}) if isinstance(part.get("properties"), dict) else ()
        for value in part.values():
            yield from names(value)


def test_every_field_is_documented(schema: Any) -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert [name for name in sorted(set(names(schema))) if f"`{name}`" not in text and f"`facts.{name}`" not in text] == []
