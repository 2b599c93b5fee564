"""From the text of a face's pixels, "70 80 82 ...", to grey levels: fast if the text is in order, else with a reason."""

import re
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from tasks.expressions import FACE_SIZE

PIXELS = FACE_SIZE * FACE_SIZE
WHITE = 255
MOST_DIGITS = 3  # of a number up to 255
GROUP = 8  # texts read at once; with more, the scratch arrays would outgrow a processor's cache
CAPACITY = GROUP * PIXELS * (MOST_DIGITS + 1) + 2  # bytes of the longest group that is in order, with spaces around


class PixelReader:
    """Reads pixel texts with a few passes of NumPy over all their bytes: three times as fast as np.fromstring.

    np.fromstring also wraps numbers silently round at the end of its type. Keeps scratch arrays: one reader per thread.
    """

    def __init__(self) -> None:
        self._levels = np.empty((4, CAPACITY), np.uint8)
        self._flags = np.empty((4, CAPACITY), np.bool_)

    def read(self, texts: Sequence[bytes | None]) -> tuple[NDArray[np.uint8], dict[int, tuple[str, str]]]:
        """Read a text per face; None stands for an image that could not be decoded.

        Returns:
            Grey levels, uint8, shape (N, 2304), and for texts that are none, by index, the reason and the offending value;
            their grey levels are undefined.
        """
        levels = np.empty((len(texts), PIXELS), np.uint8)
        faults = {}
        for start in range(0, len(texts), GROUP):
            group = texts[start : start + GROUP]
            if self._read_ordered(group, levels[start : start + GROUP]):
                continue
            for i, text in enumerate(group, start):
                if self._read_ordered([text], levels[i : i + 1]):
                    continue
                try:
                    levels[i] = parse_pixels(text)
                except ValueError as error:
                    faults[i] = error.args
        return levels, faults

    def _read_ordered(self, given: Sequence[bytes | None], out: NDArray[np.uint8]) -> bool:
        """Fill `out`, shape (N, 2304), if each text is 2,304 numbers up to 255, of one to three digits, and spaces between.

        If one is not, returns False, and `out` is undefined.
        """
        texts = [text for text in given if text is not None]
        size = sum(map(len, texts)) + len(texts) + 2
        if len(texts) < len(given) or size > CAPACITY:
            return False
        text = np.frombuffer(b" ".join([b" ", *texts, b""]), np.uint8)  # two spaces in front, one after each text
        digit, tens, number, hundreds = self._levels[:, :size]
        is_digit, after_digit, is_last, flag = self._flags[:, :size]
        np.greater_equal(text, ord("0"), out=is_digit)
        np.equal(text, ord(" "), out=flag)
        if text.max() > ord("9") or np.count_nonzero(is_digit) + np.count_nonzero(flag) < size:
            return False

        # Each byte gets the number that its digit makes with the two before it; at a word's last digit this is the word.
        np.bitwise_and(text, 15, out=digit)  # of an ASCII digit its value, of a space 0
        np.multiply(digit, 10, out=tens)
        np.add(digit[2:], tens[1:-1], out=number[2:])
        np.logical_and(is_digit[1:], is_digit[:-1], out=after_digit[1:])
        np.multiply(digit[:-2], after_digit[2:], out=hundreds[2:])
        too_large = hundreds[2:].max() > WHITE // 100
        np.multiply(hundreds[2:], 100, out=hundreds[2:])
        np.add(number[2:], hundreds[2:], out=number[2:])
        np.less(number[2:], hundreds[2:], out=flag[2:])  # where the sum passed 255 and began again at 0
        too_large |= flag[2:].any()
        np.logical_and(after_digit[3:], after_digit[1:-2], out=flag[3:])  # a fourth digit
        if too_large or flag[3:].any():
            return False

        np.greater(is_digit[:-1], is_digit[1:], out=is_last[:-1])
        is_last[-1] = False
        starts = accumulate((len(content) + 1 for content in texts), initial=2)
        if any(np.count_nonzero(is_last[start:end]) != PIXELS for start, end in pairwise(starts)):
            return False
        out[:] = np.compress(is_last[2:-1], number[2:-1]).reshape(out.shape)
        return True


def parse_pixels(text: bytes | None) -> NDArray[np.uint8]:
    """Read one text word by word: the definition of what PixelReader does faster. Returns uint8, shape (2304,).

    Raises:
        ValueError: with two arguments, the reason and the offending value.
    """
    if text is None:
        raise ValueError("not an image", "cannot be decoded, or is far too large")
    levels = bytearray()
    for match in re.finditer(rb"\S+", text):
        word = match[0]
        if not word.removeprefix(b"-").isdigit():
            raise ValueError("not a number", word.decode("utf-8", "replace"))
        digits = word.lstrip(b"0") or b"0"
        if word.startswith(b"-") or len(digits) > MOST_DIGITS or int(digits) > WHITE:
            raise ValueError("outside 0-255", word.decode())
        levels.append(int(digits))
    if len(levels) != PIXELS:
        raise ValueError("wrong count", f"{len(levels)} values")
    return np.frombuffer(levels, np.uint8)
