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
    """Something was asked for that needs an optional dependency, which is not installed."""


class SourceError(DwsconvError, ValueError):
    """A source file cannot be read, parsed or written."""


class MissingExtraError(DwsconvError, ImportError):
    """What was asked for needs packages that the plain installation does not bring."""

    def __init__(self, what: str, package: str) -> None:
        super().__init__(f"{what} needs the package {package}; pip install pytest-dwsconv[edgetpu]")


class ExportError(DwsconvError, RuntimeError):
    """A model cannot be exported as an int8 TFLite file that the Edge TPU's runtimes compute right."""


class CompilerError(DwsconvError, RuntimeError):
    """The Edge TPU compiler is missing, failed, or made nothing that runs on the Edge TPU.

    ``output`` is all that it printed.
    """

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


class EdgeTpuWarning(UserWarning):
    """An exported model will not run on the Edge TPU as a whole."""
