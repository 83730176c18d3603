"""The table of rules against its own examples, and the break-even point against the costs."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_dwsconv.core.conv import ConvSpec, Order, Trait, cost, separable_cost
from pytest_dwsconv.core.policy import Policy
from pytest_dwsconv.core.rules import (
    CANDIDATE_CODE,
    RULEBOOK,
    RULES,
    Rule,
    Verdict,
    judge,
    most_saving,
)
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.source.edit import rewrite_text


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_each_rule_settles_its_own_example(rule: Rule) -> None:
    judgement = judge(rule.applies_to)
    assert (judgement.code, judgement.verdict, judgement.reason) == (
        rule.code,
        rule.verdict,
        rule.reason,
    )


@pytest.mark.parametrize(
    "rule", [rule for rule in RULES if rule.applies_to.traits], ids=lambda rule: rule.code
)
def test_a_rule_whose_example_has_a_trait_is_about_it(rule: Rule) -> None:
    """``judge`` asks no such rule about a convolution without traits."""
    assert not rule.applies(replace(rule.applies_to, traits=()), Policy())


def test_codes_are_unique_and_tell_the_verdict() -> None:
    assert len({rule.code for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.code.startswith("DWS1" if rule.verdict is Verdict.INELIGIBLE else "DWS2")


@pytest.mark.parametrize(
    "spec",
    [
        ConvSpec(2, 64, 64, (3, 3)),
        ConvSpec(1, 64, 64, (3,)),
        ConvSpec(3, 8, 8, (3, 3, 3)),
        ConvSpec(2, 64, 64, (1, 3)),
        ConvSpec(2, 5, 64, (7, 7), bias=False),
        ConvSpec(2, 64, 64, (3, 3), groups=4),
    ],
)
def test_candidates(spec: ConvSpec) -> None:
    judgement = judge(spec)
    assert (judgement.verdict, judgement.code) == (Verdict.CANDIDATE, CANDIDATE_CODE)
    assert judgement.reason == f"{spec.kind.value} convolution"


@given(
    m=st.integers(1, 40),
    k=st.integers(2, 49),
    r=st.integers(1, 12),
    groups=st.integers(1, 3),
    bias=st.booleans(),
)
def test_break_even(m: int, k: int, r: int, groups: int, bias: bool) -> None:
    """At one group without bias depthwise_first saves iff r < k M / (k + M)."""
    spec = ConvSpec(1, 5 * groups, m * groups, (k,), groups=groups, bias=bias)
    policy = Policy(depth_multiplier=r)
    before, after = cost(spec), separable_cost(spec, Order.DEPTHWISE_FIRST, r)
    assert before is not None
    assert after is not None
    candidate = judge(spec, policy).verdict is Verdict.CANDIDATE
    assert candidate == (after.params < before.params)
    if not bias:
        assert candidate == (r * (k + m) < k * m)


@given(k=st.integers(2, 49), r=st.integers(1, 12))
def test_with_unknown_channels_the_assumption_is_the_break_even(k: int, r: int) -> None:
    judgement = judge(ConvSpec(1, None, None, (k,)), Policy(depth_multiplier=r))
    if judgement.verdict is Verdict.CANDIDATE:
        least = int(judgement.reason.split("at least ")[1].split()[0])
        for m in (least - 1, least):
            verdict = judge(ConvSpec(1, 5, m, (k,), bias=False), Policy(depth_multiplier=r)).verdict
            assert (verdict is Verdict.CANDIDATE) == (m == least)
    else:
        assert (judgement.code, r >= k) == ("DWS111", True)


@pytest.mark.parametrize(
    ("trait", "policy"),
    [(Trait.SUBCLASS, Policy(subclasses=True)), (Trait.FUNCTIONAL, Policy(functional=True))],
)
def test_what_is_left_alone_unless_asked(trait: Trait, policy: Policy) -> None:
    spec = ConvSpec(2, 64, 64, (3, 3), traits=(trait,))
    assert judge(spec).verdict is Verdict.INELIGIBLE
    assert judge(spec, policy).verdict is Verdict.CANDIDATE


def test_min_saving() -> None:
    spec = ConvSpec(2, 64, 64, (3, 3), bias=False)
    assert judge(spec, Policy(min_saving=7.8)).verdict is Verdict.CANDIDATE
    assert judge(spec, Policy(min_saving=7.9)).code == "DWS111"


@pytest.mark.parametrize(
    ("policy", "left_out"),
    [
        (Policy(), []),
        (Policy(select=("layer3.*",)), ["conv1", "layer2.0.conv1"]),
        (Policy(ignore=("conv1", "layer2*")), ["conv1", "layer2.0.conv1"]),
        (Policy(select=("layer*",), ignore=("layer2*",)), ["conv1", "layer2.0.conv1"]),
    ],
)
def test_patterns(policy: Policy, left_out: list[str]) -> None:
    names = ["conv1", "layer2.0.conv1", "layer3.0.conv1"]
    assert [name for name in names if policy.leaves_out(name)] == left_out


def test_patterns_look_at_aliases() -> None:
    assert Policy(ignore=("decoder.*",)).leaves_out("encoder.conv", "decoder.conv")


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, "2"])
def test_a_bad_multiplier_is_an_error(bad: object) -> None:
    with pytest.raises(InputError, match="depth_multiplier must be"):
        Policy(depth_multiplier=bad)  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize("bad", [0.5, float("nan")])
def test_a_minimum_below_one_is_no_saving(bad: float) -> None:
    with pytest.raises(InputError, match="min_saving must be at least 1"):
        Policy(min_saving=bad)


def test_bounds_where_a_number_is_not_known() -> None:
    """In source a channel count may be a name; output channels alone settle the saving of a
    standard convolution.
    """
    assert judge(ConvSpec(2, None, 1, (3, 3))).code == "DWS111"
    assert judge(ConvSpec(2, None, 2, (3, 3))).reason == "standard convolution"
    assert judge(ConvSpec(2, None, None, (3, 3)), Policy(min_saving=9)).code == "DWS111"
    assert (
        judge(ConvSpec(2, None, None, (3, 3)), Policy(min_saving=8.9)).verdict is Verdict.CANDIDATE
    )
    for groups in (1, 2, 4):
        known, unknown = (ConvSpec(2, c, 32, (3, 3), groups=groups, bias=False) for c in (32, None))
        assert most_saving(known) == most_saving(unknown)


@pytest.mark.parametrize(
    ("spec", "saving"),
    [
        (ConvSpec(2, 3, 64, (7, 7), (2, 2), bias=False), 9408 / (192 + 3136)),
        (ConvSpec(2, 3, None, (7, 7), (2, 2)), 147 / 52),
        (ConvSpec(2, 4, 32, (3, 3), bias=False), 1152 / (128 + 288)),
        (ConvSpec(2, 3, 768, (16, 16), (16, 16), bias=False), 589824 / (2304 + 196608)),
        (ConvSpec(2, 12, 96, (4, 4), (4, 4), bias=False), 18432 / (1152 + 1536)),
        (ConvSpec(2, 8, 64, (3, 3), groups=4, bias=False), 1152 / (128 + 576)),
    ],
)
def test_few_input_channels_go_pointwise_first_where_that_saves(
    spec: ConvSpec, saving: float
) -> None:
    """Depthwise first at multiplier r, all outputs would be mixtures of r C maps."""
    judgement = judge(spec)
    assert judgement.code == CANDIDATE_CODE
    assert judgement.reason.startswith(f"{spec.kind.value} convolution, pointwise first: with so")
    assert Policy().order_for(spec) is Order.POINTWISE_FIRST
    assert most_saving(spec) == pytest.approx(saving)
    assert Policy(few_channels=True).order_for(spec) is Order.DEPTHWISE_FIRST
    assert "pointwise" not in judge(spec, Policy(few_channels=True)).reason


@pytest.mark.parametrize(
    "spec",
    [
        ConvSpec(2, 1, 64, (7, 7), (2, 2)),
        ConvSpec(2, 1, None, (3, 3)),
        ConvSpec(2, 1, 768, (16, 16), (16, 16)),
        ConvSpec(2, 2, 64, (2, 1)),
    ],
)
def test_few_input_channels_are_left_alone_where_it_does_not(spec: ConvSpec) -> None:
    assert judge(spec).code == "DWS115"
    assert judge(spec, Policy(order=Order.POINTWISE_FIRST)).code == "DWS111"


@pytest.mark.parametrize(
    "spec",
    [
        ConvSpec(2, 5, 64, (3, 3)),
        ConvSpec(2, 17, 768, (16, 16), (16, 16)),
        ConvSpec(2, 16, 64, (4, 4), (2, 2)),
        ConvSpec(2, 64, 64, (3, 3), groups=16),
        ConvSpec(2, None, 64, (7, 7), (2, 2)),
    ],
)
def test_enough_input_channels_go_depthwise_first(spec: ConvSpec) -> None:
    assert Policy().order_for(spec) is Order.DEPTHWISE_FIRST
    assert judge(spec).code == CANDIDATE_CODE


@pytest.mark.parametrize(
    "spec",
    [
        ConvSpec(2, 0, 4, (3, 3), bias=False),
        ConvSpec(2, 5, 0, (3, 3), bias=False),
        ConvSpec(2, 0, 0, (3, 3)),
        ConvSpec(2, None, 0, (3, 3)),
        ConvSpec(2, None, 0, (0, 3)),
    ],
)
def test_nothing_saves_nothing(spec: ConvSpec) -> None:
    assert judge(spec).code == "DWS111"


def test_one_string_for_patterns_is_an_error() -> None:
    with pytest.raises(InputError, match="select takes a list of patterns"):
        Policy(select="layer3.*")  # type: ignore[arg-type]  # that is the test


def test_an_order_may_be_given_by_its_word() -> None:
    for order in Order:
        assert Policy(order=order.value).order is order  # type: ignore[arg-type]  # that is the test
    assert Policy(order="pointwise_first") == Policy(order=Order.POINTWISE_FIRST)  # type: ignore[arg-type]  # the same
    with pytest.raises(
        InputError, match="order must be 'depthwise_first' or 'pointwise_first', not 'nonsense'"
    ):
        Policy(order="nonsense")  # type: ignore[arg-type]  # the same


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ignore": None}, r"ignore takes a list of patterns such as \['layer3.\*'\], not None"),
        ({"select": [1]}, "select takes a list of patterns .* and 1 is not a string"),
        ({"min_saving": "2"}, "min_saving must be at least 1, not '2'"),
    ],
)
def test_settings_of_the_wrong_type(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Policy(**settings)


def test_a_list_of_patterns_is_kept_as_a_tuple() -> None:
    assert Policy(select=["a.*"]) == Policy(select=("a.*",))  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize("flag", ["subclasses", "functional", "few_channels"])
@pytest.mark.parametrize("bad", ["no", 0, None])
def test_a_flag_is_true_or_false(flag: str, bad: object) -> None:
    with pytest.raises(InputError, match=f"{flag} is True or False, not"):
        Policy(**{flag: bad})  # type: ignore[arg-type]  # that is the test


def test_what_falls_short_of_the_minimum_is_not_said_to_save_nothing() -> None:
    spec = ConvSpec(2, 3, 64, (7, 7))
    assert judge(spec).code == CANDIDATE_CODE
    judgement = judge(spec, Policy(min_saving=3))
    assert judgement.code == "DWS115"
    assert "or no more than min_saving asks for" in judgement.reason


ONLY_IN_A_MODEL = {"DWS116", "DWS102", "DWS109", "DWS112", "DWS113", "DWS114"}
"""Settled by what a model holds; in a file's text there is nothing to see."""


def test_there_is_one_entry_for_each_code_in_their_order() -> None:
    codes = sorted(rule.code for rule in RULES)
    assert list(RULEBOOK) == [CANDIDATE_CODE, *codes]


@pytest.mark.parametrize("code", sorted(RULEBOOK.keys() - ONLY_IN_A_MODEL))
def test_the_example_gets_its_code(code: str) -> None:
    imports = "import torch\nfrom functools import partial\nfrom torch import nn\n"
    sites = rewrite_text(f"{imports}\n{RULEBOOK[code].example}\n", guards=False).sites
    assert [site.judgement.code for site in sites] == [code]


@pytest.mark.parametrize("code", sorted(RULEBOOK))
def test_every_entry_is_python_and_sentences(code: str) -> None:
    entry = RULEBOOK[code]
    ast.parse(entry.example)
    assert entry.advice.endswith(".")
