"""What a model is made of, found in one walk."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from pytest_dwsconv.errors import InputError

_MOST_NAMES = 32


def without_compiler(model: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` wrapped, or ``model`` itself if it wrapped none.

    Only PyTorch's own wrapper counts: a wrapper of the user's may hand on its attributes too, and
    has layers of its own.
    """
    # reason: importing this takes seconds, and nobody has such a wrapper without it
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    if dynamo is None or not isinstance(model, dynamo.OptimizedModule):
        return model
    original: nn.Module = model._orig_mod
    return original


def check_hashable(model: nn.Module) -> None:
    """Check that PyTorch can list the modules of a model, which it does in a set.

    Raises:
        InputError: a class among them defines ``__eq__`` and no ``__hash__``, as dataclasses do.
    """
    for name, module in Inventory(model).modules.items():
        if type(module).__hash__ is None:
            raise InputError(
                f"{name or 'the model'} is a {type(module).__name__}, which cannot be hashed, so "
                "PyTorch cannot list its modules: write __hash__ = nn.Module.__hash__ in its class"
            )


class Inventory:
    """The modules of a model by their qualified names, each once, in the order of registration.

    Raises:
        InputError: a module did not call ``nn.Module.__init__``, which makes its tables.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.modules: dict[str, nn.Module] = {}
        """Each module under its first name; the root's is the empty string."""
        self.names: dict[int, list[str]] = {}
        """The names of a module, by its identity: all, or the first of very many."""
        self.parameter_names: dict[int, list[str]] = {}
        """The names of a parameter, by its identity: one for each module that holds it."""
        self.parameters: list[nn.Parameter] = []
        """Every parameter once."""
        self.buffers: list[tuple[str, Tensor]] = []
        """Every buffer with its name; one that modules share under each."""
        self._walk(root, "", set())

    def _walk(self, module: nn.Module, name: str, within: set[int]) -> None:
        key = id(module)
        names = self.names.setdefault(key, [])
        names.append(name)
        prefix = f"{name}." if name else ""
        if len(names) == 1:
            # reason: a module's own __getattr__ may answer anything, its dictionary does not
            if "_modules" not in module.__dict__:
                if isinstance(module, torch.jit.ScriptModule):
                    raise InputError(
                        f"{name or type(module).__name__} was made by torch.jit and has no Python "
                        "forward to record; analyze the model before tracing or scripting it"
                    )
                raise InputError(
                    f"{type(module).__name__} has no parts yet: call super().__init__() in its "
                    "__init__"
                )
            self.modules[name] = module
            if module._parameters or module._buffers:
                self._note_tensors(module, prefix)
        # the last two are a module that holds itself, and one that very many share
        if not module._modules or key in within or len(names) > _MOST_NAMES:
            return
        within.add(key)
        for child_name, child in module._modules.items():
            if child is not None:
                self._walk(child, prefix + child_name, within)
        within.remove(key)

    def _note_tensors(self, module: nn.Module, prefix: str) -> None:
        for name, parameter in module._parameters.items():
            if parameter is not None:
                names = self.parameter_names.setdefault(id(parameter), [])
                names.append(prefix + name)
                if len(names) == 1:
                    self.parameters.append(parameter)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                self.buffers.append((prefix + name, buffer))

    def holds_parameter(self, name: str) -> bool:
        """Whether this is the name of a parameter."""
        module = self.modules.get(name.rpartition(".")[0])
        return module is not None and module._parameters.get(name.rpartition(".")[2]) is not None

    def device(self) -> torch.device:
        """The device of the first parameter, else of the first buffer, else the CPU."""
        if self.parameters:
            return self.parameters[0].device
        if self.buffers:
            return self.buffers[0][1].device
        return torch.device("cpu")
