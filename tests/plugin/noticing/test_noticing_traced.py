"""Models that a tracer, a counter or a wrapper calls for the test."""

from __future__ import annotations

import pytest
import torch
from inner_runs import run_reporting, written
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

NETS = """
import warnings
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

warnings.filterwarnings("ignore")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return self.conv(x)

IMAGE = torch.zeros(1, 3, 8, 8)

def count_in_hooks(net):
    '''As counters do that add a buffer to each layer.'''
    def count(module, args, out):
        module.total += torch.tensor([out.numel()])
    net.conv.register_buffer("total", torch.zeros(1, dtype=torch.long))
    hook = net.conv.register_forward_hook(count)
    net(IMAGE)
    hook.remove()
    del net.conv.total

def parallel(net, folder):
    rendezvous = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)
    try:
        nn.parallel.DistributedDataParallel(net)(IMAGE)
    finally:
        torch.distributed.destroy_process_group()
"""
MACS = 6 * 6 * 8 * 27


@pytest.fixture(scope="module", autouse=True)
def tracers() -> None:
    """What an inner run would import has to be imported before the first of them."""
    make_fx(nn.Conv2d(1, 1, 3))(torch.zeros(1, 1, 8, 8))
    torch.export.export(nn.Conv2d(1, 1, 3), (torch.zeros(1, 1, 8, 8),))


@pytest.fixture(autouse=True)
def nets(inner: pytest.Pytester) -> None:
    inner.makepyfile(nets=NETS)


@pytest.mark.parametrize(
    "body",
    [
        "torch.jit._get_trace_graph(Net(), (IMAGE,))",
        "torch.jit.trace(Net(), IMAGE)",
        "torch.jit.trace(Net(), IMAGE, check_trace=False)",
        "make_fx(Net())(IMAGE)",
        "count_in_hooks(Net())",
        "nn.DataParallel(Net())(IMAGE)",
        "nn.DataParallel(Net()).forward(IMAGE)",
        "torch.jit._get_trace_graph(nn.DataParallel(Net()), (IMAGE,))",
        "torch.compile(Net(), backend='eager')(IMAGE)",
        pytest.param(
            "parallel(Net(), tmp_path)",
            marks=pytest.mark.skipif(not torch.distributed.is_available(), reason="not built in"),
        ),
        "torch.vmap(Net())(IMAGE[None])",
        "net = Net(); torch.func.functional_call(net, dict(net.named_parameters()), (IMAGE,))",
    ],
)
def test_the_model_inside_is_known(pytester: pytest.Pytester, body: str) -> None:
    result = run_reporting(pytester, f"def test_it(tmp_path): {body}")
    result.assert_outcomes(passed=1)
    reports = [row["report"] for row in written(pytester)]
    assert [(each["model"], each["macs"]) for each in reports] == [("Net", MACS)]
    result.stdout.no_fnmatch_line("*= dwsconv: no*")


def test_a_trace_is_the_same_with_and_without_the_watch(pytester: pytest.Pytester) -> None:
    source = """
def test_it():
    graph = torch.jit.trace(Net(), IMAGE, check_trace=False).graph
    assert [node.kind() for node in graph.nodes()] == ["prim::GetAttr", "prim::CallMethod"]
"""
    run_reporting(pytester, source).assert_outcomes(passed=1)


def test_what_a_tracer_hides_is_one_notice_with_the_first_tests(pytester: pytest.Pytester) -> None:
    source = """
@pytest.mark.parametrize("number", range(4))
def test_export(number): torch.export.export(Net(), (IMAGE,), strict=False)
def test_make_fx(): make_fx(Net(), tracing_mode="symbolic", _allow_non_fake_inputs=True)(IMAGE)
"""

    for arguments, tests in (
        ([], "*[[]0], *[[]1], *[[]2] and 2 more"),
        (["-v"], "*::test_make_fx"),
    ):
        result = run_reporting(pytester, source, *arguments)
        result.assert_outcomes(passed=5)
        assert not written(pytester)
        result.stdout.fnmatch_lines(
            [
                "*= dwsconv: notices =*",
                "torch.export or make_fx has traced a model on tensors without values, *",
                f"In test_them.py::test_export{tests}",
            ]
        )
        assert result.stdout.str().count("torch.export or make_fx") == 1
