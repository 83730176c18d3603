from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from inner_runs import run_reporting, written
from torch import nn

from pytest_dwsconv import analyze
from pytest_dwsconv.plugin.noticing.fingerprint import architecture

NETS = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, width=8, fails=False):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.fails = fails

    def forward(self, x, *, scale=1.0):
        if self.fails:
            raise ValueError("on purpose")
        return torch.relu(self.norm(self.stem(x))) * scale

class Odd(nn.Module):
    '''Runs once, and never again.'''
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3)
        self.times = []

    def forward(self, x):
        self.times.append(1)
        if len(self.times) > 1:
            raise RuntimeError("only once, please\\nsecond line")
        return self.conv(x)

IMAGE = torch.zeros(1, 3, 8, 8)
"""

STRICT_EXPORT = pytest.mark.skipif(
    torch.__version__ < "2.10", reason="before 2.10, PyTorch calls what it exports"
)


@pytest.fixture(scope="module", autouse=True)
def compilers() -> None:
    """These too must have been imported before the first inner run."""
    torch.compile(nn.Conv2d(1, 1, 3), backend="aot_eager")(torch.zeros(1, 1, 8, 8)).sum().backward()
    torch.export.export(nn.Conv2d(1, 1, 3), (torch.zeros(1, 1, 8, 8),))
    torch.jit.trace(nn.Conv2d(1, 1, 3), torch.zeros(1, 1, 8, 8))


@pytest.fixture(autouse=True)
def nets(inner: pytest.Pytester) -> None:
    inner.makepyfile(nets=NETS)


def reported(pytester: pytest.Pytester) -> list[tuple[str, Any, list[str]]]:
    """Model, input shapes and the tests that used it, of each report of the last run."""
    return [
        (
            row["report"]["model"],
            [tuple(shape) for shape in row["report"]["input_shapes"]],
            [name.partition("::")[2] for name in row["tests"]],
        )
        for row in written(pytester)
    ]


IMAGE = (1, 3, 8, 8)


def test_an_outermost_module_is_reported_with_the_tests_that_used_it(
    pytester: pytest.Pytester,
) -> None:
    source = """
def test_one(): Small()(IMAGE)
def test_two(): Small().eval()(IMAGE)
def test_none(): assert IMAGE.sum() == 0
def test_other_input(): Small()(torch.zeros(2, 3, 9, 9))
def test_other_width(): nn.Sequential(Small(4), nn.Flatten())(IMAGE)
"""
    run_reporting(pytester, source).assert_outcomes(passed=5)
    assert reported(pytester) == [
        ("Small", [IMAGE], ["test_one", "test_two"]),
        ("Small", [(2, 3, 9, 9)], ["test_other_input"]),
        ("Sequential", [IMAGE], ["test_other_width"]),
    ]
    (first, *_) = written(pytester)
    namespace: dict[str, Any] = {}
    exec(NETS, namespace)
    expected = replace(analyze(namespace["Small"](), IMAGE), all_layers=())
    assert first["report"] == json.loads(expected.to_json())


@pytest.mark.parametrize(
    ("body", "shapes"),
    [
        ("Small()(IMAGE, scale=2.0)", [IMAGE]),
        ("Small()(x=IMAGE, scale=torch.ones(1))", [(1,), IMAGE]),
        ("Small().to('meta')(IMAGE.to('meta'))", [IMAGE]),
        ("Small().double()(IMAGE.double())", [IMAGE]),
        ("torch.compile(Small(), backend='eager', fullgraph=True)(IMAGE)", [IMAGE]),
        (
            "model = Small(); [model(IMAGE) for _ in range(3)]; [Small()(IMAGE) for _ in range(3)]",
            [IMAGE],
        ),
        ("model = Small(); model.compile(backend='eager', fullgraph=True); model(IMAGE)", [IMAGE]),
        ("torch.jit.trace(Small().eval(), IMAGE)", [IMAGE]),
        ("with torch.inference_mode(): Small()(IMAGE)", [IMAGE]),
        (
            "model = Small(); model(IMAGE).sum().backward(); assert model.stem.weight.grad is not "
            "None",
            [IMAGE],
        ),
        ("model = nn.LazyConv2d(4, 3); model(IMAGE)", [IMAGE]),
    ],
)
def test_ways_to_call(pytester: pytest.Pytester, body: str, shapes: Any) -> None:
    result = run_reporting(pytester, f"def test_it():\n    {body}")
    result.assert_outcomes(passed=1)
    ((_, found, tests),) = reported(pytester)
    assert (sorted(found), tests) == (sorted(shapes), ["test_it"])
    result.stdout.no_fnmatch_line("*not known*")


@pytest.mark.parametrize(
    "body",
    [
        "nn.CrossEntropyLoss()(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))",
        "nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))(IMAGE)",
        "Small()",
        "torch.fx.symbolic_trace(Small())",
        pytest.param(
            "torch.export.export(Small().eval(), (IMAGE,), strict=True)", marks=STRICT_EXPORT
        ),
        "torch.export.export(Small().eval(), (IMAGE,), strict=False)",
        "torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3)))",
    ],
)
def test_what_is_no_call_of_a_model(pytester: pytest.Pytester, body: str) -> None:
    result = run_reporting(pytester, f"import torch.fx, pytest\ndef test_it(): {body}")
    result.assert_outcomes(passed=1)
    assert reported(pytester) == []
    result.stdout.no_fnmatch_line("*not known*")


def test_a_forward_that_fails_in_the_test_is_the_tests_own_affair(
    pytester: pytest.Pytester,
) -> None:
    source = """
