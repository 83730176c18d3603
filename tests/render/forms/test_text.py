from __future__ import annotations

import re
from dataclasses import replace

import pytest
from render_samples import conv, finding

from pytest_dwsconv.core.budget import Budget, check_limits
from pytest_dwsconv.core.conv import ConvSpec, Trait
from pytest_dwsconv.core.findings import Memory, Origin, ReportData
from pytest_dwsconv.core.limits import AnyCheck
from pytest_dwsconv.core.rules import Verdict
from pytest_dwsconv.render import Reporters, Style, SuiteRun, render_report, render_run
from pytest_dwsconv.render.forms.text import largest, layers, render
from pytest_dwsconv.render.sentences import brief
from pytest_dwsconv.report import Report

WORKED = ConvSpec(
    2, 100, 1000, (3, 3), bias=False, input_shape=(1, 100, 17, 17), output_shape=(1, 1000, 15, 15)
)
WORKED_REPORT = Report(
    "Sequential",
    (finding("0", WORKED),),
    params=900_000,
    macs=202_500_000,
    origin=Origin.META,
    input_shapes=((1, 100, 17, 17),),
    memory=Memory(inputs=115_600, activations=1_800_000, params=3_600_000),
)

WORKED_TEXT = """\
Sequential, input 1 x 100 x 17 x 17 (forward on meta tensors)

-----  ------  ------  --------------  -------  -----------  ---------  ---------  ----------  ------
layer  type    kernel          output   params         MACs  verdict    separable   separable  saving
                                                                           params        MACs
-----  ------  ------  --------------  -------  -----------  ---------  ---------  ----------  ------
0      Conv2d  3 x 3   1000 x 15 x 15  900,000  202,500,000  candidate    100,900  22,702,500   8.92x
-----  ------  ------  --------------  -------  -----------  ---------  ---------  ----------  ------

-------------  -------  -----------  ---------  ----------  ------
                params         MACs  separable   separable  saving
                                        params        MACs
-------------  -------  -----------  ---------  ----------  ------
1 candidate    900,000  202,500,000    100,900  22,702,500   8.92x
1 convolution  900,000  202,500,000    100,900  22,702,500   8.92x
whole model    900,000  202,500,000    100,900  22,702,500   8.92x
-------------  -------  -----------  ---------  ----------  ------

candidate (1): standard convolution

Input size (MB): 0.11
Forward/backward pass size (MB): 1.72
Params size (MB): 3.43
Estimated Total Size (MB): 5.26"""  # noqa: E501  # the table is 101 columns wide

RESNET = Report(
    "ResNet",
    (
        finding("conv1", conv(3, 64, 7, 112)),
        finding("layer1.0.conv1", conv(64, 64, 3, 56), aliases=("shared.conv",)),
        finding("layer4.0.downsample.0", conv(256, 512, 1, 7)),
        finding("layer4.1.conv2", conv(512, 512, 3, 7), calls=2),
    ),
    params=11_689_512,
    macs=1_814_073_344,
    origin=Origin.META,
    input_shapes=((1, 3, 224, 224), (1, 10)),
    not_counted=(("relu", 17), ("softmax", 1)),
)


