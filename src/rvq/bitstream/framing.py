"""How a layer stands in a file: its size, a check, its bytes.

The check covers size and bytes, and has the numbers of the block and of the layer mixed in: so
blocks and layers that changed places are noticed, and after damage a reader that has lost its place
finds a block by what its checks say.
"""

from rvq.bitstream.coder import crc8, crc24

MAX_DIGITS = 4
"""Bytes of a size."""
LONGEST_MENDED = 2**12
"""Bytes of the longest layer in which a damaged bit is looked for."""


class Framing:
    """Of version 3: a check of 24 bits, which also says which single bit was damaged.

    CRC-24 leaves a pattern of its own for every single bit, of odd parity. The numbers mixed in
    have even parity, so that a layer out of place never looks like one with a damaged bit.
    """

    check_size = 3
    cycle = 2**15
    """Blocks after which their numbers in checks begin again."""
    mends = True

    def check(self, index: int, layer: int, sized: bytes) -> bytes:
        """The check of a layer's size and bytes."""
        return (crc24(sized) ^ self._mixed(index, layer)).to_bytes(3, "little")

    def block(self, layer: int, sized: bytes, check: bytes) -> int | None:
        """Number modulo `cycle` of the block that a layer says it belongs to, None if damaged."""
        mixed = int.from_bytes(check, "little") ^ crc24(sized)
        number = mixed >> 9
        return number if mixed == self._mixed(number, layer) else None

    def mend(self, index: int, layer: int, sized: bytes, check: bytes) -> bytes | None:
        """Put one damaged bit of a layer's bytes or its check right, if that is all."""
        wrong = int.from_bytes(check, "little") ^ crc24(sized) ^ self._mixed(index, layer)
        if not wrong & wrong - 1:
            return sized
        pattern = 0x864CFB  # of the last bit, and on to the first
        for place in range(8 * len(sized)):
            if pattern == wrong:
                mended = bytearray(sized)
                mended[-1 - place // 8] ^= 1 << place % 8
                return bytes(mended)
            pattern <<= 1
            pattern ^= 0x1864CFB if pattern >> 24 else 0
        return None

    @staticmethod
    def _mixed(index: int, layer: int) -> int:
        numbers = (index % Framing.cycle << 8 | layer) << 1
        return numbers | numbers.bit_count() & 1


class Framing2(Framing):
    """Of version 2: a check byte, which tells only that something was damaged."""

    check_size = 1
    cycle = 256
    mends = False

    def check(self, index: int, layer: int, sized: bytes) -> bytes:
        """See `Framing`."""
        return bytes([crc8(sized) ^ (index + 37 * layer) & 255])

    def block(self, layer: int, sized: bytes, check: bytes) -> int | None:
        """See `Framing`."""
        return ((check[0] ^ crc8(sized)) - 37 * layer) % 256


def write_size(value: int) -> bytes:
    """Seven bits a byte, least significant first; the highest bit says that more follow."""
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def read_size(data: bytes) -> tuple[int, int]:
    """A number at the start, of at most `MAX_DIGITS` bytes, and its length, 0 if there is none."""
    value = 0
    for place, byte in enumerate(data[:MAX_DIGITS]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            canonical = byte or not place
            return (value, place + 1) if canonical else (0, 0)
    return 0, 0
