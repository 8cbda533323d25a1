"""Object lists from annotations as COCO, YOLO and detectors write them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from evaluating import eval_chair

from veridical.builders.objects import build_objects
from veridical.cli.dispatch import main
from veridical.data.object_lists import match_image_id
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json, write_jsonl

# As in instances_val2014.json: numbers of categories have gaps, crowds count, licences are there.
COCO: dict[str, Any] = {
    "info": {"description": "COCO 2014 Dataset", "version": "1.0", "year": 2014},
    "licenses": [{"id": 3, "name": "Attribution-NonCommercial-NoDerivs License", "url": "http"}],
    "images": [
        {"license": 3, "file_name": "COCO_val2014_000000391895.jpg", "height": 360, "width": 640,
         "coco_url": "http", "date_captured": "2013-11-14 11:18:45", "id": 391895},
        {"license": 3, "file_name": "COCO_val2014_000000060623.jpg", "height": 427, "width": 640,
         "coco_url": "http", "date_captured": "2013-11-14 11:24:59", "id": 60623},
        {"license": 3, "file_name": "photos/street.jpg", "height": 4, "width": 4, "id": 7},
    ],
    "annotations": [
        {"segmentation": [[376.97, 176.91, 398.81, 176.91]], "area": 12190.44, "iscrowd": 0,
         "image_id": 391895, "bbox": [359.17, 146.17, 112.45, 213.57], "category_id": 4,
         "id": 151091},
        {"segmentation": {"counts": [272, 2], "size": [360, 640]}, "area": 4.0, "iscrowd": 1,
         "image_id": 391895, "bbox": [0, 0, 2, 2], "category_id": 1, "id": 900100391895},
        {"segmentation": [[1.0, 2.0]], "area": 1.0, "iscrowd": 0, "image_id": 7,
         "bbox": [0, 0, 1, 1], "category_id": 90, "id": 3},
    ],
    "categories": [
        {"supercategory": "person", "id": 1, "name": "person"},
        {"supercategory": "vehicle", "id": 4, "name": "motorcycle"},
        {"supercategory": "indoor", "id": 90, "name": "toothbrush"},
    ],
}  # fmt: skip
EXPECTED = {"391895": ["motorcycle", "person"], "60623": [], "street": ["toothbrush"]}


def run(*words: object) -> int:
    return main(["build", "objects", *map(str, words)])


def objects(folder: Path, *words: object) -> Any:
    assert run(*words, "--out", folder / "out") == 0
    return read_json(folder / "out" / "objects.json")


def test_instances_of_coco(tmp_path: Path) -> None:
    write_json(tmp_path / "instances.json", COCO)
    found = objects(tmp_path, tmp_path / "instances.json")
    assert found == EXPECTED
    # Both an image's file and its number lead to the list.
    assert match_image_id("COCO_val2014_000000391895", found) == "391895"
    assert read_json(tmp_path / "out" / "summary.json")["empty"] == 1


def yolo(folder: Path, lines: dict[str, str], names: Any) -> Path:
    labels = folder / "set" / "labels" / "train"
    labels.mkdir(parents=True)
    for name, text in lines.items():
        (labels / f"{name}.txt").write_text(text)
    content = {"path": "../set", "train": "images/train", "val": "images/train", "names": names}
    (folder / "set" / "data.yaml").write_text(yaml.safe_dump(content))
    return labels


def test_aliases_that_stand_for_too_much_are_refused(tmp_path: Path) -> None:
    labels = yolo(tmp_path, {"a": "0 0.5 0.5 0.1 0.1\n"}, ["person"])
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in itertools.pairwise("abcdefghi")]
    (tmp_path / "set" / "data.yaml").write_text("\n".join([*lines, "names: *i"]))
    with pytest.raises(UserError, match=r"data\.yaml is nested too deeply, or its aliases"):
        build_objects(labels, tmp_path / "out")


@pytest.mark.parametrize("names", [{0: "person", 45: "bowl"}, ["person", *["x"] * 44, "bowl"]])
def test_labels_of_yolo_with_boxes_polygons_and_scores(tmp_path: Path, names: Any) -> None:
    lines = {
        "000000000009": "45 0.479492 0.688771 0.955609 0.5955\n45 0.7 0.2 0.4 0.4\n",
        "polygon": "0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n",
        "predicted": "0 0.5 0.5 0.1 0.1 0.91\n45 0.5 0.5 0.1 0.1 0.31\n",
        "background": "",
    }
    found = objects(tmp_path, yolo(tmp_path, lines, names))
    assert found == {
        "000000000009": ["bowl"], "background": [], "polygon": ["person"], "predicted": ["person"],
    }  # fmt: skip
    assert read_json(tmp_path / "out" / "summary.json")["below_min_score"] == 1


DETECTIONS: dict[str, Any] = {
    # COCO's result files, with the numbers of --names.
    "results": [
        {"image_id": 42, "category_id": 1, "bbox": [258.15, 41.29, 348.26, 243.78], "score": 0.936},
        {"image_id": 42, "category_id": 4, "bbox": [1, 2, 3, 4], "score": 0.2},
        {"image_id": 73, "category_id": 4, "bbox": [1, 2, 3, 4], "score": 0.7},
    ],
    # Transformers' object-detection pipeline, an image a row.
    "pipeline": [
        {"image": "a/42.jpg", "detections": [
            {"score": 0.99, "label": "person", "box": {"xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4}},
            {"score": 0.2, "label": "motorcycle", "box": {"xmin": 1}}]},
        {"image": "a/73.jpg", "detections": [{"score": 0.8, "label": "motorcycle"}]},
    ],
    # Ultralytics' to_json, by image.
    "by image": {
        "42.jpg": [{"name": "person", "class": 0, "confidence": 0.9, "box": {"x1": 1}}],
        "73.jpg": [{"name": "motorcycle", "class": 3, "confidence": 0.6, "box": {"x1": 1}}],
    },
    "parallel lists": [
        {"file_name": "42.jpg", "labels": ["person", "motorcycle"], "scores": [0.9, 0.1]},
        {"file_name": "73.jpg", "labels": ["motorcycle"], "scores": [0.9]},
    ],
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize("content", DETECTIONS.values(), ids=DETECTIONS.keys())
def test_what_detectors_write(tmp_path: Path, content: Any, suffix: str) -> None:
    path = tmp_path / f"found.{suffix}"
    if suffix == "jsonl":
        if isinstance(content, dict):
            pytest.skip("one object is not a list of lines")
        write_jsonl(path, content)
    else:
        write_json(path, content)
    write_json(tmp_path / "instances.json", COCO)
    found = objects(tmp_path, path, "--names", tmp_path / "instances.json")
    assert found == {"42": ["person"], "73": ["motorcycle"]}
    assert read_jsonl(tmp_path / "out" / "skipped.jsonl") == []


def test_an_image_in_which_nothing_was_detected_has_an_empty_list(tmp_path: Path) -> None:
    write_json(tmp_path / "found.json", [{"image": "1.jpg", "detections": []}])
    assert objects(tmp_path, tmp_path / "found.json") == {"1": []}


@pytest.mark.parametrize(
    "content",
    [
        {"a.jpg": ["dog"], "b.jpg": []},
        {"a.jpg": {"labels": ["dog", "cat"], "scores": [0.9, 0.1]}, "b.jpg": []},
        [{"image": "a.jpg", "label": 1}, {"image": "b.jpg", "labels": []}],
        [{"image": "a.jpg", "class_id": 1}, {"image": "b.jpg", "objects": []}],
        [
            {"image": "a.jpg", "boxes": [[0, 0, 2, 2]], "labels": ["dog"], "scores": [0.9]},
            {"image": "b.jpg", "boxes": [], "labels": [], "scores": []},
        ],
        [{"image": "a.jpg", "label": "dog", "boxes": {"x1": 1}}, {"image": "b.jpg", "objects": []}],
    ],
)
def test_names_and_numbers_alone_are_read(tmp_path: Path, content: Any) -> None:
    write_json(tmp_path / "found.json", content)
    write_json(tmp_path / "names.json", ["cat", "dog"])
    names = ("--names", tmp_path / "names.json")
    assert objects(tmp_path, tmp_path / "found.json", *names) == {"a": ["dog"], "b": []}


def test_an_image_of_which_an_annotation_is_not_usable_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its list would be too short, and a true mention would count as invented."""
    rows: list[Any] = [{"image": "a.jpg", "label": "dog"}, {"image": "a.jpg", "category_id": 9}]
    # Annotations are counted, though the names are the same: 1 of 100 is no more than allowed.
    rows += [{"image": "b.jpg", "label": "cat"}] * 98
    write_json(tmp_path / "found.json", rows)
    assert objects(tmp_path, tmp_path / "found.json") == {"b": ["cat"]}
    skipped = read_jsonl(tmp_path / "out" / "skipped.jsonl")
    assert [row["id"] for row in skipped] == ["row 2", "a"]
    assert "left out: 1 annotation and the 1 image it is about" in capsys.readouterr().out
    coco = {**COCO, "annotations": [*COCO["annotations"] * 40,
                                    {"id": 9, "image_id": 7, "category_id": 5}]}  # fmt: skip
    write_json(tmp_path / "coco.json", coco)
    assert "street" not in objects(tmp_path / "coco", tmp_path / "coco.json")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("names.txt", "person\n\nbowl\n", "line 2 is empty"),
        ("names.yaml", "names: [a, {b", "is not YAML"),
        ("names.yaml", "names: [person, null]", "class 1 has to be a text, not null"),
        ("names.yaml", "names: {0: [a]}", "class 0 has to be a text"),
        ("names.yaml", "", "has no names of classes"),
        ("names.json", "[1]", "class 0 has to be a text, not 1"),
    ],
)
def test_names_that_are_not_certain_are_refused(
    tmp_path: Path, name: str, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text)
    write_json(tmp_path / "found.json", [{"image": "1.jpg", "label": "dog"}])
    words = (tmp_path / "found.json", "--names", tmp_path / name, "--out", tmp_path / "out")
    assert run(*words) == 2
    assert message in capsys.readouterr().err


