"""Images and questions of benchmarks, from their own files, to find them in training data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from veridical.data.image_checks import IMAGE_SUFFIXES
from veridical.data.record_files import stream_rows
from veridical.data.record_kinds import RowError
from veridical.data.record_types import ImageCell
from veridical.inspection.near import BITS, NEIGHBORS
from veridical.inspection.pictures import NO_HASH, Album, Picture
from veridical.inspection.texts import without_form
from veridical.runtime.errors import UserError
from veridical.runtime.files import JSON_ERRORS, parse_json, read_text
from veridical.runtime.progress import counted, track

QUESTIONS = ("question", "text", "query", "prompt", "instruction", "Question")
_COCO = re.compile(r"(?:COCO_(?:train|val|test)20\d\d_)?(\d{12})")
_USUAL_NAME = re.compile(r"(?:image|img|picture|photo|pic|frame|file|sample)?[-_ ]?\d{0,5}", re.I)


@dataclass
class BenchmarkContent:
    """What is known of a benchmark's images and questions.

    Attributes:
        name: of its file or folder.
        names: of its images, see `name_key`.
        questions: those that it asks once; what it asks of many images is asked elsewhere too.
        asked: image name and question together.
        contents: `Picture.key` of its images, where a folder or a Parquet file has them.
        looks: their perceptual hashes, by quarter.
        unreadable: its images that can't be read.
    """

    name: str
    names: set[str] = field(default_factory=set)
    questions: set[str] = field(default_factory=set)
    asked: set[tuple[str, str]] = field(default_factory=set)
    contents: set[bytes] = field(default_factory=set)
    looks: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    unreadable: int = 0

    def shows(self, picture: Picture) -> str:
        """How an image is known to be one of the benchmark's, in words; "" where it is not."""
        if picture.key in self.contents:
            return "the same file"
        if picture.look != NO_HASH and self._looks_like(picture.look):
            return "an image that looks the same"
        if picture.look != NO_HASH and self._looks_like(picture.mirrored):
            return "an image that looks the same in a mirror"
        return "an image of the same name" if name_key(picture.name) in self.names else ""

    def _looks_like(self, look: int) -> bool:
        near = (other for key in _quarters(look) for other in self.looks.get(key, ()))
        return any((look ^ other).bit_count() <= BITS for other in near)


def read_benchmarks(paths: Sequence[Path]) -> list[BenchmarkContent]:
    """Benchmarks by the paths of their files: JSON, JSON Lines, or a folder of these and images.

    Raises:
        UserError: a file can't be read, or a path holds neither images nor questions.
    """
    return [_read_benchmark(path) for path in paths]


def name_key(name: str) -> str:
    """What names of one image have in common, "" where a name is too usual to tell.

    COCO's images have a number of twelve digits, with and without the split before it.
    """
    stem = Path(name).stem
    found = _COCO.fullmatch(stem)
    if found is not None:
        return f"coco {int(found.group(1))}"
    return "" if _USUAL_NAME.fullmatch(stem) else stem.lower()


def _read_benchmark(path: Path) -> BenchmarkContent:
    if not path.exists():
        raise UserError(f"--benchmarks {path} does not exist. Check the path.")
    benchmark = BenchmarkContent(path.stem if path.is_file() else path.name)
    files = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    asked: Counter[str] = Counter()
    album = Album(path if path.is_dir() else path.parent)
    for file in files:
        if file.suffix.lower() in (".json", ".jsonl", ".ndjson", ".parquet"):
            for value in _values(file):
                for image, question in _walk(value):
                    _note(benchmark, asked, image, question)
                for held in _held_images(value):
                    _add_picture(benchmark, album.look(held))
    pictures = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if pictures:
        for file in track(pictures, f"reading {benchmark.name}"):
            name = str(file.relative_to(path if path.is_dir() else path.parent))
            _add_picture(benchmark, album.look({"bytes": None, "path": name}))
    if benchmark.unreadable:
        print(
            f"{path}: {counted(benchmark.unreadable, 'images')} can't be read, so rows that show "
            "one are not found."
        )
    benchmark.questions = {question for question, times in asked.items() if times == 1}
    if not (benchmark.names or asked or benchmark.contents):
        raise UserError(
            f"--benchmarks {path} holds neither images nor questions. Name the benchmark's JSON "
            "or JSON Lines file, or a folder with its images."
        )
    return benchmark


def _note(benchmark: BenchmarkContent, asked: Counter[str], image: str, question: str) -> None:
    key = name_key(image)
    if key:
        benchmark.names.add(key)
    plain = without_form(question)
    if plain:
        asked[plain] += 1
        if key:
            benchmark.asked.add((key, plain))


def _add_picture(benchmark: BenchmarkContent, picture: Picture) -> None:
    if picture.problem:
        benchmark.unreadable += 1
        return
    benchmark.contents.add(picture.key)
    benchmark.names.update({name_key(picture.name)} - {""})
    for key in _quarters(picture.look):
        looks = benchmark.looks.setdefault(key, [])
        if len(looks) < NEIGHBORS:
            looks.append(picture.look)


def _quarters(look: int) -> list[tuple[int, int]]:
    return [(quarter, look >> 16 * quarter & 0xFFFF) for quarter in range(4)]


def _values(file: Path) -> Iterator[object]:
    """What a file holds: one value, or its rows."""
    if file.suffix.lower() == ".json":
        text = read_text(file)
        try:
            yield parse_json(text)
        except JSON_ERRORS:  # POPE's .json files hold JSON Lines
            yield from (_parsed(line, file) for line in text.split("\n") if line.strip())
        return
    for _, row in stream_rows(file):
        if isinstance(row, RowError):
            raise UserError(f"--benchmarks {file}: a line {row.reason}.")
        yield row


def _parsed(line: str, file: Path) -> object:
    try:
        return parse_json(line)
    except JSON_ERRORS as error:
        raise UserError(f"--benchmarks {file} is neither JSON nor JSON Lines: {error}.") from error


def _held_images(value: object) -> Iterator[ImageCell]:
    """Images whose bytes are in a row, as Parquet has them."""
    if isinstance(value, Mapping):
        content, name = value.get("bytes"), value.get("path")
        if isinstance(content, bytes):
            yield {"bytes": content, "path": name if isinstance(name, str) else None}
            return
    if isinstance(value, bytes):
        yield {"bytes": value, "path": None}
    within = value.values() if isinstance(value, Mapping) else value
    if isinstance(within, Iterable) and not isinstance(within, str | bytes):
        for one in within:
            yield from _held_images(one)


def _walk(value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        texts = {key: item for key, item in value.items() if isinstance(item, str)}
        image = next((item for item in texts.values() if _is_image_name(item)), "")
        question = next((texts[key] for key in QUESTIONS if key in texts), "")
        if image or question:
            yield image, question
        for item in value.values():
            if not isinstance(item, str):
                yield from _walk(item)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, str) and _is_image_name(item):
                yield item, ""
            else:
                yield from _walk(item)


def _is_image_name(text: str) -> bool:
    return len(text) < 300 and text.lower().endswith(IMAGE_SUFFIXES)
