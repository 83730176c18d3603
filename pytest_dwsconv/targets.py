"""Models and input shapes that are named in text."""

from __future__ import annotations

import ast
import linecache
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from inspect import signature
from itertools import count
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING

from pytest_dwsconv.core.plaintext import plain, quoted
from pytest_dwsconv.errors import InputError, TargetError, first_line, require_torch

if TYPE_CHECKING:
    from torch import nn

_serial = count(1)


def load_target(target: str, folders: Iterable[Path] = ()) -> nn.Module:
    """Build the model named ``pkg.mod:factory``, ``file.py:Net``, ``timm:NAME`` or the like.

    The name is that of an ``nn.Module``, a class, or a function that returns one, and may be
    dotted. The working folder and ``folders`` are importable meanwhile, and a file is looked for
    there. Arguments are literals written as in Python, ``pkg.mod:factory(num_classes=10)``. Of timm
    and torchvision it is also a model in their registry, which is built without weights.

    Raises:
        TargetError: there is no such module or name, or what it names gives no model; the cause is
            chained.
        MissingDependencyError: PyTorch is not installed.
    """
    require_torch()
    in_file = re.match(r"\s*(.+?\.py):(.+)", target)
    if in_file:
        return build_from_file(_found_file(in_file[1], folders), in_file[2])
    module_name, colon, path = target.strip().partition(":")
    if not (module_name and colon and path):
        raise TargetError(
            f"model {quoted(target)} is not written module:factory, "
            "as in torchvision.models:resnet18"
        )
    with _importable(Path.cwd(), *folders):
        module = _import(module_name, target)
        if module_name in _REGISTRIES and not hasattr(module, re.split(r"[.(]", path)[0]):
            return _build_registered(_REGISTRIES[module_name], path, target)
        return _build(module, path, target)


def _found_file(name: str, folders: Iterable[Path]) -> Path:
    """The file in the working folder, or in the first of ``folders`` that has it."""
    return next((folder / name for folder in folders if (folder / name).is_file()), Path(name))


_REGISTRIES = {"timm": "timm", "torchvision": "torchvision.models"}
"""The modules in which libraries have their models by name."""


def _builder(library: ModuleType, name: str) -> Callable[..., object]:
    """What builds this model of a registry without weights, which are a download."""
    if library.__name__ == "timm":
        return partial(library.create_model, name, pretrained=False)
    builder: Callable[..., object] = library.get_model_builder(name)
    if "weights_backbone" in signature(builder).parameters:
        # reason: a detector takes no weights by default, but its backbone does
        return partial(builder, weights_backbone=None)
    return builder


def _build_registered(registry: str, path: str, target: str) -> nn.Module:
    library = _import(registry, target)
    name = path.strip().partition("(")[0]
    known = library.list_models()
    # reason: timm names the weights after a dot
    if name not in known and name.partition(".")[0] not in known:
        hint = _hint(name, known, "see its list_models()")
        raise TargetError(
            f"model {quoted(target)} cannot be built, {registry} has no model {plain(name)}: {hint}"
        )
    args, kwargs = _arguments(path, target)
    return _checked(_call(_builder(library, name), target, args, kwargs), target)


def build_from_file(path: Path, name: str) -> nn.Module:
    """Build the model called ``name`` (dotted if nested) in a source file.

    The file is executed afresh on every call. Its folder is importable meanwhile, and its relative
    imports work if it lies in a package.

    Raises:
        TargetError: the file cannot be read or executed, or ``name`` gives no model; the cause is
            chained.
    """
    text = text_of(path)
    folders, package = _home(path, text)
    module_name = ".".join([*package, f"_dwsconv_{next(_serial)}_{path.stem.replace('.', '_')}"])
    loader = _TextLoader(module_name, path, text)
    spec = spec_from_file_location(module_name, path, loader=loader)
    assert spec is not None  # reason: only a location without a loader gives None
    module = module_from_spec(spec)
    with _importable(*folders):
        sys.modules[module_name] = module
        try:
            with _executing(path):
                loader.exec_module(module)
            return _build(module, name, f"{path}:{name}")
        except BaseException:
            sys.modules.pop(module_name, None)
            raise