def row(text: str, name: str) -> list[str]:
    """The cells of the one line that starts with ``name``."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return line.split()


def test_the_worked_example() -> None:
    assert render(WORKED_REPORT) == WORKED_TEXT
    assert str(WORKED_REPORT) == WORKED_TEXT


def test_the_three_savings_follow_from_the_rows() -> None:
    text = render(RESNET)
    candidates = [found for found in RESNET.findings if found.verdict is Verdict.CANDIDATE]
    before = sum(found.params or 0 for found in candidates)
    after = sum(found.separable_params or 0 for found in candidates)
    assert row(text, "3 candidates")[2] == f"{before:,}"
    assert row(text, "3 candidates")[-1] == f"{before / after:.2f}x"
    pointwise = 256 * 512
    assert row(text, "4 convolutions")[-1] == f"{(before + pointwise) / (after + pointwise):.2f}x"
    whole = RESNET.params - before + after
    assert row(text, "whole model")[2:] == [
        "11,689,512",
        "1,814,073,344",
        f"{whole:,}",
        f"{RESNET.separable_macs:,}",
        f"{RESNET.params / whole:.2f}x",
    ]


def test_a_resnet_fits_120_columns() -> None:
    assert max(map(len, render(RESNET).splitlines())) <= 120


def test_what_is_special_is_said_in_words() -> None:
    text = render(RESNET)
    assert text.startswith("ResNet, input 1 x 3 x 224 x 224 and 1 x 10 (forward on meta tensors)\n")
    assert (
        "\ncandidate (2): standard convolution\nDWS104 (ineligible, 1): a 1 x 1 kernel has nothing "
        "to sep" in text
    )
    assert "\nlayer1.0.conv1 is also known as shared.conv\n" in text
    assert "\nlayer4.1.conv2 runs 2 times, its MACs are of all calls\n" in text
    assert text.endswith("\n\nNot counted in MACs: relu x 17, softmax")
    assert row(text, "layer4.0.downsample.0")[-4:] == ["DWS104", "-", "-", "-"]


def test_rows_obtained_otherwise_than_the_report_are_named() -> None:
    unused = replace(
        finding("unused", WORKED),
        macs=None,
        separable_macs=None,
        origin=Origin.NOT_EXECUTED,
        calls=0,
    )
    text = render(replace(WORKED_REPORT, findings=(*WORKED_REPORT.findings, unused)))
    assert "\nnot executed: unused\n" in text
    assert row(text, "unused")[-6:] == ["900,000", "-", "candidate", "100,900", "-", "8.92x"]


def test_without_inputs_there_are_no_shapes_and_no_memory() -> None:
    bare = finding("0", replace(WORKED, input_shape=None, output_shape=None))
    bare = replace(bare, origin=Origin.ATTRIBUTES)
    text = render(Report("Net", (bare,), 900_000, None, Origin.ATTRIBUTES))
    assert text.startswith("Net, no input given (module attributes, no forward)\n")
    assert row(text, "0") == "0 Conv2d 3 x 3 - 900,000 - candidate 100,900 - 8.92x".split()
    assert row(text, "whole model")[2:] == ["900,000", "-", "100,900", "-", "8.92x"]
    assert "MB" not in text


def test_a_model_without_convolutions_is_one_sentence() -> None:
    text = render(Report("Linear", (), 30, 20, Origin.META, ((1, 2),)))
    assert text.splitlines()[2:] == [
        "Linear has no convolutions, so nothing in it can be made depthwise separable."
    ]


def test_tied_weights_are_explained() -> None:
    tied = finding("0", replace(WORKED, traits=(Trait.TIED,)))
    note = "a tied weight is counted in each of its layers, and once in the whole model"
    assert note in render(replace(WORKED_REPORT, findings=(tied, replace(tied, name="1"))))
    assert note not in render(WORKED_REPORT)


@pytest.mark.parametrize(
    ("shape", "shown"), [((4, 1000, 15, 15), "1000 x 15 x 15"), ((1000, 15, 15), "1000 x 15 x 15")]
)
def test_the_batch_is_not_shown_in_a_layers_output(shape: tuple[int, ...], shown: str) -> None:
    assert f" {shown} " in layers([finding("0", replace(WORKED, output_shape=shape))])


def test_long_lists_are_wrapped_and_complete() -> None:
    operators = tuple((f"operator_{number}", number + 2) for number in range(60))
    text = render(replace(WORKED_REPORT, not_counted=operators))
    listed = text[text.index("Not counted") :]
    assert max(map(len, listed.splitlines())) <= 100
    assert all(f"{name} x {count}" in " ".join(listed.split()) for name, count in operators)


def test_largest_are_the_most_parameters() -> None:
    lines = largest(RESNET, 2).splitlines()
    assert [line.split()[0] for line in lines[4:-1]] == ["layer4.1.conv2", "layer4.0.downsample.0"]


def test_brief() -> None:
    assert (
        brief(WORKED_REPORT)
        == "Sequential: 900,000 params, 100,900 with 1 candidate separable (8.92x)"
    )
    assert brief(Report("Linear", (), 30, 20, Origin.META)).startswith("Linear has no convolutions")


@pytest.mark.parametrize("report", [WORKED_REPORT, RESNET])
def test_words_that_promise_too_much_do_not_occur(report: Report) -> None:
    assert not {"flop", "speed", "fast"} & set(render(report).lower().replace(".", " ").split())


DEEP = replace(
    RESNET,
    findings=tuple(
        replace(row, name=f"backbone.{row.name}", type_name="ConvNormActivation")
        for row in RESNET.findings
    ),
)


def lines_of(width: int | None, verbosity: int = 0, colour: bool = False) -> list[str]:
    return render(DEEP, Style(verbosity, width, colour)).splitlines()


def test_a_file_gets_every_column() -> None:
    assert max(map(len, lines_of(None))) > 120
    assert not any("Left out" in line for line in lines_of(None))


@pytest.mark.parametrize("verbosity", [0, 1])
@pytest.mark.parametrize("width", [120, 100, 80, 70])
def test_a_table_fits_its_terminal_and_says_what_it_leaves_out(width: int, verbosity: int) -> None:
    lines = lines_of(width, verbosity)
    assert max(map(len, lines)) <= width
    assert "Left out for want of width: type" in " ".join(lines)
    assert "params" in lines[3]
    assert "verdict" in lines[3]
    assert "saving" in lines[3]


def test_no_terminal_is_too_narrow() -> None:
    lines = lines_of(20)
    assert any(line.split()[:2] == ["backbone.conv1", "9,408"] for line in lines)


def test_colours_are_only_paint() -> None:
    painted = "\n".join(lines_of(120, colour=True))
    assert "\x1b[32mcandidate\x1b[0m" in painted
    assert re.sub(r"\x1b\[\d+m", "", painted) == "\n".join(lines_of(120))
    assert "\x1b" not in "\n".join(lines_of(120))


def test_untrusted_text_cannot_steer_the_terminal() -> None:
    nasty = "a\x1b[2Jb\nc\u202ed|Ω"
    finding_ = replace(
        finding(nasty, WORKED), type_name=nasty, reason=nasty, aliases=(nasty,), calls=2
    )
    report = replace(WORKED_REPORT, model=nasty, findings=(finding_,), not_counted=((nasty, 1),))
    text = render_run("text", {report: Reporters({nasty}, {f"test_x.py::{nasty}"})}, 1)
    assert {char for char in text if not char.isprintable()} == {"\n"}
    assert any(
        line.startswith("a\\x1b[2Jb\\nc\\u202ed|Ω ") and "900,000" in line
        for line in text.splitlines()
    )
    assert text.endswith(
        "Reported by a\\x1b[2Jb\\nc\\u202ed|Ω, test_x.py::a\\x1b[2Jb\\nc\\u202ed|Ω"
    )


def test_limits_are_said_with_the_model() -> None:
    limits: list[AnyCheck] = [*check_limits(RESNET, Budget(params="5M", macs="2G"))]
    text = " ".join(render_run("text", {RESNET: Reporters(set(), {"t.py::t"}, limits)}).split())
    assert (
        "over budget: ResNet has 11.69M parameters, the budget is 5M (6.69M over). Making every"
        in text
    )
    assert "within budget: 1.81G MACs for input 1 x 3 x 224 x 224 and 1 x 10, at most 2G" in text


def test_many_models_and_users() -> None:
    tests = {f"tests/test_{number}.py::test" for number in range(5)}
    run: dict[ReportData, Reporters] = {
        WORKED_REPORT: Reporters(set(), tests),
        RESNET: Reporters({"net:factory"}, set()),
    }
    text = render_run("text", run)
    assert text.index("ResNet, input") < text.index("Sequential, input")
    assert text.endswith("tests/test_2.py::test and 2 more (-v shows all)")
    assert render_run("text", run, 1).endswith("tests/test_3.py::test, tests/test_4.py::test")
    assert render_run("text", run, -1).splitlines() == [
        f"{brief(RESNET)}, 1,814,073,344 MACs for input 1 x 3 x 224 x 224 and 1 x 10, "
        "in net:factory",
        f"{brief(WORKED_REPORT)}, 202,500,000 MACs for input 1 x 100 x 17 x 17, "
        "in tests/test_0.py::test and 4 more",
    ]


def test_of_several_models_a_table_comes_first_and_the_largest_savings_have_details() -> None:
    nets = [replace(RESNET, model=f"Net{n}", params=10**7 + n) for n in range(12)]
    run: SuiteRun = dict.fromkeys([*nets, Report("Linear", (), 30, 20, Origin.META)], Reporters())
    head, without, *details, rest = render_run("text", run).split("\n\n")
    assert [line.split()[0] for line in head.splitlines()[3:-1]] == sorted(
        found.model for found in run if found.findings
    )
    assert without.startswith("1 model has no convolutions: Linear")
    assert [block.split(",")[0] for block in details if ", input" in block] == [
        f"\n{name}" for name in sorted(f"Net{n}" for n in range(12))[:10]
    ]
    assert rest.split("\n", 1)[1] == (
        "2 more models are in the table above only: --dws-top=12 shows all in detail"
    )


def test_models_without_convolutions_are_counted_by_class_on_one_line() -> None:
    bare = [Report("Linear", (), 30 + n, 20, Origin.META) for n in range(40)]
    others = [Report(f"Mlp{n}", (), 30, 20, Origin.META) for n in range(6)]
    run: SuiteRun = dict.fromkeys([RESNET, *bare, *others], Reporters())
    lines = render_run("text", run).splitlines()
    assert lines[0] == (
        "46 models have no convolutions: Linear x 40, Mlp0, Mlp1, Mlp2, Mlp3 and 2 more"
    )
    assert "Mlp5" in render_run("text", run, 1).splitlines()[0]


def test_a_long_name_keeps_its_ends_where_the_table_would_be_too_wide() -> None:
    test = f"test_it[{'-'.join(map(str, range(60)))}]"
    run: SuiteRun = {
        RESNET: Reporters(set(), {f"a.py::{test}"}),
        replace(RESNET, depth_multiplier=2): Reporters(set(), {"a.py::test_b"}),
    }
    assert f"\nResNet, in {test} " in render_run("text", run)
    lines = render_run("text", run, width=80).split("\n\n")[0].splitlines()
    assert max(map(len, lines)) <= 80
    assert any(re.match(r"ResNet, in .*\.\.\..*57-58-59\] ", line) for line in lines)


def test_several_inputs_of_a_model_are_listed_with_its_report() -> None:
    others = [
        replace(WORKED_REPORT, input_shapes=((1, 3, side, side),), macs=side) for side in range(4)
    ]
    run: SuiteRun = dict.fromkeys([WORKED_REPORT, *others], Reporters())
    text = " ".join(render_run("text", run).split())
    assert (
        "Also reported for 4 other inputs: 1 x 3 x 3 x 3 (3 MACs), 1 x 3 x 2 x 2 (2 MACs), "
        "1 x 3 x 1 x 1 (1 MACs) and 1 more" in text
    )
    assert "and 1 more" not in render_run("text", run, 1)


def test_a_report_by_itself_has_no_users() -> None:
    assert render_report("text", WORKED_REPORT) == WORKED_TEXT
