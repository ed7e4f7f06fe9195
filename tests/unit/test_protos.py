"""The generated messages say exactly what the schema facts say, and live beside the official client's."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from google.protobuf.internal import api_implementation

from protos.ctrader import PAYLOAD_CLASSES, common_messages_pb2, common_model_pb2, messages_pb2, model_pb2
from tests.support.official_client import official_client_package

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "tests/fixtures/ctrader_schema.json").read_text())
FILES: dict[str, FileDescriptor] = {
    "OpenApiCommonModelMessages.proto": common_model_pb2.DESCRIPTOR,
    "OpenApiCommonMessages.proto": common_messages_pb2.DESCRIPTOR,
    "OpenApiModelMessages.proto": model_pb2.DESCRIPTOR,
    "OpenApiMessages.proto": messages_pb2.DESCRIPTOR,
}
TYPE_NAMES = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in dir(FieldDescriptor)
    if name.startswith("TYPE_")
}


def described_field(field: FieldDescriptor) -> dict[str, Any]:
    """A generated field in the words of the schema facts."""
    label = "required" if field.is_required else "repeated" if field.is_repeated else "optional"
    facts: dict[str, Any] = {"name": field.name, "number": field.number, "type": TYPE_NAMES[field.type], "label": label}
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        facts["type_name"] = field.message_type.name
    if field.type == FieldDescriptor.TYPE_ENUM:
        facts["type_name"] = field.enum_type.name
    if field.has_default_value:
        is_enum = field.type == FieldDescriptor.TYPE_ENUM
        facts["default"] = (
            field.enum_type.values_by_number[field.default_value].name if is_enum else field.default_value
        )
    if field.is_packed:
        facts["packed"] = True
    if field.GetOptions().deprecated:
        facts["deprecated"] = True
    return facts


def schema_field(facts: dict[str, Any]) -> dict[str, Any]:
    """A fact with its default in Python's own type (the JSON writes booleans as words)."""
    default = facts.get("default")
    return {**facts, "default": default == "true"} if facts["type"] == "bool" and default is not None else facts


def described_message(message: Descriptor) -> list[dict[str, Any]]:
    return [described_field(field) for field in message.fields]


def described_enum(enum: EnumDescriptor) -> dict[str, int]:
    return {value.name: value.number for value in enum.values}


def test_backend_is_upb_when_protobuf_is_imported() -> None:
    assert api_implementation.Type() == "upb"


def test_schema_is_whole_when_counted() -> None:
    assert (len(SCHEMA["messages"]), len(SCHEMA["enums"])) == (119, 29)


def test_every_message_matches_when_compared_both_ways() -> None:
    ours = {
        name: described_message(message)
        for file in FILES.values()
        for name, message in file.message_types_by_name.items()
    }
    facts = {name: [schema_field(field) for field in message["fields"]] for name, message in SCHEMA["messages"].items()}
    assert ours == facts


def test_every_enum_matches_when_compared_both_ways() -> None:
    ours = {name: described_enum(enum) for file in FILES.values() for name, enum in file.enum_types_by_name.items()}
    assert ours == {name: enum["values"] for name, enum in SCHEMA["enums"].items()}


def test_files_group_messages_as_the_schema_does_when_listed() -> None:
    ours = {name: sorted(file.message_types_by_name) for name, file in FILES.items() if file.message_types_by_name}
    assert ours == {name: sorted(messages) for name, messages in SCHEMA["files"].items()}


def test_nothing_is_nested_or_in_another_package_when_descriptors_are_read() -> None:
    for file in FILES.values():
        assert file.package == "pulse_bridge.ctrader"
        assert not file.services_by_name
        assert not file.extensions_by_name
        for message in file.message_types_by_name.values():
            assert not [*message.nested_types, *message.enum_types, *message.oneofs]


def test_payload_classes_match_when_compared_both_ways() -> None:
    ours = {number: cls.DESCRIPTOR.name for number, cls in PAYLOAD_CLASSES.items()}
    assert ours == {int(number): fact["message"] for number, fact in SCHEMA["payload_types"].items() if fact["message"]}


# Runs in an interpreter of its own: descriptors of a process cannot be unloaded. The stand-in for the package keeps its
# __init__ (Twisted and all) out; the message modules are the official ones, unmodified.
BESIDE = """
import sys, types
package = types.ModuleType("ctrader_open_api")
package.__path__ = [sys.argv[1]]
sys.modules["ctrader_open_api"] = package
{imports}
ours = messages_pb2.ProtoOASpotEvent(ctidTraderAccountId=7, symbolId=1, bid=123456)
theirs = OpenApiMessages_pb2.ProtoOASpotEvent.FromString(ours.SerializeToString())
assert (theirs.ctidTraderAccountId, theirs.symbolId, theirs.bid) == (7, 1, 123456), theirs
assert not theirs.HasField("ask")
envelope = OpenApiCommonMessages_pb2.ProtoMessage(payloadType=theirs.payloadType, payload=theirs.SerializeToString())
read = common_messages_pb2.ProtoMessage.FromString(envelope.SerializeToString())
assert PAYLOAD_CLASSES[read.payloadType].FromString(read.payload) == ours, read
print("both loaded")
"""
OURS = "from protos.ctrader import PAYLOAD_CLASSES, common_messages_pb2, messages_pb2"
THEIRS = "from ctrader_open_api.messages import OpenApiCommonMessages_pb2, OpenApiMessages_pb2"


@pytest.mark.parametrize("imports", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours first", "theirs first"])
def test_both_schemas_work_when_the_official_client_is_in_the_same_process(imports: tuple[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BESIDE.format(imports="\n".join(imports)), str(official_client_package())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "both loaded\n"), done.stderr
