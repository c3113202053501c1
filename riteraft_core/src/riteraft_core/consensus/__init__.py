"""The built-in consensus engines."""

from __future__ import annotations
