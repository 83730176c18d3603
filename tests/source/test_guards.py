"""Code that reaches convolutions by their type, outside walks over all modules."""

from __future__ import annotations

import pytest

from pytest_dwsconv.source.edit import rewrite_text

NO, YES = "DWS110", "DWS001"


def codes(function: str) -> list[str]:
    """Of convolutions of one, two and three dimensions in a file with ``def init(m)``."""
    body = "\n".join(f"    {line}" for line in function.splitlines())
    text = (
        "from torch import nn\nnn.Conv1d(8, 64, 3), nn.Conv2d(8, 64, 3), nn.Conv3d(8, 64, 3)\n"
        f"def init(m, flag=False):\n{body}\n"
    )
    return [site.judgement.code for site in rewrite_text(text).sites if site.place.is_call]


BIAS = "m.bias.data.zero_()"


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (BIAS, [YES, YES, YES]),
        (f"if isinstance(m, nn.Conv2d): {BIAS}", [YES, NO, YES]),
        (f"if isinstance(m, nn.Conv2d) or isinstance(m, nn.Conv1d): {BIAS}", [NO, NO, YES]),
        (f"if isinstance(m, nn.Conv2d) or isinstance(m, nn.Linear): {BIAS}", [YES, NO, YES]),
        (f"if isinstance(m, nn.Conv2d) or flag: {BIAS}", [YES, NO, YES]),
        (f"if flag or isinstance(m, nn.Conv2d): {BIAS}", [YES, NO, YES]),
        (f"if isinstance(m, nn.Conv2d) and flag: {BIAS}", [YES, NO, YES]),
        (f"if isinstance(m, nn.Linear) and isinstance(m, nn.Conv2d): {BIAS}", [YES, YES, YES]),
        (f"if not isinstance(m, nn.Conv2d): return\n{BIAS}", [YES, NO, YES]),
        (f"if not isinstance(m, nn.Conv2d) or flag: return\n{BIAS}", [YES, NO, YES]),
        (
            "if not isinstance(m, nn.Conv2d) and not isinstance(m, nn.Conv3d): return\n" + BIAS,
            [YES, NO, NO],
        ),
        (f"if not (isinstance(m, nn.Conv2d) or flag): return\n{BIAS}", [YES, NO, YES]),
        (f"if isinstance(m, nn.Conv2d): return\n{BIAS}", [YES, YES, YES]),
        (f"if isinstance(m, nn.Conv2d): pass\nelse: {BIAS}", [YES, YES, YES]),
        (f"if not isinstance(m, nn.Conv2d): flag = True\n{BIAS}", [YES, YES, YES]),
        (f"if type(m) is not nn.Conv2d: pass\nelse: {BIAS}", [YES, NO, YES]),
        (f"if isinstance(flag, nn.Conv2d): {BIAS}", [YES, YES, YES]),
        (f"x = {BIAS} if isinstance(m, nn.Conv2d) else 0", [YES, NO, YES]),
        (f"x = isinstance(m, nn.Conv2d) or {BIAS}", [YES, YES, YES]),
        (f"assert isinstance(m, nn.Conv2d)\n{BIAS}", [YES, NO, YES]),
        (f"{BIAS}\nassert isinstance(m, nn.Conv2d)", [YES, YES, YES]),
        (f"if isinstance(m, nn.Conv2d):\n    try: {BIAS}\n    except: pass", [YES, YES, YES]),
        (f"if isinstance(m, nn.Conv2d):\n    try: pass\n    finally: {BIAS}", [YES, NO, YES]),
    ],
)
def test_a_type_asked_for_says_which_convolutions_get_to_a_bias(
    function: str, expected: list[str]
) -> None:
    assert codes(function) == expected


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("name.find('Conv') != -1", [NO, NO, NO]),
        ("name.find('Conv') >= 0", [NO, NO, NO]),
        ("name.find('Conv') > -1", [NO, NO, NO]),
        ("name.find('Conv') == -1", [YES, YES, YES]),
        ("name.find('Conv') < 0", [YES, YES, YES]),
        ("not name.find('Conv') == -1", [NO, NO, NO]),
        ("'Conv2d' in name", [YES, NO, YES]),
        ("'Conv2d' not in name", [YES, YES, YES]),
        ("not 'Conv2d' not in name", [YES, NO, YES]),
        ("name == 'Conv3d'", [YES, YES, NO]),
        ("name != 'Conv3d'", [YES, YES, YES]),
        ("name in ('Conv1d', 'Conv3d')", [NO, YES, NO]),
        ("name == 'ConvTranspose2d'", [YES, YES, YES]),
        ("name.startswith('Conv')", [NO, NO, NO]),
        ("name == 'Linear'", [YES, YES, YES]),
    ],
)
def test_so_does_a_test_of_the_name_of_the_class(test: str, expected: list[str]) -> None:
    assert codes(f"name = type(m).__name__\nif {test}: {BIAS}") == expected


@pytest.mark.parametrize(
    ("test", "code"),
    [("name.find('Conv') == -1", NO), ("name.find('Conv') != -1", YES), ("'Conv' in name", YES)],
)
def test_a_function_left_by_the_name_is_for_those_that_stay(test: str, code: str) -> None:
    assert codes(f"name = type(m).__name__\nif {test}: return\n{BIAS}") == [code] * 3


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("isinstance(m, nn.Conv2d)", [YES, NO, YES]),
        ("isinstance(m, nn.Conv2d) or flag", [NO, NO, NO]),
        ("isinstance(m, nn.Conv2d) or isinstance(m, nn.Conv1d)", [NO, NO, YES]),
        ("isinstance(m, nn.Linear)", [YES, YES, YES]),
        ("flag", [NO, NO, NO]),
    ],
)
def test_what_a_walk_over_all_modules_lets_through_counts(test: str, expected: list[str]) -> None:
    assert codes(f"for m in net.modules():\n    if {test}: {BIAS}") == expected


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("m.stride = 2", NO),
        ("del m.stride", NO),
        ("x = m.stride", YES),
        ("m.bias = None", YES),
        ("nn.init.zeros_(m.weight)", NO),
        ("nn.init.constant_(m.weight, 0)", NO),
        ("nn.init.constant_(m.weight, 0.0)", NO),
        ("nn.init.constant_(m.weight, 0.01)", YES),
        ("m.weight.data.fill_(0)", NO),
        ("m.weight.data.fill_(1)", YES),
        ("f(m.weight); nn.init.zeros_(x)", YES),
    ],
)
def test_what_is_done_to_all_of_a_type(statement: str, code: str) -> None:
    assert codes(f"if isinstance(m, nn.Conv2d): {statement}") == [YES, code, YES]
