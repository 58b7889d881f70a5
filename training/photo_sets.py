"""Samples the public photo sets: pictures of at most 512 pixels, with the boxes that they come with.

A set is a clone of its repository (`SETS`), or an unpacked folder of `../shared/data/train`.
"""

import fnmatch
import io
import json
import logging
import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import PIL.Image

__all__ = ["SETS", "Photo", "PhotoSet", "extract", "read"]

logger = logging.getLogger("photo_sets")

LONGEST_SIDE = 512
Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the picture."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A picture and the boxes that were drawn in it by hand."""

    file: str
    set: str
    boxes: list[Box] = field(default_factory=list)


class Clone:
    """The newest commit of a repository on disk, with or without a work tree."""

    def __init__(self, folder: Path) -> None:
        self._git = folder / ".git" if (folder / ".git").exists() else folder
        listing = self._run("ls-tree", "-r", "-z", "--name-only", "HEAD")
        self.paths = [path for path in listing.decode().split("\0") if path]

    def read(self, path: str) -> bytes:
        """The content of a file."""
        return self._run("show", f"HEAD:{path}")

    def _run(self, *arguments: str) -> bytes:
        command = ["git", f"--git-dir={self._git}", *arguments]
        return subprocess.run(command, check=True, capture_output=True).stdout


BoxReader = Callable[[Clone, str, tuple[int, int]], list[Box]]


@dataclass(frozen=True, slots=True)
class PhotoSet:
    """Which pictures of a repository are sampled."""

    repository: str
    pattern: str
    count: int
    read_boxes: BoxReader | None = None


def _yolo(clone: Clone, path: str, size: tuple[int, int]) -> list[Box]:
    """Boxes or polygons in shares of the picture, from the `.txt` beside or in `labels/`."""
    text = clone.read(str(Path(path.replace("/images/", "/labels/")).with_suffix(".txt"))).decode()
    boxes = []
    for line in text.splitlines():
        number, *values = line.split()
        if "tools_data1" in path and number in {"6", "8"}:  # a gun, a hand
            continue
        numbers = [float(value) for value in values]
        if len(numbers) == 4:
            x, y, w, h = numbers
            corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        else:
            xs, ys = numbers[0::2], numbers[1::2]
            corners = [min(xs), min(ys), max(xs), max(ys)]
        boxes.append(_scaled(corners, size))
    return boxes


def _scaled(corners: list[float], size: tuple[int, int]) -> Box:
    x1, y1, x2, y2 = (max(0.0, min(1.0, value)) for value in corners)
    return x1 * size[0], y1 * size[1], x2 * size[0], y2 * size[1]


def _voc(clone: Clone, path: str, size: tuple[int, int]) -> list[Box]:
    name = path.replace("JPEGImages", "Annotations")
    text = clone.read(str(Path(name).with_suffix(".xml")))
    root = ElementTree.fromstring(text)  # noqa: S314  a set named above
    written = [float(root.findtext(f"size/{side}", "0")) for side in ("width", "height")]
    boxes = []
    for box in root.iter("bndbox"):
        corners = [float(box.findtext(key, "0")) for key in ("xmin", "ymin", "xmax", "ymax")]
        boxes.append(_scaled([v / written[i % 2] for i, v in enumerate(corners)], size))
    return boxes


def _coco(clone: Clone, path: str, size: tuple[int, int]) -> list[Box]:
    """Boxes of Roboflow's COCO JSON in the folder of the picture."""
    folder, name = path.rsplit("/", 1)
    boxes = []
    table = json.loads(clone.read(f"{folder}/_annotations.coco.json"))
    image = next(entry for entry in table["images"] if entry["file_name"] == name)
    for entry in table["annotations"]:
        if entry["image_id"] == image["id"]:
            x, y, w, h = entry["bbox"]
            corners = [x / image["width"], y / image["height"]]
            corners += [(x + w) / image["width"], (y + h) / image["height"]]
            boxes.append(_scaled(corners, size))
    return boxes


