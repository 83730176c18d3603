from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_dwsconv.core.budget import Budget, check_limits, violations
from pytest_dwsconv.core.conv import ConvSpec
from pytest_dwsconv.core.findings import Finding, Origin
from pytest_dwsconv.core.limits import LimitCheck, slack
from pytest_dwsconv.core.plan import enough, plan_of
from pytest_dwsconv.core.quantities import Unit, parse_quantity
from pytest_dwsconv.core.rules import Verdict
from pytest_dwsconv.errors import FormatError, InputError
from pytest_dwsconv.report import Report


def finding(name: str, params: int, separable: int | None, macs: int | None = None) -> Finding:
    spec = ConvSpec(2, 8, 8, (3, 3))
    verdict = Verdict.INELIGIBLE if separable is None else Verdict.CANDIDATE
    after = None if separable is None or macs is None else macs // 10
    return Finding(
        name, spec, verdict, "DWS001", "", params, macs, separable, after, Origin.META, "Conv2d"
    )


def report(params: int, *findings: Finding, macs: int | None = None) -> Report:
    return Report("Net", findings, params, macs, Origin.META)


def sentences(given: Report, **limits: Any) -> list[str]:
    return [str(violation) for violation in violations(given, Budget.of(limits))]


def replaced_for(given: Report, budget: Budget) -> tuple[Finding, ...]:
    return enough(given, violations(given, budget))


TWO = report(
    5_210_000,
    finding("layer3.0.conv2", 400_000, 200_000),
    finding("layer3.1.conv2", 300_000, 160_000),
)


def test_a_violation_says_limit_actual_and_what_helps() -> None:
    assert sentences(TWO, params="5M") == [
        "Net has 5.21M parameters, the budget is 5M (0.21M over). "
        "Making layer3.0.conv2 and layer3.1.conv2 separable would bring it to 4.87M."
    ]


@pytest.mark.parametrize("limit", ["5.21M", 5_210_000, "6M"])
def test_a_model_at_or_under_its_budget_passes(limit: Any) -> None:
    assert violations(TWO, Budget(params=limit)) == ()


def test_one_replacement_is_named_alone() -> None:
    assert sentences(TWO, params="5.1M") == [
        "Net has 5.21M parameters, the budget is 5.1M (0.11M over). "
        "Making layer3.0.conv2 separable would bring it to 5.01M."
    ]


def test_a_budget_no_replacement_meets() -> None:
    assert sentences(TWO, params="1M") == [
        "Net has 5.21M parameters, the budget is 1M (4.21M over). "
        "Making every candidate separable would only bring it to 4.87M."
    ]
    assert sentences(report(10, finding("stem", 10, None)), params=9) == [
        "Net has 10 parameters, the budget is 9 (1 over). "
        "No convolution in it that could be made separable would lower that."
    ]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (5_209_999, "Net has 5.21M parameters, the budget is 5.209999M (0.000001M over)."),
        ("5209k", "Net has 5.21M parameters, the budget is 5.209M (0.001M over)."),
        (0, "Net has 5.21M parameters, the budget is 0 (5.21M over)."),
    ],
)
def test_a_small_excess_is_shown_with_enough_digits(limit: Any, expected: str) -> None:
    assert sentences(TWO, params=limit)[0].startswith(expected)


@given(st.integers(1, 10**12), st.integers(1, 10**12))
def test_an_excess_is_never_shown_as_nothing(actual: int, over: int) -> None:
    (sentence,) = sentences(report(actual + over), params=actual)
    shown, limit = (
        sentence.split(" parameter")[0].split()[-1],
        sentence.split("budget is ")[1].split(" ")[0],
    )
    assert shown != limit
    assert parse_quantity(sentence.split("(")[1].split(" over")[0]) > 0


def test_size_is_float32_bytes_shown_as_the_budget_is_written() -> None:
    assert sentences(TWO, size="20MB")[0].startswith(
        "Net has 20.84MB of float32 parameters, the budget is 20MB (0.84MB over)."
    )
    assert sentences(TWO, size="19MiB")[0].startswith(
        "Net has 19.87MiB of float32 parameters, the budget is 19MiB (0.87MiB over)."
    )


@pytest.mark.parametrize(
    ("name", "limit", "sentence"),
    [
        (
            "size_fp16",
            "10MB",
            "Net has 10.42MB of float16 parameters, the budget is 10MB (0.42MB over). ",
        ),
        (
            "size_int8",
            "5MB",
            "Net has 5.21MB of int8 parameters, the budget is 5MB (0.21MB over). ",
        ),
        (
            "activations",
            "2KiB",
            "Net has 2.93KiB of activations at their peak, the budget is 2KiB (0.93KiB over). "
            "No convolution in it that could be made separable would lower that.",
        ),
    ],
)
def test_other_sizes(name: str, limit: str, sentence: str) -> None:
    (said,) = sentences(replace(TWO, peak_activations=3000), **{name: limit})
    assert said.startswith(sentence)
    with pytest.raises(
        InputError,
        match="the budget limits activations and none were counted for Net: give an input",
    ):
        violations(TWO, Budget(activations=1))


