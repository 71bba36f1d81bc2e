"""Label Studio's brush strokes: the alpha channel of an RGBA picture in the run lengths of thi.ng's `rle-pack`.

A stream of bits, the highest of a byte first, as the README of `@thi.ng/rle-pack` has it: 32 bits number of words; 5 bits
word size - 1; four times 4 bits, the sizes - 1 of lengths; then pieces until all words are there, each of 1 bit (1: a word
repeated, 0: words one by one), 2 bits (which of the sizes), the length - 1 in so many bits, and the word or words. A word
is a channel of a pixel, row by row: red, green, blue, alpha.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

_CHANNELS: Final = 4
_ALPHA: Final = 3
_DAMAGED: Final = "its run lengths are no bytes from 0 to 255"


class _Bits:
    """A stream of bits that is read once."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def _bytes(self, count: int) -> tuple[bytes, int]:
        """The bytes that hold the next bits, and how many bits stand before these in the first.

        Raises:
            ValueError: there are fewer.
        """
        first, before = divmod(self.place, 8)
        self.place += count
        if self.place > 8 * len(self.data):
            raise ValueError("its run lengths end too early")
        return self.data[first : -(-self.place // 8)], before

    def number(self, count: int) -> int:
        """The next bits as a number."""
        found, _ = self._bytes(count)
        return int.from_bytes(found, "big") >> -self.place % 8 & (1 << count) - 1

    def words(self, count: int, size: int) -> NDArray[np.uint8]:
        """The next words, as bits (count, size)."""
        found, before = self._bytes(count * size)
        return np.unpackbits(np.frombuffer(found, np.uint8))[before:][: count * size].reshape(count, size)


def painted(values: object, height: int, width: int) -> NDArray[np.bool_]:
    """Pixels (height, width) that a brush has painted: those whose alpha is above 0.

    Args:
        values: the bytes of Label Studio's `rle`.
        height: of the picture, pixels.
        width: of the picture, pixels.

    Raises:
        ValueError: they are none, end too early, or are those of a picture of another size.
    """
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 256 for value in values):
        raise ValueError(_DAMAGED)
    bits = _Bits(bytes(values))
    words = bits.number(32)
    if words != _CHANNELS * height * width:
        raise ValueError(f"its run lengths are of {words:,} values, not of {height} x {width} x {_CHANNELS}")
    mask = np.zeros(height * width, np.bool_)
    for begin, end, shown in _pieces(bits, words):
        mask[begin // _CHANNELS : end // _CHANNELS] = shown
    return mask.reshape(height, width)


def _pieces(bits: _Bits, words: int) -> Iterator[tuple[int, int, NDArray[np.bool_] | bool]]:
    """First word, word after the last, and whether what alpha is among them is above 0: one for all, or one each."""
    word_size = bits.number(5) + 1
    sizes = [bits.number(4) + 1 for _ in range(4)]
    begin = 0
    while begin < words:
        repeated = bits.number(1)
        end = begin + bits.number(sizes[bits.number(2)]) + 1
        if end > words:
            raise ValueError("its run lengths are longer than its picture")
        if repeated:
            yield begin, end, bits.number(word_size) > 0
        else:
            alphas = bits.words(end - begin, word_size)[(_ALPHA - begin) % _CHANNELS :: _CHANNELS]
            yield begin, end, np.asarray(alphas.any(axis=1))
        begin = end
