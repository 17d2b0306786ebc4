import av
import numpy as np
import pytest
from PIL import Image

from lwm.data.video import BrokenMedia, View, draw_view, even_frames, read_image, read_video


def levels(path, **options):
    """The grey level of each frame."""
    return [round(float(frame.mean())) for frame in read_video(str(path), resolution=8, **options)]


@pytest.fixture(scope="module")
def ramp(tmp_path_factory, write_video, grey):
    """Two seconds at 12 frames a second; frame k has the level 10 k."""
    path = tmp_path_factory.mktemp("ramp") / "ramp.mp4"
    write_video(path, [grey(10 * at) for at in range(24)], rate=12)
    return path


def test_every_frame_in_order(ramp):
    assert np.abs(np.subtract(levels(ramp), 10 * np.arange(24))).max() <= 3


@pytest.mark.parametrize(
    ("fps", "kept"), [(4, range(0, 24, 3)), (6, range(0, 24, 2)), (5, [0, 3, 5, 8, 10, 12])]
)
def test_frames_are_chosen_by_their_times(ramp, fps, kept):
    found = levels(ramp, fps=fps)[: len(kept)]
    assert np.abs(np.subtract(found, 10 * np.asarray(kept))).max() <= 3


def test_a_rate_above_the_films_own_repeats_nothing(ramp):
    assert levels(ramp, fps=50) == levels(ramp)


def test_variable_frame_rate_follows_the_clock(tmp_path, write_video, grey):
    times = [0, 10, 20, 500, 970, 1000, 1010, 1500, 3000]
    write_video(tmp_path / "v.mkv", [grey(20 * at) for at in range(9)], rate=30, times=times)
    assert np.abs(np.subtract(levels(tmp_path / "v.mkv", fps=2), [0, 60, 100, 140, 160])).max() <= 3


def test_max_frames_stops(ramp):
    assert levels(ramp, max_frames=5) == levels(ramp)[:5]


def bands(height, width):
    """Red, green and blue beside each other, the green square in the middle."""
    pixels = np.zeros((height, width, 3), np.uint8)
    side, start = min(height, width), abs(height - width) // 2
    wide = pixels if width > height else pixels.transpose(1, 0, 2)
    wide[:, :start, 0] = 255
    wide[:, start : start + side, 1] = 255
    wide[:, start + side :, 2] = 255
    return pixels


@pytest.mark.parametrize("shape", [(48, 144), (144, 48)])
def test_the_middle_square_is_kept(tmp_path, write_video, shape):
    write_video(tmp_path / "v.mp4", [bands(*shape)] * 2)
    frame = next(read_video(str(tmp_path / "v.mp4"), resolution=16))
    assert frame.shape == (16, 16, 3) and frame.dtype == np.uint8
    inner = frame[3:-3, 3:-3].astype(int)
    assert inner[..., 1].min() > 200 and inner[..., [0, 2]].max() < 60
    Image.fromarray(bands(*shape)).save(tmp_path / "i.png")
    assert (
        np.abs(read_image(str(tmp_path / "i.png"), resolution=16)[3:-3, 3:-3].astype(int) - [0, 255, 0]).max()
        == 0
    )


def test_pixels_that_are_not_square_are_stretched(tmp_path, write_video):
    # 48 x 48 pixels, each three times as wide as high, are shown 144 wide: only the middle third is kept.
    narrow = bands(48, 144)[:, 1::3]
    write_video(tmp_path / "v.mkv", [narrow] * 2, aspect=3)
    inner = next(read_video(str(tmp_path / "v.mkv"), resolution=16))[3:-3, 3:-3].astype(int)
    assert inner[..., 1].min() > 180 and inner[..., [0, 2]].max() < 80


def test_shrinking_averages_instead_of_picking(tmp_path, write_video):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    write_video(tmp_path / "v.mp4", [stripes] * 2)
    assert np.abs(next(read_video(str(tmp_path / "v.mp4"), resolution=8)).astype(int) - 100).max() < 25


def test_transparency_is_white(tmp_path):
    image = Image.new("RGBA", (10, 10), (255, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 0, 255))
    image.save(tmp_path / "i.png")
    assert read_image(str(tmp_path / "i.png"), resolution=10)[1:, 1:].min() == 255
    image.convert("P").save(tmp_path / "p.png", transparency=0)
    assert read_image(str(tmp_path / "p.png"), resolution=10).shape == (10, 10, 3)


