"""Two processes on the gloo backend fit what one process fits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = """
import os, sys
import torch, torch.distributed as dist
from torch import nn
from pytest_dwsconv import distill, rewrite

world, folder = int(os.environ.get("WORLD_SIZE", "1")), sys.argv[1]
rank = int(os.environ.get("RANK", "0"))
if world > 1:
    dist.init_process_group("gloo")
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(8, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
    nn.Sequential(nn.Conv2d(12, 8, 3), nn.Conv2d(8, 8, 3)),
).eval()
data = [torch.randn(4, 8, 10, 10) for _ in range(10)]
data[0] *= 1e-3  # varies hardly: what it counts as having at least is known of all batches together
result = rewrite(model, init="fit", calibration=data[rank::world], refine=0)
errors = [dict(result.errors), dict(result.calibration_errors), dict(result.held_out_errors)]
if rank == 0:
    torch.save((result.model.state_dict(), errors), f"{folder}/fit{world}.pt")
own = data[rank::world]
refined = rewrite(model, init="fit", calibration=own, refine=22).model
evaluate = lambda m: -(1 + rank) * float((m(own[0]) - model(own[0])).square().mean())
searched = rewrite(model, calibration=own, evaluate=evaluate, max_error=2.5e-3, refine=0)
trials = [(trial.params, trial.evaluation) for trial in searched.acceptance.trials]
path = f"{folder}/c{world}.pt"
done = distill(refined, model, own, steps=4, check_every=2, held_out=own, checkpoint=path)
assert done.steps == 4
states = [value.sum().item() for value in refined.state_dict().values()] + trials
if world > 1:
    both = [None] * world
    dist.all_gather_object(both, states)
    assert both[0] == both[1], both
    dist.destroy_process_group()
os.write(1, f"done {rank}\\n".encode())  # at once, so that the lines of two processes do not mix
"""


def run(folder: Path, *launcher: str) -> str:
    script = folder / "fit.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(script), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_processes_give_the_fit_of_one(tmp_path: Path) -> None:
    run(tmp_path)
    out = run(tmp_path, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    assert sorted(out.split("\n"))[-2:] == ["done 0", "done 1"]
    (one, one_errors), (two, two_errors) = (
        torch.load(tmp_path / f"fit{n}.pt", weights_only=True) for n in (1, 2)
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-5)
    for found, expected in zip(two_errors, one_errors, strict=True):
        assert found.keys() == expected.keys()
        assert all(abs(found[name] - expected[name]) < 1e-5 for name in expected)
