"""LLaVA-SFT+ from small files in the shapes in which its sets are published."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from veridical.builders import _row_parts
from veridical.builders.instructing.flickr import spotted
from veridical.builders.instructing.prompts import read_prompt_texts
from veridical.cli import main
from veridical.data.messages import count_images, text_of
from veridical.data.record_files import stream_json_list
from veridical.data.records import read_records
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json

SENTENCE = "[/EN#11/people Two girls] throw [/EN#12/other a ball] over [/EN#13/scene a field] ."
XML = """<annotation><size><width>200</width><height>100</height><depth>3</depth></size>
<object><name>11</name><bndbox><xmin>20</xmin><ymin>10</ymin><xmax>60</xmax><ymax>90</ymax></bndbox></object>
<object><name>11</name><bndbox><xmin>100</xmin><ymin>0</ymin><xmax>200</xmax><ymax>50</ymax></bndbox></object>
<object><name>12</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></object>
<object><name>13</name><scene>1</scene><nobndbox>1</nobndbox></object></annotation>"""


def run(*words: object) -> int:
    return main(["build", "instruct", *map(str, words)])


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 4), "red").save(path)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """Two COCO images with VQA-v2 and A-OKVQA questions, two Flickr30k images, three of LLaVA."""
    for number in (9, 25):
        picture(tmp_path / "coco" / f"COCO_train2014_{number:012d}.jpg")
    for name in ("1000", "2000"):
        picture(tmp_path / "flickr_images" / f"{name}.jpg")
    questions = [(1, 9, "Is it {red}?", "yes/no", "yes"), (2, 9, "How many?", "number", "2"),
                 (3, 9, "Is it blue?", "yes/no", "no"), (4, 25, "Is it big?", "yes/no", "yes"),
                 (5, 25, "What?", "other", "cup")]  # fmt: skip
    write_json(tmp_path / "q.json", {"questions": [
        {"question_id": q, "image_id": image, "question": text}
        for q, image, text, _, _ in questions
    ]})  # fmt: skip
    write_json(tmp_path / "a.json", {"annotations": [
        {"question_id": q, "image_id": image, "answer_type": sort, "multiple_choice_answer": said}
        for q, image, _, sort, said in questions
    ]})  # fmt: skip
    choice = {"image_id": 9, "question": "What for?", "choices": ["a", "b", "c", "d"]}
    write_json(tmp_path / "ok.json", [
        {**choice, "question_id": "x", "correct_choice_idx": 2},
        {**choice, "question_id": "y", "correct_choice_idx": 0, "question": "Why?"},
    ])  # fmt: skip
    for name in ("Sentences", "Annotations"):
        (tmp_path / "entities" / name).mkdir(parents=True)
    for name in ("1000", "2000"):
        (tmp_path / "entities" / "Sentences" / f"{name}.txt").write_text(f"{SENTENCE}\nA field .\n")
        (tmp_path / "entities" / "Annotations" / f"{name}.xml").write_text(XML)
    turns = [{"from": "human", "value": "What?\n<image>"}, {"from": "gpt", "value": "A cup."}]
    write_json(tmp_path / "llava.json", [
        {"id": f"{n}", "image": "COCO_train2014_000000000009.jpg", "conversations": turns}
        for n in range(3)
    ])  # fmt: skip
    return tmp_path


def words(sets: Path) -> list[object]:
    return [
        "--llava", sets / "llava.json", "--llava-images", sets / "coco", "--coco-images",
        sets / "coco", "--vqa-questions", sets / "q.json", "--vqa-annotations", sets / "a.json",
        "--aokvqa", sets / "ok.json", "--flickr", sets / "entities", "--flickr-images",
        sets / "flickr_images",
    ]  # fmt: skip


def talks(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Each conversation's (question, answer) pairs."""
    rows = read_records(folder / "conversations.parquet", "conversation").rows
    found = {}
    for row in rows:
        texts = [text_of(message) for message in row["messages"]]
        assert count_images(row["messages"][:1]) == count_images(row["messages"]) == 1
        found[row["id"]] = list(zip(texts[::2], texts[1::2], strict=True))
    return found


