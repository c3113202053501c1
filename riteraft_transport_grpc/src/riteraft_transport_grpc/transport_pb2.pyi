from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Hello(_message.Message):
    __slots__ = ("protocol", "cluster_id", "group", "node_id", "disk_id", "to", "nonce")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    DISK_ID_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    cluster_id: bytes
    group: int
    node_id: int
    disk_id: bytes
    to: int
    nonce: bytes
    def __init__(self, protocol: _Optional[int] = ..., cluster_id: _Optional[bytes] = ..., group: _Optional[int] = ..., node_id: _Optional[int] = ..., disk_id: _Optional[bytes] = ..., to: _Optional[int] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("code", "text")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    code: str
    text: str
    def __init__(self, code: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class Proof(_message.Message):
    __slots__ = ("proof",)
    PROOF_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    def __init__(self, proof: _Optional[bytes] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("group", "messages", "crc32", "mac")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    group: int
    messages: _containers.RepeatedScalarFieldContainer[bytes]
    crc32: int
    mac: bytes
    def __init__(self, group: _Optional[int] = ..., messages: _Optional[_Iterable[bytes]] = ..., crc32: _Optional[int] = ..., mac: _Optional[bytes] = ...) -> None: ...

class Payload(_message.Message):
    __slots__ = ("group", "payload", "crc32", "mac")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    group: int
    payload: bytes
    crc32: int
    mac: bytes
    def __init__(self, group: _Optional[int] = ..., payload: _Optional[bytes] = ..., crc32: _Optional[int] = ..., mac: _Optional[bytes] = ...) -> None: ...

class SnapshotPart(_message.Message):
    __slots__ = ("group", "header", "chunk", "end", "crc32", "mac")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    group: int
    header: bytes
    chunk: bytes
    end: SnapshotEnd
    crc32: int
    mac: bytes
    def __init__(self, group: _Optional[int] = ..., header: _Optional[bytes] = ..., chunk: _Optional[bytes] = ..., end: _Optional[_Union[SnapshotEnd, _Mapping]] = ..., crc32: _Optional[int] = ..., mac: _Optional[bytes] = ...) -> None: ...

class SnapshotEnd(_message.Message):
    __slots__ = ("size", "sha256")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    size: int
    sha256: bytes
    def __init__(self, size: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("group", "step", "text", "code", "payload", "mac")
    class Step(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[Progress.Step]
        ADMITTED: _ClassVar[Progress.Step]
        TAKEN: _ClassVar[Progress.Step]
        NOT_TAKEN: _ClassVar[Progress.Step]
        CHALLENGE: _ClassVar[Progress.Step]
        REFUSED: _ClassVar[Progress.Step]
        ANSWER: _ClassVar[Progress.Step]
        FAILED: _ClassVar[Progress.Step]
    UNKNOWN: Progress.Step
    ADMITTED: Progress.Step
    TAKEN: Progress.Step
    NOT_TAKEN: Progress.Step
    CHALLENGE: Progress.Step
    REFUSED: Progress.Step
    ANSWER: Progress.Step
    FAILED: Progress.Step
    GROUP_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    group: int
    step: Progress.Step
    text: str
    code: str
    payload: bytes
    mac: bytes
    def __init__(self, group: _Optional[int] = ..., step: _Optional[_Union[Progress.Step, str]] = ..., text: _Optional[str] = ..., code: _Optional[str] = ..., payload: _Optional[bytes] = ..., mac: _Optional[bytes] = ...) -> None: ...
