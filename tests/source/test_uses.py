"""What a file does with its convolutions elsewhere, and what that keeps from being rewritten."""

from __future__ import annotations

from textwrap import dedent

import pytest

from pytest_dwsconv.source.edit import rewrite_text

NO, OPEN, YES, WRAPPED = "DWS110", "DWS205", "DWS001", "DWS108"


def codes(text: str) -> list[str]:
    """Of all places in their order; classes handed on left out."""
    sites = rewrite_text("from torch import nn\n" + dedent(text)).sites
    return [site.judgement.code for site in sites if site.judgement.code != "DWS201"]


CONV = "nn.Conv2d(8, 64, 3)"
INIT = f"""
class Net(nn.Module):
    def __init__(self):
        self.a = {CONV}
        self.b = {CONV}
        self.seq = nn.Sequential({CONV}, nn.ReLU(), {CONV})
        self.fc = nn.Linear(8, 8)
"""


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("pass", [YES] * 4),
        ("nn.init.zeros_(self.fc.weight)", [YES] * 4),
        ("nn.init.zeros_(self.a.weight)", [NO, YES, YES, YES]),
        ("nn.init.zeros_(self.seq[2].weight)", [YES, YES, OPEN, OPEN]),
        ("for c in (self.a, self.b): nn.init.zeros_(c.weight)", [NO, NO, YES, YES]),
        ("[nn.init.zeros_(c.weight) for c in (self.a, self.b)]", [NO, NO, YES, YES]),
        ("for n, c in zip('ab', [self.a, self.b]): nn.init.zeros_(c.weight)", [NO, NO, YES, YES]),
        ("for c in self.seq: nn.init.zeros_(c.weight)", [YES, YES, NO, NO]),
        ("for c in self.seq.children(): nn.init.zeros_(c.weight)", [YES, YES, NO, NO]),
        ("for i, c in enumerate(self.seq): nn.init.zeros_(c.weight)", [YES, YES, NO, NO]),
        ("for c in self.children(): nn.init.zeros_(c.weight)", [NO] * 4),
        ("for c in self.modules(): nn.init.ones_(c.weight)", [YES] * 4),
        ("x = self.a; y = x; y.weight.data.zero_()", [NO, YES, YES, YES]),
        ("x, y = self.a, self.b; x.weight.data.zero_()", [NO, YES, YES, YES]),
        ("(x := self.a).weight.data.zero_()", [NO, YES, YES, YES]),
        ("(self.a if x else self.b).weight.data.zero_()", [OPEN, OPEN, YES, YES]),
        ("self.d.weight = self.a.weight", [NO, YES, YES, YES]),
        ("self.a.weight = self.fc.weight", [NO, YES, YES, YES]),
        ("x = x.to(self.a.weight.dtype)", [YES] * 4),
        ("del self.a.weight", [NO, YES, YES, YES]),
        ("self.a.bias = nn.Parameter(x)", [YES] * 4),
        ("del self.a.bias", [NO, YES, YES, YES]),
        ("self.a.bias.data.zero_()", [YES] * 4),
        ("nn.init.ones_(self.seq[0].weight); self.seq[0].stride = 1", [YES, YES, OPEN, OPEN]),
        ("f(self.seq[2].weight, self.seq.weight)", [YES, YES, NO, NO]),
        ("nn.utils.spectral_norm(self)", [YES] * 4),
        ("self.weights = [m.weight for m in (self.a, self.fc)]", [NO, YES, YES, YES]),
        ("nn.init.zeros_(getattr(self.a, 'weight'))", [NO, YES, YES, YES]),
        ("nn.init.zeros_(getattr(self, 'a').weight)", [NO, YES, YES, YES]),
        ("nn.init.zeros_(getattr(self, f'{x}').weight)", [OPEN] * 4),
        ("nn.init.zeros_(self._modules[x].weight)", [OPEN] * 4),
        ("nn.init.zeros_(self.get_submodule('seq.0').weight)", [YES, YES, OPEN, OPEN]),
        ("setattr(self.a, 'weight', x)", [NO, YES, YES, YES]),
        ("setattr(self.a, x, y)", [OPEN, YES, YES, YES]),
        ("hasattr(self.a, 'weight')", [YES] * 4),
        ("self.a.load_state_dict({})", [NO, YES, YES, YES]),
        ("self.load_state_dict({})", [YES] * 4),
        ("prune.random_unstructured(self.a, 'weight', .3)", [NO, YES, YES, YES]),
        ("nn.utils.prune.random_unstructured(self.a, 'weight', .3)", [WRAPPED, YES, YES, YES]),
        ("for p in self.a.parameters(): p.detach().zero_()", [NO, YES, YES, YES]),
        ("for n, p in self.seq.named_parameters(): nn.init.zeros_(p)", [YES, YES, NO, NO]),
        ("for p in self.a.parameters(): p.data = x", [NO, YES, YES, YES]),
        ("for p in self.a.parameters(): p.requires_grad_(False)", [YES] * 4),
        ("for p in self.a.parameters(): p.requires_grad = False", [YES] * 4),
        ("for p in self.parameters(): p.zero_()", [YES] * 4),
        ("n = sum(p.numel() for p in self.a.parameters())", [YES] * 4),
        ("w, b = self.a.parameters()", [NO, YES, YES, YES]),
        ("self.a._parameters['weight']", [NO, YES, YES, YES]),
        ("next(self.a.parameters()).data.copy_(x)", [NO, YES, YES, YES]),
        ("w = next(iter(self.a.parameters()))", [NO, YES, YES, YES]),
        ("nn.init.zeros_(next(self.a.parameters()))", [NO, YES, YES, YES]),
        ("x = x.to(next(self.a.parameters()).device)", [YES] * 4),
        ("x = next(self.parameters())", [YES] * 4),
        ("list(self.a.parameters())[0].data.fill_(1)", [NO, YES, YES, YES]),
        ("x = list(self.a.parameters())[0].dtype", [YES] * 4),
        ("x = list(self.a.parameters()) + list(self.b.parameters())", [YES] * 4),
        ("w, b = list(self.a.parameters())", [NO, YES, YES, YES]),
        ("[p.data.zero_() for p in self.a.parameters()]", [NO, YES, YES, YES]),
        ("[p.numel() for p in self.a.parameters()]", [YES] * 4),
        ("nn.utils.parameters_to_vector(self.a.parameters())", [NO, YES, YES, YES]),
        ("nn.utils.clip_grad_norm_(self.a.parameters(), 1)", [YES] * 4),
        ("x = f(self.a.parameters())", [YES] * 4),
        ("print(self.a._reversed_padding_repeated_twice)", [NO, YES, YES, YES]),
        ("x = self.a._conv_forward(x, w, None)", [NO, YES, YES, YES]),
        ("x = dict(self.named_modules())['net.a'].weight", [NO, YES, YES, YES]),
        ("self.__dict__['_modules']['a'].weight.data.zero_()", [NO, YES, YES, YES]),
        ("x = state[f'{prefix}.a.weight']", [NO, YES, YES, YES]),
        ("x = state[prefix + '.a.weight']", [NO, YES, YES, YES]),
        ("x = state[f'{name}.weight']", [YES] * 4),
        ("x = state[f'{prefix}{name}.weight']", [YES] * 4),
        ("from operator import attrgetter\n        x = attrgetter('weight')(y)", [OPEN] * 4),
        (
            "from operator import attrgetter\n        x = attrgetter('a.weight')(y)",
            [NO, YES, YES, YES],
        ),
        ("list(self.modules())[1].weight.data.zero_()", [OPEN] * 4),
        ("mods = list(self.modules())\n        mods[-1].weight.data.zero_()", [OPEN] * 4),
        ("next(self.modules()).weight.data.zero_()", [OPEN] * 4),
        (
            "mods = dict(self.named_modules())\n        mods['b'].weight.data.zero_()",
            [YES, NO, YES, YES],
        ),
        ("self.get_parameter('a.weight')", [NO, YES, YES, YES]),
        ("x = state['net.a.weight'] + state['fc.weight']", [NO, YES, YES, YES]),
        ("self.a.stride = (1, 1)", [YES] * 4),
        ("self.a.groups, self.b.kernel_size = 2, 2", [NO, NO, YES, YES]),
        ("x = self.a.weight.shape", [NO, YES, YES, YES]),
        ("self.a.forward = f", [NO, YES, YES, YES]),
        ("setattr(self.a, 'stride', 1)", [YES] * 4),
        ("setattr(self.a, 'forward', f)", [NO, YES, YES, YES]),
        ("setattr(self.a, 'bias', None)", [YES] * 4),
        ("setattr(self, 'stride', 1)", [YES] * 4),
        ("self.stride = 1", [YES] * 4),
        ("nn.utils.fusion.fuse_conv_bn_eval(self.a, self.bn)", [NO, YES, YES, YES]),
        (
            "import torch\n        torch.ao.quantization.fuse_modules(self, [['a', 'bn']])",
            [NO, YES, YES, YES],
        ),
        ("assert issubclass(type(self.a), nn.Conv2d)", [YES] * 4),
        ("isinstance(self.a, nn.Conv2d) and f()", [YES] * 4),
        ("assert self.a.__class__ == nn.Conv2d", [OPEN, YES, YES, YES]),
        ("assert type(self.a).__name__ == 'Conv2d'", [OPEN, YES, YES, YES]),
        ("assert self.a.__class__.__name__ in ('Conv2d', 'Linear')", [OPEN, YES, YES, YES]),
        ("assert type(self.a) is nn.Conv2d", [OPEN, YES, YES, YES]),
        ("for c in self.children():\n            if type(c) == nn.Conv2d: f()", [OPEN] * 4),
        ("for c in self.modules():\n            if isinstance(c, nn.Conv2d): f()", [YES] * 4),
        ("isinstance(self.a, nn.Module) and f()", [YES] * 4),
    ],
)
def test_uses_in_a_module(statement: str, expected: list[str]) -> None:
    assert codes(f"{INIT}        {statement}\n") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"weight = {CONV}.weight", [NO]),
        (f"self.register_parameter('w', {CONV}.weight)", [NO]),
        (f"w = {CONV}.to(device).weight", [NO]),
        ("def layer_init(layer, std=2.):\n    nn.init.orthogonal_(layer.weight, std)\n    return "
         "layer\n"
         f"x = nn.Sequential(layer_init({CONV}), layer_init(nn.Linear(3, 4)), {CONV})", [NO, YES]),
        (f"init = lambda c: nn.init.ones_(c.weight)\ninit({CONV})", [NO]),
        (f"def f(c):\n    nn.init.ones_(c.weight)\nfor c in map(f, [{CONV}]): ...", [NO]),
        (f"def f(c):\n    nn.init.ones_(c.weight)\nx = {CONV}\nx.apply(f)", [YES]),
        (f"def conv(a, b):\n    return {CONV}\nx = conv(1, 2)\nx.weight.data.zero_()", [NO]),
        (f"def conv(a, b):\n    return {CONV}\nconv(1, 2).weight.data.zero_()", [NO]),
        ("class A(nn.Module):\n    def __init__(self, c):\n        self.c = c\n        "
         "f(self.c.weight)\n"
         f"A({CONV})", [NO]),
        (f"class A(nn.Sequential):\n    def __init__(self):\n        super().__init__({CONV}, "
         f"{CONV})\n"
         "        self[0].weight.data.zero_()", [OPEN, OPEN]),
        (f"class A(nn.Sequential):\n    def __init__(self):\n        super().__init__()\n"
         f"        self.add_module('c', {CONV})\n        self.c.weight.data.zero_()", [NO]),
        (f"class A(nn.Sequential):\n    def __init__(self):\n        super().__init__()\n"
         f"        self.append({CONV})\n\nnet = A()\nnet[0].weight.data.zero_()", [NO]),
        (f"def f():\n    layers = []\n    layers.append({CONV})\n    layers += [{CONV}]\n"
         "    return nn.Sequential(*layers)\nf()[1].weight.data.zero_()", [OPEN, OPEN]),
        (f"self.d = nn.ModuleDict()\nself.d['a'] = {CONV}\nself.d['a'].weight", [NO]),
        (f"self.h = nn.ModuleList([{CONV} for _ in x])\nfor h in self.h[1:]:\n    h.weight = "
         "self.h[0].weight", [NO]),
        (f"match {CONV}:\n    case c: c.weight", [NO]),
        (f"with f() as x, g({CONV}) as y: y.weight", [NO]),
        (f"m = {CONV}\nassert type(m) is nn.Conv2d", [OPEN]),
        (f"match {CONV}:\n    case nn.Conv2d(): ...", [YES]),
        (f"net = nn.Sequential({CONV})\nnet.load_state_dict({{}})", [NO]),
        ("class A(nn.Module):\n    def __init__(self):\n        self.c = "
         f"{CONV}\nA().load_state_dict(x)", [YES]),
        (f"x = {CONV}\ndef f(x): return x.weight", [YES]),
        (f"def f():\n    m = {CONV}\n    return m\ndef g(self):\n    for m in self.modules(): "
         "m.weight.data.zero_()", [YES]),
        (f"def f(a, **b):\n    for c in b.values(): c.weight\nf(1, c={CONV})", [NO]),
        ("class A:\n    def __init__(self):\n        self.f = lambda a, c: c.weight\n"
         f"    def g(self):\n        self.f({CONV}, 1)", [YES]),
        ("def zero_module(m):\n    for p in m.parameters(): p.detach().zero_()\n    return m\n"
         f"x = zero_module({CONV}), {CONV}", [NO, YES]),
        ("class A(nn.Module):\n    def __init__(self):\n        for i in x: setattr(self, "
         f"f'c{{i}}', {CONV})\n"
         f"        self.d = {CONV}\n        self.c0.weight.data.zero_()", [NO, YES]),
        (f"self.add_module('c' + str(i), {CONV})\nself.c0.weight", [NO]),
        (f"setattr(self, f'c{{i}}', {CONV})\nself.d0.weight", [YES]),
        (f"setattr(self, f'c{{i}}', {CONV})\nself.e = nn.Embedding(config.c0, "
         "8)\nself.e.weight", [YES]),
        ("from collections import OrderedDict\n"
         f"net = nn.Sequential(OrderedDict([('c', {CONV}), ('d', "
         f"{CONV})]))\nnet.c.weight", [NO, YES]),
        (f"net = nn.ModuleDict({{'c': {CONV}, 'd': {CONV}}})\nnet.c.weight", [NO, YES]),
        ("class A(nn.Module):\n    @property\n    def c(self):\n        return self.d\n    def "
         "__init__(self):\n"
         f"        self.d = {CONV}\n        self.c.weight", [NO]),
        (f"for w in map(lambda c: c.weight, [{CONV}]): ...", [NO]),
        (f"def f(self, **options):\n    return dict(a={CONV}, weight=options.weight)", [YES]),
    ],
)  # fmt: skip
def test_uses_through_other_names(text: str, expected: list[str]) -> None:
    assert codes(text) == expected


