"""What a user may set."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class SqliteOptions(BaseModel):
    """Options of the `sqlite` log storage; whether a save is durable is not among them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint_bytes: int = Field(default=4 * 1024 * 1024, ge=64 * 1024)
    """Once about this much was written, the WAL is copied into the database, beside the saves; it may reach twice this
    while that lasts. It has this size from the start, but for what is more than 16 MiB.

    More makes the start after a crash slower (every frame's checksum is looked at first: 0.1 s for 4 MiB), less copies
    the same pages more often.
    """
    snapshot_chunk_bytes: int = Field(default=256 * 1024, ge=4 * 1024, le=16 * 1024 * 1024)
    """A snapshot is written in pieces of this size, one short transaction each, and a save waits for one at most."""
