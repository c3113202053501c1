"""What plugin authors test their plugins with; needs the extra `testing`, and core never imports it."""

from __future__ import annotations

from .consensus_suite import ConsensusSuite
from .log_storage_suite import LogStorageSuite
from .security_suite import ExposureSuite, SecretSuite, TlsSuite
from .transport_suite import PatienceSuite, TransportSuite

__all__ = [
    "ConsensusSuite",
    "ExposureSuite",
    "LogStorageSuite",
    "PatienceSuite",
    "SecretSuite",
    "TlsSuite",
    "TransportSuite",
]
