"""What a long run found, held against what it should have found."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def verdict(console: Console, what: str, value: float, target: float, unit: str = "") -> dict[str, Any]:
    """Print one figure with its target, which is the most it may be, and return both."""
    met = value <= target
    console.print(f"{what}: {value:.3g}{unit} (target: at most {target:g}{unit}) {'met' if met else 'MISSED'}")
    return {"what": what, "value": value, "target": target, "met": met}
