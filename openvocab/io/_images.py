"""Reads images from paths, bytes, PIL images and arrays as `(H, W, 3)` uint8 BGR, and finds files."""

import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openvocab.errors import ImageError
from openvocab.types import Image

if TYPE_CHECKING:
    import PIL.Image

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | PIL.Image.Image | NDArray[Any]"

MAX_PIXELS = 89_478_485
"""Most pixels of an image, checked in the header before decoding; Pillow's own limit."""
MAX_SIDE = 65_535
# Not every format of Pillow: for EPS it would start Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})


def load_image(image: ImageLike, *, name: str | None = None) -> Image:
    """Read one image as contiguous `(H, W, 3)` uint8 BGR.

    Files, bytes and PIL images may be JPEG, PNG, WebP, BMP, TIFF or GIF. EXIF orientation is
    applied, the first frame of an animation is used, 16 bits are scaled to 8, and transparent
    pixels are blended with white. Arrays are interpreted as in OpenCV: `(H, W)`, `(H, W, 1)`,
    `(H, W, 3)` BGR or `(H, W, 4)` BGRA, of uint8, uint16, bool, or floats from 0 to 1.

    Args:
        image: what to read. URLs are refused: nothing is downloaded inside a call.
        name: its name in error messages; a path is named as it is.

    Raises:
        ImageError: the image is missing, empty, damaged, of another format, without pixels, or
            over 89 megapixels (`MAX_PIXELS`).

    >>> load_image(np.zeros((4, 6), np.uint8)).shape
    (4, 6, 3)
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, name or "the array")
    if isinstance(image, bytes | bytearray | memoryview):
        return _decode(io.BytesIO(image), name or "the bytes")
    if hasattr(image, "read"):
        return _decode(_read(image, name or "the file"), name or "the file")
    if isinstance(image, str | os.PathLike):
        return _from_path(os.fspath(image))
    if hasattr(image, "getexif") and hasattr(image, "convert"):
        return _convert_opened(lambda: image, name or "the PIL image")
    if isinstance(image, list | tuple):
        raise ImageError("The image is a list; pass its images one by one, or use detect_batch.")
    if hasattr(image, "detach"):
        raise ImageError("The image is a tensor; pass an array, .cpu().numpy() in (H, W, 3) BGR.")
    raise ImageError(
        f"The image is a {type(image).__name__}; pass a path, bytes, a PIL image or an array."
    )


def image_size_wh(
    image: str | os.PathLike[str] | bytes, *, name: str | None = None
) -> tuple[int, int]:
    """Width and height of a file or its bytes as `load_image` reads them, from the header alone.

    Raises:
        ImageError: the file is missing, or is not an image.
    """
    name = name or ("the bytes" if isinstance(image, bytes) else os.fspath(image))
    try:
        with (
            io.BytesIO(image) if isinstance(image, bytes) else Path(image).open("rb") as file,
            _pil_open()(file, formats=FORMATS) as opened,
        ):
            width, height = opened.size
            if opened.format == "TIFF":  # some versions of Pillow apply its orientation themselves
                width, height = opened.tag_v2[256], opened.tag_v2[257]
            rotated = opened.getexif().get(0x0112) in {5, 6, 7, 8}  # by 90 or 270 degrees
            return (height, width) if rotated else (width, height)
    # Pillow's decoders raise all kinds of errors on damaged data.
    except Exception as error:
        raise ImageError(
            f"{name} is not a whole image ({_reason(error)}); repair or remove it."
        ) from error


def load_images(images: Iterable[ImageLike]) -> list[Image]:
    """Read several images as `load_image` does.

    Raises:
        ImageError: one of them cannot be read, or `images` is itself a single image.

    >>> len(load_images([np.zeros((4, 6), np.uint8)]))
    1
    """
    single = isinstance(images, str | bytes | os.PathLike)
    single = single or hasattr(images, "getexif") or hasattr(images, "read")
    if single or (isinstance(images, np.ndarray) and images.ndim < 4):
        raise ImageError("images is a single image; pass a list of them.")
    if not isinstance(images, Iterable) or isinstance(images, Mapping):
        raise ImageError(f"images is a {type(images).__name__}; pass a list of images.")
    return [load_image(image, name=f"image {index}") for index, image in enumerate(images)]


def find_images(sources: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Find the images in files, folders (without sub-folders) and globs, in order, each once.

    Raises:
        ImageError: a source does not exist, cannot be read, or holds no images.
    """
    return list(find_full_paths(sources).values())


