"""A test sees no difference with ``--dws-report``, and its models are reported as called."""

from __future__ import annotations

import json

import pytest
from inner_runs import run_reporting, written

NETS = """
import gc, sys, warnings, weakref
import pytest, torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.head = nn.Linear(width, 10)

    def forward(self, x, module=None):
        return self.head(torch.relu(self.stem(x)).mean((2, 3)))

IMAGE = torch.zeros(1, 3, 8, 8)
"""


@pytest.fixture(autouse=True)
def nets(inner: pytest.Pytester) -> None:
    inner.makepyfile(nets=NETS)


def parameters(pytester: pytest.Pytester) -> dict[str, int]:
    """Of each model by the first test that called it."""
    return {
        row["tests"][0].partition("::")[2]: row["report"]["params"] for row in written(pytester)
    }


@pytest.mark.parametrize(
    "source",
    [
        "def test_it():\n    Net()(IMAGE, module='a')",
        """
class PartLazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.aux = nn.LazyConv2d(4, 3), nn.LazyLinear(3)
    def forward(self, x): return self.conv(x)
def test_it(): PartLazy()(IMAGE)
""",
        """
def test_it():
    model = Net()
    model(IMAGE)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
""",
        """
def test_it(monkeypatch):
    model = Net()
    model.forward(IMAGE)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
""",
        """
class Warns(Net):
    def forward(self, x):
        warnings.warn("old", stacklevel=4)
        return super().forward(x)
def test_it():
    with pytest.warns(UserWarning) as caught:
        Warns()(IMAGE)
    assert caught[0].filename == __file__
""",
        """
class Meter:
    def __init__(self): self.seen, self.last = [], None
class Metered(Net):
    def __init__(self):
        super().__init__()
        self.meter = Meter()
    def forward(self, x):
        self.meter.seen.append(1)
        self.meter.last = x
        return super().forward(x)
@pytest.fixture(scope="session")
def model(): return Metered()
def test_it(model): model(IMAGE)
def test_later(model): assert model.meter.seen == [1] and model.meter.last is IMAGE
""",
        """
SEEN, COUNT = [], 0
@pytest.fixture(scope="session")
def model():
    found, mine, count = Net(), [], 0
    def hook(module, args, out):
        global COUNT
        nonlocal count
        COUNT, count = COUNT + 1, count + 1
        SEEN.append(out)
        mine.append(out)
    found.stem.register_forward_hook(hook)
    found.mine, found.count = mine, lambda: count
    return found
def test_it(model): model(IMAGE)
def test_later(model): assert (len(SEEN), COUNT, len(model.mine), model.count()) == (1, 1, 1, 1)
""",
        """
class Awkward(Net):
    @property
    def __dict__(self): raise RuntimeError("not yours")
def test_it(): Awkward
""",
        """
class Private(Net):
    def named_modules(self, *args, **kwargs): raise RuntimeError("not yours")
def test_it(): Private()(IMAGE)
""",
    ],
)
def test_a_test_sees_no_difference(pytester: pytest.Pytester, source: str) -> None:
    result = run_reporting(pytester, source)
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*noticing.py*")


def test_what_cannot_be_found_out_is_said(pytester: pytest.Pytester) -> None:
    source = """
class PartLazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.aux = nn.LazyConv2d(4, 3), nn.LazyLinear(3)
    def forward(self, x): return self.conv(x)
class Private(Net):
    def named_modules(self, *args, **kwargs): raise RuntimeError("not yours")
class Skips(Net):
    def forward(self, x):
        if x.device.type == "meta": pytest.skip("needs data")
        return super().forward(x)
def test_lazy(): PartLazy()(IMAGE)
def test_private(): Private()(IMAGE)
def test_skips(): Skips().to("meta")
"""
    result = run_reporting(pytester, source)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["PartLazy: aux is lazy: *", "Private: RuntimeError: not yours"])


def test_a_forward_that_skips_or_stops_in_an_analysis_ends_neither_test_nor_run(
    pytester: pytest.Pytester,
) -> None:
    source = """
CALLS = []
class Once(Net):
    def forward(self, x):
        CALLS.append(1)
        if len(CALLS) > 1: self.stop()
        return super().forward(x)
class Skips(Once):
    def stop(self): pytest.skip("only once")
class Exits(Once):
    def stop(self): sys.exit("only once")
@pytest.mark.parametrize("kind", [Skips, Exits])
def test_it(kind):
    CALLS.clear()
    kind()(IMAGE)
"""
    result = run_reporting(pytester, source)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["Exits: SystemExit: only once", "Called by *", "Skips: Skipped: only once"]
    )


CHANGES = """
    def set_flag(model): model.trained = True
    def set_counter(model): model.calls = 2
    def set_object(model): model.note = object()
    def put_object_away(model): model.meter = None
    def count_in_object(model): model.meter.step = 5
    def grow_list(model): model.losses.append(0.5)
    def grow_model(model): model.head = nn.Linear(8, 1000)
    def take_away(model): del model.head
    def stride(model): model.stem.stride = (2, 2)
    def prune(model): model.stem.weight = nn.Parameter(torch.zeros(2, 3, 3, 3))
    def parametrize(model): nn.utils.parametrizations.weight_norm(model.stem)
    def unhook(model): model.stem._forward_pre_hooks.clear()
    def quantize(model): torch.ao.quantization.convert(model, inplace=True)
    def train(model):
        model.train()
        torch.optim.SGD(model.parameters(), 0.1).step()
"""


