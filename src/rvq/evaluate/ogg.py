"""The framing of Ogg files (RFC 3533), as far as counting bytes needs it."""

from rvq.errors import FormatError

_HEADER = 27
"""Bytes of a page before its segment table; the last one is the table's length."""


def packet_sizes(data: bytes) -> list[int]:
    """Sizes in bytes of the packets of an Ogg file with one stream, in order.

    Args:
        data: the whole file.

    Raises:
        FormatError: the file does not consist of whole Ogg pages.
    """
    sizes, size, position = [], 0, 0
    while position < len(data):
        table = position + _HEADER
        body = table + data[table - 1] if table <= len(data) else len(data) + 1
        if data[position : position + 4] != b"OggS" or body > len(data):
            raise FormatError(f"byte {position} does not begin an Ogg page; the file is damaged")
        # A packet is cut into segments of 255 bytes, and ends with the first shorter one, which
        # may stand on a later page.
        for segment in data[table:body]:
            size += segment
            if segment < 255:
                sizes.append(size)
                size = 0
        position = body + sum(data[table:body])
    if position > len(data) or size:
        raise FormatError("the last Ogg page is cut off; the file is damaged")
    return sizes
