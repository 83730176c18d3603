"""Small files, and what a careful reader would do with each convolution in them.

R: rewrite; A: leave alone, because a rewrite would break building, loading, initialisation or
training; G: rewrite so that it is decided when the code runs.
"""

from __future__ import annotations

from textwrap import indent

import pytest

from pytest_dwsconv.source.edit import rewrite_text

HEAD = "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n"
NET = """\
class Stage(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.reduce = nn.Conv2d(32, 64, 3, padding=1)
{0}
    def forward(self, x):
{1}
        return self.reduce(x)
"""


def verdicts(text: str) -> str:
    found = ""
    for site in rewrite_text(HEAD + text).sites:
        if not site.is_candidate:
            found += "A"
        else:
            found += "G" if site.guarded else "R"
    return found


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("self.reduce.bias.data.fill_(-2.19)", "R"),
        ("nn.init.constant_(self.reduce.bias, 0.1)", "R"),
        ("self.reduce.requires_grad_(False)", "R"),
        ("for m in self.modules():\n    if isinstance(m, nn.Conv2d): nn.init.zeros_(m.bias)", "R"),
        ("for m in self.modules():\n    if isinstance(m, nn.Conv2d): m.weight.data *= 0.1", "R"),
        ("for p in self.reduce.parameters(): p.requires_grad = False", "R"),
        ("self.register_buffer('ones', torch.ones(self.reduce.out_channels))", "R"),
        ("self.reduce.weight.data.mul_(0.1)", "A"),
        ("nn.init.dirac_(self.reduce.weight)", "A"),
        ("self.reduce.weight.requires_grad = False", "A"),
        ("w, b = self.reduce.parameters()", "A"),
        ("next(iter(self.reduce.parameters())).data.zero_()", "A"),
        ("[p.detach().zero_() for p in self.reduce.parameters()]", "A"),
        ("nn.utils.vector_to_parameters(v, self.reduce.parameters())", "A"),
        ("self.reduce = nn.utils.parametrizations.weight_norm(self.reduce)", "A"),
        ("self.reduce = norm_layer(self.reduce)", "A"),
        ("self.reduced = run(self.reduce)", "R"),
        ("c = nn.Conv2d(64, 64, 3); c = norm_layer(c, 1)", "RA"),
        ("for m in self.modules():\n    if isinstance(m, nn.Conv2d): m.weight.data = kernel", "A"),
        ("for name, m in self.named_children(): m.weight.data.uniform_(-1, 1)", "A"),
        ("del self.reduce.bias", "A"),
        ("assert type(self.reduce).__name__ == 'Conv2d'", "A"),
        ("self.tail = nn.Conv2d(64, 64, 1)", "RA"),
        ("self.tails = nn.ModuleList(nn.Conv2d(64, 64, k) for k in (3, 5))", "RR"),
        ("self.tails = nn.ModuleList(nn.Conv2d(64, 64, k) for k in (1, 3))", "RA"),
        ("self.k = 5; self.tail = nn.Conv2d(64, 64, self.k)", "RR"),
        ("self.tail = nn.Conv2d(64, 64, width)", "RG"),
        ("self.tail = zero_module(nn.Conv2d(64, 64, 3))", "RA"),
        ("self.tail = nn.utils.spectral_norm(nn.Conv2d(64, 64, 3))", "RA"),
    ],
)
def test_what_a_constructor_does(statement: str, expected: str) -> None:
    assert verdicts(NET.format(indent(statement, " " * 8), "")) == expected


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("x = x.to(self.reduce.weight.dtype)", "R"),
        ("x = x.to(next(self.parameters()).device)", "R"),
        ("assert isinstance(self.reduce, nn.Conv2d)", "R"),
        ("x = F.conv2d(x, self.reduce.weight * self.mask)", "AA"),
        ("x = x / self.reduce.weight.norm()", "A"),
        ("x = self.reduce._conv_forward(x, w, None)", "A"),
    ],
)
def test_what_a_forward_does(statement: str, expected: str) -> None:
    assert verdicts(NET.format("", indent(statement, " " * 8))) == expected


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("decay = [p for n, p in Stage().named_parameters() if 'reduce' in n]", "R"),
        ("state = {k: v for k, v in state.items() if not k.endswith('.bias')}", "R"),
        ("count = sum(isinstance(m, nn.Conv2d) for m in Stage().children())", "R"),
        ("Stage().load_state_dict(torch.load('stage.pt'))", "R"),
        ("state['stage.reduce.weight'] = state.pop('conv.weight')", "A"),
        ("state[f'stages.{i}.reduce.weight'] = w", "A"),
        ("keep = [p for n, p in Stage().named_parameters() if n == 'reduce.weight']", "A"),
        ("torch.ao.quantization.fuse_modules(Stage(), [['reduce', 'norm']])", "A"),
        ("torch.nn.utils.prune.ln_structured(Stage().reduce, 'weight', 0.5, 2, 0)", "A"),
        ("list(Stage().modules())[1].weight.data.zero_()", "A"),
        ("dict(Stage().named_modules())['reduce'].weight.data.zero_()", "A"),
    ],
)
def test_what_other_code_of_the_file_does(statement: str, expected: str) -> None:
    assert verdicts(f"{NET.format('', '')}\n{statement}\n") == expected


