"""The errors this package raises on purpose: each names the thing at fault and the next step."""

from __future__ import annotations


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


class EdgeTpuWarning(UserWarning):
    """An exported model will not run on the Edge TPU as a whole."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, after its type where it is not one of this package's."""
    line = next(iter(str(error).strip().splitlines()), "").rstrip()
    if not line:
        return type(error).__name__
    return line if isinstance(error, DwsconvError) else f"{type(error).__name__}: {line}"
