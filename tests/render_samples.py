"""Reports that every form has to cope with, made without torch."""

from __future__ import annotations

from dataclasses import replace

from pytest_dwsconv.core.conv import ConvSpec, cost, separable_cost
from pytest_dwsconv.core.findings import Finding, Memory, Origin
from pytest_dwsconv.core.rules import Verdict, judge
from pytest_dwsconv.report import Report

NASTY = "x|y\\`<b>*_[z](u)%3A,::\r\n\x1b[2J\u202e{0}</script>&amp;$1$http://a.b:smile:Ω"
"""Something that each form reads as more than text."""


def finding(name: str, spec: ConvSpec, calls: int = 1, aliases: tuple[str, ...] = ()) -> Finding:
    judged, before, after = judge(spec), cost(spec), separable_cost(spec)
    assert before is not None
    assert after is not None
    candidate = judged.verdict is Verdict.CANDIDATE
    return Finding(
        name=name,
        spec=spec,
        verdict=judged.verdict,
        code=judged.code,
        reason=judged.reason,
        params=before.params,
        macs=before.macs,
        separable_params=after.params if candidate else None,
        separable_macs=after.macs if candidate else None,
        origin=Origin.META,
        type_name="Conv2d",
        calls=calls,
        aliases=aliases,
    )


def conv(channels: int, filters: int, side: int, output: int) -> ConvSpec:
    before, after = (1, channels, output, output), (1, filters, output, output)
    return ConvSpec(
        2, channels, filters, (side, side), bias=False, input_shape=before, output_shape=after
    )


def totalled(model: str, *findings: Finding) -> Report:
    """A model that is its convolutions and nothing else."""
    return Report(
        model,
        findings,
        params=sum(row.params or 0 for row in findings),
        macs=sum(row.macs or 0 for row in findings),
        origin=Origin.META,
        input_shapes=((1, 3, 224, 224),),
        memory=Memory(inputs=602_112, activations=1_800_000, params=3_600_000),
    )


SMALL = totalled(
    "Small",
    finding("stem", conv(3, 64, 7, 112)),
    finding("body.conv1", conv(64, 64, 3, 56), aliases=("shared.conv",)),
    finding("body.shortcut", conv(64, 512, 1, 56)),
    finding("body.conv2", conv(512, 512, 3, 7), calls=2),
)
EMPTY = Report("Linear", (), 30, 20, Origin.META, ((1, 2),))
UNTRUSTED = replace(
    SMALL,
    model=NASTY,
    findings=(
        replace(SMALL.findings[0], name=NASTY, type_name=NASTY, reason=NASTY, aliases=(NASTY,)),
        replace(SMALL.findings[2], name=f"2{NASTY}", reason=NASTY, code=NASTY),
    ),
    not_counted=((NASTY, 2),),
)
WITHOUT_SHAPES = replace(
    SMALL,
    findings=tuple(
        replace(
            row,
            spec=replace(row.spec, input_shape=None, output_shape=None),
            macs=None,
            separable_macs=None,
            origin=Origin.ATTRIBUTES,
            calls=0,
        )
        for row in SMALL.findings
    ),
    macs=None,
    origin=Origin.ATTRIBUTES,
    input_shapes=(),
    memory=None,
)
LARGE = totalled(
    "Large",
    *(
        finding(f"stage{n}.conv", conv(8 + n % 64, 16 + n % 128, 1 + 2 * (n % 3), 14))
        for n in range(2000)
    ),
)
