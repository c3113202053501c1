"""A deterministic simulation of whole clusters: one seed, one run. Needs no event loop, no socket, no file."""

from __future__ import annotations

from .calls import Read, Write
from .chaos import prepare, rage
from .checks import Checks, Violation
from .links import Links, Weather
from .node import SimulatedNode
from .simulation import Simulation

__all__ = ["Checks", "Links", "Read", "SimulatedNode", "Simulation", "Violation", "Weather", "Write", "prepare", "rage"]
