"""Videos as people have them: every frame at its time, upright, and of a broken file the good part."""

import shutil
from fractions import Fraction
from itertools import pairwise

import av
import cv2
import numpy as np
import pytest
from made_videos import Actor, damaged, smiling, write_sound, write_video

from tasks.photos import RefusedError
from tasks.videos import frames, read_video

PIXELS = 200e6


def still(_):
    return [Actor(smiling(), 400, 60, 200)]


def growing(time):
    """A face whose size tells the time."""
    return [Actor(smiling(), 0, 0, 40 + 40 * time)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Four seconds at 25 frames a second."""
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", growing)


def read(path, every=0.0, **options):
    return list(frames(str(path), read_video(str(path), PIXELS), every, **options))


def width_of_face(frame):
    image = frame.view(max(frame.width, frame.height)).astype(int)
    return int((np.abs(image[2] - image[2, -1]).sum(axis=1) > 60).sum())


def test_the_header(clip):
    video = read_video(str(clip), PIXELS)
    assert (video.format, video.width, video.height, video.rate) == ("H264", 640, 360, 25.0)
    assert video.seconds == pytest.approx(4.0, abs=0.05)


def test_all_frames_at_their_times(clip):
    seen = read(clip)
    assert [frame.number for frame in seen] == list(range(100))
    assert [frame.time for frame in seen] == [index / 25 for index in range(100)]
    assert width_of_face(seen[75]) == pytest.approx(40 + 40 * 3, abs=3)


@pytest.mark.parametrize(
    ("every", "expected"), [(1.0, [0, 1, 2, 3]), (0.5, [0, 0.5 + 0.02, 1, 1.52, 2, 2.52, 3, 3.52])]
)
def test_frames_are_those_at_or_first_after_each_multiple(clip, every, expected):
    assert [frame.time for frame in read(clip, every)] == pytest.approx(expected, abs=0.021)


def test_a_part_of_a_video(clip):
    seen = read(clip, 0.2, start=1.5, stop=2.5)
    assert [frame.time for frame in seen] == pytest.approx([1.52, 1.6, 1.8, 2.0, 2.2, 2.4])
    assert [width_of_face(frame) for frame in seen] == pytest.approx([40 + 40 * frame.time for frame in seen], abs=3)


@pytest.mark.parametrize("every", [0.0, 0.2, 0.33, 1.0])
@pytest.mark.parametrize("place", [0, 3, -2])
def test_it_goes_on_where_it_was(clip, every, place):
    whole = read(clip, every)
    rest = read(clip, every, done=whole[place].time)
    after = whole[place:][1:]
    assert [frame[:2] for frame in rest] == [frame[:2] for frame in after]
    assert all(np.array_equal(a.view(640), b.view(640)) for a, b in zip(rest, after, strict=True))


def test_no_frame_is_lost_where_a_file_has_no_index(tmp_path):
    path = write_video(tmp_path / "a.mts", growing)
    whole = read(path)
    assert len(whole) == 100
    for place in (1, 30, 98):
        rest = [frame[:2] for frame in whole[place:]]
        assert [frame[:2] for frame in read(path, start=whole[place].time)] == rest
        assert [frame[:2] for frame in read(path, done=whole[place - 1].time)] == rest


def test_a_part_of_an_avi_file(tmp_path):
    path = write_video(tmp_path / "a.avi", growing, codec="mpeg4")
    assert read(path, start=1.0, stop=3.0)[0].time == 1.0
    assert len(read(path, start=1.0, stop=3.0)) == 50


def test_a_bare_stream_goes_on_where_it_was(tmp_path):
    with av.open(str(write_video(tmp_path / "a.mts", growing, 1.0))) as container:
        packets = [bytes(packet) for packet in container.demux(video=0)]
    path = tmp_path / "bare.mpg"
    path.write_bytes(b"".join(packets))
    whole = read(path)
    assert [frame.time for frame in whole] == pytest.approx([index / 25 for index in range(25)])
    assert [frame[:2] for frame in read(path, done=whole[9].time)] == [frame[:2] for frame in whole[10:]]


def test_pieces_put_together_come_one_after_the_other(tmp_path):
    one = write_video(tmp_path / "one.mts", growing, 1.0)
    two = tmp_path / "two.mts"
    two.write_bytes(2 * one.read_bytes())
    whole = read(two)
    assert [frame.time for frame in whole] == pytest.approx([index / 25 for index in range(50)])
    for place in (10, 40):
        assert [frame[:2] for frame in read(two, done=whole[place].time)] == [frame[:2] for frame in whole[place + 1 :]]


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.flv", "flv1")])
def test_a_title_need_not_be_utf_8(tmp_path, name, codec):
    assert len(read(write_video(tmp_path / name, growing, 0.4, codec=codec, title="F\u00e9rias"))) == 10


def test_a_codec_that_nobody_knows(tmp_path, clip):
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(RefusedError) as refusal:
        read(path)
    assert (refusal.value.status, refusal.value.reason) == ("unsupported", "FFmpeg does not know its codec")


def test_a_frame_is_as_large_as_asked_for(clip):
    frame = read(clip, 1.0)[2]
    assert frame.view(320).shape == (180, 320, 3)
    assert frame.view(5000).shape == (360, 640, 3)
    assert np.abs(frame.view(320).mean() - frame.view(640).mean()) < 2


@pytest.mark.parametrize(("turned", "corner"), [(90, (1, 0)), (180, (1, 1)), (-90, (0, 1))])
def test_a_phone_held_otherwise(tmp_path, turned, corner):
    """The face was recorded in the upper left corner; `corner`: where it is to be shown (is it down? is it right?)."""
    path = write_video(tmp_path / "phone.mp4", lambda _: [Actor(smiling(), 0, 0, 150)], 0.2, turned=turned)
    video = read_video(str(path), PIXELS)
    assert (video.width, video.height) == ((640, 360) if turned == 180 else (360, 640))
    image = read(path)[0].view(640)
    assert image.shape == (video.height, video.width, 3)
    down, right = np.argwhere(image.max(axis=2) > 200).mean(axis=0) > np.array(image.shape[:2]) / 2
    assert (down, right) == corner


def test_frames_that_come_as_they_like(tmp_path):
    times = [0, 0.04, 0.5, 0.52, 0.54, 1.7, 1.71, 3.0]
    path = write_video(tmp_path / "phone.mp4", growing, times=times)
    assert [frame.time for frame in read(path)] == pytest.approx(times, abs=0.001)
    assert [frame.time for frame in read(path, 0.5)] == pytest.approx([0, 0.5, 1.7, 3.0], abs=0.001)


@pytest.mark.parametrize(
    ("codec", "name", "form"),
    [
        ("libx264", "a.mkv", "H264"), ("libvpx", "a.webm", "VP8"), ("mpeg4", "a.avi", "MPEG4"), ("mpeg4", "a.mov", "MPEG4"),
        ("libsvtav1", "a.mp4", "AV1"),
    ],
)  # fmt: skip
def test_other_forms(tmp_path, codec, name, form):
    path = write_video(tmp_path / name, growing, 1.0, codec=codec)
    assert read_video(str(path), PIXELS).format == form
    times = [frame.time for frame in read(path)]
    assert len(times) == 25
    assert all(after > before for before, after in pairwise(times))


def test_one_frame(tmp_path):
    path = write_video(tmp_path / "one.mp4", still, times=[0.0])
    assert [frame.time for frame in read(path, 0.2)] == [0.0]


def test_a_broken_tail_leaves_the_good_part(tmp_path, clip):
    whole = write_video(tmp_path / "whole.mkv", growing, 8.0)
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    seen = []
    with pytest.raises(RefusedError, match=r"cut short: it ends after [3-6]\.\d of 8\.0 s"):
        read_into(seen, broken)
    assert 75 <= len(seen) <= 160


@pytest.mark.parametrize("name", ["a.mkv", "a.flv", "a.mp4"])
def test_sound_that_lasts_longer_is_no_damage(tmp_path, name):
    path = write_video(tmp_path / name, still, seconds=4.0, times=[index / 25 for index in range(25)], sound="aac")
    assert len(read(path)) == 25


def test_subtitles_that_last_longer_are_no_damage(tmp_path, clip):
    (tmp_path / "words.srt").write_text("1\n00:00:00,500 --> 00:00:09,000\nhello\n\n")
    path = tmp_path / "words.mkv"
    with av.open(str(path), "w") as both, av.open(str(clip)) as film, av.open(str(tmp_path / "words.srt")) as words:
        streams = [(each, both.add_stream_from_template(each.streams[0])) for each in (film, words)]
        for source, stream in streams:
            for packet in source.demux():
                packet.stream = stream
                both.mux(packet)
    assert read_video(str(path), PIXELS).seconds == pytest.approx(9.0, abs=0.05)
    assert len(read(path)) == 100


def test_a_last_picture_that_stays_is_no_damage(tmp_path):
    path = write_video(tmp_path / "slides.mp4", still, times=[0.0, 2.0, 4.0], rate=Fraction(1, 2))
    assert read_video(str(path), PIXELS).seconds == 6.0
    assert len(read(path)) == 3


def read_into(seen, path, **options):
    """Add the frames to a list, so that they are there when the rest cannot be read."""
    for frame in frames(str(path), read_video(str(path), PIXELS), 0.0, **options):
        seen.append(frame)


def test_damage_in_the_middle_is_told_and_the_rest_read(tmp_path):
    path = damaged(write_video(tmp_path / "clip.mkv", growing, 4.0), 0.5)
    seen = []
    with pytest.raises(RefusedError, match=r"damaged|cut short"):
        read_into(seen, path)
    assert len(seen) > 40
    with pytest.raises(RefusedError, match="damaged"):  # also where only a part is asked for
        read_into([], path, stop=3.8)


def test_damage_that_a_decoder_calls_a_wrong_argument_is_damage(tmp_path):
    path = write_video(tmp_path / "clip.flv", growing, 2.0, codec="flv1")
    with av.open(str(path)) as container:
        tenth = bytes(list(container.demux(video=0))[10])
    at = path.read_bytes().index(tenth) + 5  # where the picture's size is
    path.write_bytes(path.read_bytes()[:at] + bytes(40) + path.read_bytes()[at + 40 :])
    with av.open(str(path)) as container, pytest.raises(av.error.ArgumentError):
        list(container.decode(video=0))
    seen = []
    with pytest.raises(RefusedError, match="1 damaged places"):
        read_into(seen, path)
    assert len(seen) == 49


@pytest.mark.parametrize("name", ["clip.mkv", "clip.mp4"])
def test_going_on_behind_damage_the_reason_stays(tmp_path, name):
    path = damaged(write_video(tmp_path / name, growing, 4.0), 0.3, 0.6)
    whole = []
    with pytest.raises(RefusedError) as refusal:
        read_into(whole, path)
    assert "damaged places, the first after" in refusal.value.reason
    for place in range(5, len(whole), 10):
        frame, rest = whole[place], []
        with pytest.raises(RefusedError) as again:
            read_into(rest, path, done=frame.time, damage=frame.damage)
        assert again.value.reason == refusal.value.reason
        assert [each[:2] for each in rest] == [each[:2] for each in whole[place + 1 :]]


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", "unreadable", "an empty file"),
        (b"no video\n" * 99, "unreadable", "not a video, or a damaged one"),
        (b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n", "unreadable", "not a video, or a damaged one"),
        (b"ffconcat version 1.0\nfile clip.mp4\n", "unreadable", "not a video, or a damaged one"),
    ],
)
def test_what_is_no_video(tmp_path, clip, content, status, words):
    shutil.copy(clip, tmp_path / "clip.mp4")
    path = tmp_path / "no.mp4"
    path.write_bytes(content)
    with pytest.raises(RefusedError, match=words) as refusal:
        read_video(str(path), PIXELS)
    assert refusal.value.status == status


def test_only_sound(tmp_path):
    with pytest.raises(RefusedError, match="only sound") as refusal:
        read_video(str(write_sound(tmp_path / "song.mp4")), PIXELS)
    assert refusal.value.status == "unsupported"


def test_a_frame_that_is_too_large(clip):
    with pytest.raises(RefusedError, match="640 x 360 px") as refusal:
        read_video(str(clip), 100_000)
    assert refusal.value.status == "too_large"


def test_a_shape_of_pixels_that_makes_a_frame_too_large(tmp_path):
    with av.open(str(tmp_path / "wide.mp4"), "w") as container:
        stream = container.add_stream("libx264", 25)
        stream.width = stream.height = 400
        stream.codec_context.sample_aspect_ratio = Fraction(80)
        frame = av.VideoFrame.from_ndarray(np.zeros((400, 400, 3), np.uint8))
        container.mux([*stream.encode(frame), *stream.encode()])
    with pytest.raises(RefusedError, match="32000 x 400 px: 13 megapixels a frame, the limit is 10") as refusal:
        read_video(str(tmp_path / "wide.mp4"), 10e6)
    assert refusal.value.status == "too_large"


def test_later_frames_may_not_be_as_large_as_they_like(tmp_path):
    path = write_jpegs(tmp_path / "growing.mkv", [64, 128, 8000, 64])
    video = read_video(str(path), PIXELS)
    seen = []
    with pytest.raises(RefusedError, match="1 damaged places, the first after "):
        seen.extend((frame.width, frame.height) for frame in frames(str(path), video, 0.0))
    assert seen == [(64, 64), (128, 128), (64, 64)]


def write_jpegs(path, sides):
    """Square JPEGs as a video, whose header is of the first."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", 25)
        stream.width = stream.height = sides[0]
        stream.pix_fmt = "yuvj420p"
        for number, side in enumerate(sides):
            packet = av.Packet(cv2.imencode(".jpg", np.zeros((side, side, 3), np.uint8))[1].tobytes())
            packet.stream, packet.pts, packet.time_base, packet.is_keyframe = stream, number, Fraction(1, 25), True
            container.mux(packet)
    return path


def test_a_file_that_is_gone(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_video(str(tmp_path / "gone.mp4"), PIXELS)
