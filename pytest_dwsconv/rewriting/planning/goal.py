"""What a plan is to achieve: the arguments of a rewrite that say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_dwsconv.core.conv import Form
from pytest_dwsconv.core.latency.comparison import RUNTIMES
from pytest_dwsconv.core.latency.evidence import EDGETPU
from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.core.quantities import Unit, humanize, parse_quantity
from pytest_dwsconv.edgetpu.prediction import HOST, host_of
from pytest_dwsconv.errors import FormatError, InputError
from pytest_dwsconv.fit.planning import Budgets, parse_budgets

LATENCY = "latency"


@dataclass(frozen=True)
class Goal:
    """What the network may take, and where.

    Attributes:
        target: one of ``RUNTIMES``, ``"edgetpu"``, or None where the machine plays no part.
        limit_ms: milliseconds of one inference at most; None for no limit.
        budgets: the other limits on the whole model, as ``parse_budgets`` returns them.
        fastest: whether the latency is what is to be least, and not the loss.
        host: the kind of host of an Edge TPU.
    """

    target: str | None
    limit_ms: float | None
    budgets: Mapping[str, float]
    fastest: bool
    host: str = HOST

    @property
    def is_exported(self) -> bool:
        """Whether what runs there is a TFLite file."""
        return self.target == EDGETPU or is_litert(self.target)

    @property
    def is_limited(self) -> bool:
        """Whether anything has a limit."""
        return self.limit_ms is not None or bool(self.budgets)

    @property
    def chooses_sizes(self) -> bool:
        """Whether every size of every form is looked at."""
        return self.target == EDGETPU or self.is_limited


def forms_on(goal: Goal | None, forms: Sequence[Form]) -> Sequence[Form]:
    """Those of the forms that are planned with; groups for an Edge TPU only if nothing else is."""
    if goal is None or goal.target != EDGETPU:
        return forms
    # reason: they are exported as a convolution for each group, and nobody has published the time
    # of so many
    return [form for form in forms if form is not Form.GROUPED] or forms


def goal_of(
    target: str | None, objective: str | None, budget: Budgets | None, has_terms: bool = False
) -> Goal | None:
    """The goal of these arguments of a rewrite; None where there are none.

    ``has_terms`` says whether others limit the loss.

    Raises:
        InputError: a target or an objective is not known, or one makes no sense without the other.
        FormatError: a limit is not a quantity.
    """
    host = None if target is None else host_of(target)
    if objective not in (None, LATENCY):
        raise InputError(f"objective must be 'latency', not {quoted(objective)}")
    limit_ms = None
    if isinstance(budget, Mapping) and LATENCY in budget:
        limit_ms = _milliseconds(budget[LATENCY])
        budget = {name: value for name, value in budget.items() if name != LATENCY} or None
    if target is None and (objective is not None or limit_ms is not None):
        what = "a budget's latency" if objective is None else "an objective"
        raise InputError(f"{what} is one of a target: pass target='cpu', say")
    if target is None and budget is None:
        return None
    budgets = {} if budget is None else parse_budgets(budget)
    fastest = objective == LATENCY and limit_ms is None
    if fastest and not budgets and not has_terms:
        raise InputError(
            "objective='latency' needs a limit, or every layer would get what is fastest whatever "
            "it costs: pass budget={'latency': '8ms'} or max_error=0.1, say"
        )
    if host is not None:
        return Goal(EDGETPU, limit_ms, budgets, fastest, host)
    return Goal(target, limit_ms, budgets, fastest)


def is_litert(target: str | None) -> bool:
    return target in RUNTIMES and RUNTIMES[target].is_litert


def _milliseconds(value: object) -> float:
    try:
        return 1000 * parse_quantity(value, Unit.SECONDS)
    except FormatError as error:
        raise FormatError(f"the budget's latency {error}") from error


def milliseconds(ms: float) -> str:
    """As a limit is written, in the unit that suits it: ``8ms``, ``1.2s``."""
    return humanize(ms / 1000, Unit.SECONDS)
