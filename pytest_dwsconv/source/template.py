"""The class that is inserted into a rewritten file: one text for one, two and three dimensions."""

from __future__ import annotations

from string import Template
from typing import NamedTuple

from pytest_dwsconv.core.conv import FEW_CHANNELS, FEW_CHANNELS_OF_PATCHES, Form
from pytest_dwsconv.core.policy import Policy
from pytest_dwsconv.source.reading.syntax import MARK

GUARD = "where_it_saves"
"""The class method that decides when the code runs."""

POINTWISE_FIRST = "pointwise_first"
"""The attribute that only a class of that form has: its weights may have the same shapes."""


class Inserted(NamedTuple):
    """What is called in the place of a convolution: a form, and its size."""

    form: Form = Form.DEPTHWISE_FIRST
    size: int = 1

    @classmethod
    def of(cls, policy: Policy) -> Inserted:
        return cls(Form(policy.order), policy.depth_multiplier)

    @property
    def is_sized(self) -> bool:
        """Whether its class has an attribute for the size; that of multiplier 1 needs none."""
        return self.size > 1 or self.form in (Form.BOTTLENECK, Form.GROUPED)


PLAIN = Inserted()


# reason: It is an nn.Conv2d, one module with a weight and a bias. So loops that initialise, rescale
# or zero all convolutions, set their stride or ask for their bias, do to it what they do to others;
# of two parts that were convolutions they would make both small, or both zero. Its weight has two
# dimensions: what takes it for a kernel fails instead of computing something else. The filters are
# the weight of a module of their own, so that loops which collect each module's weight for an
# optimizer find them.
# torch's own initialisation makes a convolution's output vary a third as much as its input, so two
# in a row would make it a ninth. With what runs before the last part at gain 1 the output varies as
# one convolution's does. What the forward uses is known to torch.jit.script, which the size is not.
# It runs on Python 3.8 and PyTorch 1.8: nn.Conv2d() ends with reset_parameters() in every release.
_CLASS = Template('''\
class $name($nn.Conv${rank}d):
    """$what, in the place of one nn.Conv${rank}d.

    It takes the arguments of nn.Conv${rank}d. $weights
    $mark.
    """
$size
    class Filters($nn.Module):
        def __init__(self, weight: $torch.Tensor) -> None:
            super().__init__()
            self.weight = $nn.Parameter(weight)

    def reset_parameters(self) -> None:
        """Draw new weights; the output varies as that of one nn.Conv${rank}d does."""
        $sizes
        if not hasattr(self, "depthwise"):
            full = self.weight  # of one convolution: nn.Conv${rank}d() calls this at its end
            mix = full.new_empty($mix)
            self.weight = $nn.Parameter(mix)
            filters = full.new_empty($filters, *self.kernel_size)
            self.depthwise = self.Filters(filters)
$make_first        $nn.init.kaiming_uniform_(self.depthwise.weight, nonlinearity="linear")
$draw_first        super().reset_parameters()
        if self.bias is not None:  # its bound follows from all inputs of one nn.Conv${rank}d
            taps = self.depthwise.weight[0, 0].numel()
            self.bias.data *= (self.weight.shape[1] / (inputs * taps)) ** 0.5
''')

_MAKE_FIRST = """\
            self.pointwise_in = self.Filters(full.new_empty(size, inputs))
"""
_DRAW_FIRST = Template("""\
        $nn.init.kaiming_uniform_(self.pointwise_in.weight, nonlinearity="linear")
""")

_DEPTHWISE_FIRST = Template("""\

    def forward(self, input: $torch.Tensor) -> $torch.Tensor:
$run_first        filters, stride, dilation = self.depthwise.weight, self.stride, self.dilation
        $channels = $channels_are
        if self.padding_mode == "zeros":
            x = $nn.functional.conv${rank}d(
                input, filters, None, stride, self.padding, dilation, $channels
            )
        else:
            sides = self._reversed_padding_repeated_twice
            input = $nn.functional.pad(input, sides, mode=self.padding_mode)
            x = $nn.functional.conv${rank}d(
                input, filters, None, stride, 0, dilation, $channels
            )
        weight = self.weight[:, :, $sides]
        return $nn.functional.conv${rank}d(x, weight, self.bias, groups=self.groups)
""")

