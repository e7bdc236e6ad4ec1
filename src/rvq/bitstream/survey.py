"""What a file holds and what is wrong with it, as far as that shows without decoding."""

from collections.abc import Callable
from dataclasses import dataclass

from rvq.bitstream.blocks import StoredBlock
from rvq.bitstream.header import Header
from rvq.bitstream.reader import Reader


@dataclass(frozen=True)
class Survey:
    """Facts about a file.

    Attributes:
        header: what it says of itself.
        layers: bytes of the codes of every layer.
        lost: blocks whose first layer is damaged or missing.
        weakened: other blocks with damaged or missing layers.
        whole: whether the file's checksum agrees; None if it has none or was not reached.
        cut_short: whether the file ends before its end.
        added_to: whether bytes follow its end.
        damaged: whether anything at all is wrong.
    """

    header: Header
    layers: tuple[int, ...]
    lost: int
    weakened: int
    whole: bool | None
    cut_short: bool
    added_to: bool
    damaged: bool

    @property
    def payload(self) -> int:
        """Bytes that are codes; the others hold the file together."""
        return sum(self.layers)


def survey(reader: Reader, visit: Callable[[StoredBlock], None] = lambda stored: None) -> Survey:
    """Go through a file once.

    Args:
        reader: of the file.
        visit: called with every block on the way.
    """
    header = reader.header
    layers = [0] * header.n_codebooks
    found = weakened = 0
    for stored in reader.payloads():
        visit(stored)
        found += stored.layers[0] is not None
        weakened += stored.layers[0] is not None and not stored.intact
        for layer, data in enumerate(stored.layers):
            layers[layer] += len(data or b"")
    lost = header.n_blocks - found
    return Survey(
        header=header,
        layers=tuple(layers),
        lost=lost,
        weakened=weakened,
        whole=reader.whole,
        cut_short=reader.cut_short,
        added_to=bool(reader.added_to),
        damaged=lost + weakened > 0 or reader.damaged_around,
    )
