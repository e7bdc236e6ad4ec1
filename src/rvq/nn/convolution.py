"""Convolutions over time: causal ones with an explicit state, centred ones for whole segments.

The causal layers of a network share one flat state tensor, `[batch, state_size]`, zeros at the
start. Its element 0 says whether a call is the first: the left context of a first call is made up
by its padding, that of a later one is what came before. The flag is data and not Python's control
flow, so one exported network serves first and later calls. Padding and trimming are those of
EnCodec (Défossez et al. 2022), to the sample.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

Norm = Literal["none", "weight_norm", "layer_norm", "time_group_norm"]
"""Of the weights; of every step's channels; of a whole segment's channels and steps at once."""
Padding = Literal["reflect", "replicate", "zeros"]
"""What stands in for samples before the first and after the last."""


class Memory:
    """A network's flat state while its layers pass over it.

    Every layer reads its part and writes the next one, always in the same order.

    Attributes:
        started: whether there were calls before, `[batch, 1, 1]`.
    """

    def __init__(self, state: Tensor) -> None:
        self.started = state[:, :1, None] > 0
        self._state = state
        self._position = 1
        self._next = [torch.ones_like(state[:, :1])]

    def read(self, *shape: int) -> Tensor:
        """The next part of the state, `[batch, *shape]`."""
        start = self._position
        self._position += math.prod(shape)
        return self._state[:, start : self._position].unflatten(1, shape)

    def write(self, part: Tensor) -> None:
        """Keep `[batch, ...]` for the next call."""
        self._next.append(part.flatten(1))

    def state(self) -> Tensor:
        """The state for the next call, `[batch, state_size]`."""
        return torch.cat(self._next, dim=1)


def state_size(network: nn.Module) -> int:
    """Length of the flat state of a network's layers: the flag, and what each remembers."""
    return 1 + sum(m.remembers for m in network.modules() if isinstance(m, Remembering))


class Remembering(nn.Module):
    """A layer whose `forward` takes a `Memory` beside its input.

    Attributes:
        remembers: numbers that this layer itself keeps from call to call.
    """

    remembers = 0


class Chain(Remembering):
    """Layers in a row; those that remember share a memory, the others are plain modules."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """`[batch, channels, n]` -> `[batch, channels, n]`."""
        for layer in self.layers:
            x = layer(x, memory) if isinstance(layer, Remembering) else layer(x)
        return x


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of every step of `[batch, channels, n]`."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Convolution(nn.Module):
    """A convolution with its normalisation, and without any padding: enough for a kernel of one."""

    def __init__(self, conv: nn.Conv1d | nn.ConvTranspose1d, norm: Norm) -> None:
        super().__init__()
        self.conv = weight_norm(conv) if norm == "weight_norm" else conv
        self.norm: nn.Module = nn.Identity()
        if norm == "layer_norm":
            self.norm = ChannelNorm(conv.out_channels)
        elif norm == "time_group_norm":
            self.norm = nn.GroupNorm(1, conv.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, channels, n]` -> `[batch, channels, n]`."""
        return self.norm(self.conv(x))