def build_by_import(path: Path, name: str, text: bytes) -> nn.Module:
    """Build the model called ``name`` in a source file that is imported, as others import it.

    So it is executed once, also where its package imports it. That is for a process of its own: a
    file whose name is taken there, by a module of Python's or PyTorch's, is executed as
    ``build_from_file`` does. ``text`` is what the file is taken to hold.

    Raises:
        TargetError: as of ``build_from_file``.
    """
    folders, package = _home(path, text)
    own_name = [] if path.stem == "__init__" and package else [path.stem.replace(".", "_")]
    module_name = ".".join([*package, *own_name])
    root = module_name.partition(".")[0]
    if root in sys.modules or (not package and root in sys.stdlib_module_names):
        module_name = ".".join([*package, f"_dwsconv_{next(_serial)}_{root}"])
    finder = _Finder(_TextLoader(module_name, path, text))
    # reason: torch.jit.script reads the source of what it compiles
    lines = text.decode(errors="replace").splitlines(keepends=True)
    linecache.cache[str(path)] = len(text), None, lines, str(path)
    sys.meta_path.insert(0, finder)
    try:
        with _importable(*folders, Path.cwd()):
            with _executing(path):
                module = import_module(module_name)
            return _build(module, name, f"{path}:{name}")
    finally:
        sys.meta_path.remove(finder)
        linecache.cache.pop(str(path), None)


class _Finder(MetaPathFinder):
    """Finds the one module that a loader is for."""

    def __init__(self, loader: _TextLoader) -> None:
        self._loader = loader

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname != self._loader.name:
            return None
        return spec_from_file_location(fullname, self._loader.path, loader=self._loader)


class _TextLoader(SourceFileLoader):
    """Loads a module from its text.

    No byte code is read or written, so an edit within the same second counts.
    """

    def __init__(self, name: str, path: Path, text: bytes) -> None:
        super().__init__(name, str(path))
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self._text, self.path, "exec", dont_inherit=True)
        return code


def _home(path: Path, text: bytes) -> tuple[tuple[Path, Path], list[str]]:
    """The folders that have to be importable for a file, and the names of the packages it is in.

    Folders that its relative imports name are packages, also without ``__init__.py``.
    """
    # reason: resolve() raises on a loop before Python 3.13
    folder = own_folder = Path(os.path.realpath(path)).parent
    depth = max(map(len, _RELATIVE.findall(text)), default=0)
    package: list[str] = []
    # reason: a folder without __init__.py is part of a package too, below one that has it
    while folder.name and (len(package) < depth or _is_in_package(folder)):
        package.insert(0, folder.name)
        folder = folder.parent
    return (folder, own_folder), package


_UNMARKED = 2
"""How many folders without ``__init__.py`` may lie between a file and its package."""

_RELATIVE = re.compile(rb"^[ \t]*from[ \t]+(\.+)", re.MULTILINE)


def _is_in_package(folder: Path) -> bool:
    around = (folder, *folder.parents[:_UNMARKED])
    return any((each / "__init__.py").is_file() for each in around)


def parse_input_size(text: str) -> tuple[tuple[int, ...], ...]:
    """The shapes in ``1,3,224,224`` or ``1x3x224x224``, one per input, separated by ``;``.

    Raises:
        InputError: ``text`` is not written so.
    """
    return tuple(_shape(part, text) for part in text.split(";"))


def _shape(part: str, text: str) -> tuple[int, ...]:
    sides = [side.strip() for side in part.lower().replace("x", ",").split(",")]
    # reason: a tensor's sides are 64-bit numbers
    if not all(re.fullmatch("[0-9]{1,18}", side) and int(side) for side in sides):
        raise InputError(
            f"input size {quoted(text)} is not a shape: write whole numbers from 1, batch first, "
            "as in 1,3,224,224"
        )
    return tuple(int(side) for side in sides)


@contextmanager
def _importable(*folders: Path) -> Iterator[None]:
    added = [str(folder) for folder in folders if str(folder) not in sys.path]
    sys.path[:0] = added
    try:
        yield
    finally:
        for entry in added:
            if entry in sys.path:
                sys.path.remove(entry)


