"""What every published codec offers, whatever lies between its latents and its codes."""

from abc import ABC, abstractmethod
from pathlib import Path

from torch import Tensor, nn


class PublishedCodec(ABC, nn.Module):
    """A published codec in torch: audio <-> latents <-> codes, whole recordings at a time.

    Attributes:
        name: of the model.
        sample_rate: Hz.
        channels: of the audio, coded together.
        hop_length: samples per frame.
        n_codebooks: how many there are.
        codebook_size: codewords per codebook.
    """

    name: str
    sample_rate: int
    channels: int
    hop_length: int
    n_codebooks: int
    codebook_size: int

    @abstractmethod
    def encode(self, audio: Tensor) -> Tensor:
        """Audio `[batch, channels, n_samples]` in [-1, 1] -> latents `[batch, n_frames, dim]`."""

    @abstractmethod
    def quantize(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Latents -> codes `[batch, n_frames, n_codebooks]`, of all codebooks or the first few."""

    @abstractmethod
    def dequantize(self, codes: Tensor) -> Tensor:
        """Codes `[batch, n_frames, any prefix]` -> latents `[batch, n_frames, dim]`."""

    @abstractmethod
    def codewords(self) -> Tensor:
        """What each code adds to the latents, `[n_codebooks, codebook_size, dim]`.

        A frame's latents are the sum of its codes' codewords, however they were found.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> audio `[batch, channels, n_frames * hop_length]`, or a little less."""

    @abstractmethod
    def write(self, folder: Path, facts: dict[str, object]) -> None:
        """Write the folder of a model that `rvq.codec` loads, without torch.

        Args:
            folder: created if need be; what is there is replaced.
            facts: about where the model is from, for its card.

        Raises:
            InputError: that cannot be done with this codec.
        """
