"""Predict a latency on the Edge TPU from numbers alone, with an interval: no device, no compiler.

The time of an inference is a floor, the bytes that cross the bus, and what the chip computes:
multiply-accumulates and the activations that it writes. The constants are fitted by
``benchmarks/edgetpu_latency.py`` to published latencies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from pytest_dwsconv.core.conv import Kind
from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.core.latency.comparison import RUNTIMES
from pytest_dwsconv.core.latency.evidence import EDGETPU
from pytest_dwsconv.core.measurement import LatencyPrediction
from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.edgetpu.loads import Load, load_of_network, rounding
from pytest_dwsconv.edgetpu.modelfile import ModelFile, Operator, Tensor
from pytest_dwsconv.edgetpu.support import Status, judge_model
from pytest_dwsconv.errors import InputError

_MIB = 2**20
_MOST = 1e15  # of a feature: more is a mistake
_OUTPUT_RATE = 10  # an output byte costs about ten input bytes: 34 and 3.3 ms/MiB were measured

# What the chip itself takes, on every host alike.
MS_PER_GMAC = 1.5
MS_PER_ACTIVATION_MIB = 0.27


@dataclass(frozen=True)
class HostRates:
    """What a host adds: milliseconds of any inference, and per MiB that crosses the bus.

    ``least_ms`` is the floor for the lower bound, a little below every published latency, and
    ``fastest_ms`` the shortest of these: nobody knows how much faster a smaller network is.
    """

    floor_ms: float
    bus_ms_per_mib: float
    least_ms: float
    fastest_ms: float


HOST = "rpi4_usb3"
HOSTS = {
    # the rate was measured: 3.22 to 3.29 on four published models
    "rpi4_usb3": HostRates(0.59, 3.25, 0.55, 0.58),
    # the rate is fitted
    "desktop_usb3": HostRates(0.26, 2.0, 0.25, 0.27),
    # the rate was measured; the published networks show no floor
    "dev_board_pcie": HostRates(0.0, 2.67, 0.0, 2.0),
}
"""Raspberry Pi 4 and desktop with the USB 3 accelerator, and the Dev Board (PCIe)."""

# Published latencies lie within this factor of the prediction, those of networks that concatenate
# within the second; of a compiled file it is not known what the chip computes.
_FACTOR = 1.5
_FACTOR_CONCATENATED = 2.0
_FACTOR_COMPILED = 3.0


@dataclass(frozen=True)
class LatencyFeatures:
    """What a latency is predicted from. Bytes are of the int8 model, at batch size 1.

    ``activation_bytes`` are the outputs of all convolutions and linear layers, and ``layers`` is
    how many of these there are. ``instruction_bytes`` is known of a compiled file only, where the
    MACs and activations are not. ``concatenations`` is None where it is not known. ``on_cpu`` is
    how many operators of a file stay on the CPU or may; what they take is in no feature.

    Raises:
        InputError: a number is below 0 or not finite.
    """

    params_bytes: float
    off_chip_bytes: float
    standard_macs: float = 0
    pointwise_macs: float = 0
    depthwise_macs: float = 0
    linear_macs: float = 0
    activation_bytes: float = 0
    input_bytes: float = 0
    output_bytes: float = 0
    layers: int = 0
    instruction_bytes: float | None = None
    concatenations: int | None = None
    on_cpu: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            optional = field.name in ("instruction_bytes", "concatenations")
            if value is None and optional:
                continue
            if not isinstance(value, (int, float)) or not 0 <= value <= _MOST:
                raise InputError(f"{field.name} is not a number from 0 to {_MOST:.0e}")

    @property
    def macs(self) -> float:
        return self.standard_macs + self.pointwise_macs + self.depthwise_macs + self.linear_macs

    @classmethod
    def of(cls, source: ModelFile | ReportData) -> LatencyFeatures:
        """The features of a model file, compiled or not, or of what ``analyze`` reports.

        Of a file only what is known to map counts; the rest takes time on the CPU. The outputs of
        a report that does not tell them count as 0 bytes. Where the file is not compiled,
        ``off_chip_bytes`` are those that stream at least.

        Raises:
            InputError: neither of them, a file that is at fault as a whole or of which nothing is
                known to map, a report without an input shape, or one of a batch of several.
        """
        if isinstance(source, ReportData):
            return _of_report(source)
        if not isinstance(source, ModelFile):
            raise InputError(
                f"{type(source).__name__} does not tell a latency; give what read_model or analyze "
                "returns"
            )
        return _of_compiled(source) if source.compiled else _of_file(source)


def predict_latency(features: LatencyFeatures, host: str = HOST) -> LatencyPrediction:
    """Predict the latency of a model on the Edge TPU of a kind of host.

    Args:
        features: what is known of the model.
        host: "rpi4_usb3", "desktop_usb3" or "dev_board_pcie".

    Raises:
        InputError: another host, of which nothing is known, or what is not LatencyFeatures.
    """
    if not isinstance(features, LatencyFeatures):
        raise InputError(
            f"{type(features).__name__} is not LatencyFeatures; give LatencyFeatures.of(it)"
        )
    rates = rates_of(host)
    sent = features.off_chip_bytes + features.input_bytes
    received = _OUTPUT_RATE * features.output_bytes
    bus = bus_ms(sent + (features.instruction_bytes or 0) + received, host)
    macs = MS_PER_GMAC * features.macs / 1e9
    activations = MS_PER_ACTIVATION_MIB * features.activation_bytes / _MIB
    ms = rates.floor_ms + bus + macs + activations
    lower_bound = rates.least_ms + bus_ms(sent, host)
    factor, why = _interval(features)
    unknown = "" if features.output_bytes else "; its outputs are not known, and count as 0 bytes"
    if ms * factor < rates.fastest_ms:
        unknown += "; it is smaller than every network whose latency there was published"
    if features.on_cpu:
        unknown += f"; not counted is what stays on the CPU, or may: {features.on_cpu} operators"
    parts = {"floor": rates.floor_ms, "bus": bus, "MACs": macs, "activations": activations}
    # reason: what is 0 is not known of the model, or takes no time
    shares = ", ".join(f"{name} {part:.2f}" for name, part in parts.items() if part) or "0"
    return LatencyPrediction(
        ms=ms,
        low=max(ms / factor, lower_bound),
        high=max(ms * factor, rates.fastest_ms),
        lower_bound_ms=lower_bound,
        reason=f"{shares} ms; {why}{unknown}",
        host=host,
    )


def chip_ms(load: Load) -> float:
    """Milliseconds of what the chip itself does of this."""
    activations = MS_PER_ACTIVATION_MIB * load.activations / _MIB
    return MS_PER_GMAC * load.macs / 1e9 + activations


def bus_ms(size: float, host: str = HOST) -> float:
    """Milliseconds that so many bytes take over the bus."""
    return rates_of(host).bus_ms_per_mib * size / _MIB


def rates_of(host: str) -> HostRates:
    """The rates of a kind of host.

    Raises:
        InputError: nothing is known of it.
    """
    if not isinstance(host, str) or host not in HOSTS:
        *others, last = HOSTS
        known = f"{', '.join(others)} or {last}"
        raise InputError(f"{host!r:.80} is not a host with known rates; give {known}")
    return HOSTS[host]


def host_of(target: object, host: str = HOST) -> str | None:
    """The kind of host of an Edge TPU that reports and plans are made for; None for a CPU.

    Args:
        target: one of ``RUNTIMES``, ``"edgetpu"``, or ``"edgetpu:HOST"`` with one of ``HOSTS``.
        host: that of ``"edgetpu"`` alone.

    Raises:
        InputError: it is another target, or nothing is known of the host.
    """
    if isinstance(target, str) and target in RUNTIMES:
        return None
    name, colon, kind = str(target).partition(":")
    if name != EDGETPU:
        known = ", ".join(map(repr, RUNTIMES))
        raise InputError(f"target must be {known} or {EDGETPU!r}, not {quoted(target)}")
    rates_of(kind if colon else host)
    return kind if colon else host


def check_targets(targets: Sequence[str]) -> None:
    """Check that a report can tell of these.

    Raises:
        InputError: one is not known, or the same one is named twice.
    """
    for target in targets:
        host_of(target)
    names = [target.partition(":")[0] for target in targets]
    if len(names) > len(set(names)):
        raise InputError("a report is for one host of a target; name each once")


def _interval(features: LatencyFeatures) -> tuple[float, str]:
    """The factor between the prediction and the ends of its interval, and the reason for it."""
    if features.instruction_bytes is not None and features.macs == 0:
        return _FACTOR_COMPILED, "a compiled file does not tell its MACs, so the bus alone counts"
    if features.concatenations is None:
        return _FACTOR_CONCATENATED, "it may concatenate, and such networks vary most"
    if features.concatenations:
        return _FACTOR_CONCATENATED, "it concatenates, and such networks vary most"
    return _FACTOR, "fitted to published latencies of other networks"


def _of_compiled(file: ModelFile) -> LatencyFeatures:
    return LatencyFeatures(
        params_bytes=file.parameters_cached + file.parameters_streamed,
        off_chip_bytes=file.parameters_streamed,
        input_bytes=file.input_bytes,
        output_bytes=file.output_bytes,
        instruction_bytes=file.instruction_bytes,
        on_cpu=len(file.on_cpu),
    )


def _of_file(file: ModelFile) -> LatencyFeatures:
    """The features of what the Edge TPU will run of a file that is not compiled.

    One element is one byte. An operator of which it is unknown whether it maps does not count.
    """
    support = judge_model(file)
    if support.problems:
        raise InputError(f"nothing of the model may map: {support.problems[0]}; see judge_model")
    pairs = list(zip(file.operators, support.operators, strict=True))
    mapped = [operator for operator, judgement in pairs if judgement.status is Status.MAPS]
    others = [operator for operator, judgement in pairs if judgement.status is not Status.MAPS]
    if not mapped:
        raise InputError("no operator of the model is known to map; judge_model says why")
    macs = dict.fromkeys((Kind.STANDARD, Kind.POINTWISE, Kind.DEPTHWISE, "linear"), 0)
    params = rounded = activations = layers = 0
    for operator in mapped:
        params += sum(_elements(t) for t in operator.inputs if t is not None and t.constant)
        kind = _kind(operator)
        if kind is not None:
            layers += 1
            weight = operator.inputs[1]
            assert weight is not None
            channels = weight.shape[-1 if kind is Kind.DEPTHWISE else 0]
            rounded += rounding(_elements(weight), channels)
            macs[kind] += _macs(operator)
            activations += sum(map(_elements, operator.outputs))
    sent, received = _crossing(file, mapped, others)
    return LatencyFeatures(
        params_bytes=params,
        off_chip_bytes=Load(params, rounded).off_chip,
        standard_macs=macs[Kind.STANDARD],
        pointwise_macs=macs[Kind.POINTWISE],
        depthwise_macs=macs[Kind.DEPTHWISE],
        linear_macs=macs["linear"],
        activation_bytes=activations,
        input_bytes=sent,
        output_bytes=received,
        layers=layers,
        concatenations=sum(operator.name == "CONCATENATION" for operator in mapped),
        on_cpu=len(others),
    )


def _crossing(file: ModelFile, mapped: list[Operator], others: list[Operator]) -> tuple[int, int]:
    """Elements that cross the bus into what is mapped, and out of it."""
    computed = {id(tensor): tensor for operator in mapped for tensor in operator.outputs}
    used: dict[int, Tensor] = {}
    for operator in mapped:
        used |= {id(t): t for t in operator.inputs if t is not None and not t.constant}
    read = {id(tensor) for operator in others for tensor in operator.inputs}
    read |= {id(tensor) for tensor in file.outputs}
    sent = sum(_elements(t) for i, t in used.items() if i not in computed and not t.variable)
    received = sum(_elements(t) for i, t in computed.items() if i in read)
    return sent, received


def _elements(tensor: Tensor) -> int:
    return math.prod(tensor.shape)


def _kind(operator: Operator) -> Kind | str | None:
    """The kind of a convolution, "linear" for a fully connected layer, None for the others."""
    weight = operator.input(1)
    if weight is None or not operator.outputs:
        return None
    if operator.name == "FULLY_CONNECTED":
        return "linear"
    if len(weight.shape) != 4:
        return None
    if operator.name == "DEPTHWISE_CONV_2D":
        return Kind.DEPTHWISE
    if operator.name not in ("CONV_2D", "TRANSPOSE_CONV"):
        return None
    return Kind.POINTWISE if weight.shape[1:3] == (1, 1) else Kind.STANDARD


def _macs(operator: Operator) -> int:
    """Multiply-accumulates of an operator with a weight, by the shapes that TFLite gives it."""
    weight, output = operator.inputs[1], operator.outputs[0]
    assert weight is not None
    if operator.name == "FULLY_CONNECTED":  # the weight is (outputs, inputs)
        return math.prod(output.shape) * weight.shape[-1]
    _, height, width, channels = weight.shape
    if operator.name == "DEPTHWISE_CONV_2D":  # (1, height, width, channels)
        return math.prod(output.shape) * height * width
    data = operator.inputs[2] if operator.name == "TRANSPOSE_CONV" else None
    if data is not None:  # each input pixel meets the kernel of (outputs, height, width, channels)
        return math.prod(data.shape) * height * width * weight.shape[0]
    return math.prod(output.shape) * height * width * channels


def _of_report(report: ReportData) -> LatencyFeatures:
    if report.macs is None:
        raise InputError(
            f"the report of {report.model} has no MACs; analyse the model with an input shape"
        )
    if report.batch_size not in (None, 1):
        raise InputError(
            f"the report of {report.model} is for a batch of {report.batch_size}, and the Edge TPU "
            "takes 1; analyse it with a batch of 1"
        )
    macs = dict.fromkeys(Kind, 0)
    for finding in report.findings:
        # reason: int8 files have no operator for it
        if finding.spec.rank == 3 and finding.calls:
            raise InputError(
                f"layer {finding.name or report.model} is a 3-d convolution, which the Edge TPU "
                "does not have; measure the network on another target"
            )
        macs[finding.kind] += finding.macs or 0
    load = load_of_network(report)
    other = sum(macs.values()) - macs[Kind.POINTWISE] - macs[Kind.DEPTHWISE]
    return LatencyFeatures(
        params_bytes=load.params,
        off_chip_bytes=load.off_chip,
        standard_macs=other,
        pointwise_macs=macs[Kind.POINTWISE],
        depthwise_macs=macs[Kind.DEPTHWISE],
        linear_macs=max(0, report.macs - sum(macs.values())),
        activation_bytes=load.activations,
        input_bytes=sum(math.prod(shape) for shape in report.input_shapes),
        output_bytes=report.output_elements or 0,
        layers=len(report.findings),
    )
