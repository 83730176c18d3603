from __future__ import annotations

import re
import signal

import pytest
from standin import fails

from pytest_dwsconv.edgetpu.faults import Kind, result_of

PHASE = '{"phase": "invoking the model"}\n'
TRANSFER = (
    "F driver/usb/usb_driver.cc:802] [0-0] bulk out for header failed. Abort. Unknown: "
    "USB transfer error 1 [LibUsbDataOutCallback]"
)


@pytest.mark.parametrize(
    ("status", "timed_out", "errors", "kind", "message"),
    [
        (-signal.SIGABRT, False, f"{TRANSFER}\nFatal Python error: Aborted", "lost", TRANSFER),
        (3, False, TRANSFER, "lost", "see to its power, cable and hub: a USB 3 port of the board"),
        (-signal.SIGKILL, True, TRANSFER, "lost", "pi has an Edge TPU that failed or was lost"),
        (-signal.SIGABRT, False, "free(): invalid pointer", "crash", "(SIGABRT, free(): invalid"),
        (-signal.SIGSEGV, False, "", "crash", "(SIGSEGV): a libedgetpu built for another TFLite"),
        (-signal.SIGKILL, True, "", "timeout", "still invoking the model after 5 s"),
    ],
)
def test_how_the_worker_ended_says_what_is_the_matter(
    status: int, timed_out: bool, errors: str, kind: Kind, message: str
) -> None:
    answer = {"printed": PHASE, "errors": errors, "status": status, "timed_out": timed_out}
    with fails(kind, match=re.escape(message)):
        result_of(answer, "pi", 5)
