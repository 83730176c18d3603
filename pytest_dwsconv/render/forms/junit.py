"""What a test reported, as properties of its case in a JUnit file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.core.measurement import Measurement, NotMeasured
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.suite.changes import Outcome
from pytest_dwsconv.render.changes import sentences


def properties(reports: Iterable[ReportData]) -> list[tuple[str, object]]:
    """Names and values for ``item.user_properties``: ``dwsconv.MODEL.params`` and so on.

    MODEL is the model's class, with _ in place of what is neither letter nor digit, and a number
    from the second of that name on. What is not known is left out.
    """
    distinct = dict.fromkeys(reports)
    return _properties((report.model, _values(report)) for report in distinct)


def latency_properties(
    latencies: Iterable[Measurement | NotMeasured],
) -> list[tuple[str, object]]:
    """The same for latencies: ``dwsconv.MODEL.measured_median`` and so on, in seconds.

    ``measured_on`` is where they were measured. Of one that was predicted instead they are
    ``predicted``, ``predicted_low``, ``predicted_high`` and ``predicted_on``.
    """
    return _properties((latency.model, _figures(latency)) for latency in latencies)


def run_properties(outcome: Outcome) -> Iterator[tuple[str, str]]:
    """The same for the whole run: what grew too much, other changes, and what is not known."""
    if outcome.changes is not None:
        for increase in outcome.changes.increases:
            yield "dwsconv.increase", plain(increase)
        for _, sentence in sentences(outcome.changes):
            yield "dwsconv.change", sentence
    for sentence in outcome.unknown:
        yield "dwsconv.unknown", plain(sentence.replace("\n", ". "))


def _properties(rows: Iterable[tuple[str, dict[str, object]]]) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    seen: Counter[str] = Counter()
    for name, values in rows:
        model = re.sub(r"\W", "_", name)
        seen[model] += 1
        prefix = f"dwsconv.{model}" if seen[model] == 1 else f"dwsconv.{model}-{seen[model]}"
        found += [
            (f"{prefix}.{key}", str(value)) for key, value in values.items() if value is not None
        ]
    return found


def _figures(measurement: Measurement | NotMeasured) -> dict[str, object]:
    if isinstance(measurement, NotMeasured):
        prediction = measurement.prediction
        return {
            "predicted": prediction.ms / 1000,
            "predicted_low": prediction.low / 1000,
            "predicted_high": prediction.high / 1000,
            "predicted_on": prediction.host,
        }
    return {
        "measured_median": measurement.median,
        "measured_p90": measurement.p90,
        "measured_p99": measurement.p99,
        "measured_first_invoke": measurement.first_invoke,
        "measured_on": f"{measurement.device} of {measurement.machine}",
    }


def _values(report: ReportData) -> dict[str, object]:
    return {
        "input": ";".join(",".join(map(str, shape)) for shape in report.input_shapes) or None,
        "params": report.params,
        "macs": report.macs,
        "convolutions": len(report.findings),
        "candidates": len(report.candidates),
        "separable_params": report.separable_params,
        "separable_macs": report.separable_macs,
        "latency": "; ".join(map(str, report.evidence)) or None,
    }
