"""Every kind of image file ends as the same picture, or as one clear error."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dmbp.errors import DmbpError
from dmbp.images import Preprocess, read_image

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def photo() -> Image.Image:
    """20 wide, 10 high: red to the left, blue to the right."""
    image = Image.new("RGB", (20, 10), RED)
    image.paste(BLUE, (10, 0, 20, 10))
    return image


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def save(image: Image.Image, name: str = "image.png", **options: object) -> Path:
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.mark.parametrize(
    ("mode", "name"), [("RGB", "a.png"), ("P", "a.png"), ("P", "a.gif"), ("CMYK", "a.tif"), ("RGBA", "a.png")]
)
def test_colours(photo: Image.Image, saved: Callable[..., Path], mode: str, name: str) -> None:
    pixels = read_image(saved(photo.convert(mode), name))
    assert pixels.shape == (10, 20, 3) and pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels[:, :10] * 255, np.broadcast_to(RED, (10, 10, 3)))
    np.testing.assert_array_equal(pixels[:, 10:] * 255, np.broadcast_to(BLUE, (10, 10, 3)))


def test_cmyk_jpeg(photo: Image.Image, saved: Callable[..., Path]) -> None:
    pixels = read_image(saved(photo.convert("CMYK"), "a.jpg", quality=100))
    np.testing.assert_allclose(pixels[5, [2, 17]] * 255, [RED, BLUE], atol=8)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_greyscale(saved: Callable[..., Path], mode: str) -> None:
    pixels = read_image(saved(Image.new("L", (9, 8), 255).convert(mode)))
    np.testing.assert_array_equal(pixels, np.ones((8, 9, 3)))


def test_sixteen_bits_keep_their_depth(saved: Callable[..., Path]) -> None:
    values = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16) + 1
    for name in ("a.png", "a.tif"):
        pixels = read_image(saved(Image.fromarray(values), name))
        np.testing.assert_array_equal(pixels[..., 0], values.astype(np.float32) / 65535)
        np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


def test_deeper_values_are_refused_when_they_leave_the_scale(saved: Callable[..., Path]) -> None:
    for value in (np.float32(1.5), np.float32(np.nan), np.int32(70000), np.int32(-1)):
        with pytest.raises(DmbpError, match="expected values between 0 and"):
            read_image(saved(Image.fromarray(np.full((8, 8), value)), "a.tif"))


def test_transparency_is_laid_over_white(saved: Callable[..., Path]) -> None:
    pixels = read_image(saved(Image.new("RGBA", (8, 8), (255, 0, 0, 51))))
    np.testing.assert_allclose(pixels[0, 0], [1, 0.8, 0.8], rtol=1e-6)
    palette = Image.new("P", (8, 8), 0)
    np.testing.assert_array_equal(read_image(saved(palette, transparency=0)), np.ones((8, 8, 3)))


def test_a_turned_photo_is_upright(photo: Image.Image, saved: Callable[..., Path]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: turn clockwise
    pixels = read_image(saved(photo, exif=exif.tobytes()))
    assert pixels.shape == (20, 10, 3)
    np.testing.assert_array_equal(pixels[0, 0] * 255, RED)


def test_skimage_photo() -> None:
    assert read_image("skimage:chelsea").shape == (300, 451, 3)
    with pytest.raises(DmbpError, match=r"no photo 'chelsae'; expected one of .*astronaut.*chelsea.*coffee"):
        read_image("skimage:chelsae")


def test_skimage_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmbp.images.find_spec", lambda name: None)
    with pytest.raises(DmbpError, match=r'pip install "\.\[demo\]"'):
        read_image("skimage:chelsea")


def _bomb() -> bytes:
    """A PNG file of 50 bytes that says it is 30,000 pixels a side."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0), b"IDAT")
    packed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no image\n", "this is not an image"), (b"", "this is not an image"), (_bomb(), "too many pixels")],
    ids=["text", "empty", "bomb"],
)
def test_no_image(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DmbpError, match=message):
        read_image(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.gif"])
def test_truncated(saved: Callable[..., Path], name: str) -> None:
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    path = saved(Image.fromarray(noise), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DmbpError, match=f"{name}: "):
        read_image(path)


def test_huge_images_are_an_error_and_no_warning(saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(Image.new("RGB", (10, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)  # Pillow only warns up to twice that
    assert read_image(path).shape == (10, 10, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(DmbpError, match="too many pixels to be read safely: make it smaller first"):
        read_image(path)


LARGE = [("RGB", "png"), ("RGB", "jpg"), ("L", "jpg"), ("P", "gif"), ("RGBA", "png"), ("I;16", "png"), ("CMYK", "tif")]


@pytest.mark.parametrize(("mode", "kind"), LARGE)
@pytest.mark.parametrize("turned", [False, True])
def test_large_images_are_read_smaller(
    mode: str, kind: str, turned: bool, saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the means of squares of what is read whole; upright; a JPEG by its own decoder's means, to a few levels."""
    ramp = np.linspace(0, 250, 240).astype(np.uint8)
    rgb = np.stack([np.tile(ramp, (160, 1)), np.tile(ramp[:160, None], (1, 240)), np.full((160, 240), 90)], -1)
    image = Image.fromarray(rgb.astype(np.uint8))
    if mode == "I;16":
        image = Image.fromarray(rgb[..., 0].astype(np.uint16) * 257)
    elif mode != "RGB":
        image = image.convert(mode)
    options: dict[str, object] = {"quality": 100} if kind == "jpg" else {}
    exif = image.getexif()
    exif[0x0112] = 6  # turned by a quarter
    path = saved(image, f"a.{kind}", **options | ({"exif": exif} if turned and kind != "gif" else {}))
    whole = read_image(path)
    monkeypatch.setattr("dmbp.images.LARGEST", 160 * 240 // 16)
    small = read_image(path)
    height, width, _ = small.shape
    assert (height, width) == (whole.shape[0] // 4, whole.shape[1] // 4)
    means = whole.reshape(height, 4, width, 4, 3).mean((1, 3))
    np.testing.assert_allclose(small, means, rtol=0, atol=0.03 if kind == "jpg" else 0.006)


def test_large_jpegs_are_never_decoded_whole(saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(Image.new("RGB", (800, 640), (10, 200, 30)), "a.jpg")
    monkeypatch.setattr("dmbp.images.LARGEST", 100 * 80)
    sizes = []
    load = Image.Image.load
    monkeypatch.setattr(Image.Image, "load", lambda self: (sizes.append(self.size), load(self))[1])
    assert read_image(path).shape == (80, 100, 3)
    assert max(sizes) <= (100, 80)


def test_what_is_not_read_is_said(saved: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in (RED, BLUE, RED)]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        path = saved(
            frames[0], name, save_all=True, append_images=frames[1:], **({"lossless": True} if "w" in name else {})
        )
        np.testing.assert_allclose(read_image(path)[5, 5] * 255, RED, atol=1)
        assert capsys.readouterr().err == f"{path}: the first of its 3 frames is read\n"
    pixels = np.random.default_rng(0).integers(0, 65536, (9, 8, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 8, 9, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path = saved(frames[0])
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    np.testing.assert_allclose(read_image(path), pixels / 65535, rtol=0, atol=1 / 255)
    assert capsys.readouterr().err == f"{path}: its 16 bits of colour are read as 8\n"
    read_image(saved(frames[0]))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7)])
def test_too_small(saved: Callable[..., Path], size: tuple[int, int]) -> None:
    with pytest.raises(DmbpError, match=rf"expected at least 8×8 pixels, got {size[0]}×{size[1]}"):
        read_image(saved(Image.new("RGB", size)))


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(DmbpError, match="no such image"):
        read_image(tmp_path / "none.png")
    with pytest.raises(DmbpError, match="directory"):
        read_image(tmp_path)


def test_there_and_back() -> None:
    picture = np.random.default_rng(0).random((12, 16, 3), dtype=np.float32)
    preprocess = Preprocess((12, 16), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    x = preprocess.tensor(picture)
    assert x.shape == (1, 3, 12, 16) and x.dtype == torch.float32
    expected = (picture - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    np.testing.assert_allclose(x[0].movedim(0, -1).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(preprocess.picture(x), picture, atol=1e-6)
    np.testing.assert_array_equal(preprocess.picture(x), preprocess.picture(x[0]))


def test_grey_keeps_every_bit() -> None:
    grey = np.arange(64, dtype=np.float32).reshape(8, 8, 1) / 255
    preprocess = Preprocess((8, 8), (0.0,), (1.0,))
    x = preprocess.tensor(np.repeat(grey, 3, axis=-1))
    np.testing.assert_array_equal(x[0, 0].numpy(), grey[..., 0])
    np.testing.assert_array_equal(preprocess.picture(x), np.repeat(grey, 3, axis=-1))


def test_the_middle_is_taken() -> None:
    stripes = np.zeros((10, 30, 3), dtype=np.float32)
    stripes[:, 10:20] = 1
    whole = Preprocess((5, 5), (0.0,) * 3, (1.0,) * 3)
    assert whole.tensor(stripes).min() == 1
    assert Preprocess((5, 10), (0.0,) * 3, (1.0,) * 3).tensor(stripes).shape == (1, 3, 5, 10)
    ramp = np.linspace(0, 1, 12, dtype=np.float32)[None, :, None].repeat(12, 0).repeat(3, 2)
    half = Preprocess((6, 6), (0.0,) * 3, (1.0,) * 3, crop=0.5)
    np.testing.assert_array_equal(half.picture(half.tensor(ramp)), ramp[3:9, 3:9])


def test_resizing_is_pillows() -> None:
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    for mode, pillow in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        preprocess = Preprocess((24, 24), (0.0,) * 3, (1.0,) * 3, interpolation=mode)
        expected = np.asarray(Image.fromarray(noise).resize((24, 24), pillow)) / 255
        x = preprocess.tensor(noise.astype(np.float32) / 255)
        np.testing.assert_allclose(preprocess.picture(x), expected, atol=1.5 / 255)


@pytest.mark.parametrize(
    "values",
    [
        {"mean": (), "std": ()},
        {"std": (1.0, 1.0)},
        {"std": (0.0,)},
        {"size": (0, 4)},
        {"crop": 1.1},
        {"interpolation": "nearest"},
    ],
)
def test_preprocess_refuses(values: dict) -> None:
    with pytest.raises(DmbpError, match="Preprocess: expected"):
        Preprocess(**{"size": (4, 4), "mean": (0.0,), "std": (1.0,), **values})


def test_only_finite_pictures() -> None:
    preprocess = Preprocess((4, 4), (0.0,), (1.0,))
    for bad in (np.zeros((4, 4)), np.zeros((4, 4, 4)), np.full((4, 4, 3), np.nan)):
        with pytest.raises(DmbpError, match="finite picture"):
            preprocess.tensor(bad)


def test_a_picture_has_no_thirteen_channels() -> None:
    preprocess = Preprocess((4, 5), (0.5,) * 13, (0.25,) * 13)
    with pytest.raises(DmbpError, match=r"takes 13 channels, and a picture has three: give an array, \(13, 4, 5\)"):
        preprocess.tensor(np.zeros((8, 8, 3)))
    x = torch.linspace(-1, 1, 13 * 20).view(13, 4, 5)
    wanted = (x * 0.25 + 0.5).clamp(0, 1).mean(0)[..., None].expand(4, 5, 3)
    np.testing.assert_allclose(preprocess.picture(x), wanted.numpy(), rtol=1e-6)
