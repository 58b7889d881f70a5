"""Every way to pass an image, and everything that can be wrong with it."""

import contextlib
import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import openvocab.io
from openvocab.errors import ImageError
from openvocab.io import _images as images

RED_BGR = (0, 0, 255)


def encoded(image: PIL.Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def photo() -> PIL.Image.Image:
    """Red left half, blue right half; 8 wide, 4 high."""
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, :4, 0] = 255
    pixels[:, 4:, 2] = 255
    return PIL.Image.fromarray(pixels)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("as_path", [True, False])
def test_a_file_is_bgr(tmp_path, photo, as_path):
    path = tmp_path / "photo.png"
    photo.save(path)
    image = images.load_image(path if as_path else path.read_bytes())
    assert image.dtype == np.uint8
    assert image.shape == (4, 8, 3)
    assert image.flags["C_CONTIGUOUS"]
    assert tuple(image[0, 0]) == RED_BGR


def test_a_pil_image_is_converted_and_a_bgr_array_is_taken_as_it_is(photo):
    array = images.load_image(photo)
    assert tuple(array[0, 0]) == RED_BGR
    np.testing.assert_array_equal(images.load_image(array), array)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(photo, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image = images.load_image(encoded(photo, "PNG", exif=exif))
    assert image.shape == ((4, 8, 3) if orientation <= 4 else (8, 4, 3))
    # Orientations 2, 3, 7 and 8 turn the red half away from the first pixel.
    assert (tuple(image[0, 0]) == RED_BGR) is (orientation in {1, 4, 5, 6})


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_becomes_three_channels_of_eight_bits(tmp_path, mode):
    kinds = {"CMYK": "JPEG", "YCbCr": "JPEG", "I": "TIFF", "F": "TIFF"}
    grey = np.tile(np.linspace(0, 255, 16, dtype=np.uint8), (8, 1))
    if mode == "I;16":
        image = PIL.Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "I":
        image = PIL.Image.fromarray(grey.astype(np.int32) * 257)
    elif mode == "F":
        image = PIL.Image.fromarray(grey.astype(np.float32))
    else:
        image = PIL.Image.fromarray(grey).convert(mode)
    image = images.load_image(encoded(image, kinds.get(mode, "PNG")))
    assert image.shape == (8, 16, 3)
    # Dark on the left, bright on the right, whatever the mode.
    assert image[:, 0].mean() < 40
    assert image[:, -1].mean() > 215


def test_a_jpeg_of_two_images_from_a_phone_is_read(photo):
    other = PIL.Image.new("RGB", photo.size, "white")
    image = images.load_image(encoded(photo, "MPO", save_all=True, append_images=[other]))
    assert image[0, 0, 2] > 150


def test_eight_bits_in_mode_i_stay_as_bright(photo):
    grey = PIL.Image.new("L", (4, 4), 200).convert("I")
    assert (images.load_image(grey) == 200).all()


def test_a_pil_image_that_breaks_as_it_is_read_is_an_error_of_ours(assets):
    whole = (assets / "bus.jpg").read_bytes()
    lazy = PIL.Image.open(io.BytesIO(whole[: len(whole) // 2]))
    with pytest.raises(ImageError, match="the PIL image is not a whole image"):
        images.load_image(lazy)


def test_formats_that_start_other_programs_are_refused():
    """Pillow would hand EPS to Ghostscript."""
    with pytest.raises(ImageError, match="not a whole image"):
        images.load_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")


@given(
    st.sampled_from(["JPEG", "PNG", "GIF", "TIFF"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_an_image_with_changed_bytes_is_read_or_refused(kind, changes):
    data = bytearray(encoded(PIL.Image.linear_gradient("L").resize((64, 32)), kind))
    for position, byte in changes:
        data[int(position * len(data))] = byte
    with contextlib.suppress(ImageError):
        image = images.load_image(bytes(data))
        assert image.dtype == np.uint8
        assert image.ndim == 3 and image.shape[2] == 3


def test_transparent_pixels_are_blended_with_white():
    clear = PIL.Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (images.load_image(encoded(clear, "PNG")) == 255).all()


def test_the_first_frame_of_an_animation_is_taken(photo):
    other = PIL.Image.new("RGB", photo.size, "white")
    animation = encoded(photo, "GIF", save_all=True, append_images=[other])
    image = images.load_image(animation)
    assert image.shape == (4, 8, 3)
    assert image[0, 0, 2] > 200
    assert image[0, 0, 0] < 50


@pytest.mark.parametrize(
    ("array", "first"),
    [
        (np.full((4, 5), 7, np.uint8), (7, 7, 7)),
        (np.full((4, 5, 1), 7, np.uint8), (7, 7, 7)),
        (np.full((4, 5, 3), 0x0700, np.uint16), (7, 7, 7)),
        (np.ones((4, 5), bool), (255, 255, 255)),
        (np.full((4, 5, 3), 1.0), (255, 255, 255)),
        (np.full((4, 5, 4), 0, np.uint8), (255, 255, 255)),
    ],
)
def test_arrays_of_other_kinds_are_converted(array, first):
    image = images.load_image(array)
    assert image.shape == (4, 5, 3)
    assert tuple(image[0, 0]) == first


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 0, 3), np.uint8), "0x0 pixels"),
        (np.full((4, 4, 3), np.nan, np.float32), "finite floats"),
        (np.full((4, 4, 3), 200.0), "from 0 to 1"),
        (np.zeros((2, 4, 4, 3), np.uint8), "one by one"),
        (np.zeros((3, 4, 9), np.uint8), "transpose it first"),
        (np.zeros((4, 4, 5), np.uint8), r"\(H, W, 3\)"),
        (np.zeros(4, np.uint8), r"\(H, W, 3\)"),
        (np.zeros((4, 4, 3), object), "values that no image has"),
        (np.zeros((4, 4, 3), complex), "values that no image has"),
        (np.broadcast_to(np.uint8(0), (70_000, 2, 3)), "scale it down"),
    ],
)
def test_an_array_that_is_not_an_image_is_refused(array, message):
    with pytest.raises(ImageError, match=message):
        images.load_image(array)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jpg", None, "cannot be opened"),
        ("empty.jpg", b"", "empty"),
        ("text.jpg", b"I am a letter, not an image.", "not a whole image"),
        ("wide.png", png_header(100_000, 2), "scale it down"),
        ("bomb.png", png_header(60_000, 60_000), "scale it down"),
        ("hollow.png", png_header(8, 8), "not a whole image"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        images.load_image(path)
    assert name in str(caught.value)


def test_a_truncated_photo_is_refused(assets):
    whole = (assets / "bus.jpg").read_bytes()
    assert images.load_image(whole).shape == (1080, 810, 3)
    with pytest.raises(ImageError, match="not a whole image"):
        images.load_image(whole[: len(whole) // 2], name="half.jpg")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("https://example.com/bus.jpg", "download it first"),
        ("rtsp://camera/1", "download it first"),
        ("file:///tmp/a.jpg", "download it first"),
        ("", "is a folder"),
        ("a" * 5000, "cannot be opened"),
        ("a\nb.jpg", r"a\\nb\.jpg"),
        ([np.zeros((4, 4, 3), np.uint8)], "detect_batch"),
        ("a\0b.jpg", "cannot be opened"),
        (3, "pass a path"),
        (None, "pass a path"),
    ],
)
def test_a_value_that_is_not_an_image_is_refused(value, message):
    with pytest.raises(ImageError, match=message):
        images.load_image(value)


def test_open_files_and_memory_are_read(tmp_path, photo):
    payload = encoded(photo, "PNG")
    (tmp_path / "photo.png").write_bytes(payload)
    with (tmp_path / "photo.png").open("rb") as file:
        from_file = images.load_image(file)
    for image in (
        from_file,
        images.load_image(io.BytesIO(payload)),
        images.load_image(memoryview(payload)),
    ):
        assert tuple(image[0, 0]) == RED_BGR


def test_a_url_is_refused_by_find_images_too():
    with pytest.raises(ImageError, match="download it first"):
        images.find_images(["https://example.com/bus.jpg"])


def test_a_tensor_is_refused_with_the_remedy():
    torch = pytest.importorskip("torch")
    with pytest.raises(ImageError, match="numpy"):
        images.load_image(torch.zeros(3, 4, 4))


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_in_the_header_is_that_of_the_image(tmp_path, kind, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"a.{kind}"
    PIL.Image.new("RGB", (40, 30), "red").save(file, exif=exif)
    height, width, _ = images.load_image(file).shape
    assert images.image_size_wh(file) == (width, height)


def test_a_file_that_gives_no_bytes_is_refused(tmp_path, photo):
    photo.save(tmp_path / "a.png")
    closed = (tmp_path / "a.png").open("rb")
    closed.close()
    with (tmp_path / "a.png").open() as text, (tmp_path / "new.png").open("wb") as new:
        for file in (text, io.StringIO("a"), closed, new):
            with pytest.raises(ImageError, match="open it to read bytes"):
                images.load_image(file)
    with (tmp_path / "a.png").open("rb") as file, pytest.raises(ImageError, match="a single image"):
        images.load_images(file)


@pytest.mark.parametrize("kind", [">u2", "<u2"])
def test_sixteen_bits_are_taken_in_either_order(kind):
    assert images.load_image(np.full((4, 4), 0x1234, kind)).max() == 0x12


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_a_matrix_is_an_array():
    matrix = np.asmatrix(np.full((40, 60), 7, np.uint8))
    for _ in range(50):
        assert images.load_image(matrix).shape == (40, 60, 3)


def test_an_image_that_is_named_twice_is_found_once(tmp_path, photo):
    for name in ("a.jpg", "b.jpg"):
        photo.save(tmp_path / name)
    found = images.find_images(
        [tmp_path, tmp_path / "a.jpg", f"{tmp_path}/../{tmp_path.name}/*.jpg"]
    )
    assert [path.name for path in found] == ["a.jpg", "b.jpg"]
    with pytest.raises(ImageError, match="check it"):
        images.find_images(["x" * 3000])


def test_folders_globs_and_files_are_found_in_order(tmp_path, photo):
    for name in ("b.PNG", "a.jpg", ".hidden.png"):
        photo.save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "inner").mkdir()
    names = [path.name for path in images.find_images([tmp_path])]
    assert names == ["a.jpg", "b.PNG"]
    assert images.find_images([str(tmp_path / "*.jpg")]) == [tmp_path / "a.jpg"]
    assert images.find_images([tmp_path / "notes.txt"]) == [tmp_path / "notes.txt"]


def test_a_folder_without_images_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(ImageError, match="no images"):
        images.find_images([tmp_path])
    with pytest.raises(ImageError, match="no such file"):
        images.find_images([tmp_path / "nope.jpg"])


def test_reading_images_imports_no_heavy_library():
    program = (
        "import sys, openvocab.io\n"
        "assert set(openvocab.io.__all__) > {'load_image', 'annotate'}\n"
        "openvocab.io.load_image\n"
        "print({'torch', 'cv2', 'supervision'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_the_public_names_of_io_exist():
    assert all(hasattr(openvocab.io, name) for name in openvocab.io.__all__)
    with pytest.raises(AttributeError, match="no attribute 'rows_'"):
        openvocab.io.rows_  # noqa: B018
