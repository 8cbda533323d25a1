"""Every check finds what it is for, in the row that has it, and nothing in a row that is sound."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inspected_rows import pair, photo, write_rows
from PIL import Image, ImageOps

from veridical.data.record_kinds import Kind
from veridical.inspection.checks.answers import refusal_in
from veridical.inspection.findings import Finding
from veridical.inspection.inspecting import inspect_file
from veridical.inspection.near import BANDS, HASHES, near_hashes, near_signatures
from veridical.inspection.rows import read_row, recognize_kind
from veridical.runtime.errors import UserError

SOUND = {"prompt": "What is it?", "chosen": "A red car.", "rejected": "A blue bus."}


def found_in(folder: Path, rows: list[Any], kind: Kind = "preference") -> list[Finding]:
    return inspect_file(write_rows(folder / "rows.jsonl", rows), kind, folder).findings


def test_nothing_is_found_in_sound_rows(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    photo(tmp_path / "b.png", 2)
    rows = [pair(1, images=["a.png"]), pair(2, images=["b.png"]), pair(3, images=["a.png"])]
    assert found_in(tmp_path, rows) == []


@pytest.mark.parametrize(
    ("row", "check", "level", "repair"),
    [
        ({**SOUND, "prompt": "<image> <image>", "images": ["a.png"]}, "placeholders", "error", ""),
        ({**SOUND, "prompt": "<image>\nWhat?"}, "placeholders", "error", ""),
        ({**SOUND, "chosen": "<image> A car."}, "special tokens", "warning", ""),
        ({**SOUND, "rejected": "A bus.<|im_end|>"}, "special tokens", "warning", "strip"),
        ({**SOUND, "chosen": "A car.</s>"}, "special tokens", "warning", "strip"),
        ({**SOUND, "chosen": "A car.<eos>\n"}, "special tokens", "warning", "strip"),
        ({**SOUND, "chosen": "A <end_of_turn> car."}, "special tokens", "warning", ""),
        ({**SOUND, "chosen": "[INST] A car.</s>"}, "special tokens", "warning", ""),
        ({**SOUND, "chosen": "A car.<|new_family|>"}, "special tokens", "warning", ""),
        ({**SOUND, "prompt": "What?<|im_end|>"}, "special tokens", "warning", ""),
        ({**SOUND, "images": ["none.png"]}, "images", "error", "drop"),
        ({**SOUND, "images": ["broken.png"]}, "images", "error", "drop"),
        ({**SOUND, "images": ["../a.png"]}, "images", "error", "drop"),
        ({**SOUND, "images": ["https://x.org/a.png"]}, "images", "error", "drop"),
        ({**SOUND, "chosen": "  "}, "empty answers", "error", "drop"),
        ({**SOUND, "chosen": "\u200b\ufeff "}, "empty answers", "error", "drop"),
        ({**SOUND, "rejected": "A red\u200b car\u3002"}, "equal answers", "warning", "drop"),
        ({**SOUND, "rejected": " A red car.\n"}, "equal answers", "error", "drop"),
        ({**SOUND, "rejected": "**a  red CAR**"}, "equal answers", "warning", "drop"),
        ({**SOUND, "chosen": "I'm sorry, but I can't see it."}, "refusals", "warning", ""),
        ({**SOUND, "rejected": "As an AI model, I see none."}, "refusals", "warning", ""),
        ({**SOUND, "rejected": None}, "form", "error", "drop"),
        ({**SOUND, "chosen": 7}, "form", "error", "drop"),
        ({**SOUND, "images": [3]}, "form", "error", "drop"),
        ('{"prompt": "What?", "chosen": ', "form", "error", "drop"),
        ("[1, 2]", "form", "error", "drop"),
    ],
)  # fmt: skip
def test_one_bad_row_has_one_finding(
    tmp_path: Path, row: Mapping[str, Any] | str, check: str, level: str, repair: str
) -> None:
    photo(tmp_path / "a.png", 1)
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:300])
    found = found_in(tmp_path, [pair(1), row, pair(3)])
    assert [(f.check, f.level, f.row, f.repair) for f in found] == [(check, level, 2, repair)]
    assert found[0].what
    assert found[0].fix


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("I cannot provide an answer.", True),
        ("Sorry, I can't name the show. If you have other questions, feel free to ask!", True),
        ("I\u2019m unable to view the image.", True),
        ("Es tut mir leid, aber ich kann das nicht sagen.", True),
        ("\u5f88\u62b1\u6b49\uff0c\u6211\u65e0\u6cd5\u56de\u7b54\u3002", True),
        ("\uc8c4\uc1a1\ud558\uc9c0\ub9cc \uc54c \uc218 \uc5c6\uc2b5\ub2c8\ub2e4.", True),
        ("I can't identify the brand, but the car is a red sedan.", False),
        ("I won't name her, but I can say she wears a blue coat.", False),
        ("I am not able to tell which city this is; the bridge is steel.", False),
        ("I cannot see any people in the image.", False),
        ("The sign says 'we cannot process cards'.", False),
        ("We can't help but notice the red car.", False),
        ("It was made as an AI image.", False),
    ],
)
def test_a_hedge_is_no_refusal(answer: str, refuses: bool) -> None:
    assert (refusal_in(answer) is not None) == refuses


def test_repeated_ids_are_found_but_not_of_conversations(tmp_path: Path) -> None:
    rows = [pair(1), pair(2, id="r1")]
    found = found_in(tmp_path, rows)
    assert [(f.check, f.row, f.what) for f in found] == [("ids", 2, "the id is that of row 1 too")]
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A car."}]
    more = [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Here."}]
    rows = [{"id": "5", "conversations": turns}, {"id": "5", "conversations": more}]
    assert found_in(tmp_path, rows, "conversation") == []


def test_duplicates_go_by_the_images_content_not_by_its_name(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    photo(tmp_path / "b.png", 2)
    same = {name: pair(1)[name] for name in ("prompt", "chosen", "rejected")}
    rows = [
        {**same, "images": ["a.png"]},
        {**same, "images": ["copy.png"]},  # the same picture: a duplicate
        {**same, "images": ["b.png"]},  # another picture: none
    ]
    found = found_in(tmp_path, rows)
    assert [(f.check, f.row, f.repair) for f in found] == [("duplicates", 2, "drop")]


def test_a_pair_that_prefers_what_another_rejects_is_found(tmp_path: Path) -> None:
    turned = pair(1, id="r2", chosen=pair(1)["rejected"], rejected=pair(1)["chosen"])
    found = found_in(tmp_path, [pair(1), turned])
    assert [(f.check, f.row) for f in found] == [("contradictions", 2)]
    assert found[0].what == "prefers the answer that row 1 rejects"


def test_a_long_text_with_one_word_changed_is_nearly_the_same(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(100)]
    changed = [*words[:50], "other", *words[51:]]
    rows = [
        pair(1, prompt="What?", chosen=" ".join(words)),
        pair(2, prompt="What?", chosen=" ".join(changed)),
        pair(3, prompt="What?", chosen=" ".join(reversed(words))),
    ]
    for row in rows:
        row["rejected"] = "A bus."
    # 101 three-word phrases, of which the changed word is in 3: 98 of 104 distinct ones are common.
    found = found_in(tmp_path, rows)
    assert [(f.check, f.row) for f in found] == [("near-duplicate texts", 2)]
    assert found[0].what.endswith("those of row 1")


def test_an_image_saved_again_looks_the_same_and_another_does_not(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1, (160, 120))
    Image.open(tmp_path / "a.png").resize((80, 60)).save(tmp_path / "small.jpg", quality=60)
    photo(tmp_path / "b.png", 2, (160, 120))
    rows = [pair(n, images=[name]) for n, name in enumerate(("a.png", "small.jpg", "b.png"), 1)]
    found = found_in(tmp_path, rows)
    assert [(f.check, f.row) for f in found] == [("near-duplicate images", 2)]
    assert "a.png of row 1" in found[0].what


def test_a_mirrored_image_is_found_and_a_symmetric_one_is_not_its_own_copy(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1, (160, 120))
    photo(tmp_path / "b.png", 2, (160, 120))
    whole = Image.open(tmp_path / "a.png")
    ImageOps.mirror(whole).resize((80, 60)).save(tmp_path / "mirrored.jpg", quality=60)
    half = whole.crop((0, 0, 80, 120))
    symmetric = Image.new("RGB", (160, 120))
    symmetric.paste(half, (0, 0))
    symmetric.paste(ImageOps.mirror(half), (80, 0))
    symmetric.save(tmp_path / "symmetric.png")
    names = ("a.png", "b.png", "mirrored.jpg", "symmetric.png")
    found = found_in(tmp_path, [pair(n, images=[name]) for n, name in enumerate(names, 1)])
    assert [(f.check, f.row) for f in found] == [("near-duplicate images", 3)]
    assert "looks like a.png of row 1 in a mirror" in found[0].what


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_a_form_that_only_one_branch_has_is_found(tmp_path: Path, side: str) -> None:
    def rows(marked: int) -> list[dict[str, Any]]:
        return [
            pair(n, **({side: f"{pair(n)[side]}</s>"} if n <= marked else {})) for n in range(100)
        ]

    *each, found = found_in(tmp_path, rows(30)[1:])
    assert {one.check for one in each} == {"special tokens"}
    assert len(each) == 30
    assert (found.check, found.row, found.repair) == ("format", 0, "strip")
    # Rows 1 to 30 of 99, all on one side.
    assert "in 30 of 99 pairs" in found.what
    assert f"the {side} one in 100 % of them" in found.what
    # Fewer than ten say nothing of the set.
    assert {one.check for one in found_in(tmp_path, rows(9)[1:])} == {"special tokens"}


def test_a_form_that_both_branches_have_as_often_is_no_finding(tmp_path: Path) -> None:
    rows = [pair(n, **{side: f"{pair(n)[side]} "}) for n in range(60)
            for side in [("chosen", "rejected")[n % 2]]]  # fmt: skip
    assert found_in(tmp_path, rows) == []


def test_near_signatures_costs_no_square_where_all_are_equal() -> None:
    signatures = np.zeros((200_000, HASHES), dtype=np.uint64)
    pairs = list(near_signatures(signatures))
    # Each but the first is compared with the first alone: 199,999 pairs, not 2e10.
    assert len(pairs) == 199_999
    assert {earlier for _, earlier, _ in pairs} == {0}


def test_signatures_that_share_one_band_but_too_little_are_not_near() -> None:
    rng = np.random.default_rng(0)
    signatures = rng.integers(0, 2**32, (2, HASHES), dtype=np.uint64)
    signatures[1, : HASHES // BANDS] = signatures[0, : HASHES // BANDS]
    assert list(near_signatures(signatures)) == []
    signatures[1, : HASHES * 7 // 8] = signatures[0, : HASHES * 7 // 8]
    ((later, earlier, similarity),) = near_signatures(signatures)
    assert (later, earlier, similarity) == (1, 0, 7 / 8)


def test_near_hashes_counts_bits() -> None:
    looks = np.array([0xFFFF0000FFFF0000, 0xFFFF0000FFFF0001, 0x123456789ABCDEF0], dtype=np.uint64)
    assert list(near_hashes(looks)) == [(1, 0, 1)]
    looks[1] = 0xFFFF0000FFFF001F  # five bits
    assert list(near_hashes(looks)) == []


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (SOUND, "preference"),
        ({"question": "What?", "chosen": "A car.", "rejected": "A bus."}, "preference"),
        ({"query": "What?", "response": ["A.", "B."], "human_ranking": [1, 0]}, "preference"),
        ({"prompt": "What?"}, "prompt"),
        ({"prompt": "What?", "responses": ["A car."]}, "sample"),
        ({"messages": [{"role": "user", "content": "What?"},
                       {"role": "assistant", "content": "A car."}]}, "conversation"),
    ],
)  # fmt: skip
def test_the_kind_of_a_file_is_recognized(tmp_path: Path, row: Any, kind: str) -> None:
    assert recognize_kind(write_rows(tmp_path / "rows.jsonl", [row])) == kind
    # Rows that have something else wrong with them leave it recognizable.
    assert (
        recognize_kind(write_rows(tmp_path / "rows.jsonl", [{**row, "images": [3]}, row, row]))
        == kind
    )


def test_columns_of_no_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are: a, b"):
        recognize_kind(write_rows(tmp_path / "rows.jsonl", [{"a": 1, "b": 2}]))


def test_a_question_with_rated_completions_is_no_mere_prompt(tmp_path: Path) -> None:
    rated = [{"response": text, "annotations": {"Help": {"Rating": "5"}}} for text in ("a", "b")]
    file = write_rows(tmp_path / "rows.jsonl", [{"prompt": "What?", "completions": rated}])
    with pytest.raises(UserError, match="Bring them in first: veridical data import"):
        recognize_kind(file)


def test_two_responses_and_a_ranking_become_a_pair() -> None:
    row = {"query": "What?", "response": ["one", "two"], "human_ranking": [1, 0],
           "models": ["a", "b"]}  # fmt: skip
    read = read_row(1, row, "preference")
    # The second has rank 0, the better one.
    assert read.answers == {"chosen": "two", "rejected": "one"}
    assert read.first_is_chosen is False
    assert read.others["models"] == ["b", "a"]


def test_a_row_that_is_left_out_makes_no_other_row_a_duplicate(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    rows = [
        {**SOUND, "images": ["a.png"], "beta_factor": -1},
        {**SOUND, "images": ["a.png"]},
        SOUND,
    ]
    assert [found.check for found in found_in(tmp_path, rows)] == ["form"]


@pytest.mark.parametrize(
    ("field", "values"),
    [("rejected_images", [["a.png"], ["b.png"]]), ("more_rejected", [["A bus."], ["A bike."]])],
)
def test_pairs_that_differ_elsewhere_are_no_duplicates(
    tmp_path: Path, field: str, values: list[list[str]]
) -> None:
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        photo(tmp_path / name, number)
    rows = [{**SOUND, "images": ["c.png"], field: value} for value in values]
    assert found_in(tmp_path, rows) == []
    assert [found.check for found in found_in(tmp_path, [*rows, rows[0]])] == ["duplicates"]
