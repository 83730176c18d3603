"""The Edge TPUs of the host: choosing one, taking it for this process alone, opening it.

A part of the worker: it is sent to the host as text, and needs Python 3.8 or newer.
"""

from __future__ import annotations

import errno
import os
import platform
import socket
import time
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_dwsconv.edgetpu.remote.runtimes import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from pytest_dwsconv.edgetpu.remote.runtimes import Device

CLAIM = "pytest-dwsconv "
"""How the names of sockets begin by which test runs hold a device."""


def chosen(devices: Sequence[Device], wanted: str) -> list[int]:
    """Positions in the list that ``wanted`` allows: "" is any, ":1", "usb", "usb:0", "pci:1"."""
    kind, colon, number = wanted.partition(":")
    positions = [
        position for position, device in enumerate(devices) if kind in ("", device["type"])
    ]
    return positions[int(number) :][:1] if colon else positions


def present(
    runtime: Any, wanted: str, waits: Sequence[float], *, expected: bool
) -> tuple[list[Device], list[int]]:
    """The devices, and the positions of those that ``wanted`` allows.

    A USB device vanishes for a moment when it is first used. So the list is read several times
    where there is reason to expect one: it was there before, or another test run has one in use.

    Raises:
        Fault: there is none, or none any more.
    """
    for wait in (*waits, None):
        devices = runtime.devices()
        positions = chosen(devices, wanted)
        if positions or wait is None or not (expected or in_use()):
            break
        time.sleep(wait)
    if positions:
        return devices, positions
    detail = "libedgetpu lists none"
    if devices:
        listed = ", ".join(f"{device['type']} {device['path']}" for device in devices)
        detail = f"libedgetpu lists {listed}, and no {wanted}"
    if expected:
        raise Fault("lost", f"{detail}, where one was before")
    raise Fault("device", detail)


def in_use() -> bool:
    """Whether a test run on this host holds a device, as far as the system tells."""
    try:
        return f"@{CLAIM}" in Path("/proc/net/unix").read_text(errors="replace")
    except OSError:  # not Linux
        return False


def claim(
    devices: Sequence[Device], positions: Sequence[int], limit: float
) -> tuple[int, AbstractContextManager[object]]:
    """The first free device, held until the lock is closed or this process ends.

    Two processes cannot share a device. The lock is a name in the abstract socket namespace of
    Linux: it is not a file, and goes with its holder. Other systems have no such names, and the
    first device is taken.
    """
    if platform.system() != "Linux":
        return positions[0], nullcontext()
    deadline = time.monotonic() + limit
    while True:
        for position in positions:
            lock = socket.socket(socket.AF_UNIX)
            try:
                digest = sha256(devices[position]["path"].encode()).hexdigest()
                lock.bind(f"\0{CLAIM}{digest}")
                return position, lock
            except OSError as error:
                lock.close()
                if error.errno != errno.EADDRINUSE:
                    raise
        if time.monotonic() > deadline:
            paths = ", ".join(devices[position]["path"] for position in positions)
            raise Fault("busy", f"other test runs held {paths} for {limit:g} s")
        time.sleep(0.05)


def opened(make: Callable[[], Any], device: Device, waits: Sequence[float]) -> Any:
    """What ``make`` returns, tried several times.

    Opening fails now and then without a cause, and with one and the same error for every cause.
    """
    for wait in (*waits, None):
        try:
            return make()
        except ValueError as error:
            if "Failed to load delegate" not in str(error):
                raise
            if wait is None:
                raise unopened(device, len(waits) + 1) from error
            time.sleep(wait)
    return None


def unopened(device: Device, attempts: int) -> Fault:
    """Why a listed device cannot be opened, as far as the operating system knows."""
    node = device_node(device)
    if node is not None and os.path.exists(node):
        if not os.access(node, os.R_OK | os.W_OK):
            return Fault("permission", f"{node} may not be read and written")
        holders = holding(node)
        if holders:
            return Fault("busy", f"{node} is open in {', '.join(holders)}")
    return Fault("open", f"{device['path']} failed to open {attempts} times")


def device_node(device: Device) -> Path | None:
    """The file that stands for the device, under /dev.

    libedgetpu lists PCI devices by it, and USB devices by their folder in sysfs.
    """
    path = Path(device["path"])
    if device["type"] == "pci":
        return path
    try:
        bus, number = (int((path / name).read_text()) for name in ("busnum", "devnum"))
    except (OSError, ValueError):
        return None
    return Path(f"/dev/bus/usb/{bus:03d}/{number:03d}")


def holding(node: Path) -> list[str]:
    """The other processes that have the file open, as far as this user may see them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = [os.readlink(str(descriptor)) for descriptor in (process / "fd").iterdir()]
            if str(node) in files and process.name != str(os.getpid()):
                found.append(f"{(process / 'comm').read_text().strip()} (process {process.name})")
        except OSError:
            continue  # it has ended, or is another user's
    return found