import pytest

class Skips(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Small()
    def forward(self, x):
        self.inner(x)
        pytest.skip("no data")

def test_fails():
    with pytest.raises(ValueError):
        Small(fails=True)(IMAGE)
    Small()(IMAGE)
def test_wrong_shape(): Small()(torch.zeros(1, 4, 8, 8))
def test_leaves(): Skips()(IMAGE)
def test_after(): Small(9)(IMAGE)
"""
    result = run_reporting(pytester, source, "--dws-strict")
    result.assert_outcomes(passed=2, failed=1, skipped=1)
    result.stdout.no_fnmatch_line("*not known*")
    assert [row[2] for row in reported(pytester)] == [["test_after"], ["test_fails"]]


def test_each_shape_of_a_model_that_is_called_again_and_again(pytester: pytest.Pytester) -> None:
    source = """
def test_it():
    for attempt in range(3):
        model = Small()
        for side in (8, 9, 8, 9)[: 1 + attempt]:
            model(torch.zeros(1, 3, side, side))
        model(torch.zeros(1, 3, 7, 7), scale=2.0)
"""
    run_reporting(pytester, source).assert_outcomes(passed=1)
    shapes = sorted(shape for _, (shape,), _ in reported(pytester))
    assert shapes == [(1, 3, side, side) for side in (7, 8, 9)]


def test_threads(pytester: pytest.Pytester) -> None:
    source = """
from concurrent.futures import ThreadPoolExecutor

def test_it():
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda width: Small(width)(IMAGE), [4, 5, 6, 7] * 8))
def test_while_another_runs():
    class Slow(Small):
        def forward(self, x):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(Small(3), IMAGE).result()
            return super().forward(x)
    Slow()(IMAGE)
"""
    run_reporting(pytester, source).assert_outcomes(passed=2)
    models = json.loads((pytester.path / "out.json").read_text())["models"]
    widths = {
        (row["report"]["model"], row["report"]["findings"][0]["spec"]["out_channels"])
        for row in models
    }
    assert widths == {("Small", width) for width in (3, 4, 5, 6, 7)} | {("Slow", 8)}


def test_fixtures_and_reports_made_by_the_test_itself(pytester: pytest.Pytester) -> None:
    source = """
import pytest

