"""All faults, in the order of the page."""

from __future__ import annotations

from reliability import broken_files, broken_networks, disks, long_sweep, numbers, registry, several, signals
from reliability.registry import Fault

ORDER = [m.__name__ for m in (signals, disks, broken_files, several, numbers, broken_networks, long_sweep)]
FAULTS: list[Fault] = sorted(registry.FAULTS, key=lambda fault: ORDER.index(fault.work.__module__))