class CausalConv(Remembering):
    """Convolution that sees the past and the step itself.

    Of n steps it makes ceil(n / stride); all calls but the last hold a multiple of the stride.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = True,
        norm: Norm = "none",
        padding: Padding = "reflect",
    ) -> None:
        super().__init__()
        conv = nn.Conv1d(inputs, outputs, kernel_size, stride, dilation=dilation, bias=bias)
        self.body = Convolution(conv, norm)
        self.inputs, self.stride, self.padding = inputs, stride, padding
        self.context = (kernel_size - 1) * dilation + 1 - stride
        self.remembers = inputs * self.context

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """`[batch, inputs, n]` -> `[batch, outputs, ceil(n / stride)]`."""
        if not self.context:
            return self.body(x)
        past = memory.read(self.inputs, self.context)
        whole = memory.started
        if self.padding == "replicate":
            past = torch.where(memory.started, past, x[:, :, :1])
        elif self.padding == "reflect":
            # An input too short to be reflected is first extended by zeros.
            index = torch.arange(self.context, 0, -1, device=x.device)
            heard = index < x.shape[2]
            first = x.index_select(2, index.clamp(max=x.shape[2] - 1))
            past = torch.where(memory.started, past, torch.where(heard, first, 0.0))
            whole = memory.started | heard[0]
        x = torch.cat([past, x], dim=2)
        memory.write(x[:, :, x.shape[2] - self.context :])
        return self.body(self._complete(x, whole) if self.stride > 1 else x)

    def _complete(self, x: Tensor, whole: Tensor) -> Tensor:
        """Append what completes the last stride; the convolution leaves the rest of it over."""
        n, missing = x.shape[2], self.stride - 1
        if self.padding == "zeros":
            return F.pad(x, (0, missing))
        if self.padding == "replicate":
            return torch.cat([x, x[:, :, n - 1 :].expand(-1, -1, missing)], dim=2)
        end = x[:, :, n - self.stride : n - 1].flip(2)
        return torch.cat([x, torch.where(whole, end, 0.0)], dim=2)


class CausalTransposedConv(Remembering):
    """Transposed convolution with a kernel of two strides, its tail left to the next call."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int,
        groups: int = 1,
        bias: bool = True,
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        # Its padding cuts a stride off either end.
        conv = nn.ConvTranspose1d(
            inputs, outputs, 2 * stride, stride, stride, groups=groups, bias=bias
        )
        self.body = Convolution(conv, norm)
        self.inputs, self.stride = inputs, stride
        self.remembers = inputs

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """`[batch, inputs, n]` -> `[batch, outputs, n * stride]`."""
        # The step before, run through the kernel again, gives the tail without its bias twice.
        x = torch.cat([memory.read(self.inputs, 1), x], dim=2)
        memory.write(x[:, :, x.shape[2] - 1 :])
        return self.body(x)


class CentredConv(nn.Module):
    """Convolution that sees as much future as past, over a whole segment."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        norm: Norm = "none",
        padding: Padding = "reflect",
    ) -> None:
        super().__init__()
        conv = nn.Conv1d(inputs, outputs, kernel_size, stride, dilation=dilation)
        self.body = Convolution(conv, norm)
        self.stride, self.padding = stride, padding
        total = (kernel_size - 1) * dilation + 1 - stride
        self.left, self.right = total - total // 2, total // 2

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, inputs, n]` -> `[batch, outputs, ceil(n / stride)]`."""
        ends = self.left, self.right + self.stride - 1
        if not any(ends):
            return self.body(x)
        if self.padding == "zeros":
            return self.body(F.pad(x, ends))
        n = x.shape[2]
        length = torch.arange(n, n + 1, device=x.device)  # a tensor: exported with any length
        # An input too short to be reflected is first extended by zeros to this length.
        needed = (self.right + -length % self.stride).clamp(min=self.left) + 1
        extended = torch.maximum(length, needed)
        after = n + torch.arange(ends[1], device=x.device)
        parts = [x]
        if self.left:
            parts = [_take(x, torch.arange(self.left, 0, -1, device=x.device)), x]
        if ends[1]:
            mirrored = 2 * (extended - 1) - after
            parts.append(_take(x, torch.where(after < extended, after, mirrored)))
        return self.body(torch.cat(parts, dim=2))


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Steps of `x [batch, channels, n]`, zeros where there are none."""
    last = x.shape[2] - 1
    taken = x.index_select(2, index.clamp(min=0, max=last))
    return torch.where((index >= 0) & (index <= last), taken, 0.0)


class CentredTransposedConv(nn.Module):
    """Transposed convolution with a kernel of two strides, trimmed at both ends of a segment."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: Norm = "none") -> None:
        super().__init__()
        self.body = Convolution(nn.ConvTranspose1d(inputs, outputs, 2 * stride, stride), norm)
        self.left = stride - stride // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, inputs, n]` -> `[batch, outputs, n * stride]`."""
        return self.body(x)[:, :, self.left : self.left + x.shape[2] * self.stride]