@pytest.fixture(scope="session")
def used(): Small()(IMAGE)
@pytest.fixture
def late():
    yield
    Small(5)(IMAGE)

def test_setup(used): pass
def test_teardown(late): pass
def test_same_report(dws_report): dws_report(Small(6), IMAGE.shape)
def test_both(dws_report):
    model = Small(6)
    dws_report(model, IMAGE.shape)
    model(IMAGE)
"""
    run_reporting(pytester, source).assert_outcomes(passed=4)
    assert [row[2] for row in reported(pytester)] == [
        ["test_both", "test_same_report"],
        ["test_setup"],
        ["test_teardown"],
    ]


def test_a_model_that_cannot_be_analysed_is_in_the_summary(pytester: pytest.Pytester) -> None:
    source = "def test_odd(): Odd()(torch.zeros(1, 1, 8, 8))\ndef test_fine(): Small()(IMAGE)"
    result = run_reporting(pytester, source)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*= dwsconv: not known =*",
            "Odd: Odd rejected inputs of shape (1, 1, 8, 8): RuntimeError*: only once, please. "
            "Pass an input size *",
            "Called by test_them.py::test_odd",
        ]
    )
    assert [row[0] for row in reported(pytester)] == ["Small"]
    for strict in (["--dws-strict"], ["-o", "dws_strict=true"]):
        result = run_reporting(pytester, source, *strict)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.assert_outcomes(passed=2)
    scripted = "def test_it(): torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3)))(IMAGE)"
    run_reporting(pytester, scripted).stdout.fnmatch_lines(
        ["RecursiveScriptModule: a ScriptModule has no Python forward *"]
    )
    nested = """
def test_it():
    rows = [torch.ones(1, 2), torch.ones(3, 2)]
    nn.Linear(2, 2)(torch.nested.nested_tensor(rows))
"""
    run_reporting(pytester, nested, "-W", "ignore").stdout.fnmatch_lines(["*passed*"])
    assert run_reporting(pytester, "def test_fine(): Small()(IMAGE)", "--dws-strict").ret == 0


def test_the_model_is_left_as_found_and_nothing_is_kept(pytester: pytest.Pytester) -> None:
    source = """
import copy, gc, random, weakref

kept = []

def test_it():
    model = Small()
    kept.append((model, {k: v.clone() for k, v in model.state_dict().items()}, dict(vars(model))))
    with torch.no_grad():
        model.eval()(IMAGE)
    model.train()
    torch.manual_seed(3); random.seed(3)

def test_later():
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(3)))
    model, state, attributes = kept[0]
    assert vars(model) == attributes | {"training": True} and model.training and model.norm.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not model._forward_hooks and not model._forward_pre_hooks

def test_references():
    gone = weakref.ref(kept.pop()[0])
    gc.collect()
    assert gone() is None
"""
    before = nn.Module.__call__, list(sys.meta_path)
    run_reporting(pytester, source).assert_outcomes(passed=3)
    assert (nn.Module.__call__, sys.meta_path) == before


def test_what_a_class_of_a_test_refers_to_is_not_kept(pytester: pytest.Pytester) -> None:
    source = """
import gc, weakref

kept = []

def test_it():
    table = torch.ones(4)
    class Local(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)
        def forward(self, x):
            return self.fc(x) * table
    kept.append(weakref.ref(table))
    Local()(torch.zeros(1, 4))

def test_references():
    gc.collect()
    assert kept[0]() is None
"""
    run_reporting(pytester, source).assert_outcomes(passed=2)
    assert [model for model, *_ in reported(pytester)] == ["Local"]


def test_a_second_attempt_is_noticed_too(pytester: pytest.Pytester) -> None:
    source = """
tries = []
def test_flaky():
    Small()(IMAGE)
    tries.append(1)
    assert len(tries) == 3
