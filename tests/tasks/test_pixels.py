import re
import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.pixels import GROUP, PIXELS, PixelReader, parse_pixels

ORDERED = b" ".join(b"%d" % (i % 256) for i in range(PIXELS))


def plainly(text: bytes) -> list[int] | None:
    """What a text stands for, by the plainest means; None if it is no face."""
    words = text.split()
    if len(words) != PIXELS or not all(re.fullmatch(rb"[0-9]+", word) for word in words):
        return None
    levels = [int(word) for word in words]
    return levels if max(levels) <= 255 else None


def check_reader(texts: list[bytes]) -> None:
    levels, faults = PixelReader().read(texts)
    for i, text in enumerate(texts):
        expected = plainly(text)
        assert (i in faults) == (expected is None), text
        if expected is None:
            reason, value = faults[i]
            assert reason in ("not a number", "outside 0-255", "wrong count") and isinstance(value, str)
        else:
            assert levels[i].tolist() == expected


@st.composite
def nearly_ordered(draw: st.DrawFn) -> bytes:
    """A face's text with up to three words changed, doubled or missing, and odd spaces."""
    words = ORDERED.split()
    for _ in range(draw(st.integers(0, 3))):
        i = draw(st.integers(0, len(words) - 1))
        new = st.sampled_from(
            [b"256", b"299", b"300", b"999", b"1000", b"-1", b"3.5", b"x", b"007", b"0012", b"+5", b"1/", b"1:"]
        )
        words[i : i + 1] = draw(
            st.lists(st.one_of(new, st.integers(0, 400).map(b"%d".__mod__), st.binary(max_size=4)), max_size=2)
        )
    spaces = draw(st.sampled_from([b" ", b" ", b"  ", b"\t", b"\n", b" \r"]))
    return draw(st.sampled_from([b"", b" ", b"\0"])) + spaces.join(words) + draw(st.sampled_from([b"", b" ", b'"']))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.just(ORDERED), st.just(ORDERED), nearly_ordered()), min_size=1, max_size=GROUP + 3))
def test_reads_what_plain_python_reads(texts: list[bytes]) -> None:
    check_reader(texts)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5))
def test_any_bytes_are_read_or_refused(texts: list[bytes]) -> None:
    check_reader(texts)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3 * GROUP))
def test_random_faces_come_back(seed: int, count: int) -> None:
    faces = np.random.default_rng(seed).integers(0, 256, (count, PIXELS))
    levels, faults = PixelReader().read([" ".join(map(str, face)).encode() for face in faces.tolist()])
    assert not faults
    assert np.array_equal(levels, faces)


def test_a_pixel_more_in_one_text_does_not_make_up_for_one_less_in_the_next() -> None:
    _, faults = PixelReader().read([ORDERED + b" 7", ORDERED[: ORDERED.rindex(b" ")], ORDERED])
    assert faults == {0: ("wrong count", "2305 values"), 1: ("wrong count", "2303 values")}


def test_every_number_of_up_to_four_digits_is_told_from_a_pixel() -> None:
    def face_with(number: int) -> bytes:
        return b"%d " % number + ORDERED.partition(b" ")[2]

    levels, faults = PixelReader().read([face_with(number) for number in range(10_000)])
    assert levels[:256, 0].tolist() == list(range(256))
    assert faults == {number: ("outside 0-255", str(number)) for number in range(256, 10_000)}


def test_megabytes_in_a_cell_are_refused_for_what_they_are() -> None:
    _, faults = PixelReader().read([b"7 " * 1_000_000, b"9" * 10_000_000, ORDERED])
    assert faults[0] == ("wrong count", "1000000 values")
    assert faults[1][0] == "outside 0-255"
    assert len(faults) == 2


def test_ordered_texts_take_the_fast_way() -> None:
    texts: list[bytes | None] = [ORDERED] * 160

    def seconds(read: object) -> float:
        start = time.process_time()
        read()  # type: ignore[operator]
        return time.process_time() - start

    def all_plainly() -> NDArray[np.uint8]:
        return np.stack([parse_pixels(text) for text in texts])

    assert seconds(lambda: PixelReader().read(texts)) * 3 < seconds(all_plainly)  # thirty times, on a quiet machine