SETS: dict[str, PhotoSet] = {
    "tools": PhotoSet("congtongc/Rokey", "*/tools_data1/train/images/*", 1200, _yolo),
    "household": PhotoSet(
        "Arka-h/pot-curtain-toaster-object-detection-classes-dataset", "*.jpg", 1500, _yolo
    ),
    "small-things": PhotoSet("thenorthwes/fodadataset", "JPEGImages/*", 900, _voc),
    "boards": PhotoSet("DoNguyenAnhTuan/IoTKITs-dataset", "train/*", 120, _coco),
    "rooms": PhotoSet("kunalpohakar/Amenity-Detection-using-Detectron2", "train/*", 90, _coco),
    "pens": PhotoSet("Emadamx/ACV-HW4-pen-detection", "annotated/madam2/train/*", 100, _coco),
    "animals": PhotoSet("InputBlackBoxOutput/popular-animals-dataset", "[!_]*/*.png", 330),
    "instruments": PhotoSet("aizadaaskar/dl-homework", "train/*", 300),
    "groceries": PhotoSet("marcusklasson/GroceryStoreDataset", "dataset/train/*", 400),
    "clothing": PhotoSet("alexeygrigorev/clothing-dataset", "images/*", 350),
    "waste": PhotoSet("cardstdani/WasteClassificationNeuralNetwork", "*", 250),
    "fruit": PhotoSet("abhinav9444/Fruits-Vegetables-Image-Dataset", "*", 200),
    "imagenette": PhotoSet("thunderInfy/imagenette", "train/*", 4000),
    "flickr": PhotoSet("quantumnaan/sic_translator", "data/images/*", 1000),
}
_PICTURES = (".jpg", ".jpeg", ".png")


def extract(mirrors: Path, data: Path, out: Path) -> None:
    """Write the sampled pictures to `out`, a folder for each set, and `photos.json`; fixed seed.

    Args:
        mirrors: clones, `owner+name/repo` or `owner+name`.
        data: the unpacked `coco-train`, `caltech81` and `imagenet-sample`.
        out: where they go.
    """
    photos: list[Photo] = []
    for name, photo_set in SETS.items():
        folder = mirrors / photo_set.repository.replace("/", "+")
        clone = Clone(folder / "repo" if (folder / "repo").exists() else folder)
        paths = [
            path
            for path in clone.paths
            if fnmatch.fnmatch(path, photo_set.pattern) and path.lower().endswith(_PICTURES)
        ]
        random.Random(0).shuffle(paths)
        for number, path in enumerate(paths[: photo_set.count]):
            photos += _write(clone, path, photo_set, out, f"{name}/{number:05}.jpg")
        logger.info("%s: %d", name, sum(photo.set == name for photo in photos))
    photos += _local(data, out)
    (out / "photos.json").write_text(json.dumps([asdict(photo) for photo in photos]))


def _write(clone: Clone, path: str, photo_set: PhotoSet, out: Path, file: str) -> Iterator[Photo]:
    try:
        picture = PIL.Image.open(io.BytesIO(clone.read(path))).convert("RGB")
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        boxes = photo_set.read_boxes(clone, path, picture.size) if photo_set.read_boxes else []
    except (OSError, subprocess.CalledProcessError, StopIteration) as error:
        logger.warning("%s: %s; left out", path, error)
        return
    (out / file).parent.mkdir(parents=True, exist_ok=True)
    picture.save(out / file, quality=92)
    yield Photo(file, file.partition("/")[0], [box for box in boxes if _is_box(box)])


def _is_box(box: Box) -> bool:
    return box[2] - box[0] >= 4 and box[3] - box[1] >= 4


def _local(data: Path, out: Path) -> Iterator[Photo]:
    """COCO with its boxes, one photo for each ImageNet class, twelve for each Caltech class."""
    table = json.loads((data / "coco-train" / "instances.json").read_text())
    for image in table["images"]:
        source = data / "coco-train" / "images" / image["file_name"]
        entries = [e for e in table["annotations"] if e["image_id"] == image["id"]]
        entries = [e for e in entries if not e.get("iscrowd")]
        corners = [(x, y, x + w, y + h) for x, y, w, h in (e["bbox"] for e in entries)]
        yield Photo(
            _resave(source, out, f"coco/{source.name}"),
            "coco",
            corners,
        )
    for source in sorted((data / "imagenet-sample").glob("*")):
        yield Photo(_resave(source, out, f"imagenet/{source.stem}.jpg"), "imagenet")
    for folder in sorted(path for path in (data / "caltech81").iterdir() if path.is_dir()):
        for source in sorted(folder.glob("*.jpg"))[:8]:
            name = f"caltech/{folder.name}-{source.stem}.jpg"
            yield Photo(_resave(source, out, name), "caltech")


def _resave(source: Path, out: Path, file: str) -> str:
    picture = PIL.Image.open(source).convert("RGB")
    if "coco" not in file:  # COCO's boxes are in its own pixels
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    (out / file).parent.mkdir(parents=True, exist_ok=True)
    picture.save(out / file, quality=92)
    return file


def read(folder: Path) -> list[Photo]:
    """What `extract` wrote."""
    return [Photo(**entry) for entry in json.loads((folder / "photos.json").read_text())]
