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