def test_candidates_and_macs_are_limited_too() -> None:
    given = report(100, finding("a", 50, 40, 1000), finding("b", 50, 10, 100), macs=1100)
    assert sentences(given, macs=900, candidates=1, params=90) == [
        "Net has 100 parameters, the budget is 90 (10 over). Making b separable would bring it to "
        "60.",
        "Net has 1.1k MACs, the budget is 900 (0.2k over). Making a separable would bring it to "
        "200.",
        "Net has 2 candidates, the budget is 1 (1 over). Making b separable would bring it to 1.",
    ]
    assert sentences(report(1, finding("a", 1, 1)), candidates=0)[0].startswith(
        "Net has 1 candidate, the budget"
    )


def test_a_budget_on_macs_needs_shapes() -> None:
    with pytest.raises(
        InputError, match=r"none were counted for Net: give an input size, as in \(1, 3, 224, 224\)"
    ):
        violations(TWO, Budget(macs="1G"))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(0, 200))
def test_the_advice_is_the_fewest_replacements(savings: list[int], limit: int) -> None:
    findings = [finding(f"c{index}", saved + 1, 1) for index, saved in enumerate(savings)]
    total = sum(savings) + 100
    found = violations(report(total, *findings), Budget(params=limit))
    enough = [
        count
        for count in range(len(savings) + 1)
        if any(total - sum(chosen) <= limit for chosen in combinations(savings, count))
    ]
    if not found:
        assert enough[0] == 0
    elif enough:
        assert len(found[0].replacements) == enough[0]
        assert found[0].attainable <= limit
    else:
        assert found[0].attainable == 100 > limit


def forward_of(*shapes: tuple[int, ...], batch: int = 1, calls: int = 1) -> Report:
    """A report of inputs of these shapes, with one convolution given such a batch."""
    spec = ConvSpec(2, 8, 8, (3, 3), input_shape=(batch, 8, 9, 9), output_shape=(batch, 8, 7, 7))
    conv = replace(finding("conv", 500, 100, 800 * batch), spec=spec, calls=calls)
    whole = replace(report(1000, conv, macs=1000 * batch), peak_activations=4096 * batch)
    return replace(whole, input_shapes=shapes)


@pytest.mark.parametrize(
    ("found", "size"),
    [
        (forward_of((16, 3, 9, 9), batch=16), 16),
        (forward_of((16, 3, 9, 9), (16, 10), (), batch=16), 16),
        # frames of a video, folded into the batch
        (forward_of((2, 5, 3, 9, 9), batch=10), 2),
        (forward_of((16, 3, 9, 9), (7, 10), batch=16), None),
        # the first side is that of channels
        (forward_of((3, 9, 9), batch=1), None),
        (forward_of((3, 9, 9), batch=1, calls=0), 3),
        (forward_of((0, 3, 9, 9), batch=0), None),
        (forward_of(batch=16), None),
    ],
)
def test_the_batch_is_the_first_side_that_inputs_and_convolutions_share(
    found: Report, size: int | None
) -> None:
    assert found.batch_size == size


def test_a_convolution_of_a_single_sample_says_that_there_is_no_batch() -> None:
    spec = ConvSpec(2, 8, 8, (3, 3), input_shape=(8, 9, 9), output_shape=(8, 7, 7))
    conv = replace(finding("conv", 500, 100, 800), spec=spec, calls=1)
    assert replace(report(1000, conv, macs=1000), input_shapes=((8, 9, 9),)).batch_size == 1


@pytest.mark.parametrize("batch", [1, 2, 16, 33])
@pytest.mark.parametrize(
    "limits", [{"macs": 999}, {"macs": 1000}, {"macs": 300}, {"macs": 200}, {"activations": "4kB"}]
)
def test_a_batch_is_held_to_what_a_sample_is(batch: int, limits: dict[str, Any]) -> None:
    budget = Budget.of(limits)
    (one,) = check_limits(forward_of((1, 3, 9, 9)), budget)
    (many,) = check_limits(forward_of((batch, 3, 9, 9), batch=batch), budget)
    assert replace(many, noun=one.noun) == one
    several = [
        found.name for found in replaced_for(forward_of((batch, 3, 9, 9), batch=batch), budget)
    ]
    assert several == [found.name for found in replaced_for(forward_of((1, 3, 9, 9)), budget)]


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            forward_of((1, 3, 9, 9)),
            "Net has 1k MACs for input 1 x 3 x 9 x 9, the budget is 500 (0.5k over). Making conv "
            "separable would bring it to 280.",
        ),
        (
            forward_of((16, 3, 9, 9), batch=16),
            "Net has 1k MACs per sample of input 16 x 3 x 9 x 9, the budget is 500 (0.5k over). "
            "Making conv separable would bring it to 280.",
        ),
        (
            forward_of((2, 3, 9, 9), (5, 4), batch=2),
            "Net has 2k MACs for input 2 x 3 x 9 x 9 and 5 x 4, in which no batch size is seen, "
            "the budget is 500 (1.5k over). Making every candidate separable would only bring it "
            "to 560.",
        ),
    ],
)
def test_a_sentence_says_for_which_input_its_numbers_are(found: Report, sentence: str) -> None:
    assert sentences(found, macs=500) == [sentence]