CONVS = f"self.conv1 = {CONV}\nself.other = {CONV}\nsetattr(self, f'conv{{i}}', {CONV})\n"


@pytest.mark.parametrize(
    "key",
    [
        "f'conv{i}.weight'",
        "f'{prefix}.conv{i}.weight'",
        "'conv%d.weight' % i",
        "'conv{}.weight'.format(i)",
        "'conv' + str(i) + '.weight'",
        "'conv' f'{i}' '.weight'",
        "f'c{x}{i}.weight'",
    ],
)
def test_a_weight_may_be_named_by_a_text_that_is_computed(key: str) -> None:
    assert codes(f"{CONVS}x = state[{key}]") == [OPEN, YES, OPEN]


@pytest.mark.parametrize(
    "text",
    [
        "from functools import singledispatch\n@singledispatch\ndef init(m): ...\n"
        "@init.register(nn.Conv2d)\ndef _(m): m.weight.data.zero_()\n",
        "from functools import singledispatch\n@singledispatch\ndef init(m): ...\n"
        "@init.register\ndef _(m: nn.Conv2d): m.weight.data.zero_()\n",
    ],
)
def test_a_generic_function_runs_any_of_its_forms(text: str) -> None:
    assert codes(f"{text}x = {CONV}\ninit(x)\ny = {CONV}") == [NO, YES]