STEM = """
class Stem(nn.Module):
    def __init__(self, c):
        self.conv = nn.Conv2d(c, 64, 7, 2, 3)
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def conv(c1, c2, k=1, s=1, g=1): return nn.Conv2d(c1, c2, k, s, k // 2, groups=g)", "G"),
        ("def conv3x3(c1, c2, **kwargs): return nn.Conv2d(c1, c2, 3, **kwargs)", "G"),
        ("def conv3x3(c1, c2, stride=1): return nn.Conv2d(c1, c2, 3, stride, 1)", "G"),
        ("def conv1x1(c1, c2, stride=1): return nn.Conv2d(c1, c2, 1, stride)", "A"),
        ("def depthwise(c, k): return nn.Conv2d(c, c, k, groups=c)", "A"),
        ("def stem(in_chans=3): return nn.Conv2d(in_chans, 64, 7, 2, 3)", "G"),
        ("def conv(c1, c2): return nn.Conv2d(c1, c2, 3)\nconv(3, 64)\nconv(64, 64)", "G"),
        ("def conv(c1, c2): return nn.Conv2d(c1, c2, 3)\nconv(8, 64)\nconv(64, 64)", "G"),
        (f"{STEM}\ndef net(in_chans=3): return Stem(in_chans)", "G"),
        (f"{STEM}\ndef net(chans, width=8):\n    width = chans\n    return Stem(c=width)", "G"),
        ("def head(c, classes=1): return nn.Conv2d(c, classes, 3)", "G"),
        ("def head(classes=10): return nn.Conv2d(64, classes, 3)", "G"),
        ("nn.Conv2d(opt.channels, 64, 3)", "G"),
        ("nn.Conv2d(64, opt.channels, 3)", "G"),
        ("def f(dev):\n    dd = {'device': dev}\n    return nn.Conv2d(8, 64, 3, **dd)", "R"),
        ("nn.Conv2d(3, 64, 7, 2, 3)", "A"),
        ("nn.Conv2d(12, 768, 16, 16)", "A"),
        ("nn.Conv2d(64, 128, 2, 2)", "R"),
        ("nn.Conv1d(64, 128, 3, dtype=torch.half)", "R"),
        ("nn.Conv2d(64, 1, 3)", "A"),
        ("nn.ConvTranspose2d(64, 64, 3)", "A"),
        ("Block(conv=nn.Conv2d)", "A"),
    ],
)
def test_calls_by_themselves(text: str, expected: str) -> None:
    assert verdicts(text) == expected
