"""For each code an example and what to do: for ``explain``, the documentation, and SARIF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_dwsconv.core.rules import CANDIDATE_CODE, RULES, Verdict


@dataclass(frozen=True)
class Entry:
    """What there is to know about a code; ``example`` is Python that the rule settles."""

    code: str
    title: str
    verdict: Verdict
    reason: str
    example: str
    advice: str

    @property
    def command(self) -> str:
        """What tells all of this on any machine that has the package."""
        return f"dwsconv-rewrite explain {self.code}"


_EXAMPLES: Mapping[str, tuple[str, str]] = {
    CANDIDATE_CODE: (
        "nn.Conv2d(64, 128, 3, padding=1)",
        "Let `dwsconv-rewrite` replace it in the file, or `rewrite` in the live model, which keeps "
        "what it has learned. To keep it as it is, end its line in `# noqa: DWS001`.",
    ),
    "DWS101": (
        "nn.Conv2d(64, 128, 3)  # dws: skip",
        "Nothing, if it is to stay as it is. Else take out the comment, or the pattern in `select` "
        "or `ignore` that leaves it out.",
    ),
    "DWS102": (
        "torch.ao.nn.quantized.Conv2d(64, 128, 3)",
        "Rewrite the float model first, then prepare and quantize that.",
    ),
    "DWS103": (
        "nn.ConvTranspose2d(64, 32, 2, stride=2)",
        "Let `rewrite` replace it in the live model, where it saves. In a file leave it, or write "
        "`nn.Upsample` and an `nn.Conv2d` in its place, which can be rewritten.",
    ),
    "DWS104": (
        "nn.Conv2d(64, 128, 1)",
        "Leave it: it is what the pointwise half of a separable convolution is.",
    ),
    "DWS105": ("nn.Conv2d(64, 64, 3, groups=64)", "Leave it: it is depthwise already."),
    "DWS106": (
        "nn.LazyConv2d(64, 3)",
        "Write the plain class if nothing is lost by that. In a live model, "
        "`rewrite(..., subclasses=True)` includes subclasses that only convolve.",
    ),
    "DWS107": (
        "nn.functional.conv2d(x, self.weight)",
        "Use a module such as `nn.Conv2d`, or `DepthwiseSeparablePass` on a `torch.fx` graph.",
    ),
    "DWS108": (
        "nn.utils.spectral_norm(nn.Conv2d(64, 64, 3))",
        "Take the reparametrization out first, with `remove_spectral_norm`, "
        "`remove_parametrizations` or `prune.remove`, or leave the convolution as it is.",
    ),
    "DWS109": (
        "self.decoder.weight = self.encoder.weight",
        "Leave both, or give each a weight of its own.",
    ),
    "DWS110": (
        "self.conv = nn.Conv2d(64, 64, 3)\nnn.init.zeros_(self.conv.weight)",
        "Use the module as a whole, `self.conv(x)`. An initialisation by name can go into a "
        "function for `apply`; a `weight` that the forward reads cannot be replaced.",
    ),
    "DWS111": (
        "nn.Conv2d(64, 1, 3)",
        "Leave it. If it is `min-saving` (`min_saving`) that asks for more, lower that.",
    ),
    "DWS112": (
        "self.register_buffer('kernel', torch.ones(8, 8, 3, 3))",
        "Leave it if the weight is not to be learned; else make it an `nn.Parameter`.",
    ),
    "DWS113": (
        "nn.Conv2d(64, 128, 3, dtype=torch.complex64)",
        "Leave it: complex weights are counted, not replaced.",
    ),
    "DWS114": (
        "self.convs = [nn.Conv2d(64, 64, 3)]  # a plain list",
        "Keep the module in an `nn.ModuleList` or `nn.ModuleDict`, or as an attribute.",
    ),
    "DWS115": (
        "nn.Conv2d(3, 64, 3)",
        "Leave the first layer of a network: it costs little. `few-channels = true` in "
        "`[tool.dwsconv]`, or `few_channels=True`, lifts the rule; `rewrite` on the live model "
        "puts the pointwise part first.",
    ),
    "DWS116": (
        "SeparableConv2d(64, 64, 3, form='grouped', size=8)  # its depthwise part",
        "Leave it: to make it smaller, rewrite the original with a smaller size or another form.",
    ),
    "DWS201": (
        "partial(nn.Conv2d, kernel_size=size)",
        "Call the class where it is needed, or name a model that the file builds, with `--model`. "
        "`rewrite` on the live model sees what was built, however it came about.",
    ),
    "DWS202": (
        "nn.Conv2d(64, 128, **options)",
        "Without `--no-guards` the inserted class decides this when the code runs. Or write the "
        "kernel size and the groups into the call, or name a model with `--model`.",
    ),
    "DWS203": (
        "nn.Conv2d(64, 128, kernel_size)",
        "Without `--no-guards` the inserted class decides this when the code runs. Or write the "
        "number into the call, or a constant of the file. Where it differs from call to call, name "
        "a model that the file builds, with `--model`, or use `rewrite` on the live model.",
    ),
    "DWS204": (
        "nn.Conv2d(64, 128, 3, groups=groups)",
        "Without `--no-guards` the inserted class decides this when the code runs. Or leave "
        "`groups` out where it is always 1, or name a model with `--model`, which shows what each "
        "call builds.",
    ),
    "DWS205": (
        "zero_module(nn.Conv2d(64, 64, 3))  # the function is imported",
        "The reason names the line that leaves it open. Change that line, or replace the "
        "convolution by hand if you know that it may be.",
    ),
}


def _entries() -> dict[str, Entry]:
    example, advice = _EXAMPLES[CANDIDATE_CODE]
    candidate = Entry(
        CANDIDATE_CODE,
        "could be depthwise separable",
        Verdict.CANDIDATE,
        "a standard or grouped convolution that saves",
        example,
        advice,
    )
    found = {CANDIDATE_CODE: candidate}
    for rule in sorted(RULES, key=lambda rule: rule.code):
        example, advice = _EXAMPLES[rule.code]
        found[rule.code] = Entry(rule.code, rule.title, rule.verdict, rule.reason, example, advice)
    return found


RULEBOOK: Mapping[str, Entry] = _entries()
"""By code, in their order."""