def _import(module_name: str, target: str) -> ModuleType:
    try:
        return import_module(module_name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        # reason: what is missing may be another module, which the one asked for imports
        if missing is not None and f"{module_name}.".startswith(f"{missing}."):
            problem = f"there is no module {plain(missing)}: install it, or run from the folder "
            problem += "that holds it"
        else:
            problem = f"importing {plain(module_name)} raised {first_line(error)}"
        raise TargetError(f"model {quoted(target)} cannot be built, {problem}") from error


def text_of(path: Path) -> bytes:
    """What a file holds.

    Raises:
        TargetError: it cannot be read.
    """
    if "\0" in str(path):
        raise TargetError(f"file {quoted(str(path))} cannot be read: its name has a NUL")
    try:
        return path.read_bytes()
    except OSError as error:
        raise TargetError(f"file {path} cannot be read: {error.strerror or error}") from error


@contextmanager
def _executing(path: Path) -> Iterator[None]:
    """Turn what the code of a file raises into a sentence."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name:
            needed = f"it needs the module {plain(error.name)}"
            problem = f"{needed}: install it, or run from the folder that holds it"
        else:
            problem = f"it raised {first_line(error)}"
        raise TargetError(f"file {path} cannot be executed, {problem}") from error


def _build(module: ModuleType, path: str, target: str) -> nn.Module:
    from torch import nn

    name, parenthesis, _ = path.strip().partition("(")
    args, kwargs = _arguments(path, target)
    found = _resolve(module, name, target)
    if isinstance(found, nn.Module) and not parenthesis:
        return found
    return _checked(_call(found, target, args, kwargs), target)


def _checked(model: object, target: str) -> nn.Module:
    from torch import nn

    if isinstance(model, nn.Module):
        return model
    raise TargetError(
        f"model {quoted(target)} gives {_a(model)}, not a torch.nn.Module: "
        "name what returns the model"
    )


def _resolve(module: ModuleType, path: str, target: str) -> object:
    found: object = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            public = [name for name in dir(found) if not name.startswith("_")]
            hint = _hint(part, public, "name a model, a class or a function")
            raise TargetError(
                f"model {quoted(target)} cannot be built, there is no {plain(part)} there: {hint}"
            ) from error
    return found


def _hint(name: str, known: Iterable[str], otherwise: str) -> str:
    close = get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else otherwise


def _arguments(path: str, target: str) -> tuple[tuple[object, ...], dict[str, object]]:
    """The literals between the parentheses of ``factory(10, width=2)``, if there are any."""
    _, parenthesis, rest = path.strip().partition("(")
    if not parenthesis:
        return (), {}
    try:
        # reason: the name of a model need not be one that Python can parse
        call = ast.parse(f"factory({rest}", mode="eval").body
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "factory":
            args = tuple(ast.literal_eval(argument) for argument in call.args)
            kwargs = {
                keyword.arg: ast.literal_eval(keyword.value)
                for keyword in call.keywords
                if keyword.arg
            }
            if len(kwargs) == len(call.keywords):
                return args, kwargs
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        pass  # reason: the sentence below says what is accepted, which is not nested 100,000 deep
    raise TargetError(
        f"model {quoted(target)}: its arguments must be literals, as in factory(num_classes=10)"
    )


def _call(
    factory: object, target: str, args: tuple[object, ...], kwargs: dict[str, object]
) -> object:
    if not callable(factory):
        raise TargetError(
            f"model {quoted(target)} is {_a(factory)}: name a model, a class or a function"
        )
    try:
        signature(factory).bind(*args, **kwargs)
    except TypeError as error:
        given = "with these arguments" if args or kwargs else "without arguments"
        raise TargetError(
            f"model {quoted(target)} cannot be built {given} ({error}): "
            "write those it needs in parentheses, as in factory(num_classes=10)"
        ) from error
    except ValueError:
        pass  # reason: some callables written in C have no signature; the call itself will tell
    try:
        return factory(*args, **kwargs)
    except (Exception, SystemExit) as error:
        raise TargetError(
            f"model {quoted(target)} cannot be built, calling it raised {first_line(error)}"
        ) from error


def _a(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
