from __future__ import annotations

import pytest
from riteraft_core._address import Address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:7001", "127.0.0.1", 7001),
        ("localhost:0", "localhost", 0),
        ("raft-1.example.org:65535", "raft-1.example.org", 65535),
        ("node_1:7001", "node_1", 7001),
        ("[::1]:7001", "::1", 7001),
        ("[fe80::1%eth0]:7001", "fe80::1%eth0", 7001),
    ],
)
def test_an_address_is_parsed_and_written_back(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("", '"127.0.0.1:7001"'),
        ("localhost", '"localhost:7001"'),
        ("[::1]", r'"\[::1\]:7001"'),
        (":7001", '"0.0.0.0:7001" for every interface'),
        ("::1:7001", r'"\[::1\]:7001"'),
        ("localhost:", "a number from 0 to 65535"),
        ("localhost:http", "a number from 0 to 65535"),
        ("localhost:65536", "a number from 0 to 65535"),
        ("localhost:-1", "a number from 0 to 65535"),
        ("localhost:\u0667\u0660", "a number from 0 to 65535"),
        ("tcp://localhost:7001", 'only host and port: "localhost:7001"'),
        ("[localhost]:7001", r'"\[::1\]:7001"'),
        ("two words:7001", '"127.0.0.1:7001"'),
        ("a" * 64 + ":7001", "no host name"),
        ("localhost\n:7001", "no host name"),
    ],
)
def test_a_malformed_address_is_refused_with_the_cure(text: str, cure: str) -> None:
    with pytest.raises(ValueError, match=cure):
        Address.parse(text)
