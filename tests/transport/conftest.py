from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from riteraft_core._certificates import Issued
from riteraft_core.testing.securities import Securities

from riteraft_core import _certificates


@pytest.fixture(scope="session")
def securities(tmp_path_factory: pytest.TempPathFactory) -> Securities:
    return Securities(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Securities:
    """Return those of a cluster of the same name, with another CA and another secret."""
    return Securities(tmp_path_factory.mktemp("theirs"))


@pytest.fixture
def nameless(securities: Securities, tmp_path: Path) -> Issued:
    """Return a certificate of our CA that names a host and nobody."""
    ca, ca_key, _ = _certificates._read_ca(securities.folder)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _certificates._builder(_certificates._name("www"), ca.subject, key.public_key(), 1).add_extension(
        x509.SubjectAlternativeName([x509.DNSName("www.example.org")]), critical=False
    )
    files = Issued(tmp_path / "www.pem", tmp_path / "www.key")
    _certificates._write(files, key, builder.sign(ca_key, hashes.SHA256()))
    return files