def test_names_that_the_vocabulary_does_not_know_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"image": "1.jpg", "label": name, "score": 1.0} for name in ("TV monitor", "dog")]
    write_json(tmp_path / "found.json", rows)
    assert objects(tmp_path, tmp_path / "found.json") == {"1": ["TV monitor", "dog"]}
    said = "does not know 1 listed object: TV monitor (nearest: tv)"
    assert said in capsys.readouterr().out
    # An evaluation goes on without them too.
    write_jsonl(tmp_path / "a.jsonl", [{"image_id": 1, "answer": "A dog."}])
    lists = tmp_path / "out" / "objects.json"
    eval_chair(lists, tmp_path / "eval", answers=tmp_path / "a.jsonl")
    assert said in capsys.readouterr().out


def test_names_of_which_the_vocabulary_knows_none_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "found.json", [{"image": "1.jpg", "label": "gizmo", "score": 1.0}])
    assert run(tmp_path / "found.json", "--out", tmp_path / "out") == 2
    assert "gizmo. It knows no other" in capsys.readouterr().err
    assert not (tmp_path / "out" / "objects.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"label": "dog"}], "row 1, names no image"),
        ([{"image": "1", "category_id": 3}], "has no name that is known"),
        ([{"image": "1", "label": "dog", "score": "high"}], "'high' is not a number"),
        ({"images": [], "annotations": []}, "no list `categories`"),
        ({**COCO, "images": [{"id": 1}]}, "images 1: needs id and file_name"),
        ("dog", "must be a JSON list"),
        ({}, "found.json holds no annotations"),
        ([{"image": "1", "class_id": 0}], "has no name that is known"),
        ([{"image": "1", "label": 0}], "has no name that is known"),
        ([{"image": "1", "found": ["dog"]}], "is neither a detection nor a list of them"),
        (
            [{"image": "1", "labels": ["dog", "cat"], "scores": [0.9]}],
            "has 2 labels, which need as many",
        ),
        ([{"image": "1", "labels": ["dog"], "scores": 0.9}], "has 1 labels, which need as many"),
        ([{"image": "1", "labels": ["dog"], "scores": []}], "has 1 labels, which need as many"),
        ([{"image": f"{x}/1.jpg", "label": "dog"} for x in "xy"], "are both called 1"),
    ],
)
def test_what_is_no_annotation_is_said(
    tmp_path: Path, content: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "found.json", content)
    assert run(tmp_path / "found.json", "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err


def test_images_without_a_label_file_have_nothing_in_them_if_their_folder_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A line that is not a box: that image is left out, not made empty.
    lines = {f"{number:012}": "0 0.5 0.5 0.1 0.1\n" * 30 for number in range(1, 5)}
    lines["broken"] = "0 0.5\n"
    labels = yolo(tmp_path, lines, ["dog"])
    images = tmp_path / "images"
    images.mkdir()
    for name in (*lines, "background"):
        (images / f"{name}.jpg").touch()
    assert "background" not in objects(tmp_path / "a", labels)
    capsys.readouterr()
    found = objects(tmp_path / "b", labels, "--images", images)
    assert found == {**{name: ["dog"] for name in lines if name != "broken"}, "background": []}
    told = capsys.readouterr().out
    assert "4 objects in 5 images; 1 of them without an annotation" in told
    summary = read_json(tmp_path / "b" / "out" / "summary.json")
    assert (summary["images_without_annotation"], summary["images_left_out"]) == (1, 1)


def test_labels_of_yolo_need_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = yolo(tmp_path, {"a": "0 0.1 0.1 0.2 0.1\n"}, ["dog"])
    (tmp_path / "set" / "data.yaml").unlink()
    assert run(labels, "--out", tmp_path / "out") == 2
    assert "--names" in capsys.readouterr().err


def test_real_annotations_in_both_forms(test_data: Path, tmp_path: Path) -> None:
    """COCO's first 128 training images: both forms give the objects of every image."""
    rows = read_jsonl(test_data / "coco128" / "coco128.jsonl")
    names = sorted({name for row in rows for name, *_ in row["boxes"]})
    stems = [Path(row["file"]).stem for row in rows]
    lines = {
        stem: "".join(f"{names.index(n)} {' '.join(map(str, box))}\n" for n, *box in row["boxes"])
        for stem, row in zip(stems, rows, strict=True)
    }
    wanted = [row["objects"] for row in rows]
    found = objects(tmp_path / "yolo", yolo(tmp_path, lines, names))
    assert [found[match_image_id(stem, found) or ""] for stem in stems] == wanted
    content = {
        "images": [{"id": row["image_id"], "file_name": Path(row["file"]).name} for row in rows],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        "annotations": [
            {
                "id": 1,
                "image_id": row["image_id"],
                "category_id": names.index(name) + 1,
                "bbox": box,
            }
            for row in rows
            for name, *box in row["boxes"]
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    found = objects(tmp_path / "coco", tmp_path / "instances.json")
    assert [found[match_image_id(stem, found) or ""] for stem in stems] == wanted


def test_scores_are_spoken_of_only_where_there_are_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "instances.json", COCO)
    assert main(["build", "objects", str(tmp_path / "instances.json"), "--out",
                 str(tmp_path / "coco")]) == 0  # fmt: skip
    assert "lower score" not in capsys.readouterr().out
    rows = [{"image": "a.jpg", "label": "dog", "score": score} for score in (0.9, 0.2)]
    write_jsonl(tmp_path / "found.jsonl", rows)
    assert main(["build", "objects", str(tmp_path / "found.jsonl"), "--out",
                 str(tmp_path / "found")]) == 0  # fmt: skip
    assert "1 of 2 detections had a lower score than 0.5" in capsys.readouterr().out


def test_where_no_image_is_left_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"image": "a.jpg", "label": "dog"}, {"image": "a.jpg", "category_id": 9}]
    write_json(tmp_path / "found.json", rows)
    words = ("--max-bad-fraction", 1, "--out", tmp_path / "out")
    assert run(tmp_path / "found.json", *words) == 2
    assert "no image is left" in capsys.readouterr().err
    assert not (tmp_path / "out" / "objects.json").exists()
