"""The class that is inserted into a rewritten file: one text for one, two and three dimensions."""

from __future__ import annotations

from string import Template

from pytest_dwsconv.core.conv import FEW_CHANNELS, FEW_CHANNELS_OF_PATCHES, Order
from pytest_dwsconv.core.rules import Policy
from pytest_dwsconv.source.reading.syntax import MARK

GUARD = "where_it_saves"
"""The class method that decides when the code runs."""

POINTWISE_FIRST = "pointwise_first"
"""The attribute that only a class of that order has: its weights may have the same shapes."""

# reason: It is an nn.Conv2d, one module with a weight and a bias. So loops that initialise, rescale
# or zero all convolutions, set their stride or ask for their bias, do to it what they do to others;
# of two parts that were convolutions they would make both small, or both zero. Its weight has two
# dimensions: what takes it for a kernel fails instead of computing something else. The filters are
# the weight of a module of their own, so that loops which collect each module's weight for an
# optimizer find them.
# torch's own initialisation makes a convolution's output vary a third as much as its input, so two
# in a row would make it a ninth. With the depthwise filters at gain 1 the pair's output varies as
# one convolution's does. What the forward uses is known to torch.jit.script. It runs on Python 3.8
# and PyTorch 1.8: nn.Conv2d() ends with reset_parameters() in every release.
_CLASS = Template('''\
class $name($nn.Conv${rank}d):
    """$what, in the place of one nn.Conv${rank}d.

    It takes the arguments of nn.Conv${rank}d. $weights
    $mark.
    """

    class Filters($nn.Module):
        def __init__(self, weight: $torch.Tensor) -> None:
            super().__init__()
            self.weight = $nn.Parameter(weight)

    def reset_parameters(self) -> None:
        """Draw new weights; the output varies as that of one nn.Conv${rank}d does."""
        if not hasattr(self, "depthwise"):
            full = self.weight  # of one convolution: nn.Conv${rank}d() calls this at its end
            mix = full.new_empty($mix)
            self.weight = $nn.Parameter(mix)
            filters = full.new_empty($filters, *self.kernel_size)
            self.depthwise = self.Filters(filters)
        $nn.init.kaiming_uniform_(self.depthwise.weight, nonlinearity="linear")
        super().reset_parameters()
        if self.bias is not None:  # its bound follows from all inputs of one nn.Conv${rank}d
            self.bias.data *= ($bias_of / self.depthwise.weight[0, 0].numel()) ** 0.5
''')

_DEPTHWISE_FIRST = Template("""\

    def forward(self, input: $torch.Tensor) -> $torch.Tensor:
        filters, stride, dilation = self.depthwise.weight, self.stride, self.dilation
        channels = self.in_channels
        if self.padding_mode == "zeros":
            x = $nn.functional.conv${rank}d(
                input, filters, None, stride, self.padding, dilation, channels
            )
        else:
            sides = self._reversed_padding_repeated_twice
            input = $nn.functional.pad(input, sides, mode=self.padding_mode)
            x = $nn.functional.conv${rank}d(
                input, filters, None, stride, 0, dilation, channels
            )
        weight = self.weight[:, :, $sides]
        return $nn.functional.conv${rank}d(x, weight, self.bias, groups=self.groups)
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
        size, taps = conv.weight.numel(), conv.weight[0, 0].numel()
        parts = $parts
$few
        if conv.weight.shape[1] > few and $smaller < size:
            conv.__class__ = cls
            conv.reset_parameters()
        return conv
''')


_TAKES_ALL = "        few = 1  # of a depthwise convolution"
_TAKES_FEW = f"""\
        # of so few input channels all outputs would be mixtures of the same maps
        few = {FEW_CHANNELS_OF_PATCHES} if conv.kernel_size == conv.stride else {FEW_CHANNELS}
        if conv.groups > 1 and conv.out_channels <= conv.in_channels:
            few = 1  # each group has as many maps as outputs"""


def class_name(rank: int, policy: Policy = Policy()) -> str:
    """The name of the class, by what its parts are."""
    multiplier = f"X{policy.depth_multiplier}" if policy.depth_multiplier > 1 else ""
    if policy.order is Order.POINTWISE_FIRST:
        return f"PointwiseDepthwiseConv{rank}d{multiplier}"
    return f"DepthwiseSeparableConv{rank}d{multiplier}"


def class_text(
    rank: int, name: str, torch: str, nn: str, policy: Policy = Policy(), guarded: bool = False
) -> str:
    """The class for ``rank`` dimensions; ``torch`` and ``nn`` are the file's names for both.

    The policy has its order and depth multiplier; if ``guarded``, it has the method that decides by
    the policy when the code runs.
    """
    pointwise_first = policy.order is Order.POINTWISE_FIRST
    form = _pointwise_first(policy) if pointwise_first else _depthwise_first(policy)
    names = {
        **form,
        "flag": POINTWISE_FIRST,
        **{"rank": rank, "name": name, "torch": torch, "nn": nn, "mark": MARK, "guard": GUARD},
        "sides": ", ".join(["None"] * rank),
    }
    text = _CLASS.substitute(names)
    text += (_POINTWISE_FIRST if pointwise_first else _DEPTHWISE_FIRST).substitute(names)
    if not guarded:
        return text
    few = _TAKES_ALL if policy.few_channels or pointwise_first else _TAKES_FEW
    smaller = "parts" if policy.min_saving == 1 else f"parts * {policy.min_saving}"
    return text + _GUARD.substitute(names, few=few, smaller=smaller)


def _depthwise_first(policy: Policy) -> dict[str, str | int]:
    """What depends on the order, where r filters of each input channel come first."""
    r = policy.depth_multiplier
    times, each = (f"{r} * ", f"{r} filters") if r > 1 else ("", "a filter")
    parts = "conv.in_channels * taps + conv.weight.shape[:2].numel()"
    return {
        "what": "A depthwise, then a pointwise convolution",
        "weights": f"`depthwise.weight` has {each} for each input\n    channel; `weight`, of shape "
        f"(out_channels, {times}in_channels / groups), mixes their results.",
        "mix": f"self.out_channels, {times}self.in_channels // self.groups",
        "bias_of": r,
        "filters": f"{times}self.in_channels, 1",
        "parts": f"{r} * ({parts})" if r > 1 else parts,
    }


def _pointwise_first(policy: Policy) -> dict[str, str | int]:
    """The same where r mixtures for each output channel come first."""
    r = policy.depth_multiplier
    times = f"{r} * " if r > 1 else ""
    parts = "conv.out_channels * taps + conv.weight.shape[:2].numel()"
    return {
        "what": "A pointwise, then a depthwise convolution",
        "weights": f"`weight`, of shape ({times}out_channels,\n    in_channels / groups), mixes "
        "the inputs; `depthwise.weight` has the filters of each mixture.",
        "mix": f"{times}self.out_channels, self.in_channels // self.groups",
        "bias_of": 1,
        "filters": f"self.out_channels, {r}",
        "parts": f"{r} * ({parts})" if r > 1 else parts,
    }