def test_macs_that_do_not_divide_by_the_batch_are_not_rounded_into_the_budget() -> None:
    odd = replace(forward_of((2, 3, 9, 9), batch=2), macs=2001)
    assert violations(odd, Budget(macs=1000))[0].actual == 1000.5
    assert violations(odd, Budget(macs=1000.5)) == ()


LAYERED = replace(
    report(
        9_000,
        finding("layer3.0.conv", 3_000, 500, 30_000),
        finding("layer4.0.conv1", 2_000, 400, 20_000),
        replace(finding("layer4.0.conv2", 1_000, 300, 10_000), aliases=("tail.conv",)),
        finding("layer4.0.down", 500, None, 1_000),
        macs=70_000,
    ),
    input_shapes=((1, 8, 9, 9),),
)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (
            {"layer4.*": {"params": "3k", "macs": "31k"}},
            [
                "Net has 3.5k parameters in its convolutions layer4.*, the budget is 3k (0.5k "
                "over). Making layer4.0.conv1 separable would bring it to 1.9k."
            ],
        ),
        (
            {"layer4.*": {"macs": 5_000}},
            [
                "Net has 31k MACs in its convolutions layer4.* for input 1 x 8 x 9 x 9, the budget "
                "is 5k (26k over). Making layer4.0.conv1 and layer4.0.conv2 separable would bring "
                "it to 4k."
            ],
        ),
        (
            {"*.conv?": {"candidates": 1}, "*.down": {"size": "1kB", "size_int8": "500B"}},
            [
                "Net has 2 candidates in its convolutions *.conv?, the budget is 1 (1 over). "
                "Making layer4.0.conv1 separable would bring it to 1.",
                "Net has 2kB of float32 parameters in its convolutions *.down, the budget is 1kB "
                "(1kB over). No convolution in it that could be made separable would lower that.",
            ],
        ),
        ({"tail.*": {"params": 1_000}}, []),
    ],
)
def test_layers_have_limits_of_their_own(layers: dict[str, Any], said: list[str]) -> None:
    assert sentences(LAYERED, layers=layers) == said


def test_replacements_are_enough_for_the_model_and_its_layers_at_once() -> None:
    budget = Budget(params="6.5k", layers={"layer4.*": {"candidates": 1}})
    names = sorted(found.name for found in replaced_for(LAYERED, budget))
    assert names == ["layer3.0.conv", "layer4.0.conv1"]
    plan = plan_of(LAYERED, replaced_for(LAYERED, budget))
    assert [entry.name for entry in plan.entries] == names


@pytest.mark.parametrize(
    ("pattern", "advice"),
    [
        ("layer4", ": for those inside it write 'layer4.*'"),
        ("layer4.0.cnv1", "; one is called 'layer4.0.conv1'"),
        ("*.bn", "; one is called 'layer3.0.conv'"),
    ],
)
def test_layers_that_the_model_does_not_have_are_an_error(pattern: str, advice: str) -> None:
    with pytest.raises(InputError) as error:
        sentences(LAYERED, layers={pattern: {"params": 1}})
    said = f"the budget limits layers {pattern!r}, and no convolution of Net has such a name"
    assert str(error.value) == said + advice


def test_limits_that_nothing_uses_half_of_are_told_with_what_to_tighten_them_to() -> None:
    small = replace(LAYERED, model="Small", params=1_000)
    loose: dict[str, Any] = {
        "macs": "1M",
        "candidates": 0,
        "layers": {"layer4.*": {"size": "140kB"}},
    }
    held = [
        check_limits(LAYERED, Budget.of({"params": "18k", **loose})),
        check_limits(small, Budget.of({"params": "18k", "size": "40kB"})),
    ]
    assert slack(held) == [
        "Net uses 7 % and 10 % of its budget, tighten to 70k MACs for input 1 x 8 x 9 x 9 and 14kB "
        "of float32 parameters in its convolutions layer4.*.",
        "Small uses 10 % of its budget, tighten to 4kB of float32 parameters.",
    ]