class OnnxELU(nn.ELU):
    """An ELU as ONNX's operator; only to be exported.

    The exporter would multiply by one before and after it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return torch.onnx.ops.symbolic(
            "Elu", (x,), {"alpha": float(self.alpha)}, dtype=x.dtype, shape=x.shape
        )


class RecurrentLayers(Remembering):
    """An LSTM whose input is added to its output; for segments it starts anew every time."""

    def __init__(self, width: int, n_layers: int) -> None:
        super().__init__()
        self.lstm: nn.Module = nn.LSTM(width, width, n_layers)
        self.shape = (2, n_layers, width)
        self.remembers = math.prod(self.shape)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """`[batch, width, n]` -> the same."""
        hidden, cell = memory.read(*self.shape).permute(1, 2, 0, 3).contiguous()
        steps = x.permute(2, 0, 1)
        y, past = self.lstm(steps, (hidden, cell))
        memory.write(torch.stack(past).permute(2, 0, 1, 3))
        return (y + steps).permute(1, 2, 0)


class OnnxLSTM(nn.Module):
    """An LSTM as ONNX's operator, for any number of steps; only to be exported.

    Weights lie as the operator takes them, so that a runtime finds them ready and need not arrange
    them anew in every call: `[1, 4 * width, width]`, gates in the order input, output, forget,
    cell; torch has input, forget, cell, output. The two biases follow each other.
    """

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.hidden_size, self.n_layers = lstm.hidden_size, lstm.num_layers
        for i in range(lstm.num_layers):
            ih, hh, *biases = (
                _reorder(getattr(lstm, f"{name}_l{i}").detach(), (0, 3, 1, 2))
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            for name, value in (("ih", ih), ("hh", hh), ("bias", torch.cat(biases))):
                self.register_parameter(f"{name}_l{i}", nn.Parameter(value[None], False))

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As `nn.LSTM`: steps `[n, batch, width]`, states `[n_layers, batch, width]`."""
        kept = []
        for i in range(self.n_layers):
            ih, hh, bias = (getattr(self, f"{name}_l{i}") for name in ("ih", "hh", "bias"))
            hidden, cell = (part[i : i + 1] for part in past)
            y, *state = torch.onnx.ops.symbolic_multi_out(
                "LSTM",
                (x, ih, hh, bias, None, hidden, cell),
                {"hidden_size": self.hidden_size},
                dtypes=(x.dtype,) * 3,
                shapes=((x.shape[0], 1, x.shape[1], self.hidden_size), hidden.shape, cell.shape),
            )
            x = y.squeeze(1)
            kept.append(state)
        hidden, cell = (torch.cat(parts) for parts in zip(*kept, strict=True))
        return x, (hidden, cell)


def restore_lstm(lstm: nn.LSTM, stored: Mapping[str, Tensor]) -> None:
    """Give an LSTM the weights, by name, that an `OnnxLSTM` made of it has."""
    with torch.no_grad():
        for i in range(lstm.num_layers):
            values = [stored[f"{name}_l{i}"][0] for name in ("ih", "hh")]
            values += stored[f"bias_l{i}"][0].chunk(2)
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            for name, value in zip(names, values, strict=True):
                getattr(lstm, f"{name}_l{i}").copy_(_reorder(value, (0, 2, 3, 1)))


def _reorder(weight: Tensor, gates: tuple[int, ...]) -> Tensor:
    parts = weight.chunk(4)
    return torch.cat([parts[i] for i in gates])


def prepare_export(network: nn.Module) -> None:
    """Put a network into the form that is exported: weight norm folded, layers as ONNX has them."""
    fold_weight_norm(network)
    for module in list(network.modules()):
        if isinstance(module, RecurrentLayers) and isinstance(module.lstm, nn.LSTM):
            module.lstm = OnnxLSTM(module.lstm)
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ELU):
                setattr(module, name, OnnxELU(child.alpha))


def fold_weight_norm(network: nn.Module) -> None:
    """Replace weight-normed weights by their values, for inference and export."""
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            learns = any(p.requires_grad for p in module.parameters())
            with torch.enable_grad():  # without a gradient the weight would become a buffer
                module.requires_grad_()
                parametrize.remove_parametrizations(module, "weight")
            module.requires_grad_(learns)
