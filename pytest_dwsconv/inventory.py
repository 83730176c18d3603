"""What a model is made of, found in one walk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

_PLAIN = frozenset({bool, int, float, str, tuple, list, set, dict, OrderedDict, type(None)})


_MOST_NAMES = 32


class Inventory:
    """The modules of a model by their qualified names, each once, in the order of registration."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.modules: dict[str, nn.Module] = {}
        """Each module under its first name; the root's is the empty string."""
        self.names: dict[int, list[str]] = {}
        """The names of a module, by its identity: all, or the first of very many."""
        self._walk(root, "", set())

    def _walk(self, module: nn.Module, name: str, within: set[int]) -> None:
        key = id(module)
        names = self.names.setdefault(key, [])
        names.append(name)
        if len(names) == 1:
            self.modules[name] = module
        if key in within or len(names) > _MOST_NAMES:  # a module that holds itself, or one that very many share
            return
        within.add(key)
        for child_name, child in module._modules.items():
            if child is not None:
                self._walk(child, f"{name}.{child_name}" if name else child_name, within)
        within.remove(key)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters, buffers and tensors kept as attributes, with their names; a shared one under each."""
        for module_name, module in self.modules.items():
            prefix = f"{module_name}." if module_name else ""
            several = not _PLAIN.issuperset(map(type, module.__dict__.values()))
            for table in (module._parameters, module._buffers, module.__dict__ if several else {}):
                for name, value in table.items():
                    if isinstance(value, Tensor):
                        yield prefix + name, value

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """Every parameter once."""
        found = {}
        for module in self.modules.values():
            for parameter in module._parameters.values():
                if parameter is not None:
                    found[id(parameter)] = parameter
        return list(found.values())

    def holds_parameter(self, name: str) -> bool:
        """Whether this is the name of a parameter."""
        module = self.modules.get(name.rpartition(".")[0])
        return module is not None and module._parameters.get(name.rpartition(".")[2]) is not None

    def device(self) -> torch.device:
        """Where the model is: the device of its first parameter, else of its first buffer, else the CPU."""
        for table in ("_parameters", "_buffers"):
            for module in self.modules.values():
                for tensor in module.__dict__[table].values():
                    if tensor is not None:
                        return cast("torch.device", tensor.device)
        return torch.device("cpu")