ROWS = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=5)


@given(ROWS, st.integers(0, 200), st.integers(0, 200))
# the first helps most at first, and the others make up for it
@example([(30, 30), (50, 1), (1, 50)], 130, 130)
def test_enough_meets_every_limit_and_nothing_in_it_is_superfluous(
    rows: list[tuple[int, int]], params: int, macs: int
) -> None:
    findings = [
        replace(finding(f"c{index}", saved + 1, 1, 100), separable_macs=100 - fewer)
        for index, (saved, fewer) in enumerate(rows)
    ]
    given = report(
        100 + sum(row[0] for row in rows), *findings, macs=100 + sum(row[1] for row in rows)
    )

    def within(chosen: tuple[Finding, ...]) -> bool:
        saved = [sum(rows[findings.index(each)][kind] for each in chosen) for kind in (0, 1)]
        return given.params - saved[0] <= params and (given.macs or 0) - saved[1] <= macs

    found = replaced_for(given, Budget(params=params, macs=macs))
    if not found:
        assert within(()) or not within(given.candidates)
    else:
        assert within(found)
        assert not any(
            within(tuple(each for each in found if each != left_out)) for left_out in found
        )
    alone = violations(given, Budget(params=params))
    if alone and alone[0].attainable <= params:
        assert len(replaced_for(given, Budget(params=params))) == len(alone[0].replacements)


def test_what_exceeds_a_limit_many_times_does_not_outweigh_what_meets_both() -> None:
    rows = {"params": (101, 1, 0), "macs": (1, 1, 20), "both": (11, 1, 10)}
    findings = [
        replace(finding(name, before, after, 100), separable_macs=100 - fewer)
        for name, (before, after, fewer) in rows.items()
    ]
    given = report(1000, *findings, macs=1000)
    assert [found.name for found in replaced_for(given, Budget(params=990, macs=990))] == ["both"]


def test_a_violation_is_plain_data() -> None:
    (violation,) = violations(TWO, Budget(params="5M"))
    expected = LimitCheck(
        "Net",
        "params",
        "parameters",
        Unit.COUNT,
        5_000_000,
        5_210_000,
        ("layer3.0.conv2", "layer3.1.conv2"),
        4_870_000,
    )
    assert violation == expected == pickle.loads(pickle.dumps(violation))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {},
            "a budget without a limit checks nothing: give any of params, macs, size, size_fp16, "
            "size_int8, "
            "activations, candidates, latency, target, latency_predicted, layers, percentile and "
            "tolerance",
        ),
        ({"params": None}, "a budget without a limit checks nothing"),
        (
            {"parms": 3},
            "a budget has no argument 'parms': it takes params, macs, size, size_fp16, size_int8,",
        ),
        (
            {"latency": "5ms"},
            "a budget's latency and target go together: give target='cpu', say, as well",
        ),
        ({"params": 1, "target": "cpu"}, "a budget's latency and target go together: give laten"),
        ({"target": "cpu"}, "a budget's latency and target go together: give latency='5ms', say, "),
        (
            {"latency": "5M", "target": "cpu"},
            "the budget's latency '5M' is not a quantity: write a number from 0 with",
        ),
        ({"layers": {}}, "a budget without a limit checks nothing"),
        (
            {"layers": {"a.*": {"params": "5Q"}}},
            "the budget's a.* params '5Q' is not a quantity: write a number",
        ),
        (
            {"layers": {"a.*": {"activations": 5}}},
            "layers cannot be limited in 'activations': 'a.*' takes params, macs, size, size_fp16, "
            "size_int8, candidates",
        ),
        ({"layers": {"a.*": "5M"}}, "layers needs a pattern and its limits, as in layers={"),
        ({"layers": {"": {"params": 1}}}, "layers needs a pattern and its limits, as in layers={"),
        ({"layers": "a.*"}, "layers must be limits by pattern, not 'a.*': as in layers={"),
        ({"params": "5Q"}, "the budget's params '5Q' is not a quantity: write a number from 0"),
        (
            {"params": 1, "size": "5Q"},
            "the budget's size '5Q' is not a quantity: write a number from 0, with B",
        ),
    ],
)
def test_what_is_no_budget(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises((InputError, FormatError)) as error:
        Budget.of(arguments)
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "spoken"),
    [
        ("", "the model itself"),
        ("2", "layer 2"),
        ("0.1.conv", "layer 0.1.conv"),
        ("body.0", "body.0"),
    ],
)
def test_layers_are_named_so_that_the_advice_reads_as_a_sentence(name: str, spoken: str) -> None:
    (said,) = sentences(report(50, finding(name, 50, 40)), candidates=0)
    assert said.endswith(f"Making {spoken} separable would bring it to 0.")
