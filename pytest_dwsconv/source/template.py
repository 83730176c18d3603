"""The class that is inserted into a rewritten file: one text for one, two and three dimensions."""

from __future__ import annotations

from string import Template

from pytest_dwsconv.source.syntax import MARK

# reason: torch's own initialisation makes a convolution's output vary a third as much as its input,
# so two in a row would make it a ninth. With the depthwise part at gain 1 the pair's output varies
# as one convolution's does. The weight is spelled with methods that torch.jit.script knows, so that
# scripted models stay scriptable.
_TEXT = Template('''\
class $name($nn.Module):
    """A depthwise, then a pointwise convolution, in the place of one nn.Conv${rank}d.

    Takes the arguments of nn.Conv${rank}d. `weight` is the kernel of the one convolution
    that equals the pair, computed when read. $mark.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | $sides,
        stride: int | $sides = 1,
        padding: str | int | $sides = 0,
        dilation: int | $sides = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: $torch.device | str | None = None,
        dtype: $torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.depthwise = $nn.Conv${rank}d(
            in_channels,
            in_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups=in_channels,
            bias=False,
            padding_mode=padding_mode,
            device=device,
            dtype=dtype,
        )
        self.pointwise = $nn.Conv${rank}d(
            in_channels,
            out_channels,
            1,
            groups=groups,
            bias=bias,
            device=device,
            dtype=dtype,
        )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = self.depthwise.kernel_size
        self.stride = self.depthwise.stride
        self.padding = self.depthwise.padding
        self.dilation = self.depthwise.dilation
        self.transposed = False
        self.output_padding = self.depthwise.output_padding
        self.groups = groups
        self.padding_mode = padding_mode
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights; the output varies as that of one nn.Conv${rank}d does."""
        $nn.init.kaiming_uniform_(self.depthwise.weight, nonlinearity="linear")
        self.pointwise.reset_parameters()

    @property
    def weight(self) -> $torch.Tensor:
        mix = self.pointwise.weight.unflatten(0, (self.groups, -1))
        taps = self.depthwise.weight.view(self.groups, 1, -1, *self.kernel_size)
        return (mix * taps).flatten(0, 1)

    @property
    def bias(self) -> $torch.Tensor | None:
        return self.pointwise.bias

    def forward(self, input: $torch.Tensor) -> $torch.Tensor:
        return self.pointwise(self.depthwise(input))
''')


def class_text(rank: int, name: str, torch: str, nn: str) -> str:
    """The class for ``rank`` dimensions; ``torch`` and ``nn`` are the file's names for both."""
    sides = f"tuple[{', '.join(['int'] * rank)}]"
    return _TEXT.substitute(rank=rank, name=name, torch=torch, nn=nn, sides=sides, mark=MARK)