def test_a_model_is_reported_as_it_was_called_whatever_is_done_to_it_afterwards(
    pytester: pytest.Pytester,
) -> None:
    source = f"""
class Changes:
{CHANGES}
changes = [change for name, change in vars(Changes).items() if not name.startswith("__")]

class Meter: step = 0

@pytest.mark.parametrize("change", changes)
def test_it(change):
    model = Net()
    model.meter, model.losses, model.calls, model.change = Meter(), [], 1, change.__name__
    model.stem.register_forward_pre_hook(lambda module, args: (args[0][..., 1:],))
    model.eval()(IMAGE)
    change(model)
    change_is_kept = dict(vars(model)), dict(model._modules), model.stem.stride
    kept.append((model, change_is_kept))
kept = []

def test_left_as_found():
    for model, (attributes, modules, stride) in kept:
        assert vars(model) == attributes and dict(model._modules) == modules
        assert model.stem.stride == stride
"""
    result = run_reporting(pytester, source)
    count = CHANGES.count("def ")
    result.assert_outcomes(passed=count + 1)
    result.stdout.no_fnmatch_line("*not known*")
    # all are the same report, of 8 x 7 pixels
    (row,) = written(pytester)
    assert (len(row["tests"]), row["report"]["params"]) == (count, 314)
    assert row["report"]["macs"] == 8 * 27 * 6 * 5 + 80


@pytest.mark.parametrize("tensor", ["torch.zeros(1000, 8)", "model.head.weight.data.int()"])
def test_a_tensor_that_is_another_one_in_place_is_not_known_any_more(
    pytester: pytest.Pytester, tensor: str
) -> None:
    source = f"""
def test_changes():
    model = Net().requires_grad_(False)
    model(IMAGE)
    model.head.weight.data = {tensor}
def test_untouched(): Net()(IMAGE)
"""
    result = run_reporting(pytester, source)
    result.stdout.fnmatch_lines(
        ["Net: a tensor of it got another shape or dtype in *", "Called by *::test_changes"]
    )
    assert parameters(pytester) == {"test_untouched": 314}


@pytest.mark.parametrize("precision", ["float16", "float64"])
def test_a_model_that_gets_another_precision_is_reported_in_the_one_it_was_called_in(
    pytester: pytest.Pytester, precision: str
) -> None:
    source = f"""
model = Net()
def test_converts():
    model(IMAGE)
    model.to(torch.{precision})
    kept.append(model.head.weight.clone())
kept = []
def test_left_as_found():
    assert model.head.weight.dtype == torch.{precision}
    assert torch.equal(model.head.weight, kept[0])
"""
    result = run_reporting(pytester, source)
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*not known*")
    (row,) = written(pytester)
    assert (row["tests"], row["report"]["params"]) == (["test_them.py::test_converts"], 314)


def test_models_that_differ_in_what_they_hold_are_told_apart(pytester: pytest.Pytester) -> None:
    source = """
from types import SimpleNamespace

class Strided(nn.Module):
    def __init__(self, strides):
        super().__init__()
        self.strides, self.weight = strides, nn.Parameter(torch.zeros(4, 3, 3, 3))
    def forward(self, batch):
        return nn.functional.conv2d(batch.x, self.weight, stride=self.strides)

@pytest.mark.parametrize("side", [8, 16])
@pytest.mark.parametrize("stride", [1, 2])
def test_it(stride, side):
    for _ in range(2):
        Strided([stride, stride])(SimpleNamespace(x=torch.zeros(1, 3, side, side)))
"""
    run_reporting(pytester, source).assert_outcomes(passed=4)
    models = json.loads((pytester.path / "out.json").read_text())["models"]
    sides = {((side - 3) // stride + 1) ** 2 for side in (8, 16) for stride in (1, 2)}
    assert {row["report"]["macs"] for row in models} == {side * 3 * 4 * 9 for side in sides}


def test_warnings_and_prints_of_an_analysis_are_nobodys(pytester: pytest.Pytester) -> None:
    source = """
class Loud(Net):
    def forward(self, x):
        warnings.warn("from the forward", DeprecationWarning)
        print("HELLO")
        print("HELLO", file=sys.stderr)
        return super().forward(x)
def test_it(capsys):
    with pytest.warns(DeprecationWarning):
        Loud()(IMAGE)
    assert capsys.readouterr() == ("HELLO\\n", "HELLO\\n")
"""
    for arguments in ([], ["-W", "error"]):
        pytester.makepyfile(test_them=f"from nets import *\n{source}")
        result = pytester.runpytest_subprocess("--dws-report=json:out.json", *arguments)
        result.assert_outcomes(passed=1, warnings=0)
        result.stdout.no_fnmatch_line("*HELLO*")
        result.stdout.no_fnmatch_line("*not known*")
        assert "HELLO" not in result.stderr.str()


def test_tracing_by_torch_fx_that_was_imported_by_the_test_file(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_them="""
        import torch, torch.fx
        from torch import nn
        from nets import IMAGE, Net

        def test_it():
            torch.fx.symbolic_trace(nn.Sequential(Net(), nn.Sequential(nn.Linear(10, 10))))
        """
    )
    result = pytester.runpytest_subprocess("--dws-report=json:out.json")
    result.assert_outcomes(passed=1)
    assert parameters(pytester) == {}


def test_a_loop_over_numbers_ends_in_a_sentence(pytester: pytest.Pytester) -> None:
    source = """
def test_it():
    model = nn.Linear(2, 2)
    for count in range(1, 250):
        model(torch.zeros(count, 2))
"""
    result = run_reporting(pytester, source)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["Linear: *called models in more than 200 ways*"])
    assert len(json.loads((pytester.path / "out.json").read_text())["models"]) == 200
