"""What replacements save on the Edge TPU, as it is predicted: memory first."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_dwsconv.analysis.analyze import analyze
from pytest_dwsconv.core.conv import Form, full_size
from pytest_dwsconv.core.latency.evidence import Effect, Evidence, Provenance
from pytest_dwsconv.core.plan import Plan, PlanEntry
from pytest_dwsconv.edgetpu import (
    CompilerReport,
    LatencyFeatures,
    OperatorCount,
    chip_memory,
    compiler_evidence,
    predict_latency,
    predicted_evidence,
)
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


def test_a_grouped_convolution_takes_what_its_groups_take_which_are_exported_singly() -> None:
    grouped, group = (
        load_of(analyze(conv, (1, conv.in_channels, 4, 4)).findings[0])
        for conv in (nn.Conv2d(64, 64, 3, groups=4), nn.Conv2d(16, 16, 3))
    )
    assert grouped.taken == 4 * group.taken
    depthwise = load_of(analyze(nn.Conv2d(64, 64, 3, groups=64), (1, 64, 4, 4)).findings[0])
    assert depthwise.rounding == 0


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


class WithHead(nn.Module):
    """A network with a convolution that runs in training only, as that of Inception."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = network(3), nn.Conv2d(640, 640, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return self.head(x) if self.training else x


def test_a_layer_that_does_not_run_is_in_no_file() -> None:
    with torch.device("meta"):
        found = analyze(WithHead(), SHAPE)
    evidence = predicted_evidence(found)
    assert evidence.keys() == {"body.0", "body.1", "body.2", ""}
    assert evidence[""] == predicted_evidence(report(3))[""]
    assert chip_memory(found).before == load_of_network(report(3))


def test_some_may_still_stream() -> None:
    found = report(5)
    evidence = predicted_evidence(found, plan(found, Form.DEPTHWISE_FIRST, 1, "0"))
    assert str(evidence[""]).endswith(
        "3.1 MiB no longer stream, 6.8 MiB still do; a further MiB less saves 3.2 ms"
    )
    assert str(evidence["0"]).endswith("3.1 MiB no longer stream, 6.8 MiB still do")


@pytest.mark.parametrize("host", ["desktop_usb3", "dev_board_pcie"])
def test_another_host_sends_what_streams_at_its_own_rate(host: str) -> None:
    usual, other = (predicted_evidence(report(5), host=one)[""] for one in ("rpi4_usb3", host))
    assert (other.conditions, other.streamed_after) == (host, usual.streamed_after)
    saved = [(one.before_ms or 0) - (one.after_ms or 0) for one in (usual, other)]
    assert saved[1] < saved[0]
    assert usual.reason.endswith("all parameters fit on the chip")


def test_a_network_without_candidates_streams_as_before() -> None:
    evidence = predicted_evidence(report(3), Plan())[""]
    assert evidence.claim == "no gain"
    assert evidence.reason == (
        "nothing is replaced, 2.9 MiB stream; a further MiB less saves 3.2 ms"
    )


def test_a_small_change_is_not_told_as_zero() -> None:
    with torch.device("meta"):
        model = nn.Sequential(network(3), nn.Conv2d(640, 16, 1), nn.Conv2d(16, 64, 3))
    evidence = predicted_evidence(analyze(model, SHAPE))["2"]
    assert evidence.claim == "-0.02 ms"
    assert "(predicted, 0.02 to 0.03, rpi4_usb3): 8 KiB no longer stream" in str(evidence)


def test_a_network_with_3d_convolutions_is_not_predicted() -> None:
    found = analyze(nn.Conv3d(8, 8, 3), (1, 8, 4, 4, 4))
    with pytest.raises(InputError, match="layer Conv3d is a 3-d convolution, which the Edge"):
        predicted_evidence(found)


def compiled(off_chip: int | None, on_cpu: int = 0) -> CompilerReport:
    rows = (OperatorCount("MEAN", on_cpu, "Operation not supported"),)
    return CompilerReport("16.0", 0, 0, off_chip, 1, 9, rows)


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (3 * 2**20, 0, "-3.0 MiB streamed (REPORTED): all parameters fit on the chip"),
        (3 * 2**20, 2**20, "-2.0 MiB streamed (REPORTED): 1.0 MiB still stream"),
        (2**20, 2**20, "no gain (REPORTED): 1.0 MiB stream, as before"),
        (0, 0, "no gain (REPORTED): all parameters fit on the chip already"),
        (0, 30 * 2**10, "+30 KiB streamed (REPORTED): 30 KiB still stream"),
    ],
)
def test_what_the_compiler_reports_to_stream_is_evidence(
    before: int, after: int, line: str
) -> None:
    found = compiler_evidence(compiled(before), compiled(after))
    said = line.replace("REPORTED", "reported by the compiler")
    assert str(found[""]) == f"edgetpu: {said}"
    both = report(3).with_evidence(found).with_evidence(predicted_evidence(report(3)))
    assert [one.source for one in both.evidence] == [Provenance.PREDICTED, Provenance.COMPILER]


def test_operators_that_move_to_the_cpu_leave_open_what_is_gained() -> None:
    found = compiler_evidence(compiled(2**20, 1), compiled(0, 3))[""]
    assert found == Evidence.unknown(
        "edgetpu",
        "the compiler leaves 3 operators on the CPU, 1 before, and does not tell what they take",
    )


def test_a_compiled_file_tells_what_streams_and_others_are_refused() -> None:
    pytest.importorskip("tflite", exc_type=ImportError)
    from tflite_files import COMPILED, PLAIN

    assert compiler_evidence(COMPILED, COMPILED)[""].streamed_after == 128
    for other in (PLAIN, compiled(None)):
        with pytest.raises(InputError, match="does not tell what streams: give what compile_model"):
            compiler_evidence(COMPILED, other)


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
