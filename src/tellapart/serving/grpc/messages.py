"""The messages of the Open Inference Protocol over gRPC, version 2, and their field numbers.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto

The classes are made from the table when this module is imported: code generated from a `.proto` file would work with
few versions of protobuf.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"
_PACKAGE = "inference"
_FILE = "tellapart/open_inference.proto"

# By message, the fields by their numbers: name and type; `[]` marks a repeated field, and `{}` a map from strings.
_MESSAGES = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {1: ("live", "bool")},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {1: ("ready", "bool")},
    "ModelReadyRequest": {1: ("name", "string"), 2: ("version", "string")},
    "ModelReadyResponse": {1: ("ready", "bool")},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {1: ("name", "string"), 2: ("version", "string"), 3: ("extensions", "string[]")},
    "ModelMetadataRequest": {1: ("name", "string"), 2: ("version", "string")},
    "TensorMetadata": {1: ("name", "string"), 2: ("datatype", "string"), 3: ("shape", "int64[]")},
    "ModelMetadataResponse": {
        1: ("name", "string"),
        2: ("versions", "string[]"),
        3: ("platform", "string"),
        4: ("inputs", "TensorMetadata[]"),
        5: ("outputs", "TensorMetadata[]"),
    },
    "InferParameter": {
        1: ("bool_param", "bool"),
        2: ("int64_param", "int64"),
        3: ("string_param", "string"),
        4: ("double_param", "double"),
        5: ("uint64_param", "uint64"),
    },
    "InferTensorContents": {
        1: ("bool_contents", "bool[]"),
        2: ("int_contents", "int32[]"),
        3: ("int64_contents", "int64[]"),
        4: ("uint_contents", "uint32[]"),
        5: ("uint64_contents", "uint64[]"),
        6: ("fp32_contents", "float[]"),
        7: ("fp64_contents", "double[]"),
        8: ("bytes_contents", "bytes[]"),
    },
    "InferInputTensor": {
        1: ("name", "string"),
        2: ("datatype", "string"),
        3: ("shape", "int64[]"),
        4: ("parameters", "InferParameter{}"),
        5: ("contents", "InferTensorContents"),
    },
    "InferRequestedOutputTensor": {1: ("name", "string"), 2: ("parameters", "InferParameter{}")},
    "ModelInferRequest": {
        1: ("model_name", "string"),
        2: ("model_version", "string"),
        3: ("id", "string"),
        4: ("parameters", "InferParameter{}"),
        5: ("inputs", "InferInputTensor[]"),
        6: ("outputs", "InferRequestedOutputTensor[]"),
        7: ("raw_input_contents", "bytes[]"),
    },
    "InferOutputTensor": {
        1: ("name", "string"),
        2: ("datatype", "string"),
        3: ("shape", "int64[]"),
        4: ("parameters", "InferParameter{}"),
        5: ("contents", "InferTensorContents"),
    },
    "ModelInferResponse": {
        1: ("model_name", "string"),
        2: ("model_version", "string"),
        3: ("id", "string"),
        4: ("parameters", "InferParameter{}"),
        5: ("outputs", "InferOutputTensor[]"),
        6: ("raw_output_contents", "bytes[]"),
    },
}
_Field = descriptor_pb2.FieldDescriptorProto


def _describe_file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=_FILE, package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, type_name) in fields.items():
            _add_field(message, number, field, type_name)
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, number: int, name: str, type_name: str) -> None:
    is_repeated = type_name.endswith(("[]", "{}"))
    label = _Field.LABEL_REPEATED if is_repeated else _Field.LABEL_OPTIONAL
    if type_name.endswith("{}"):
        entry_name = "".join(word.capitalize() for word in name.split("_")) + "Entry"
        entry = message.nested_type.add(name=entry_name, options=descriptor_pb2.MessageOptions(map_entry=True))
        _add_field(entry, 1, "key", "string")
        _add_field(entry, 2, "value", type_name.removesuffix("{}"))
        type_name = f"{message.name}.{entry_name}"
    field = message.field.add(name=name, number=number, label=label)
    plain = type_name.removesuffix("[]")
    if plain.islower():
        field.type = _Field.Type.Value(f"TYPE_{plain.upper()}")
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{plain}"


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_describe_file())


def message_class(name: str) -> Any:
    """Return the class of a message."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
