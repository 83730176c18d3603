"""The class that is inserted into a rewritten file: one text for one, two and three dimensions."""

from __future__ import annotations

from string import Template

from pytest_dwsconv.core.conv import FEW_CHANNELS, FEW_CHANNELS_OF_PATCHES
from pytest_dwsconv.core.rules import Policy
from pytest_dwsconv.source.syntax import MARK

GUARD = "where_it_saves"
"""The class method that decides when the code runs."""

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
    """A depthwise, then a pointwise convolution, in the place of one nn.Conv${rank}d.

    It takes the arguments of nn.Conv${rank}d. `depthwise.weight` has a filter for each input
    channel; `weight`, of shape (out_channels, in_channels / groups), mixes their results.
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
            mix = full.new_empty(self.out_channels, self.in_channels // self.groups)
            self.weight = $nn.Parameter(mix)
            filters = full.new_empty(self.in_channels, 1, *self.kernel_size)
            self.depthwise = self.Filters(filters)
        $nn.init.kaiming_uniform_(self.depthwise.weight, nonlinearity="linear")
        super().reset_parameters()

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
''')

_GUARD = Template('''\

    @classmethod
    def $guard(cls, conv: $nn.Conv${rank}d) -> $nn.Conv${rank}d:
        """Make a new convolution depthwise separable if that has fewer parameters."""
        size, taps = conv.weight.numel(), conv.weight[0, 0].numel()
        parts = conv.in_channels * taps + size // taps
        # of so few input channels all outputs would be mixtures of the same maps
        few = $few
        if conv.weight.shape[1] > few and $smaller < size:
            conv.__class__ = cls
            conv.reset_parameters()
        return conv
''')


def class_text(rank: int, name: str, torch: str, nn: str, guard: Policy | None = None) -> str:
    """The class for ``rank`` dimensions; ``torch`` and ``nn`` are the file's names for both.

    With a policy it has the method that decides by it when the code runs.
    """
    names = {"rank": rank, "name": name, "torch": torch, "nn": nn, "mark": MARK, "guard": GUARD}
    text = _CLASS.substitute(names, sides=", ".join(["None"] * rank))
    if guard is None:
        return text
    few = f"{FEW_CHANNELS_OF_PATCHES} if conv.kernel_size == conv.stride else {FEW_CHANNELS}"
    if guard.few_channels:
        few = "1"  # what a channel of a depthwise convolution has
    smaller = "parts" if guard.min_saving == 1 else f"parts * {guard.min_saving}"
    return text + _GUARD.substitute(names, few=few, smaller=smaller)
