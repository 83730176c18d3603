"""The errors this package raises on purpose: each names the thing at fault and the next step."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec


class DwsconvError(Exception):
    """Base of every error raised on purpose; its text is fit to be shown to a user as it is."""


class InputError(DwsconvError, ValueError):
    """An argument, option or setting cannot be used as given."""


class TracingError(DwsconvError, RuntimeError):
    """The model's forward failed on the inputs given; the cause is chained."""


class FormatError(DwsconvError, ValueError):
    """A stored report, plan or quantity cannot be read."""


class TargetError(DwsconvError, ImportError):
    """A model named as ``module:factory`` or by file and name cannot be built."""


class MissingDependencyError(DwsconvError, ImportError):
    """What was asked for needs a package of one of the extras, which is not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        # reason: an exception is unpickled by calling its class with what it gave to its base
        super().__init__(what, package, extra)

    def __str__(self) -> str:
        what, package, extra = self.args
        return f"{what} needs the package {package}: pip install 'pytest-dwsconv[{extra}]'"


MissingExtraError = MissingDependencyError
"""The name that earlier releases had for what the Edge TPU lacks."""


_OLDEST_TORCH = (2, 5)


def require(what: str, package: str, extra: str) -> None:
    """Check that a package of an extra is installed, without importing it.

    Args:
        what: what needs it, as the subject of a sentence.
        package: its name as it is installed; the module has the same, with underscores.
        extra: the extra of pytest-dwsconv that brings it.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if find_spec(package.replace("-", "_")) is None:
        raise MissingDependencyError(what, package, extra)


@cache
def require_torch() -> None:
    """Check that PyTorch is installed; each folder of modules that import it does so first.

    Raises:
        MissingDependencyError: it is not installed, or is older than what this package needs.
    """
    from importlib.metadata import PackageNotFoundError, version

    what = "analysing or rewriting a PyTorch model"
    require(what, "torch", "torch")
    try:
        installed = version("torch")
    except PackageNotFoundError:  # reason: some builds come without metadata; they are trusted
        return
    numbers = re.match(r"(\d+)\.(\d+)", installed)
    # reason: without a hard dependency, pip does not replace a PyTorch that is too old
    if numbers and tuple(map(int, numbers.groups())) < _OLDEST_TORCH:
        needed = ".".join(map(str, _OLDEST_TORCH))
        raise MissingDependencyError(what, f"torch>={needed}, and {installed} is here", "torch")


class SourceError(DwsconvError, ValueError):
    """A source file cannot be read, parsed or written."""


class ExportError(DwsconvError, RuntimeError):
    """A model has no int8 TFLite file that the Edge TPU's runtimes would compute right."""


class CompilerError(DwsconvError, RuntimeError):
    """The Edge TPU compiler is missing, failed, or made nothing that runs on the Edge TPU.

    ``output`` is all that it printed.
    """

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


class FitWarning(UserWarning):
    """An output of a fitted network is as wrong as its mean would be, or little is known of it."""


class EdgeTpuWarning(UserWarning):
    """An exported model will not run on the Edge TPU as a whole."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, after its type where it is not one of this package's."""
    line = next(iter(str(error).strip().splitlines()), "").rstrip()
    if not line:
        return type(error).__name__
    return line if isinstance(error, DwsconvError) else f"{type(error).__name__}: {line}"
