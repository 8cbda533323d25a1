"""Photographs of the example: splits, views whose labels are cut anew, sentences."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import photos
import pytest
from PIL import Image

from veridical.data.vocabulary import read_vocabulary
from veridical.runtime.errors import UserError

WHOLE = (0.0, 0.0, 1.0, 1.0)


def photo(name: str = "a", extra: tuple[str, ...] = ()) -> photos.Photo:
    """A dog on the left half, a cup of 1/5 x 1/5 at the right edge."""
    boxes = (photos.Box("dog", 0.0, 0.0, 0.5, 1.0), photos.Box("cup", 0.8, 0.4, 1.0, 0.6))
    return photos.Photo(name, Path(f"{name}.jpg"), ("dog", "cup", *extra), boxes)


def test_every_photograph_is_held_out_once_and_never_used_twice() -> None:
    many = [photo(str(number)) for number in range(30)]
    held_out = []
    for fold in range(4):
        split = photos.split_photos(many, fold)
        ids = [[p.id for p in part] for part in (split.taught, split.paired, split.held_out)]
        assert sorted(itertools.chain(*ids)) == sorted(p.id for p in many)
        # 30 = 8 + 8 + 7 + 7 held out; a quarter of the 22 or 23 others is 6.
        assert (len(ids[1]), len(ids[2])) == (6, 8 if fold < 2 else 7)
        held_out += ids[2]
    assert sorted(held_out) == sorted(p.id for p in many)
    with pytest.raises(UserError, match="--fold is 4"):
        photos.split_photos(many, 4)
    with pytest.raises(UserError, match="7 photographs are too few for 4 folds"):
        photos.split_photos(many[:7], 0)


def test_labels_are_cut_out_of_the_boxes() -> None:
    assert photos.view(photo(), WHOLE, False).counts == (("dog", 1), ("cup", 1))
    # The right half shows the cup alone; nothing of the dog is left, so it may be asked about.
    right = photos.view(photo(), (0.5, 0.0, 1.0, 1.0), False)
    assert (right.counts, right.unclear) == ((("cup", 1),), frozenset())
    # Of the cup's width 0.08 of 0.2 is left: neither there nor gone.
    left = photos.view(photo(), (0.0, 0.0, 0.88, 1.0), False)
    assert left.names == ("dog",)
    assert left.unclear == {"cup"}
    # What a caption names may be anywhere.
    assert photos.view(photo(extra=("person",)), WHOLE, False).unclear == {"person"}
    # A box of 1/1000 of the picture can't be seen in 16 features.
    dot = photos.Photo("b", Path("b.jpg"), ("clock",), (photos.Box("clock", 0, 0, 0.02, 0.05),))
    assert photos.view(dot, WHOLE, False).unclear == {"clock"}


def test_views_are_the_same_for_the_same_seed() -> None:
    views = photos.make_views(photo(), 6, seed=3)
    assert views == photos.make_views(photo(), 6, seed=3)
    assert views != photos.make_views(photo(), 6, seed=4)
    assert [v.frame == WHOLE for v in views] == [True, True, False, False, False, False]
    assert [v.flipped for v in views] == [False, True] * 3


def test_pictures_are_cut_and_mirrored_as_the_labels_say(tmp_path: Path) -> None:
    image = Image.new("RGB", (100, 50), "black")
    image.paste((255, 0, 0), (0, 0, 50, 50))  # red where the dog is
    image.save(tmp_path / "a.png")
    shown = photos.Photo("a", tmp_path / "a.png", ("dog",), photo().boxes[:1])
    cut = photos.picture(photos.view(shown, (0.25, 0.0, 1.0, 1.0), False))
    assert cut.size == (75, 50)
    assert cut.getpixel((0, 0)) == (255, 0, 0)
    assert cut.getpixel((74, 0)) == (0, 0, 0)
    mirrored = photos.picture(photos.view(shown, (0.25, 0.0, 1.0, 1.0), True))
    assert mirrored.getpixel((74, 0)) == (255, 0, 0)


def test_sentences_name_what_is_there_in_words_that_are_found_again() -> None:
    vocabulary = read_vocabulary(None)
    for count in (1, 2, 12):
        for name in sorted(vocabulary.names):
            boxes = tuple(photos.Box(name, 0.1, 0.1, 0.9, 0.9) for _ in range(count))
            text = photos.description(
                photos.view(photos.Photo("x", Path("x.jpg"), (name,), boxes), WHOLE, False)
            )
            assert [mention.name for mention in vocabulary.mentions(text)] == [name], text
    assert photos.description(photos.view(photo(), WHOLE, False)) == (
        "There is a dog. There is a cup."
    )


def test_a_list_of_photographs_is_read_and_its_faults_are_told(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "7.jpg")
    line = {"image_id": 7, "file": "7.jpg", "objects": ["dog"], "chair_objects": ["dog", "cup"]}
    path = tmp_path / "photos.jsonl"
    path.write_text(json.dumps(line | {"boxes": [["dog", 0.5, 0.5, 1.2, 0.5]]}))
    (read,) = photos.read_photos(path)
    assert (read.id, read.objects) == ("7", ("dog", "cup"))
    assert read.boxes == (photos.Box("dog", 0.0, 0.25, 1.0, 0.75),)
    path.write_text(json.dumps({"image_id": 7, "file": "7.jpg"}))
    with pytest.raises(UserError, match="line 1: needs"):
        photos.read_photos(path)
    path.write_text(json.dumps(line | {"file": "8.jpg"}))
    with pytest.raises(UserError, match=r"there is no .*8\.jpg"):
        photos.read_photos(path)
    for name in ("text.jpg", "text.heic"):
        (tmp_path / name).write_text(f"no picture: {name}")
    wrong: list[tuple[dict[str, object], str]] = [
        ({"boxes": [["dog", 320, 240, 100, 100]]}, "not in pixels"),
        ({"boxes": [[0.5, 0.5, 0.1, 0.1]]}, "a box is"),
        ({"boxes": [["unicorn", 0.5, 0.5, 0.1, 0.1]]}, "'unicorn' is none of COCO's"),
        ({"chair_objects": ["dog", "unicorn"]}, "line 1: 'unicorn'"),
        ({"chair_objects": None}, "'chair_objects' is a list, not None"),
        ({"boxes": None}, "'boxes' is a list, not None"),
        ({"boxes": [["car", 0.5, 0.5, 0.1, 0.1]]}, "a box of 'car', which is not among"),
        ({"file": "text.jpg"}, r"line 1: .*text\.jpg: not an image of an allowed format"),
        ({"file": "text.heic"}, r"text\.heic: not an image of an allowed format"),
    ]
    for change, told in wrong:
        path.write_text(json.dumps(line | change))
        with pytest.raises(UserError, match=told):
            photos.read_photos(path)
    (tmp_path / "8.jpg").write_bytes((tmp_path / "7.jpg").read_bytes())
    path.write_text(json.dumps(line) + "\n" + json.dumps(line | {"file": "8.jpg"}))
    with pytest.raises(UserError, match=r"line 2: .*8.jpg is the same picture as .*7.jpg"):
        photos.read_photos(path)
    path.write_text(json.dumps(line) + "\n" + json.dumps(line))
    with pytest.raises(UserError, match=r"line 2: .*7.jpg has the name of"):
        photos.read_photos(path)
    path.write_text(json.dumps(line | {"chair_objects": ["puppy", "dog"]}))
    assert photos.read_photos(path)[0].objects == ("dog",)


def test_shuffled_photographs_bear_each_others_names(tmp_path: Path) -> None:
    three = []
    for name, colour in zip("abc", ("red", "green", "blue"), strict=True):
        Image.new("RGB", (4, 4), colour).save(tmp_path / f"{name}.png")
        three.append(photos.Photo(name, tmp_path / f"{name}.png", ()))
    photos.write_pictures(three, tmp_path / "true")
    photos.write_pictures(three, tmp_path / "shuffled", shuffled=True)
    for name, other in zip("abc", "bca", strict=True):
        own = (tmp_path / "true" / f"{name}.png").read_bytes()
        assert own == (tmp_path / f"{name}.png").read_bytes()
        moved = (tmp_path / "shuffled" / f"{name}.png").read_bytes()
        assert moved == (tmp_path / f"{other}.png").read_bytes()
    with pytest.raises(UserError, match="One photograph can't be exchanged"):
        photos.write_pictures(three[:1], tmp_path / "out", shuffled=True)