_RUN_FIRST = Template("""\
        weight = self.pointwise_in.weight[:, :, $sides]
        input = $nn.functional.conv${rank}d(input, weight, None, groups=self.groups)
""")

_POINTWISE_FIRST = Template("""\

    $flag = True

    def forward(self, input: $torch.Tensor) -> $torch.Tensor:
        filters, stride, dilation = self.depthwise.weight, self.stride, self.dilation
        channels = self.out_channels
        weight = self.weight[:, :, $sides]
        x = $nn.functional.conv${rank}d(input, weight, None, groups=self.groups)
        if self.padding_mode == "zeros":
            return $nn.functional.conv${rank}d(
                x, filters, self.bias, stride, self.padding, dilation, channels
            )
        sides = self._reversed_padding_repeated_twice
        x = $nn.functional.pad(x, sides, mode=self.padding_mode)
        return $nn.functional.conv${rank}d(
            x, filters, self.bias, stride, 0, dilation, channels
        )
""")

_GUARD = Template('''\

    @classmethod
    def $guard(cls, conv: $nn.Conv${rank}d) -> $nn.Conv${rank}d:
        """Make a new convolution depthwise separable if that has fewer parameters."""
        size, taps = conv.weight.numel(), conv.weight[0, 0].numel()$ends
        parts = $parts
$few
$unfit        if conv.weight.shape[1] > few and $smaller < size:
            conv.__class__ = cls
            conv.reset_parameters()
        return conv
''')

_UNFIT = Template("""\
        if $rest:
            return conv  # $why
""")

_TAKES_ALL = "        few = min(1, conv.groups - 1)  # a depthwise one has a map per group"
_TAKES_FEW = f"""\
        # of so few input channels all outputs would be mixtures of the same maps
        few = {FEW_CHANNELS_OF_PATCHES} if conv.kernel_size == conv.stride else {FEW_CHANNELS}
        if conv.groups > 1 and conv.out_channels <= conv.in_channels:
            few = 1  # each group has as many maps as outputs"""


def class_name(rank: int, inserted: Inserted = PLAIN) -> str:
    """The name of the class, by its form and the size of that."""
    form, size = inserted
    if form is Form.BOTTLENECK:
        return f"BottleneckConv{rank}dQ{size}"
    if form is Form.GROUPED:
        return f"GroupedSeparableConv{rank}dS{size}"
    name = "PointwiseDepthwise" if form is Form.POINTWISE_FIRST else "DepthwiseSeparable"
    return f"{name}Conv{rank}d" + (f"X{size}" if size > 1 else "")


def class_text(
    rank: int,
    name: str,
    torch: str,
    nn: str,
    inserted: Inserted = PLAIN,
    guard: Policy | None = None,
) -> str:
    """The class for ``rank`` dimensions; ``torch`` and ``nn`` are the file's names for both.

    With ``guard`` it has the method that decides by that policy when the code runs.
    """
    form, size = inserted
    names = {
        **{"rank": rank, "name": name, "torch": torch, "nn": nn, "mark": MARK, "guard": GUARD},
        "sizes": f"{'size, ' if inserted.is_sized else ''}inputs = "
        f"{'self.size, ' if inserted.is_sized else ''}self.in_channels // self.groups",
        "size": f"\n    size = {size}\n" if inserted.is_sized else "",
        "sides": ", ".join(["None"] * rank),
        "flag": POINTWISE_FIRST,
        "ends": "",
        "unfit": "",
        "make_first": "",
        "draw_first": "",
        "run_first": "",
        **_spellings(inserted),
    }
    if form is Form.BOTTLENECK:
        names["make_first"] = _MAKE_FIRST
        names["draw_first"] = _DRAW_FIRST.substitute(names)
        names["run_first"] = _RUN_FIRST.substitute(names)
    forward = _POINTWISE_FIRST if form is Form.POINTWISE_FIRST else _DEPTHWISE_FIRST
    text = _CLASS.substitute(names) + forward.substitute(names)
    if guard is None:
        return text
    takes_few = guard.few_channels or form in (Form.POINTWISE_FIRST, Form.BOTTLENECK)
    few = _TAKES_ALL if takes_few else _TAKES_FEW
    smaller = "parts" if guard.min_saving == 1 else f"parts * {guard.min_saving}"
    return text + _GUARD.substitute(names, few=few, smaller=smaller)


