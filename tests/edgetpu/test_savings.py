"""What replacements save on the Edge TPU, as it is predicted: memory first."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_dwsconv.analysis.analyze import analyze
from pytest_dwsconv.core.conv import Form, full_size
from pytest_dwsconv.core.latency.evidence import Effect, Provenance
from pytest_dwsconv.core.plan import Plan, PlanEntry
from pytest_dwsconv.edgetpu import LatencyFeatures, chip_memory, predict_latency, predicted_evidence
from pytest_dwsconv.edgetpu.loads import CACHE_BYTES, Load, load_after, load_of, load_of_network
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.report import Report
from pytest_dwsconv.rewriting.application import apply_plan

SHAPE = (1, 640, 4, 4)


def network(layers: int) -> nn.Module:
    """Layers of 3.5 MiB each: two fit on the chip, three do not."""
    with torch.device("meta"):
        return nn.Sequential(
            *(nn.Conv2d(640, 640, 3, padding=1, bias=i == 0) for i in range(layers))
        )


def report(layers: int) -> Report:
    return analyze(network(layers), SHAPE)


def plan(found: Report, form: Form, size: int, names: str) -> Plan:
    entries = [PlanEntry.of(f.name, f.spec, form, size) for f in found.findings if f.name in names]
    return Plan(tuple(entries))


@pytest.mark.parametrize(
    ("form", "size"),
    [
        (Form.DEPTHWISE_FIRST, 2),
        (Form.POINTWISE_FIRST, 1),
        (Form.BOTTLENECK, 320),
        (Form.GROUPED, 16),
    ],
)
def test_what_a_replacement_asks_of_the_chip_is_what_the_rewritten_network_does(
    form: Form, size: int
) -> None:
    found = report(3)
    wanted = plan(found, form, size, "02")
    after = load_of_network(analyze(apply_plan(network(3), wanted), SHAPE))
    assert chip_memory(found, wanted).after == after


def test_a_layer_with_few_output_channels_takes_more_than_its_parameters() -> None:
    conv = analyze(nn.Conv2d(64, 16, 3, bias=False), (1, 64, 8, 8)).findings[0]
    assert load_of(conv).taken == 4 * load_of(conv).params == 4 * 64 * 16 * 9


def test_a_layer_that_runs_twice_has_its_parameters_once_and_its_work_twice() -> None:
    conv = nn.Conv2d(640, 640, 3, padding=1)
    once, twice = (analyze(nn.Sequential(*[conv] * n), SHAPE).findings[0] for n in (1, 2))
    entry = PlanEntry.of("0", once.spec, Form.DEPTHWISE_FIRST, 1)
    first, both = load_after(once, entry), load_after(twice, entry)
    assert both.params == first.params
    assert (both.macs, both.activations) == (2 * first.macs, 2 * first.activations)


def test_parameters_that_no_longer_stream_are_milliseconds_saved() -> None:
    found = report(3)
    evidence = predicted_evidence(found, plan(found, Form.DEPTHWISE_FIRST, 1, "0"))[""]
    assert (evidence.effect, evidence.source) == (Effect.FASTER, Provenance.PREDICTED)
    assert evidence.streamed_before == load_of_network(found).off_chip > 2**20
    assert evidence.streamed_after == 0
    assert evidence.low_ms is not None
    assert evidence.low_ms < (evidence.after_ms or 0) < (evidence.high_ms or 0)
    assert str(evidence).endswith("2.9 MiB no longer stream, all parameters fit on the chip")


def test_the_time_with_a_plan_is_that_predicted_for_the_rewritten_network() -> None:
    found = report(3)
    wanted = plan(found, Form.DEPTHWISE_FIRST, 1, "02")
    after = analyze(apply_plan(network(3), wanted), SHAPE)
    predicted = predict_latency(LatencyFeatures.of(after))
    assert predicted_evidence(found, wanted)[""].after_ms == pytest.approx(predicted.ms)


def test_a_network_that_fits_gains_nothing() -> None:
    found = report(2)
    evidence = predicted_evidence(found, plan(found, Form.DEPTHWISE_FIRST, 1, "01"))
    assert {one.effect for one in evidence.values()} == {Effect.NONE}
    assert evidence[""].claim == "no gain"
    assert "all parameters fit on the chip already" in str(evidence[""])


def test_some_may_still_stream() -> None:
    found = report(5)
    evidence = predicted_evidence(found, plan(found, Form.DEPTHWISE_FIRST, 1, "0"))
    assert str(evidence[""]).endswith("3.1 MiB no longer stream, 6.8 MiB still do")


def test_the_memory_is_told_by_layer_and_in_total_with_what_a_further_mib_buys() -> None:
    found = report(3)
    text = str(chip_memory(found, plan(found, Form.DEPTHWISE_FIRST, 1, "1")))
    rows = [line.split() for line in text.splitlines()]
    assert ["1", "3.5", "MiB", "0.4", "MiB"] in rows
    assert ["streamed", "2.9", "MiB", "0.0", "MiB"] in rows
    assert "A further MiB less buys nothing: all fits" in text
    assert "A further MiB less saves 3.2 ms (predicted, rpi4_usb3)" in str(
        chip_memory(found, Plan())
    )


def test_the_chip_is_full_at_its_last_byte() -> None:
    assert Load(CACHE_BYTES).off_chip == 0
    assert Load(CACHE_BYTES + 10).off_chip == 10


def test_a_plan_for_another_model_is_refused() -> None:
    one = report(3).findings[2]
    entry = PlanEntry.of("2", one.spec, Form.GROUPED, full_size(one.spec, Form.GROUPED) // 2)
    with pytest.raises(InputError, match="Sequential has no '2'"):
        chip_memory(report(2), Plan((entry,)))


def test_without_a_plan_all_candidates_are_replaced_as_the_report_reckons() -> None:
    found = report(3)
    everything = plan(found, Form.DEPTHWISE_FIRST, 1, "012")
    assert predicted_evidence(found) == predicted_evidence(found, everything)
    known = found.with_evidence(predicted_evidence(found))
    assert all(finding.evidence for finding in known.findings)
    assert "2.9 MiB no longer stream" in " ".join(str(known).split())
