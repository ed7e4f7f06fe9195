"""The published JSON Schema of the record describes exactly what is written."""

import json
from pathlib import Path

import jsonschema
import pytest

from bridge.brokers.base import Environment, ReasonCode
from bridge.cache.record import SCHEMA, RecordStatus
from core.orders import OrderStatus, OrderType

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = json.loads((ROOT / "bridge/api/record.schema.json").read_text())
VECTORS = json.loads((ROOT / "tests/fixtures/record_vectors.json").read_text())["vectors"]


def strict(schema: object) -> object:
    """The same schema with nothing allowed that it does not describe."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(value) for name, value in schema.items()}
    return closed | {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else closed


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_record_is_what_the_schema_says_and_nothing_more(vector: dict[str, object]) -> None:
    jsonschema.Draft202012Validator(strict(PUBLISHED)).validate(vector["document"])


def test_the_closed_lists_are_those_of_the_code() -> None:
    properties = PUBLISHED["properties"]
    assert properties["schema"]["const"] == SCHEMA
    assert properties["status"]["enum"] == list(RecordStatus)
    assert properties["environment"]["enum"] == list(Environment)
    assert properties["reason"]["oneOf"][1]["properties"]["code"]["enum"] == list(ReasonCode)
    order = PUBLISHED["$defs"]["order"]["properties"]
    assert (order["type"]["enum"], order["status"]["enum"]) == (list(OrderType), list(OrderStatus))


def test_the_schema_refuses_a_record_that_lacks_its_freshness() -> None:
    document = dict(VECTORS[0]["document"])
    del document["staleAfter"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, PUBLISHED)
