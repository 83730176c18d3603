"""What a model is made of, found in one walk."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_MOST_NAMES = 32


class Inventory:
    """The modules of a model by their qualified names, each once, in the order of registration."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.modules: dict[str, nn.Module] = {}
        """Each module under its first name; the root's is the empty string."""
        self.names: dict[int, list[str]] = {}
        """The names of a module, by its identity: all, or the first of very many."""
        self.parameter_names: dict[int, list[str]] = {}
        """The names that modules hold a parameter under, by its identity, each module under its
        first.
        """
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
            self.modules[name] = module
            if module._parameters or module._buffers:
                self._note_tensors(module, prefix)
        if not module._modules or key in within or len(names) > _MOST_NAMES:
            return  # the last two are a module that holds itself, and one that very many share
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
        """Where the model is: the device of its first parameter, else of its first buffer, else the
        CPU.
        """
        tensors: list[Tensor] = [*self.parameters[:1], *(buffer for _, buffer in self.buffers[:1])]
        return tensors[0].device if tensors else torch.device("cpu")