@pytest.mark.parametrize(
    "table",
    [
        "{'zero': lambda m: m.weight.data.zero_(), 'none': lambda m: m}",
        "{'zero': zero, 'none': zero}",
        "[zero]",
    ],
)
def test_a_function_out_of_a_container_may_be_any_in_one(table: str) -> None:
    text = f"def zero(m): m.weight.data.zero_()\nTABLE = {table}\n"
    assert codes(f"{text}x = {CONV}\nTABLE[kind](x)\ny = {CONV}") == [NO, YES]


def test_super_runs_what_a_base_class_has() -> None:
    text = (
        "class Base(nn.Module):\n    def __init__(self, m): m.weight.data.zero_()\n"
        f"class Net(Base):\n    def __init__(self): super().__init__({CONV})\n"
        f"class Other(nn.Sequential):\n    def __init__(self): super().__init__({CONV})\n"
    )
    assert codes(text) == [NO, YES]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from torch.nn.utils import weight_norm, spectral_norm\n"
         "norm_f = weight_norm if use_spectral_norm == False else spectral_norm\n"
         "self.convs = nn.ModuleList([norm_f(nn.Conv2d(8, 32, (5, 1), (3, 1))), "
         f"{CONV}])", [OPEN, YES]),
        ("from torch.nn.utils import spectral_norm\ndef sn(m): return spectral_norm(m)\n"
         f"x = sn({CONV}), {CONV}", [WRAPPED, YES]),
        (f"for c in self.convs: nn.utils.weight_norm(c)\nself.convs = nn.ModuleList([{CONV}])\ny = "
         f"{CONV}",
         [WRAPPED, YES]),
        (f"x = {CONV}\nfor c in net.elsewhere: nn.utils.weight_norm(c)", [OPEN]),
        ("def f(m):\n    if isinstance(m, nn.Conv2d): nn.utils.weight_norm(m)\nx = "
         f"{CONV}\nx.apply(f)", [OPEN]),
        (f"for m in self.modules():\n    if f(m): nn.utils.weight_norm(m)\nx = {CONV}", [OPEN]),
        (f"self.fc = nn.utils.weight_norm(nn.Linear(3, 4))\nx = {CONV}", [YES]),
        (f"self.fc = nn.Linear(3, 4)\nself.fc = nn.utils.weight_norm(self.fc)\nx = {CONV}", [YES]),
        (f"from mine import SpectralNorm\nx = SpectralNorm({CONV})\ny = {CONV}", [OPEN, YES]),
        (f"from torch.nn.utils import parametrize\nparametrize.register_parametrization({CONV}, "
         "'weight', P())",
         [WRAPPED]),
        ("from functools import partial\nfrom torch.nn.utils import weight_norm\n"
         f"norm = partial(weight_norm, dim=1)\nx = [norm({CONV}), {CONV}]", [OPEN, YES]),
        (f"c = {CONV}\nif norm:\n    c = norm(c, nn.utils.spectral_norm)", [OPEN]),
        (f"class A(nn.Module):\n    def __init__(self, norm):\n        self.c = {CONV}\n        "
         "self.c = norm(self.c)\n"
         "A(nn.utils.spectral_norm)", [OPEN]),
        (f"class A(nn.Module):\n    def __init__(self):\n        self.c = {CONV}\n        self.l = "
         "nn.ModuleList()\n"
         f"        self.l.append({CONV})\n        self.s = nn.Sequential(*[{CONV}])\n"
         "        self.fc = nn.utils.spectral_norm(nn.Linear(3, 4))\n"
         "    def forward(self, x):\n        for c in self.l: x = self.act(c(x))\n"
         "        return self.act(self.c(self.s(x)))", [YES, YES, YES]),
    ],
)  # fmt: skip
def test_reparametrizations_through_other_names(text: str, expected: list[str]) -> None:
    assert codes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"from mine import norm\nx = norm({CONV})", OPEN),
        (f"import mine\nx = mine.norm({CONV}, 1)", OPEN),
        (f"from mine import norm\nx = norm(module={CONV})", OPEN),
        (f"from mine import norm\nx = norm({CONV}.cuda())", OPEN),
        (f"from mine import norm\nx = norm({CONV} if y else None)", OPEN),
        (f"from mine import Stack\nx = Stack([{CONV}, nn.ReLU()])", OPEN),
        (f"from mine import Stack\nx = Stack(*[{CONV} for _ in y])", OPEN),
        (f"def f(norm):\n    return norm({CONV})", OPEN),
        (f"def f(self):\n    return self.norm({CONV})", OPEN),
        (f"from functools import partial\nx = partial(norm, dim=1)({CONV})", OPEN),
        (f"from mine import sn\ndef norm(m):\n    return sn(m)\nx = norm({CONV})", OPEN),
        (f"from mine import sn\nnorm = lambda m: sn(m)\nx = norm({CONV})", OPEN),
        (f"from mine import norm\nx = norm(nn.Sequential({CONV}))", YES),
        (f"from mine import run\nx = {CONV}\ny = run(x, z)", YES),
        (f"from mine import run\nx = run({CONV}(z))", YES),
        (f"from mine import run\nx = run({CONV}.bias)", YES),
        (f"def norm(m):\n    return nn.Sequential(m, nn.ReLU())\nx = norm({CONV})", YES),
        (f"class Block(nn.Module):\n    def __init__(self, c): self.c = c\nx = Block({CONV})", YES),
        (f"x = (lambda m: m)({CONV})", YES),
        (f"x = nn.Sequential({CONV})", YES),
        (f"x.append({CONV})", YES),
        (f"x.update(a={CONV})", YES),
        (f"x = list(map(str, [{CONV}]))", YES),
        (f"import torch\nx = torch.jit.script({CONV})", YES),
        (f"from torch.nn.utils.spectral_norm import spectral_norm\nspectral_norm({CONV})", WRAPPED),
        (f"import torch.ao.quantization.fuse_modules as q\nq.fuse_known_modules([{CONV}])", NO),
    ],
)
def test_what_is_handed_straight_to_a_callable_that_is_not_shown_is_open(
    text: str, expected: str
) -> None:
    assert codes(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "class My(nn.Conv2d): ...\nnn.Conv2d = My\nnn.Conv2d(8, 64, 3)",
        "import torch\ntorch.nn.Conv2d = My\nnn.Conv2d(8, 64, 3)",
        "setattr(nn, 'Conv2d', My)\nnn.Conv2d(8, 64, 3)",
        "with patch.object(nn, 'Conv2d', My):\n    nn.Conv2d(8, 64, 3)",
        "import torch.nn.modules.conv as conv\nconv.Conv2d = My\nnn.Conv2d(8, 64, 3)",
        "try:\n    import torch\n    from torch import nn\nexcept ImportError:\n    torch = nn = "
        "None\n"
        "nn.Conv2d(8, 64, 3)",
        "try:\n    from fast import Conv2d\nexcept ImportError:\n    from torch.nn import "
        "Conv2d\nConv2d(9, 64, 3)",
        "nn = fake()\nnn.Conv2d(9, 64, 3)",
        "from torch.nn import Conv2d\nclass Conv2d: ...\nConv2d(9, 64, 3)",
        "from torch.nn import *\nnn.Conv2d = My\nConv2d(9, 64, 3)",
        "import torch.nn\nfrom mine import *\nsetattr(torch.nn, 'Conv2d', My)\nnn.Conv2d(8, 64, 3)",
        "from torch.nn import *\nfrom mine import *\nConv2d(9, 64, 3)",
        "from torch.nn import Conv2d\nfrom mine import *\nConv2d(9, 64, 3)",
        "match x:\n    case {'nn': nn}: ...\nnn.Conv2d(9, 64, 3)",
    ],
)
def test_a_name_that_may_mean_something_else_is_listed_and_left_alone(text: str) -> None:
    sites = rewrite_text(f"from torch import nn\n{text}\n").sites
    (site,) = (site for site in sites if site.place.is_call)
    assert site.judgement.code == "DWS205"
    assert "may be something else than PyTorch's" in site.judgement.reason


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from mine import *\nG = 1\nnn.Conv2d(64, 64, 3, groups=G)", YES),
        ("G = 1\nfrom mine import *\nnn.Conv2d(64, 64, 3, groups=G)", "DWS204"),
        ("from mine import *\nnn.Conv2d(64, 64, 3)", YES),
        ("def f():\n    g = 1\n    nn.Conv2d(64, 64, 3, groups=g)\nfrom mine import *", YES),
        ("g = 1\nmatch x:\n    case {'groups': g}: ...\nnn.Conv2d(64, 64, 3, groups=g)", "DWS204"),
        ("g = 1\nx = [(g := n) for n in (2, 64)]\nnn.Conv2d(64, 64, 3, groups=g)", "DWS204"),
    ],
)
def test_a_constant_that_something_unseen_may_bind_is_none(text: str, expected: str) -> None:
    (site,) = rewrite_text(f"from torch import nn\n{text}\n", guards=False).sites
    assert site.judgement.code == expected


def test_reading_an_attribute_by_name_replaces_nothing() -> None:
    assert codes("conv = getattr(nn, 'Conv2d', None)\nnn.Conv2d(8, 64, 3)") == [YES]


def test_a_reason_names_its_line() -> None:
    text = (
        f"from torch import nn\nx = {CONV}\ny = nn.Sequential({CONV}, {CONV})\n\n"
        "y[0].weight = x.weight\n"
    )
    reasons = [site.judgement.reason for site in rewrite_text(text).sites]
    assert reasons[0].startswith("line 5 uses its weight by name")
    assert reasons[1].endswith(", this one or another")
