"""What evidence says, and what it refuses to say."""

from __future__ import annotations

import pytest
from render_samples import SMALL

from pytest_dwsconv.core.latency.evidence import Effect, Evidence, Provenance
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.report import Report

MIB = 2**20
MEASURED = Evidence(
    "cpu", Provenance.MEASURED, Effect.FASTER, "2 threads, batch 1", 8.4, 4.0, 3.8, 4.1
)
PREDICTED = Evidence(
    "edgetpu",
    Provenance.PREDICTED,
    Effect.FASTER,
    "rpi4_usb3",
    *(20.0, 7.7, 4.0, 10.8),
    streamed_before=round(3.1 * MIB),
    streamed_after=0,
    reason="3.1 MiB no longer stream",
)
FITS = Evidence(
    "edgetpu", Provenance.PREDICTED, Effect.NONE, "rpi4_usb3", reason="all of it fits on the chip"
)


@pytest.mark.parametrize(
    ("evidence", "line", "cell"),
    [
        (
            MEASURED,
            "cpu: 2.1x faster (measured, 2 threads, batch 1)",
            "2.1x faster",
        ),
        (
            Evidence("cpu", Provenance.MEASURED, Effect.SLOWER, "", 2.0, 4.0, 3.9, 4.1),
            "cpu: 2x slower (measured)",
            "2x slower",
        ),
        (
            Evidence("cpu", Provenance.MEASURED, Effect.NONE, "batch 1", 2.0, 2.01, 1.9, 2.1),
            "cpu: no difference (measured, batch 1)",
            "no difference",
        ),
        (
            PREDICTED,
            "edgetpu: -12.3 ms (predicted, 9.2 to 16.0, rpi4_usb3): 3.1 MiB no longer stream",
            "-12.3 ms",
        ),
        (
            Evidence("edgetpu", Provenance.PREDICTED, Effect.SLOWER, "", 1.0, 3.0, 2.0, 5.0),
            "edgetpu: +2.0 ms (predicted, 1.0 to 4.0)",
            "+2.0 ms",
        ),
        (
            FITS,
            "edgetpu: no gain (predicted, rpi4_usb3): all of it fits on the chip",
            "no gain",
        ),
        (
            Evidence(
                "edgetpu", Provenance.COMPILER, Effect.FASTER, reason="1 MiB no longer streams"
            ),
            "edgetpu: faster (reported by the compiler): 1 MiB no longer streams",
            "faster",
        ),
        (Evidence.unknown("gpu", "nobody measured it"), "gpu: unknown: nobody measured it",
         "unknown"),
    ],
)  # fmt: skip
def test_evidence_says_what_is_known_and_how(evidence: Evidence, line: str, cell: str) -> None:
    assert str(evidence) == line
    assert evidence.claim == cell


def test_times_are_known_together_or_not_at_all() -> None:
    with pytest.raises(InputError, match="either all are known or none"):
        Evidence("cpu", Provenance.MEASURED, Effect.FASTER, before_ms=2.0)


@pytest.mark.parametrize(
    ("source", "effect"),
    [(Provenance.UNKNOWN, Effect.FASTER), (Provenance.MEASURED, Effect.UNKNOWN)],
)
def test_what_is_unknown_has_no_effect(source: Provenance, effect: Effect) -> None:
    with pytest.raises(InputError, match="what is unknown has no effect"):
        Evidence("cpu", source, effect)


def test_what_is_unknown_is_gone_once_something_is_known() -> None:
    unknown = Evidence.unknown("cpu", "nobody measured it")
    reports = [SMALL.with_evidence({"": one}) for one in (unknown, MEASURED)]
    assert reports[0].evidence == (unknown,)
    assert reports[0].with_evidence({"": PREDICTED}).evidence == (unknown, PREDICTED)
    assert reports[0].with_evidence({"": MEASURED}).evidence == (MEASURED,)
    assert reports[1].with_evidence({"": unknown}).evidence == (MEASURED,)


def test_a_report_keeps_its_evidence_in_json() -> None:
    report = SMALL.with_evidence({"": MEASURED, "body.conv1": PREDICTED})
    again = Report.from_json(report.to_json())
    assert again.evidence == (MEASURED,)
    assert {f.name: f.evidence for f in again.findings if f.evidence} == {
        "body.conv1": (PREDICTED,)
    }
    assert "evidence" not in SMALL.to_json()


def test_evidence_of_the_same_kind_is_replaced_and_others_stay() -> None:
    slower = Evidence("cpu", Provenance.MEASURED, Effect.SLOWER, "", 1.0, 2.0, 2.0, 2.0)
    report = SMALL.with_evidence({"": MEASURED}).with_evidence({"": PREDICTED})
    assert report.with_evidence({"": slower}).evidence == (slower, PREDICTED)


def test_evidence_of_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"Small has no convolution 'body\.conv9'"):
        SMALL.with_evidence({"body.conv9": MEASURED})


def test_reports_are_equal_whatever_was_measured() -> None:
    assert SMALL.with_evidence({"": MEASURED, "stem": PREDICTED}) == SMALL
