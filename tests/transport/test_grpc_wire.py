"""What the grpc transport puts on the wire, without a wire."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import riteraft_transport_grpc._wire as wire
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from riteraft_core.errors import AuthenticationError
from riteraft_core.shared_secret import Dialler, Listener, Meeting, Seals, Secret
from riteraft_core.testing.transport_suite import identity_of
from riteraft_core.types import Hello, Refusal, RefusalCode

from riteraft_transport_grpc import transport_pb2 as pb

SOURCES = Path(wire.__file__).parents[1]
PROTO = "riteraft_transport_grpc/transport.proto"
HELLO = Hello.of(identity_of(1), 2)


def test_the_generated_code_is_that_of_the_proto(tmp_path: Path) -> None:
    # By what it describes, since each protoc writes it in a way of its own.
    made = tmp_path / "transport.pb"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", str(SOURCES), f"--descriptor_set_out={made}", PROTO],
        check=True,
        timeout=60,
    )
    (file,) = FileDescriptorSet.FromString(made.read_bytes()).file
    for message in file.message_type:
        for field in message.field:
            field.ClearField("json_name")  # derived; not in what the module holds
    assert pb.DESCRIPTOR.serialized_pb == file.SerializeToString(deterministic=True), "see the README for the command"
    stub = Path(pb.__file__).with_suffix(".pyi").read_text()
    for message in file.message_type:
        assert f"class {message.name}(" in stub
        assert all(f"    {field.name}: " in stub for field in message.field)


@pytest.mark.parametrize("hello", [HELLO, Hello.of(None, 0), Hello(b"\xff" * 16, 2**64 - 1, 2**64 - 1, b"d", 9)])
def test_a_hello_arrives_as_it_was(hello: Hello) -> None:
    assert wire.decode_hello([("user-agent", "x"), *wire.encode_hello(hello, b"nonce")]) == (hello, b"nonce")


def test_a_call_has_exactly_one_hello() -> None:
    once = wire.encode_hello(HELLO)
    odd: list[wire.Metadata] = [(), once + once, ((wire.HELLO_KEY, b"\xff"),), ((wire.HELLO_KEY, "text"),)]
    for metadata in odd:
        with pytest.raises(wire.WireError, match="hello"):
            wire.decode_hello(metadata)


def test_a_hello_of_another_version_is_told_from_a_malformed_one() -> None:
    later = pb.Hello(protocol=9, node_id=1).SerializeToString()
    with pytest.raises(wire.VersionError) as caught:
        wire.decode_hello([(wire.HELLO_KEY, later)])
    assert "9" in wire.wrong_version(caught.value).text


def test_a_refusal_arrives_with_its_code_and_a_text_of_bounded_size() -> None:
    refusal = Refusal(RefusalCode.REMOVED, "«gone» " * 1000)
    found = wire.decode_refusal(wire.encode_refusal(refusal))
    assert found is not None
    assert found.code is RefusalCode.REMOVED
    assert refusal.text.startswith(found.text)
    assert wire.MAX_TEXT - 4 < len(found.text.encode()) <= wire.MAX_TEXT


def test_a_refusal_of_a_later_version_means_no_all_the_same() -> None:
    later = pb.Refusal(code="too-loud", text="shh").SerializeToString()
    assert wire.decode_refusal([(wire.REFUSAL_KEY, later)]) == Refusal(RefusalCode.FORBIDDEN, "shh")
    malformed = wire.decode_refusal([(wire.REFUSAL_KEY, b"\xff")])
    assert malformed is not None
    assert malformed.code is RefusalCode.FORBIDDEN
    assert wire.decode_refusal([("other", b"")]) is None


KINDS: dict[str, tuple[bytes, Callable[[bytes, int], object]]] = {
    "batch": (wire.encode_batch(7, [b"one", b"", b"three" * 20]), wire.decode_batch),
    "payload": (wire.encode_payload(7, b"payload" * 9), wire.decode_payload),
    "header": (wire.encode_header(7, b"header" * 9), wire.decode_header),
    "chunk": (wire.encode_chunk(7, b"chunk" * 9), wire.decode_part),
}
"""What has a checksum."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_or_a_missing_end_is_found(kind: str) -> None:
    encoded, decode = KINDS[kind]
    whole = decode(encoded, 7)
    changed = [encoded[:end] for end in range(len(encoded))]
    for position in range(len(encoded)):
        for bit in range(8):
            flipped = bytearray(encoded)
            flipped[position] ^= 1 << bit
            changed.append(bytes(flipped))
    found = 0
    for raw in changed:
        try:
            assert decode(raw, 7) == whole
        except wire.WireError:
            found += 1
    assert found > 0.95 * len(changed)


@pytest.mark.parametrize("kind", KINDS)
def test_another_group_is_found(kind: str) -> None:
    encoded, decode = KINDS[kind]
    with pytest.raises(wire.WireError, match="group 7"):
        decode(encoded, 8)


def test_an_answer_of_another_group_is_found() -> None:
    with pytest.raises(wire.WireError, match="group 7"):
        wire.decode_progress(wire.encode_progress(7, pb.Progress.TAKEN), 8)


def test_the_end_of_a_snapshot_says_how_much_there_was() -> None:
    sha256 = hashlib.sha256(b"all").digest()
    assert wire.decode_part(wire.encode_end(7, 3, sha256), 7) == (3, sha256)
    with pytest.raises(wire.WireError, match="neither"):
        wire.decode_part(wire.encode_header(7, b"a second header"), 7)


def seals() -> tuple[Seals, Seals]:
    """Return the dialling side's and the listening side's."""
    secret = Secret(bytes(range(32)))
    meeting = Meeting("suite", "grpc messages", HELLO)
    dialler = Dialler(secret, meeting)
    listener = Listener(secret, meeting, dialler.nonce, 2)
    proof, ours = dialler.prove(listener.challenge)
    return ours, listener.check(wire.decode_proof(wire.encode_proof(proof)))


def test_a_sealed_message_is_protobuf_with_one_field_more() -> None:
    sending, receiving = seals()
    message = wire.encode_batch(7, [b"one", b"two"])
    raw = wire.seal(message, sending)
    batch = pb.Batch.FromString(raw)
    assert list(batch.messages) == [b"one", b"two"]
    assert len(batch.mac) == 32
    assert len(raw) <= len(b"onetwo") + wire.OVERHEAD + 2 * wire.MESSAGE_OVERHEAD
    assert wire.unseal(raw, receiving) == message


def test_a_message_that_was_changed_repeated_or_left_out_does_not_match() -> None:
    sending, receiving = seals()
    first, second = (wire.seal(wire.encode_payload(7, text), sending) for text in (b"first", b"second"))
    for raw in (second, first[:-1], first[:-34], b"", first[:20] + b"x" + first[21:]):
        with pytest.raises(AuthenticationError):
            wire.unseal(raw, receiving)
    wire.unseal(first, receiving)
    with pytest.raises(AuthenticationError):
        wire.unseal(first, receiving)
    wire.unseal(second, receiving)