def class_of_other_size(name: str, base: str, size: int) -> str:
    """A class that is the one called ``base`` but for its size."""
    return f'''\
class {name}({base}):
    """{base} with another size. {MARK}."""

    size = {size}
'''


def _spellings(inserted: Inserted) -> dict[str, str]:
    """How the text spells the weights of a form, in the class and in its guard."""
    form, size = inserted
    times = "size * " if size > 1 else ""
    mixed = "conv.weight.shape[:2].numel()"
    if form is Form.BOTTLENECK:
        return {
            "what": "Pointwise, depthwise and pointwise",
            "weights": "`pointwise_in.weight` mixes\n    the inputs to `size` maps, "
            "`depthwise.weight` has a filter for each of them, and\n    `weight`, of shape "
            "(out_channels, size / groups), mixes their results.",
            "mix": "self.out_channels, size // self.groups",
            "filters": "size, 1",
            "channels": "channels",
            "channels_are": "filters.shape[0]",
            "parts": "cls.size * (ends + taps)",
            "ends": "\n        ends = (conv.in_channels + conv.out_channels) // conv.groups",
            "unfit": _UNFIT.substitute(
                rest="taps == 1 or cls.size % conv.groups",
                why="it is pointwise, or there is no such size for its groups",
            ),
        }
    if form is Form.GROUPED:
        return {
            "what": "A grouped, then a pointwise convolution",
            "weights": "`depthwise.weight` filters each\n    channel with the others of its "
            "`size`; `weight`, of shape\n    (out_channels, in_channels / groups), mixes the "
            "results.",
            "mix": "self.out_channels, inputs",
            "filters": "self.in_channels, size",
            "channels": "subgroups",
            "channels_are": "self.in_channels // filters.shape[1]",
            "parts": f"cls.size * conv.in_channels * taps + {mixed}",
            "unfit": _UNFIT.substitute(
                rest="conv.weight.shape[1] % cls.size",
                why="there is no such size for its groups",
            ),
        }
    if form is Form.POINTWISE_FIRST:
        parts = f"conv.out_channels * taps + {mixed}"
        return {
            "what": "A pointwise, then a depthwise convolution",
            "weights": f"`weight`, of shape\n    ({times}out_channels, in_channels / groups), "
            "mixes the inputs;\n    `depthwise.weight` has the filters of each mixture.",
            "mix": f"{times}self.out_channels, inputs",
            "filters": f"self.out_channels, {'size' if times else 1}",
            "parts": f"cls.size * ({parts})" if times else parts,
        }
    parts = f"conv.in_channels * taps + {mixed}"
    each = "`size` filters" if times else "a filter"
    return {
        "what": "A depthwise, then a pointwise convolution",
        "weights": f"`depthwise.weight` has {each} for each\n    input channel; `weight`, of "
        f"shape (out_channels,\n    {times}in_channels / groups), mixes their results.",
        "mix": f"self.out_channels, {times}inputs",
        "filters": f"{times}self.in_channels, 1",
        "channels": "channels",
        "channels_are": "self.in_channels",
        "parts": f"cls.size * ({parts})" if times else parts,
    }