def test_a_list_within_an_object_is_read_a_few_rows_at_a_time(tmp_path: Path) -> None:
    text = '\ufeff{"info": {"rows": [1]}, "rows": [{"a": [1.5, {}]}, 2], "more": [3]}'
    (tmp_path / "a.json").write_text(text)
    assert list(stream_json_list(tmp_path / "a.json", "rows")) == [{"a": [1.5, {}]}, 2]
    assert list(stream_json_list(tmp_path / "a.json", "info")) == []
    assert list(stream_json_list(tmp_path / "a.json", "gone")) == []
    (tmp_path / "a.json").write_text("[1, [2]]")
    assert list(stream_json_list(tmp_path / "a.json", "rows")) == [1, [2]]
    (tmp_path / "a.json").write_text('{"rows": [1], "mo')
    with pytest.raises(UserError, match="is not JSON"):
        list(stream_json_list(tmp_path / "a.json", "rows"))


def test_annotations_that_contradict_each_other_are_no_answer(sets: Path) -> None:
    notes = read_json(sets / "a.json")["annotations"]
    again = [notes[0], {**notes[2], "multiple_choice_answer": "yes"}]
    write_json(sets / "a.json", {"annotations": [*notes, *again]})
    assert run(*words(sets), "--out", sets / "out", "--max-bad-fraction", 1) == 0
    assert [question for question, _ in talks(sets / "out")["vqa/9"]] == [
        "Is it {red}?\nAnswer yes or no."
    ]
    (lost,) = read_jsonl(sets / "out" / "skipped.jsonl")
    assert (lost["id"], lost["reason"]) == ("3", "two annotations with this id differ")


def test_each_set_becomes_conversations_of_its_form(
    sets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words(sets), "--out", sets / "out") == 0
    found = talks(sets / "out")
    assert len(found) == 3 + 2 + 1 + 2
    vqa = "\nAnswer yes or no."
    assert found["vqa/9"] == [(f"Is it {{red}}?{vqa}", "Yes"), (f"Is it blue?{vqa}", "No")]
    assert found["vqa/25"] == [(f"Is it big?{vqa}", "Yes")]
    (first, answer), (second, other) = found["aokvqa/9"]
    assert first.startswith("What for?\nA. a\nB. b\nC. c\nD. d\nWhich option is right?")
    assert (answer, other) == ("C. c", "A. a")
    assert second.startswith("Why?\n")
    ((asked, caption),) = found["flickr/1000"]
    assert asked in read_prompt_texts(None, 0).texts["flickr"]
    # 20/200, 10/100, 60/200, 90/100; 100/200, 0, 1, 50/100; 1/200, 1/100, 2/200, 2/100.
    assert caption == (
        "Two girls [0.100,0.100,0.300,0.900;0.500,0.000,1.000,0.500] throw "
        "a ball [0.005,0.010,0.010,0.020] over a field ."
    )
    assert found["llava/0"][0][1] == "A cup."
    summary = read_json(sets / "out" / "summary.json")
    assert summary["sets"]["vqa"] == {
        "asked": 83000, "offered": 2, "taken": 2, "other_rows": {"number": 1, "other": 1}
    }  # fmt: skip
    assert "llava: 3 conversations, of 98000 that the mix asks for." in capsys.readouterr().out


