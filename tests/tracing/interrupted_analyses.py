"""Analyse a model again and again, press Ctrl-C at a random line each time, and compare all states.

Usage: interrupted_analyses.py TIMES
"""

from __future__ import annotations

import random
import signal
import sys
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_dwsconv import analyze

SHAPE = (1, 3, 8, 8)


class Net(nn.Module):
    """Uses what can be left half done: modes, transforms, random numbers, buffers, lists."""

    calls: Tensor

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.reads = reads
        self.conv, self.norm, self.drop = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout()
        self.register_buffer("calls", torch.zeros(()))
        self.log: list[int] = []

    def forward(self, x: Tensor) -> Any:
        self.log.append(1)
        self.calls = self.calls + 1
        noise = torch.rand(3) + random.random() + np.random.rand()
        with torch.enable_grad():
            x = x * 2
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.conv(x)
        with torch.device("cpu"):
            y = y.float() + noise.sum()
        y = torch.vmap(lambda one: one * 2)(y)
        if self.reads and y.sum().item() > 1e30:
            return x
        return self.drop(F.dropout(self.norm(y), 0.5, True))


def state(model: Net) -> dict[str, Any]:
    c: Any = torch._C
    return {
        "modules": [module.training for module in model.modules()],
        "log": list(model.log),
        "tensors": [id(tensor) for tensor in model.state_dict(keep_vars=True).values()],
        "values": [tensor.tolist() for tensor in model.state_dict().values()],
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "default": (torch.get_default_dtype(), torch.get_default_device()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "nesting": (torch.autocast_increment_nesting(), torch.autocast_decrement_nesting()),
        "functions": (c._len_torch_function_stack(), c._is_torch_function_enabled()),
        "dispatch": c._len_torch_dispatch_stack(),
        "transforms": c._functorch.get_dynamic_layer_stack_depth(),
        "call": nn.Module._call_impl,
        "handler": signal.getsignal(signal.SIGINT),
        "recursion": sys.getrecursionlimit(),
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": str(np.random.get_state(legacy=False)),
    }


class Presser:
    """Counts lines of Python, and presses Ctrl-C at one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.lines = 0
        self.where = ""

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if self.where:
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGINT)
        return self

    def run(self, model: nn.Module) -> BaseException | None:
        sys.settrace(self)
        try:
            analyze(model, SHAPE)
        except BaseException as error:  # reason: which it is is what is tried
            return error
        finally:
            sys.settrace(None)
        return None


def faults(times: int) -> list[str]:
    found = []
    numbers = random.Random(0)
    for reads in (False, True):
        model = Net(reads)
        analyze(model, SHAPE)  # what is imported and remembered first is not counted
        counted = Presser()
        counted.run(model)
        before = state(model)
        for _ in range(times // 2):
            presser = Presser(numbers.randint(1, counted.lines))
            error = presser.run(model)
            after = state(model)
            changed = [name for name in before if before[name] != after[name]]
            # some runs end before the line, because what was worked out is remembered
            lost = bool(presser.where) and not isinstance(error, KeyboardInterrupt)
            if changed or lost:
                found.append(f"{presser.where}: {error!r}, changed: {changed}")
            if changed:
                return found  # what is left may spoil all that follows
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout.write("\n".join(faults(int(sys.argv[1]))) or "as found")
