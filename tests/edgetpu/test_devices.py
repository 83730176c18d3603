from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_dwsconv.edgetpu.remote import devices
from pytest_dwsconv.edgetpu.remote.runtimes import Fault

OWN = f"/test/{os.getpid()}"
DEVICES = [{"type": "usb", "path": f"{OWN}/usb0"}, {"type": "pci", "path": f"{OWN}/pci0"}]


def test_a_claimed_device_is_left_to_its_holder() -> None:
    position, lock = devices.claim(DEVICES, [0, 1], limit=0)
    with lock:
        other, second = devices.claim(DEVICES, [0, 1], limit=0)
        assert (position, other) == (0, 1)
        with (
            second,
            pytest.raises(Fault, match=rf"other test runs held {OWN}/usb0, {OWN}/pci0 for 0\.1 s"),
        ):
            devices.claim(DEVICES, [0, 1], limit=0.1)
    position, lock = devices.claim(DEVICES, [0, 1], limit=0)
    with lock:
        assert position == 0


def test_the_claim_of_a_process_ends_with_it() -> None:
    claim = f"_, lock = claim({DEVICES}, [0], limit=0)"
    code = (
        f"from pytest_dwsconv.edgetpu.remote.devices import claim; {claim}; print('claimed', "
        f"flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"claimed\n"
        with pytest.raises(Fault):
            devices.claim(DEVICES, [0], limit=0)
        holder.kill()
    position, lock = devices.claim(DEVICES, [0], limit=0)
    with lock:
        assert position == 0


def test_the_file_of_a_usb_device(tmp_path: Path) -> None:
    (tmp_path / "busnum").write_text("2\n")
    (tmp_path / "devnum").write_text("13\n")
    assert devices.device_node({"type": "usb", "path": str(tmp_path)}) == Path(
        "/dev/bus/usb/002/013"
    )
    assert devices.device_node({"type": "usb", "path": str(tmp_path / "gone")}) is None
    assert devices.device_node({"type": "pci", "path": "/dev/apex_0"}) == Path("/dev/apex_0")


def test_who_holds_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "apex_0"
    path.touch()
    assert devices.holding(path) == []
    with path.open() as file, subprocess.Popen(["sleep", "60"], stdin=file) as holder:
        assert devices.holding(path) == [f"sleep (process {holder.pid})"]
        holder.kill()


def test_opening_is_tried_again_and_other_errors_are_not() -> None:
    attempts: list[int] = []

    def make() -> str:
        attempts.append(len(attempts))
        if len(attempts) < 3:
            raise ValueError("Failed to load delegate from libedgetpu.so.1")
        return "an interpreter"

    assert devices.opened(make, DEVICES[0], waits=(0, 0)) == "an interpreter"
    attempts.clear()
    with pytest.raises(Fault, match=f"{OWN}/usb0 failed to open 2 times"):
        devices.opened(make, DEVICES[0], waits=(0,))

    def wrong() -> None:
        attempts.append(0)
        raise ValueError("Model provided has model identifier")

    attempts.clear()
    with pytest.raises(ValueError, match="model identifier"):
        devices.opened(wrong, DEVICES[0], waits=(0, 0))
    assert attempts == [0]


class Listing:
    """A runtime that lists these devices one after the other, and the last of them for ever."""

    def __init__(self, *lists: list[dict[str, str]]) -> None:
        self.lists = list(lists)
        self.asked = 0

    def devices(self) -> list[dict[str, str]]:
        self.asked += 1
        return self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]


def test_where_no_device_is_expected_the_list_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "in_use", lambda: False)
    listing = Listing([])
    with pytest.raises(Fault, match="libedgetpu lists none"):
        devices.present(listing, "", (0, 0), expected=False)
    assert listing.asked == 1


def test_a_device_that_was_there_before_may_be_back_in_a_moment() -> None:
    listing = Listing([], DEVICES[1:], DEVICES)
    assert devices.present(listing, "usb", (0, 0, 0), expected=True) == (DEVICES, [0])


@pytest.mark.parametrize(
    ("listed", "detail"),
    [([], "libedgetpu lists none"), (DEVICES[1:], r"lists pci \S*/pci0, and no usb")],
    ids=["none", "another"],
)
def test_a_device_that_was_there_before_and_is_not_is_lost(
    listed: list[dict[str, str]], detail: str
) -> None:
    listing = Listing(listed)
    with pytest.raises(Fault, match=f"{detail}, where one was before") as caught:
        devices.present(listing, "usb", (0, 0), expected=True)
    assert (caught.value.kind, listing.asked) == ("lost", 3)


def test_a_device_that_another_test_run_has_in_use_may_be_back_in_a_moment() -> None:
    _, lock = devices.claim(DEVICES, [0], limit=0)
    with lock:
        assert devices.present(Listing([], DEVICES), "", (0,), expected=False) == (DEVICES, [0, 1])
