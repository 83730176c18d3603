"""What reaches which convolution: attributes of ``self`` by their class, keys of checkpoints."""

from __future__ import annotations

import pytest

from pytest_dwsconv.source.edit import rewrite_text

NO, YES = "DWS110", "DWS001"
CONV = "nn.Conv2d(8, 64, 3)"


def codes(text: str) -> list[str]:
    return [site.judgement.code for site in rewrite_text(f"from torch import nn\n{text}").sites]


def block(name: str, base: str = "nn.Module", body: str = f"self.conv = {CONV}") -> str:
    return f"class {name}({base}):\n    def build(self):\n        {body}\n\n"


USE = "    def zero(self):\n        nn.init.zeros_(self.conv.weight)\n\n"
USER = block("User") + USE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (USER + block("Other"), [NO, YES]),
        (block("Other") + USER, [YES, NO]),
        (block("Base") + block("User", "Base", "pass") + USE + block("Other"), [NO, YES]),
        (block("Base", body="pass") + USE + block("User", "Base") + block("Other"), [NO, YES]),
        (block("Base") + block("One", "Base") + block("Two", "Base") + USE, [NO, NO, NO]),
        (block("A") + block("B") + block("Both", "A, B", "pass") + USE, [NO, NO]),
        (block("Elsewhere", "Mixin", "pass") + USE + block("Other"), [NO]),
        (USER + f"def f(net):\n    net.conv = {CONV}", [NO, NO]),
        (USER + block("Other", body=f"setattr(self, 'conv', {CONV})"), [NO, NO]),
        (USER + f"OrderedDict([('conv', {CONV})])", [NO, NO]),
        (block("Other") + "def f(net):\n    net.conv.weight.data.zero_()", [NO]),
        (block("A") + USER.replace(CONV, "nn.Linear(8, 8)"), [YES]),
        (block("A", "Base[int]") + USER.replace(CONV, "None"), [NO]),
        (block("Base", body="self.conv = nn.Identity()") + USE + block("A", "Base[int]"), [NO]),
        (USER.replace(f"= {CONV}", f"= []\n        self.conv.append({CONV})"), [NO]),
    ],
)  # fmt: skip
def test_an_attribute_of_self_is_that_of_its_class_and_those_that_inherit(
    text: str, expected: list[str]
) -> None:
    assert codes(text) == expected


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        ("'stem.conv.weight' in state_dict", YES),
        ("'stem.conv.weight' not in checkpoint", YES),
        ("'conv.weight' in self.state.keys()", YES),
        ("'conv.weight' in name", NO),
        ("name in 'conv.weight'", NO),
        ("name == 'conv.weight'", NO),
        ("state_dict['conv.weight'] in x", NO),
    ],
)
def test_to_ask_a_checkpoint_for_a_key_keeps_nothing_from_being_rewritten(
    use: str, expected: str
) -> None:
    assert codes(f"{block('Net')}def f(state_dict, name):\n    if {use}:\n        ...") == [
        expected
    ]