def test_exif_rotation_is_applied(tmp_path):
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[:10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown a quarter turn clockwise
    Image.fromarray(pixels).save(tmp_path / "i.png", exif=exif)
    frame = read_image(str(tmp_path / "i.png"), resolution=20)
    assert frame[:, 12:].min() == 255 and frame[:, :8].max() == 0


def test_what_cannot_be_decoded_says_why(tmp_path, ramp):
    (tmp_path / "v.mp4").write_bytes(b"no video at all" * 50)
    (tmp_path / "cut.mp4").write_bytes(ramp.read_bytes()[:400])
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "i.png").write_bytes(b"\x89PNG\r\n\x1a\n????")
    for name in ("v.mp4", "cut.mp4", "empty.mp4"):
        with pytest.raises(BrokenMedia, match="cannot be decoded"):
            list(read_video(str(tmp_path / name), resolution=8))
    with pytest.raises(BrokenMedia, match="cannot be decoded"):
        read_image(str(tmp_path / "i.png"), resolution=8)


def test_a_view_is_a_square_of_the_picture(tmp_path, write_video):
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :32], picture[16:, 32:] = 200, 90
    write_video(tmp_path / "film.mp4", [picture] * 3)
    Image.fromarray(picture).save(tmp_path / "still.png")
    corners = {(0.0, 0.0): 200, (0.0, 1.0): 0, (1.0, 0.0): 0, (1.0, 1.0): 90}
    for (top, left), level in corners.items():
        view = View(side=0.5, top=top, left=left)
        still = read_image(tmp_path / "still.png", resolution=8, view=view)
        for frame in (still, *read_video(str(tmp_path / "film.mp4"), resolution=8, view=view)):
            assert frame.shape == (8, 8, 3) and np.abs(frame[2:6, 2:6].astype(int) - level).max() < 12
    there = View(left=0.25)
    for read in (
        lambda **how: read_image(tmp_path / "still.png", **how),
        lambda **how: next(read_video(str(tmp_path / "film.mp4"), **how)),
    ):
        straight = read(resolution=16, view=there)
        np.testing.assert_array_equal(
            read(resolution=16, view=there._replace(mirrored=True)), straight[:, ::-1]
        )


def test_drawn_views_lie_in_the_picture():
    views = [draw_view(np.random.default_rng(seed)) for seed in range(50)]
    assert all(0.5 <= v.side <= 1 and 0 <= v.top <= 1 and 0 <= v.left <= 1 for v in views)
    assert len(set(views)) == 50 and {v.mirrored for v in views} == {True, False}


@pytest.mark.parametrize("count", [1, 2, 5, 11, 24, 100])
def test_frames_spread_evenly_over_a_video(ramp, count):
    images = even_frames(str(ramp), resolution=8, count=count)
    found = images.astype(float).mean((1, 2, 3))
    assert images.shape == (min(count, 24), 8, 8, 3) and images.dtype == np.uint8
    assert abs(found[0]) <= 3 and (count == 1 or abs(found[-1] - 230) <= 3)
    steps = np.diff(found)
    # One pass knows the length at the end: places are off by less than the stride, half of the spacing.
    spacing = 230 / max(len(found) - 1, 1)
    assert (steps > 0).all() and (np.abs(steps - spacing) <= spacing).all()


def test_a_video_that_was_cut_off_says_so(tmp_path, write_video, grey):
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (40, 32, 48, 3), np.uint8)
    write_video(whole, list(noise))
    with av.open(str(whole)) as source, av.open(str(cut), "w", options={"movflags": "faststart"}) as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    assert len(even_frames(str(cut), resolution=8, count=99)) == 40
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with pytest.raises(BrokenMedia, match="is cut off|cannot be decoded"):
        even_frames(str(cut), resolution=8, count=99)


def test_a_file_with_sound_alone_has_no_frames(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(BrokenMedia, match="has no video stream"):
        even_frames(str(tmp_path / "sound.mp4"), resolution=8, count=4)


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {}\n",
    ],
)
def test_a_list_of_other_files_is_no_video(tmp_path, ramp, text):
    """FFmpeg knows such lists by their content, and would open what they name."""
    (tmp_path / "ramp.mp4").write_bytes(ramp.read_bytes())
    for name in ("ramp.mp4", ramp):
        (tmp_path / "list.mp4").write_text(text.format(name))
        with pytest.raises(BrokenMedia, match="cannot be decoded"):
            levels(tmp_path / "list.mp4")


def test_pictures_of_too_many_pixels_are_not_decoded(tmp_path, ramp, monkeypatch):
    Image.new("RGB", (9, 8)).save(tmp_path / "x.png")
    monkeypatch.setattr("lwm.bounds.PIXELS", 71)
    with pytest.raises(BrokenMedia, match="9 x 8 pixels; 71 at most can be read"):
        read_image(str(tmp_path / "x.png"), resolution=8)
    with pytest.raises(BrokenMedia, match="pixels; 71 at most can be read"):
        levels(ramp)
