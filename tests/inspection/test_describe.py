"""Sets side by side: baselines, shortcuts on images that were not seen, agreement, the page."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inspected_rows import pair, photo, write_rows

from veridical import cli
from veridical.data.records import read_records
from veridical.inspection.agreement import between_sets, describe_agreement, votes_of
from veridical.inspection.describe import Description, describe_pairs, sentence
from veridical.inspection.description_page import page_of
from veridical.inspection.differences import KINDS, compare_answers
from veridical.inspection.facts import Fact
from veridical.inspection.fields import branch_values
from veridical.inspection.gap import measure_gaps
from veridical.inspection.pairs import groups_of, read_pairs
from veridical.inspection.shortcuts import SECTION, held_out
from veridical.models.load import load_policy


def facts_of(file: Path) -> dict[str, Any]:
    return {fact.label: fact for fact in describe_pairs(read_pairs(file, file.parent, "set"))}


def sums_up(file: Path) -> dict[str, float | None]:
    return {label: fact.value for label, fact in facts_of(file).items()}


def authored(number: int, chosen: str, rejected: str, **fields: Any) -> dict[str, Any]:
    """A pair whose texts say nothing: both answers are drawn from the same words."""
    rng = random.Random(number)
    one, other = (" ".join(rng.choices(["red", "car", "blue", "bus"], k=8)) for _ in range(2))
    return {
        "images": [f"{number}.png"], "prompt": "What?",
        "chosen": f"{one} a", "rejected": f"{other} a",
        "who": {"chosen": chosen, "rejected": rejected}, **fields,
    }  # fmt: skip


def test_lengths_are_counted_and_ties_count_half(tmp_path: Path) -> None:
    rows = [
        pair(1, chosen="one two three", rejected="one two"),
        pair(2, chosen="one two", rejected="one two four"),
        pair(3, chosen="one two", rejected="one five"),
        pair(4, chosen="one two three", rejected="six"),
    ]
    found = sums_up(write_rows(tmp_path / "x.jsonl", rows))
    assert found["The chosen answer is longer"] == 2 / 4
    assert found["Both are equally long"] == 1 / 4
    assert found["Right by choosing the longer"] == (2 + 0.5) / 4
    assert found["Right by choosing the shorter"] == (1 + 0.5) / 4
    assert found["Words of the chosen answer, median"] == 2.5  # 2, 2, 3, 3


@pytest.mark.parametrize(
    ("chosen", "rejected", "differ"),
    [
        ("There is a dog.", "There is a cat.", {"objects"}),
        ("A red car.", "A blue car.", {"colors"}),
        ("Two cars.", "Three cars.", {"counts"}),
        ("It is 10:30.", "It is 11:30.", {"numbers"}),
        ("Yes, a car.", "No, a car.", {"yes or no"}),
        ("A fast car.", "A slow car.", set()),
    ],
)
def test_what_differs_is_named(chosen: str, rejected: str, differ: set[str]) -> None:
    bits = compare_answers(chosen, rejected).kinds
    assert {kind for place, kind in enumerate(KINDS) if bits >> place & 1} == differ


def test_fields_of_both_answers_are_found_whatever_their_name() -> None:
    found = branch_values({
        "chosen_model": "a", "rejected_model": "b", "meta.y_w": 1, "meta.y_l": 2,
        "judges": ["x", "y"], "chosen_only": "z", "label": "chosen",
    })  # fmt: skip
    assert found == {"*_model": ("a", "b"), "meta.*": (1, 2), "judges": ("x", "y")}


@pytest.mark.parametrize("name", ["who", "writer"])
def test_who_wrote_is_found_as_a_shortcut_on_held_out_images(tmp_path: Path, name: str) -> None:
    # "good" wins against "bad" in 90 of 100 pairs, whatever the texts are.
    rows = [authored(n, *(("bad", "good") if n % 10 == 0 else ("good", "bad"))) for n in range(100)]
    for row in rows:
        row["source"] = {name: row.pop("who")}
    found = facts_of(write_rows(tmp_path / "x.jsonl", rows))
    label = f"Field {name}.* alone"
    assert found[label].value == 0.9
    assert found[label].low > 0.8
    assert "90.0 % where it is learned from" in found[label].note
    assert found["Words of the answers"].low < 0.5  # the texts say nothing


def test_an_author_who_says_nothing_is_at_chance(tmp_path: Path) -> None:
    rows = [authored(n, *(("a", "b") if n % 2 else ("b", "a"))) for n in range(100)]
    label = "Field who.* alone"
    fact = facts_of(write_rows(tmp_path / "x.jsonl", rows))[label]
    assert fact.low < 0.5 < fact.high


def test_a_question_that_all_pairs_share_makes_no_single_group(tmp_path: Path) -> None:
    rows = [
        authored(n, "good", "bad") | {"images": [], "prompt": "Describe the image."}
        for n in range(60)
    ]
    assert (
        len({*groups_of(read_pairs(write_rows(tmp_path / "x.jsonl", rows), tmp_path, "x"))}) == 60
    )
    rows = [row | {"prompt": f"What is {n // 2}?"} for n, row in enumerate(rows)]
    assert (
        len({*groups_of(read_pairs(write_rows(tmp_path / "y.jsonl", rows), tmp_path, "y"))}) == 30
    )


def test_no_image_is_in_two_groups(tmp_path: Path) -> None:
    rows = [
        pair(1, images=["a.png"]),
        pair(2, images=["b.png"]),
        pair(3, images=["b.png", "c.png"], prompt="<image><image>What?"),
        pair(4, images=["c.png"]),
        pair(5),
        pair(6, prompt="What is number 5?"),  # no image, but the prompt of another row
    ]
    pairs = read_pairs(write_rows(tmp_path / "x.jsonl", rows), tmp_path, "set")
    a, *bc, d, e = groups_of(pairs).tolist()
    assert len({*bc}) == 1
    assert d == e
    assert len({a, bc[0], d}) == 3


def test_what_is_known_of_an_image_alone_is_no_held_out_guess() -> None:
    # A feature for each group that tells the answer: right on seen groups, worthless on others.
    groups = np.repeat(np.arange(50), 4)
    features = np.zeros((200, 50))
    features[np.arange(200), groups] = np.repeat(np.random.default_rng(0).choice([1, -1], 50), 4)
    import scipy.sparse

    right = held_out(scipy.sparse.csr_matrix(features), groups, seed=0)
    assert right.mean() == 0.5
    # With the rows of a group in several folds it is learned.
    assert held_out(scipy.sparse.csr_matrix(features), np.arange(200), seed=0).mean() > 0.9


def test_judges_agree_as_far_as_they_do(tmp_path: Path) -> None:
    # Of 20 pairs the aspect agrees with the choice in 15 and says the opposite in 5.
    rows = [
        pair(n, ratings=[
            {"answer": "chosen", "aspect": "truth", "value": 1 if n < 15 else 0},
            {"answer": "rejected", "aspect": "truth", "value": 0 if n < 15 else 1},
        ])
        for n in range(20)
    ]  # fmt: skip
    pairs = read_pairs(write_rows(tmp_path / "x.jsonl", rows), tmp_path, "set")
    kappa, alpha = describe_agreement(votes_of(pairs))
    votes = votes_of(pairs)
    same = [votes["truth"][key] == vote for key, vote in votes["the set's choice"].items()]
    assert sum(same) == 15
    first = np.array([v == 1 for v in votes["the set's choice"].values()]).mean()
    other = np.array([v == 1 for v in votes["truth"].values()]).mean()
    chance = first * other + (1 - first) * (1 - other)
    assert kappa.value == pytest.approx((0.75 - chance) / (1 - chance))
    assert alpha.n == 20


def test_sets_that_judge_the_same_pairs_are_compared(tmp_path: Path) -> None:
    def turned(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "chosen": row["rejected"], "rejected": row["chosen"]}

    rows = [pair(n) for n in range(40)]
    other = [turned(row) if n < 10 else row for n, row in enumerate(rows)]
    sets = [
        read_pairs(write_rows(tmp_path / f"{name}.jsonl", part), tmp_path, name)
        for name, part in (("one", rows), ("two", other))
    ]
    kappa, _ = between_sets(sets)
    assert kappa.note == "they agree on 75.0 % of 40 pairs"


def test_a_gap_is_that_of_the_models_log_probabilities(tmp_path: Path) -> None:
    for number in range(3):
        photo(tmp_path / f"{number}.png", number)
    rows = [pair(n, images=[f"{n}.png"]) for n in range(3)]
    file, policy = write_rows(tmp_path / "x.jsonl", rows), load_policy("embedded")
    gaps, refused = measure_gaps(policy, file, tmp_path, 3, 2)
    assert not refused
    assert len(gaps) == 2
    from veridical.models.batching import row_batch
    from veridical.models.logprobs import response_logps
    from veridical.models.rendering import render_group

    row = read_records(file, "preference").rows[gaps[0].pair]
    group = render_group(
        policy, "x", row["images"], row["prompt"], [row["chosen"], row["rejected"]]
    )
    with torch.no_grad():
        chosen, rejected = response_logps(policy.model, row_batch(policy, [group])).sums[0].tolist()
    assert gaps[0].own == pytest.approx(chosen - rejected, abs=1e-4)
    assert gaps[0].own != gaps[0].gray


def test_the_headline_names_a_guess_only_where_its_interval_excludes_chance() -> None:
    chance = Fact(SECTION, "Words of the answers", 0.8, "share", 0.4, 0.9)
    above = Fact(SECTION, "Lengths alone", 0.7, "share", 0.6, 0.75)
    unknown = Fact(SECTION, "First 5 words alone", 0.9)
    told = sentence([chance, unknown, above])
    assert told == "lengths alone tell the chosen answer in 70.0 % of held-out pairs " \
        "(95 %: 60.0 to 75.0)"  # fmt: skip
    assert sentence([chance]).startswith("no guess without the image is shown to be above chance")
    one = Description("set", "set.jsonl", [chance, Fact("Size", "Preference pairs", 9)], [])
    assert page_of([one], []).lead == "No guess without the image is shown to be above chance."
    other = replace(one, name="other", facts=[above, one.facts[1]])
    assert "the chosen answer of other is guessed in 70.0" in page_of([one, other], []).lead


def test_sources_are_what_importers_and_builders_write_and_never_ids(tmp_path: Path) -> None:
    """Of 12 pairs: ids of content, in which letters begin by chance, and a field of ids."""
    rows = [
        pair(n, id=f"{'abcdef'[n % 6]}{n:015x}", question_id=f"q{n}", picture=f"{n:032x}",
             source=json.dumps({"builder": "rank" if n % 2 else "bdhs", "columns": {"who": "me"}}))
        for n in range(1, 13)
    ]  # fmt: skip
    pairs = read_pairs(write_rows(tmp_path / "x.jsonl", rows), tmp_path, "set")
    assert list(pairs.fields.categories()) == ["builder"]
    rows = [row | {"id": f"{'VQA' if n % 2 else 'coco'}-{n}"} for n, row in enumerate(rows)]
    pairs = read_pairs(write_rows(tmp_path / "x.jsonl", rows), tmp_path, "set")
    assert list(pairs.fields.categories()) == ["builder", "id begins with"]


def test_the_command_writes_a_page_and_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [authored(n, *(("good", "bad"))) for n in range(30)]
    rows[0]["chosen"] = "<script>alert(1)</script> & a car"
    one = write_rows(tmp_path / "one.jsonl", rows)
    two = write_rows(tmp_path / "two.jsonl", [*rows[:25], "{"])
    page = tmp_path / "out" / "page.html"
    assert cli.main(["data", "describe", str(one), str(two), "--out", str(page)]) == 0
    said = capsys.readouterr().out
    told = "one: field who.* alone tell the chosen answer in 100.0 % of held-out pairs (95 %: "
    assert told in said
    assert "two: 1 of 26 rows can't be used." in said
    text = page.read_text()
    assert "<script" not in text
    assert "http" not in text.split("</style>")[1]
    assert "Rows that are not usable pairs" in text
    numbers = json.loads(page.with_suffix(".json").read_text())
    assert [found["name"] for found in numbers["sets"]] == ["one", "two"]
    # Both are written again over themselves, and over nothing else.
    assert cli.main(["data", "describe", str(one), "--out", str(page)]) == 0
    page.write_text("mine")
    assert cli.main(["data", "describe", str(one), "--out", str(page)]) == 2
    assert page.read_text() == "mine"


def test_sets_that_all_votes_agree_on_have_no_alpha(tmp_path: Path) -> None:
    # Of each pair the answer that is first by its letters is chosen: one value in the table.
    rows = [pair(n, chosen=f"a {n}", rejected=f"b {n}") for n in range(30)]
    file = write_rows(tmp_path / "x.jsonl", rows)
    kappa, alpha = between_sets([read_pairs(file, tmp_path, name) for name in ("one", "two")])
    assert (kappa.value, alpha.value, alpha.n) == (None, None, 30)


def test_a_set_that_changes_before_its_gaps_are_measured_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_rows(tmp_path / "pairs.jsonl", [pair(number) for number in range(3)])
    monkeypatch.setattr(
        "veridical.inspection.describe._load",
        lambda *_: write_rows(file, [pair(number) for number in range(4)]) and None,
    )
    assert cli.main(["data", "describe", str(file), "--out", str(tmp_path / "page.html")]) == 2
    assert "was changed while it was read" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_no_pairs_are_an_error_and_no_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_rows(tmp_path / "x.jsonl", [{"prompt": "What?"}])
    assert cli.main(["data", "describe", str(file), "--out", str(tmp_path / "p.html")]) == 2
    assert "no row is a preference pair" in capsys.readouterr().err
    assert not (tmp_path / "p.html").exists()


# --- published pairs ---------------------------------------------------------------------------


def test_the_author_shortcut_of_real_caption_pairs_is_found(test_data: Path) -> None:
    found = facts_of(test_data / "pairs" / "vlm_caption_pairs.jsonl")
    fact = found["Field *_model alone"]
    # Guessing by the author model is right for 75.6 %; nobody names the field here.
    assert fact.low < 0.756 < fact.high
    assert abs(fact.value - 0.756) < 0.01


def test_baselines_of_vl_rewardbench_are_the_published_ones(test_data: Path) -> None:
    from veridical.inspection.length_bias import parts_of

    file = test_data / "benchmarks" / "vl_rewardbench" / "data.json"
    pairs = read_pairs(file, file.parent, "set")
    parts = {part.value: part for part in parts_of(pairs) if part.field == "id begins with"}
    shares = {
        value: (part.pairs, round(part.longer, 2), round(part.equal, 2))
        for value, part in parts.items()
        if part.pairs > 50
    }
    assert shares == {
        "hallucination": (448, 0.38, 0.02),  # POVID
        "RLAIF": (233, 0.35, 0.05),
        "RLHF": (68, 0.65, 0.18),
        "wildvision": (173, 0.37, 0.04),
        "mathverse": (167, 0.51, 0.06),
        "mmmu": (151, 0.42, 0.10),
    }
    # The first response is the better one in 1,245 of 1,250.
    assert sum(map(bool, pairs.first_is_chosen)) == 1245


def test_numbers_of_others_are_not_written_over(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "pairs.jsonl", [pair(1), pair(2)])
    (tmp_path / "page.json").write_text("[1]")
    assert cli.main(["data", "describe", str(file), "--out", str(tmp_path / "page.html")]) == 2
    assert (tmp_path / "page.json").read_text() == "[1]"
    assert not (tmp_path / "page.html").exists()