def test_counts_are_drawn_by_seed_and_the_same_again(sets: Path) -> None:
    counts = ("--llava-count", 2, "--vqa-count", 1, "--aokvqa-count", 0, "--flickr-count", 1)
    for name in ("one", "two"):
        assert run(*words(sets), *counts, "--out", sets / name) == 0
    kinds = Counter(name.split("/")[0] for name in talks(sets / "one"))
    assert kinds == {"llava": 2, "vqa": 1, "flickr": 1}
    for name in ("conversations.parquet", "summary.json", "skipped.jsonl"):
        assert (sets / "one" / name).read_bytes() == (sets / "two" / name).read_bytes()
    drawn = set()
    for seed in range(6):
        assert run(*words(sets), *counts, "--seed", seed, "--out", sets / f"s{seed}") == 0
        drawn.add(tuple(sorted(talks(sets / f"s{seed}"))))
    assert len(drawn) > 1


def test_killed_and_resumed_and_in_shards_the_bytes_are_the_same(
    sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_row_parts, "CHUNK", 3)
    assert run(*words(sets), "--out", sets / "whole") == 0
    for shard in ("2/2", "1/2"):
        assert run(*words(sets), "--shard", shard, "--out", sets / "shards") == 0
    write, calls = _row_parts.RowParts.write, list[int]()

    def killed(*given: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(*given)

    monkeypatch.setattr(_row_parts.RowParts, "write", killed)
    assert run(*words(sets), "--out", sets / "killed") == 130
    assert not (sets / "killed" / "conversations.parquet").exists()
    assert run(*words(sets), "--out", sets / "killed") == 0
    assert len(calls) == 2 + 2  # of three parts the first was kept
    for folder in ("shards", "killed"):
        for name in ("conversations.parquet", "summary.json", "skipped.jsonl"):
            assert (sets / folder / name).read_bytes() == (sets / "whole" / name).read_bytes()


def test_files_with_all_their_published_fields_and_the_images_of_2017(
    sets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (9, 25):
        picture(sets / "train2017" / f"{number:012d}.jpg")
    about = {"info": {"year": 2017}, "license": {"name": "CC BY 4.0"}, "data_type": "mscoco"}
    about |= {"data_subtype": "train2014"}
    answers = [{"answer": "yes", "answer_confidence": "yes", "answer_id": n} for n in range(1, 11)]
    kind = {"question_type": "is the", "multiple_choice_answer": "yes", "answers": answers}
    asked = {"image_id": 25, "question_id": 25000}
    write_json(sets / "q.json", about | {"task_type": "Open-Ended", "questions": [
        asked | {"question": "Is the cup red?"}]})  # fmt: skip
    write_json(sets / "a.json", about | {"annotations": [asked | kind | {"answer_type": "yes/no"}]})
    write_json(sets / "ok.json", [
        {"split": "train", "image_id": 25, "question_id": "22MexNkBPpdZGX6sxbxVBH",
         "question": "What is the cup for?", "choices": ["tea", "milk", "soup", "sand"],
         "correct_choice_idx": 0, "direct_answers": ["tea"] * 10,
         "difficult_direct_answer": False, "rationales": ["It is a tea cup."] * 3},
    ])  # fmt: skip
    two = ("[/EN#5/clothing/bodyparts A cuff] , [/EN#0/notvisual it] and [/EN#11/people girls] .\n"
           "[/EN#13/scene A field] .\n")  # fmt: skip
    xml = XML.replace("<annotation>", "<annotation><filename>1000.jpg</filename>")
    xml = xml.replace("<object><name>12</name>", "<object><name>12</name><name>5</name>")
    (sets / "entities" / "Sentences" / "1000.txt").write_text(two)
    (sets / "entities" / "Annotations" / "1000.xml").write_text(xml)
    given = words(sets)
    given[given.index("--coco-images") + 1] = sets / "train2017"
    assert run(*given, "--out", sets / "out") == 0
    found = talks(sets / "out")
    assert found["vqa/25"][0][1] == "Yes"
    assert found["aokvqa/25"][0][1] == "A. tea"
    assert found["flickr/1000"][0][1].startswith(
        "A cuff [0.005,0.010,0.010,0.020] , it and girls ["
    )
    # A-OKVQA's split is of the images of 2017; some are not among those of train2014.
    (sets / "coco" / "COCO_train2014_000000000025.jpg").unlink()
    given = ["--aokvqa", sets / "ok.json", "--coco-images", sets / "coco"]
    assert run(*given, "--out", sets / "out2") == 2
    assert "train2017 has all of train2014 too" in capsys.readouterr().err


def test_rows_that_cannot_be_used_are_listed(sets: Path) -> None:
    content = read_json(sets / "q.json")
    content["questions"] += [{"question_id": 6, "image_id": 9, "question": "Is it lost?"},
                             {"question_id": 7, "image_id": 77, "question": "Is it?"}]  # fmt: skip
    write_json(sets / "q.json", content)
    answers = read_json(sets / "a.json")
    answers["annotations"].append(
        {"question_id": 7, "answer_type": "yes/no", "multiple_choice_answer": "yes"}
    )
    write_json(sets / "a.json", answers)
    rows = read_json(sets / "ok.json")
    del rows[0]["correct_choice_idx"]
    rows.append({**rows[1], "question_id": "z", "choices": ["a"]})
    write_json(sets / "ok.json", rows)
    (sets / "entities" / "Annotations" / "2000.xml").write_text("<annotation>")
    assert run(*words(sets), "--out", sets / "out") == 2
    assert run(*words(sets), "--out", sets / "out", "--max-bad-fraction", 0.7) == 0
    reasons = {row["id"]: row["reason"] for row in read_jsonl(sets / "out" / "skipped.jsonl")}
    assert reasons.keys() == {"6", "7", "x", "z", "2000"}
    assert reasons["6"] == "no annotation has this id"
    assert reasons["7"] == f"{sets / 'coco'} has no image 77"
    assert reasons["x"] == "it is not given (as in a test split)"
    assert reasons["z"] == "they must be 4 texts"
    assert reasons["2000"].startswith("unreadable: ")


def test_prompts_can_be_replaced(sets: Path) -> None:
    (sets / "mine.yaml").write_text(
        'vqa: ["Q: {question}"]\naokvqa: ["{options} {question}"]\nflickr: ["Box."]\n'
    )
    assert run(*words(sets), "--prompts", sets / "mine.yaml", "--out", sets / "out") == 0
    found = talks(sets / "out")
    assert (found["vqa/25"][0][0], found["flickr/2000"][0][0]) == ("Q: Is it big?", "Box.")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "No set is given"),
        (["--vqa-questions", "{q}"], "--vqa-questions needs --vqa-annotations"),
        (["--aokvqa", "{ok}"], "--aokvqa needs --coco-images"),
        (["--flickr", "{q}", "--flickr-images", "{coco}"], "is not Flickr30k Entities"),
        (["--aokvqa", "{q}", "--coco-images", "{coco}"], "must be a JSON list"),
        (
            ["--aokvqa", "{ok}", "--coco-images", "{coco}", "--prompts", "{q}"],
            "a list of texts for",
        ),
        (
            ["--aokvqa", "{ok}", "--coco-images", "{coco}", "--aokvqa-count", "0"],
            "The counts of all given sets are 0",
        ),
        (["--aokvqa", "{ok}", "--coco-images", "{other}"], "2 of 2 rows can't be used"),
    ],
)
def test_what_cannot_be_ends_in_a_line(
    more: list[str], told: str, sets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"{q}": sets / "q.json", "{ok}": sets / "ok.json", "{coco}": sets / "coco",
             "{other}": sets / "flickr_images"}  # fmt: skip
    assert run(*[names.get(word, word) for word in more], "--out", sets / "out") == 2
    said = capsys.readouterr().err.strip()
    assert told in said
    assert len(said.splitlines()) <= 2


def test_a_phrase_without_a_box_keeps_its_words() -> None:
    assert spotted("[/EN#5/other A cup] here", {}) == "A cup here"
    assert spotted("[/EN#5/a/b A cup] here", {"5": [(0, 0, 0.5, 1)]}) == (
        "A cup [0.000,0.000,0.500,1.000] here"
    )
