"""cTrader Open API messages: generated modules, and the map from payload type to message class.

Generated from the .proto files beside this one (see protos/README.md). The files live in a package of their own,
`pulse_bridge.ctrader`, so that they load in one process with anybody else's cTrader descriptors.

Invariant: PAYLOAD_CLASSES is derived from the defaults in the schema, never typed by hand.
"""

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from protos.ctrader import common_messages_pb2, common_model_pb2, messages_pb2, model_pb2

__all__ = ["PAYLOAD_CLASSES", "common_messages_pb2", "common_model_pb2", "messages_pb2", "model_pb2"]


def _payload_classes() -> dict[int, type[Message]]:
    """Every message whose `payloadType` field has a default, by that default."""
    classes: dict[int, type[Message]] = {}
    for module in (common_messages_pb2, messages_pb2):
        for descriptor in module.DESCRIPTOR.message_types_by_name.values():
            field = descriptor.fields_by_name.get("payloadType")
            if field is not None and field.has_default_value:
                classes[field.default_value] = GetMessageClass(descriptor)
    return classes


PAYLOAD_CLASSES: dict[int, type[Message]] = _payload_classes()
"""Payload type of the envelope (50, 51, 2100 to 2188) to the class of its payload."""