"""
    pytest.importorskip("pytest_rerunfailures")
    result = run_reporting(pytester, source, "--reruns=3")
    result.assert_outcomes(passed=1)
    assert reported(pytester) == [("Small", [IMAGE], ["test_flaky"])]


def test_torch_is_waited_for_and_not_imported(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_late="""
        import sys
        def test_first(): assert not {"torch", "pytest_dwsconv.analysis.analyze"} & set(sys.modules)
        def test_second():
            from nets import IMAGE, Small
            Small()(IMAGE)
        """,
        test_never="""
        def test_third():
            import sys
            assert "torch" in sys.modules
        """,
    )
    result = pytester.runpytest_subprocess(
        "--dws-report=json:out.json", "-p", "no:xdist", "test_late.py"
    )
    result.assert_outcomes(passed=2)
    assert reported(pytester) == [("Small", [IMAGE], ["test_second"])]


def test_a_compiled_function_hides_its_models_and_is_said_to(pytester: pytest.Pytester) -> None:
    source = """
model = Small()
compiled = torch.compile(lambda x: model(x) + 1, backend="eager", fullgraph=True)
def test_hidden(): compiled(IMAGE)
def test_by_itself(): torch.compile(Small(4), backend="eager")(IMAGE)
def test_in_place():
    model = Small(4)
    model.compile(backend="aot_eager")
    model(IMAGE).sum().backward()
def test_reset(): torch._dynamo.reset()
def test_hidden_again(): compiled(IMAGE)
def test_hidden_after_all():
    torch._dynamo.reset()
    compiled(IMAGE)
"""
    result = run_reporting(pytester, source, "--dws-strict")
    result.assert_outcomes(passed=6)
    assert result.ret == 0
    assert reported(pytester) == [("Small", [IMAGE], ["test_by_itself", "test_in_place"])]
    result.stdout.fnmatch_lines(
        [
            "*= dwsconv: notices =*",
            "torch.compile has compiled a function, and a model that is called inside one is not "
            "seen: *",
            "In test_them.py::test_hidden, test_them.py::test_hidden_after_all, "
            "test_them.py::test_hidden_again",
        ]
    )


def test_without_a_report_calls_are_untouched(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "from torch import nn\ndef test_it(): assert nn.Module.__call__ is "
        "nn.Module._wrapped_call_impl"
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_a_failed_import_of_torch_is_tried_again(tmp_path: Path) -> None:
    """The watch stays until the module is there, and steps aside for everything else."""
    code = f"""
import sys
from pytest_dwsconv.plugin.noticing.import_hooks import Awaited
seen = []
Awaited("torch.nn.modules.module", lambda module: seen.append(module.__name__))
sys.path.insert(0, {str(tmp_path)!r})
package = {str(tmp_path / "torch" / "nn" / "modules")!r}
import os
os.makedirs(package)
for folder in ({str(tmp_path / "torch")!r}, {str(tmp_path / "torch" / "nn")!r}, package):
    open(folder + "/__init__.py", "w").close()
open(package + "/module.py", "w").write("import os; os.environ['READY']")
try:
    import torch.nn.modules.module
except KeyError:
    os.environ["READY"] = "1"
assert seen == []
import torch.nn.modules.module
assert seen == ["torch.nn.modules.module"], seen
"""
    subprocess.run([sys.executable, "-c", code], check=True)


class Counts(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)


def test_architecture() -> None:
    assert architecture(Counts(4)) == architecture(Counts(4).eval())
    assert hash(architecture(Counts(4))) == hash(architecture(Counts(4)))
    changed = Counts(4)
    changed.conv.stride = (2, 2)
    others = [
        Counts(5),
        Counts(4).double(),
        changed,
        nn.Sequential(Counts(4)),
        torch.nn.Linear(3, 4),
    ]
    once, tied, apart = (
        nn.Linear(4, 4),
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)),
        nn.Linear(4, 4),
    )
    tied[1].weight = tied[0].weight
    others += [nn.Sequential(once), nn.Sequential(once, once), nn.Sequential(once, apart), tied]
    assert len({architecture(model) for model in [Counts(4), *others]}) == 1 + len(others)