def find_full_paths(sources: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """Find images as `find_images` does, by full path.

    Links to files keep their own names; links among the folders above them are resolved.

    Raises:
        ImageError: as for `find_images`.
    """
    full_paths: dict[str, Path] = {}
    folders: dict[str, str] = {}  # resolved once, not for each of a million files
    for source in sources:
        try:
            paths = _find(os.fspath(source))
        except (OSError, ValueError) as error:
            if isinstance(error, ImageError):
                raise
            raise ImageError(f"{source} cannot be read ({_reason(error)}); check it.") from error
        for path in paths:
            folder, name = os.path.split(path)
            if folder not in folders:
                folders[folder] = os.path.realpath(folder)
            full_paths.setdefault(os.path.join(folders[folder], name), path)  # noqa: PTH118
    return full_paths


def _find(source: str) -> list[Path]:
    _refuse_url(source)
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        candidates, problem = list(path.iterdir()), "the folder has no images"
    else:
        # Path.glob does not take absolute patterns.
        candidates = [Path(match) for match in glob(source)]  # noqa: PTH207
        problem = "no such file, folder or match"
    files = sorted(
        file
        for file in candidates
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
    if not files:
        raise ImageError(f"{source}: {problem}; give an image file, a folder or a glob of them.")
    return files


def _from_path(text: str) -> Image:
    _refuse_url(text)
    path = Path(text)
    try:
        if path.is_dir():
            raise ImageError(f"{text!r} is a folder; pass the images in it one by one.")
        with path.open("rb") as file:
            return _decode(file, str(path))
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        reason = getattr(error, "strerror", None) or _reason(error)
        raise ImageError(f"{path} cannot be opened ({reason}); check the path.") from error


def _refuse_url(text: str) -> None:
    if "://" in text or text.startswith("data:"):
        raise ImageError(f"{text[:200]} is a URL; download it first and pass the file.")


def _read(file: Any, name: str) -> io.BytesIO:  # noqa: ANN401  any object with read()
    try:
        return io.BytesIO(file.read())
    except Exception as error:  # a text file, a closed one, one open for writing, ...
        raise ImageError(
            f"{name} cannot be read ({_reason(error)}); open it to read bytes."
        ) from error


def _decode(file: Any, name: str) -> Image:  # noqa: ANN401  any binary file
    if not file.seek(0, io.SEEK_END):
        raise ImageError(f"{name} is empty; expected an image.")
    file.seek(0)
    return _convert_opened(lambda: _pil_open()(file, formats=FORMATS), name)


def _convert_opened(open_image: Callable[[], Any], name: str) -> Image:
    """Open and convert a PIL image; Pillow's decoders raise all kinds of errors on damaged data."""
    import PIL.Image

    try:
        return _convert(open_image(), name)
    except ImageError:
        raise
    except PIL.Image.DecompressionBombError as error:
        raise ImageError(f"{name} has more than {MAX_PIXELS:,} pixels; scale it down.") from error
    except Exception as error:
        raise ImageError(
            f"{name} is not a whole image ({_reason(error)}); "
            "expected JPEG, PNG, WebP, BMP, TIFF or GIF."
        ) from error


def _reason(error: Exception) -> str:
    """The first line of a decoder's message, shortened."""
    import PIL

    if isinstance(error, PIL.UnidentifiedImageError):  # its own message names an object in memory
        return "unknown format"
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _pil_open() -> Callable[..., Any]:
    """Pillow's own `open`: Ultralytics replaces it with one that runs pip if a file is no image."""
    import PIL.Image

    PIL.Image.init()  # with formats=, Pillow tries only plugins that are loaded
    replaced = getattr(PIL.Image.open, "__globals__", {})
    original: Callable[..., Any] = replaced.get("_image_open", PIL.Image.open)
    return original


def _convert(image: Any, name: str) -> Image:  # noqa: ANN401  a PIL image; PIL is loaded lazily
    import PIL.Image
    import PIL.ImageOps

    _check_size(image.height, image.width, name)
    image = PIL.ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _from_array(_normalize_grey(np.asarray(image)), name)
    if image.mode in {"LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image)
    rgb = np.asarray(image.convert("RGB"))
    return np.ascontiguousarray(rgb[:, :, ::-1])


def _normalize_grey(grey: NDArray[Any]) -> NDArray[Any]:
    """Pillow gives 16-bit grey as int32 or uint16, float TIFFs unchanged, and "I" in any range."""
    if grey.dtype == np.int32 and grey.size and grey.max() <= 255:
        return grey.clip(0).astype(np.uint8)
    if grey.dtype.kind == "f":
        return grey / grey.max() if grey.size and grey.max() > 1 else grey
    return grey.clip(0, 65_535).astype(np.uint16)


def _from_array(array: NDArray[Any], name: str) -> Image:
    array = np.asarray(array)  # with np.matrix, NumPy's own functions write beyond the end
    if array.ndim == 4:
        raise ImageError(f"{name} has shape {array.shape}; pass images one by one, (H, W, 3).")
    planes = array[..., None] if array.ndim == 2 else array
    if planes.ndim != 3 or planes.shape[2] not in (1, 3, 4):
        hint = "transpose it first" if array.shape[:1] in {(1,), (3,), (4,)} else "expected"
        raise ImageError(f"{name} has shape {array.shape}; {hint}: (H, W, 3) BGR or (H, W) grey.")
    _check_size(planes.shape[0], planes.shape[1], name)
    pixels = _to_uint8(planes, name)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 4:
        alpha = pixels[:, :, 3:].astype(np.uint16)
        blended = (pixels[:, :, :3] * alpha + 255 * (255 - alpha)) // 255  # with white
        pixels = blended.astype(np.uint8)
    return np.ascontiguousarray(pixels)


def _to_uint8(planes: NDArray[Any], name: str) -> Image:
    dtype = planes.dtype
    if dtype == np.uint8:
        return planes
    if dtype.kind == "u" and dtype.itemsize == 2:  # in either byte order
        return (planes >> 8).astype(np.uint8)
    if dtype == np.bool_:
        return planes.astype(np.uint8) * np.uint8(255)
    if dtype.kind == "f" and np.isfinite(planes).all() and planes.min() >= 0 and planes.max() <= 1:
        return (planes * 255).round().astype(np.uint8)
    raise ImageError(
        f"{name} has dtype {dtype} or values that no image has; "
        "pass uint8 0 to 255, or finite floats from 0 to 1."
    )


def _check_size(height: int, width: int, name: str) -> None:
    if min(height, width) < 1:  # one pixel is enough: a slicer may leave a strip
        raise ImageError(f"{name} is {width}x{height} pixels; give an image with some.")
    if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE:
        raise ImageError(
            f"{name} is {width}x{height} pixels, over {MAX_PIXELS:,} or {MAX_SIDE:,} a side; "
            "scale it down."
        )
