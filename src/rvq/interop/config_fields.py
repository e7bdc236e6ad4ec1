"""The fields of `config.json`, their types and ranges: what other programs wrote is not trusted.

Bounds lie far above any known model. What they leave too large for the tensors beside it is found
by `Checkpoint.build`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rvq.errors import ModelError, first_problem
from rvq.nn.seanet import SEANetConfig

Rate = Annotated[int, Field(ge=1, le=2**24)]
Channels = Annotated[int, Field(ge=1, le=2**16)]
Count = Annotated[int, Field(ge=1, le=2**10)]
Kernel = Annotated[int, Field(ge=1, le=2**10)]
CodebookSize = Annotated[int, Field(ge=2, le=2**16)]
Strides = Annotated[list[Annotated[int, Field(ge=1, le=2**12)]], Field(min_length=1, max_length=16)]

_LONGEST_HOP = 2**16
"""Samples; networks are traced on a few hops when they are exported."""
_WIDEST_DILATION = 2**12


class Fields(BaseModel):
    """Some fields of a `config.json`; those that no model needs are passed over."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class SeanetFields(Fields):
    """What EnCodec and Mimi call the settings of their SEANet."""

    sampling_rate: Rate
    audio_channels: Annotated[int, Field(ge=1, le=2**8)]
    hidden_size: Channels
    num_filters: Channels
    upsampling_ratios: Strides
    kernel_size: Kernel
    last_kernel_size: Kernel
    residual_kernel_size: Kernel
    dilation_growth_rate: Annotated[int, Field(ge=1, le=_WIDEST_DILATION)]
    num_residual_layers: Annotated[int, Field(ge=1, le=16)]
    compress: Channels
    codebook_size: CodebookSize

    @property
    def dilations(self) -> tuple[int, ...]:
        """Of the residual units before every stride."""
        return tuple(self.dilation_growth_rate**i for i in range(self.num_residual_layers))

    def on(self, base: SEANetConfig) -> SEANetConfig:
        """A network with these settings, the others those of `base`."""
        kernels = (self.kernel_size, self.last_kernel_size)
        return replace(
            base,
            sample_rate=self.sampling_rate,
            channels=self.audio_channels,
            dim=self.hidden_size,
            width=self.num_filters,
            strides=tuple(reversed(self.upsampling_ratios)),
            encoder_kernels=kernels,
            decoder_kernels=kernels,
            residual_kernel=self.residual_kernel_size,
            dilations=self.dilations,
            compress=self.compress,
        )

    def check(self, where: str) -> None:
        """Check what fields must have to do with each other.

        Raises:
            ModelError: they do not fit; `where` is what they are of.
        """
        check_hop(where, "upsampling_ratios", self.upsampling_ratios)
        if min(self.upsampling_ratios) < 2:
            raise ModelError(f"{where} has a ratio below 2 in upsampling_ratios")
        if self.num_filters % self.compress:
            raise ModelError(
                f"{where} has num_filters {self.num_filters}, no multiple of compress "
                f"{self.compress}"
            )
        if self.dilations[-1] > _WIDEST_DILATION:
            raise ModelError(
                f"{where} has dilation_growth_rate {self.dilation_growth_rate}: after "
                f"{self.num_residual_layers} layers dilations are above {_WIDEST_DILATION}"
            )


Schema = TypeVar("Schema", bound=Fields)


def read_fields(schema: type[Schema], fields: Mapping[str, object], where: str) -> Schema:
    """Check fields one by one.

    Args:
        schema: which there must be, their types and ranges.
        fields: what was read.
        where: what they are of, for messages.

    Raises:
        ModelError: one is missing, of another type or out of range; it is named.
    """
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        problem = first_problem(error)
        raise ModelError(f"{where} is damaged or lacks a field: {problem}") from None


def check_hop(where: str, name: str, strides: Sequence[int]) -> None:
    """Make sure that a frame is no longer than any codec's.

    Raises:
        ModelError: it is; the field is named.
    """
    if math.prod(strides) > _LONGEST_HOP:
        raise ModelError(
            f"{where} has {name} {list(strides)}, frames of more than {_LONGEST_HOP} samples"
        )
