from __future__ import annotations

import pytest

from pytest_dwsconv.core.budget import Budget
from pytest_dwsconv.core.jsonio import from_plain, to_plain
from pytest_dwsconv.core.limits import AnyCheck, PredictionCheck, doubts
from pytest_dwsconv.core.measurement import LatencyPrediction, NotMeasured
from pytest_dwsconv.errors import FormatError

PREDICTION = LatencyPrediction(
    6.0, low=4.0, high=9.0, lower_bound_ms=1.0, reason="bus 5 ms", host="rpi4_usb3"
)

# A limit in seconds, whether it is exceeded, whether it may be, and what is said of it.
STANDINGS = [
    (0.0039, True, False, "the limit is 3.900 ms: the whole interval is over it"),
    (0.004, False, True, "its interval is not: measure it on a device"),
    (0.0059, False, True, "the limit is 5.900 ms: the prediction is over it, its interval is not"),
    (0.006, False, False, "the limit is 6.000 ms: the prediction keeps it"),
]


@pytest.mark.parametrize(("limit", "exceeded", "doubted", "sentence"), STANDINGS)
def test_a_limit_is_exceeded_where_the_whole_interval_is_above_it(
    limit: float, exceeded: bool, doubted: bool, sentence: str
) -> None:
    check = PredictionCheck("Net", limit, PREDICTION)
    assert (check.exceeded, check.may_be_exceeded) == (exceeded, doubted)
    assert str(check).startswith("Net: predicted 6.00 ms (4.00 to 9.00) on rpi4_usb3, the limit is")
    assert sentence in str(check)
    assert str(check).endswith("(bus 5 ms).")
    assert doubts([check]) == ([str(check)] if doubted else [])
    assert ("which may be over" in check.noun) == doubted


def test_it_survives_the_way_between_processes() -> None:
    check = PredictionCheck("Net", 0.005, PREDICTION)
    assert from_plain(AnyCheck, to_plain(check), "limit") == check


def test_a_predicted_latency_alone_is_a_budget() -> None:
    assert Budget(latency_predicted="12ms") == Budget.of({"latency_predicted": "12ms"})
    with pytest.raises(FormatError, match="the budget's latency_predicted '12' is not a quantity"):
        Budget(latency_predicted="12")


def test_what_was_not_measured_says_so_before_what_is_predicted() -> None:
    assert str(NotMeasured("Net", "there is no device", PREDICTION)) == (
        "Net: not measured, predicted 6.00 ms (4.00 to 9.00) on rpi4_usb3: bus 5 ms; there is no "
        "device"
    )
