"""Every published set by name: rows in exactly its shape, with the odd ones that it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from veridical.data.importers import importing
from veridical.data.importers.recognize import find_set, recognize
from veridical.data.importers.rules import Rules
from veridical.data.importers.sets import FIVE, SETS
from veridical.data.importers.shapes import SHAPES
from veridical.data.importers.sources import Place
from veridical.data.messages import text_of
from veridical.data.record_kinds import RowError
from veridical.data.record_names import with_own_names
from veridical.data.record_rows import normalize
from veridical.data.record_types import CheckedRow

Row = dict[str, Any]


def human(text: str) -> Row:
    return {"from": "human", "value": text}


def gpt(text: str) -> Row:
    return {"from": "gpt", "value": text}


def imported(name: str, *rows: Any, rules: Rules | None = None) -> list[Any]:
    """The records of rows, or what is wrong with them; images are not looked for."""
    one = find_set(name, rows, "FILE").taken_for
    whole = (rules or Rules()).over(one.rules)
    places = ((Place("f", number), row) for number, row in enumerate(rows, start=1))
    return [
        made if isinstance(made, RowError) else checked(made, one.kind)
        for _, made in importing.imported(places, one, whole, one.kind)
    ]


def checked(made: Row, kind: Any) -> CheckedRow | RowError:
    try:
        return normalize(with_own_names(made, kind)[0], kind)
    except RowError as error:
        return error


def only(records: list[Row | RowError]) -> Row:
    (record,) = records
    assert isinstance(record, dict), record
    return record


def reasons(records: list[Row | RowError]) -> list[str]:
    return [str(record) for record in records if isinstance(record, RowError)]


def said(record: Row) -> tuple[str, str, str]:
    prompt, chosen, rejected = (text_of(record[n]) for n in ("prompt", "chosen", "rejected"))
    return prompt, chosen, rejected


def paths(record: Row) -> list[str]:
    return [image["path"] for image in record["images"]]


def blocks(record: Row, field: str = "prompt", message: int = 0) -> list[str]:
    return [block["type"] for block in record[field][message]["content"]]


IMAGE = {"bytes": b"\x89PNG", "path": "a.png"}
ORIGIN = {"ds_name": "d", "origin_dataset": "coco", "origin_split": '{"model": "m"}', "idx": 3}
POVID = {
    "id": "COCO_train2014_000000353952",
    "image": "./data/coco/COCO_train2014_000000353952.jpg",
    "conversations": [human("<image>\nWhat is it?"), gpt("A cup.")],
    "rejected_conversations": [human("<image>\nWhat is it?"), gpt("A cup and a dog.")],
}
RLHF_V = ORIGIN | {
    "image": IMAGE,
    "image_path": "coco/1.jpg",
    "text": json.dumps({"question": "Q?", "chosen": "A.", "rejected": "B.", "logps": [0.1]}),
}
RLAIF_V = ORIGIN | {"image": IMAGE, "question": "Q?", "chosen": "A.", "rejected": "B."}
RATINGS = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")


def completion(text: str, *ratings: str) -> Row:
    annotations = {
        aspect: {"Rating": rating, "Rationale": "since"}
        for aspect, rating in zip(RATINGS, ratings, strict=True)
    }
    return {"annotations": annotations, "model": f"m-{text}", "response": text}


VLFEEDBACK = {
    "id": "7",
    "prompt": "Q?",
    "models": ["m"],
    "img_path": "a.jpg",
    "completions": [completion("A", "5", "4", "3"), completion("B", "2", "N/A", "1")],
}
PREFERRED = {
    "id": 469170,
    "image": "000000469170.jpg",
    "conversations": [human("What's this?\n<image>"), gpt("GPT-4's reference.")],
    "output_1": {"from": "llava", "value": "One."},
    "output_2": {"from": "llava", "value": "Two."},
    "preference": 2,
    "hallucination": False,
    "flip": False,
    "length_bias": True,
}
PPO = {
    "id": "000000273579",
    "image": "000000273579.jpg",
    "conversations": [human("<image>\nIs it red?"), gpt("Yes"), human("Sure?"), gpt("Yes")],
    "captions": ["A red bus.", "A bus."],
    "caption_type": 6,
    "length_bonus": 0.5,
}
CRITIC = {
    "id": "1",
    "source": "s",
    "conversations": [human("<image>\nWhich is better: A or B?"), gpt("A.")],
    "image": IMAGE,
}
CHAIR = {
    "id": "1",
    "image": "a.jpg",
    "conversations": [human("<image>\nDescribe."), gpt("Reference.")],
    "target": "t",
    "answer_1": "A cat.",
    "answer_2": "A cat and a dog.",
}
INSTRUCT = {"id": "1", "image": "a.jpg", "conversations": [human("<image>\nQ?"), gpt("A.")]}
SPA = {"image": IMAGE, "question": "Q?", "chosen": "A.", "rejected": "B.", "image_name": "a.jpg"}
MM_RLHF = {"prompt": "<image>\nQ?", "chosen": "A.", "rejected": "B.", "image": "a.jpg"}
SENTINEL = {
    "question": "Describe.",
    "context": "A street.",
    "y_win": "A car stands there.",
    "y_lose": "A dog sits there.",
    "image_path": "vg/1.jpg",
}
HA_POPE = {"image_id": 9, "question": "Is there a cat?", "answer": "no", "correct": False}
HSA = {"id": 12, "question": "Q?", "chosen": "A.", "rejected": "B."}
MDPO = {
    "img_path": "a.jpg",
    "prompt": "A chat between a user and a machine. USER: <image>\nQ? ASSISTANT:",
    "chosen": "A.",
    "rejected": "B.",
}
STEER = dict(zip(FIVE, (4, 3, 4, 1, 2), strict=True))
MLLM = {
    "image": "lrv_image_folder/1.jpg",
    "question": str(human("<image>\nQ?")),
    "chosen": gpt("A."),
    "rejected": gpt("B."),
    **{f"{name.capitalize()}_gpt4v": 4 for name in FIVE},
    **{f"{name.capitalize()}_candidate": 1 for name in FIVE},
}
CANDIDATE = {"question_id": 1, "image": "a.jpg", "prompt": "Q?"} | {
    name.capitalize(): 3 for name in FIVE
}
RANKED = {"id": "r", "query": "Q?", "response": ["A.", "B."], "image": "a.png"}
FIRST: dict[str, Row] = {
    "povid": POVID,
    "rlhf-v": RLHF_V,
    "rlaif-v": RLAIF_V,
    "vlfeedback": VLFEEDBACK,
    "llava-rlhf": PREFERRED,
    "llava-rlhf-ppo": PPO,
    "llava-critic": CRITIC,
    "chair-dpo": CHAIR,
    "llava-instruct": INSTRUCT,
    "spa-vl": SPA,
    "mm-rlhf": MM_RLHF | {"ls_factor": 1.0},
    "sentinel": SENTINEL,
    "ha-dpo-pope": HA_POPE | {"chosen": "No.", "reject": "Yes."},
    "hsa-dpo": HSA | {"chosen_score": 0, "rejected_score": 2.5},
    "mdpo": MDPO,
    "helpsteer": {"prompt": "Q?", "response": "A."} | STEER,
    "mllm-dpo": MLLM,
    "mllm-dpo-candidates": CANDIDATE | {"Candidate": "A."},
    "vl-rewardbench": RANKED | {"human_ranking": [1, 0]},
    "mmpr": {"part": "p", "image": "r/a.jpg", "question": "Q?", "chosen": "A.", "rejected": "B."},
    "openrlhf": {"input": "Q?", "label": "A"},
    "verl": {"data_source": "s", "prompt": [], "reward_model": {"ground_truth": "A"}},
}
TOLD_BY_NAME_ALONE = {"tpo", "ha-dpo", "helpsteer2"}


@pytest.mark.parametrize("name", FIRST)
def test_a_set_is_known_by_its_first_row(name: str) -> None:
    found = recognize([FIRST[name]])
    assert found is not None
    assert found.taken_for.name == name
    assert all(column in found.reason for column in SETS[name].columns)


def test_every_named_set_is_tested() -> None:
    assert FIRST.keys() | TOLD_BY_NAME_ALONE == SETS.keys()
    assert {one.shape for one in SETS.values()} <= SHAPES.keys()


def test_povid() -> None:
    record = only(imported("povid", POVID))
    assert said(record) == ("What is it?", "A cup.", "A cup and a dog.")
    assert blocks(record) == ["image", "text"]
    assert paths(record) == ["./data/coco/COCO_train2014_000000353952.jpg"]
    other = POVID | {"rejected_conversations": [human("<image>\nAnother?"), gpt("B.")]}
    assert "before its last turn" in reasons(imported("povid", other))[0]
    elsewhere = POVID | {"rejected_conversations": [human("What is it?\n<image>"), gpt("B.")]}
    assert said(only(imported("povid", elsewhere)))[2] == "B."
    lost = POVID | {"rejected_conversations": [human("<image>\nWhat is it?")]}
    assert reasons(imported("povid", lost))


def test_rlhf_v() -> None:
    record = only(imported("rlhf-v", RLHF_V))
    assert said(record) == ("Q?", "A.", "B.")
    assert blocks(record) == ["image", "text"]
    assert record["images"] == [IMAGE]
    assert json.loads(record["source"])["columns"]["origin_split"] == '{"model": "m"}'
    assert "is not JSON" in reasons(imported("rlhf-v", RLHF_V | {"text": '{"question": "Q'}))[0]
    half = RLHF_V | {"text": '{"question": "Q?", "chosen": "A."}'}
    assert reasons(imported("rlhf-v", half)) == ["rejected: is missing"]
    assert reasons(imported("rlhf-v", RLHF_V | {"text": None})) == ["text: is not text"]


@pytest.mark.parametrize("name", ["rlaif-v", "tpo"])
def test_rlaif_v_and_tpo(name: str) -> None:
    assert said(only(imported(name, RLAIF_V | {"logps": "[1]"}))) == ("Q?", "A.", "B.")
    assert reasons(imported(name, RLAIF_V | {"rejected": "A. "})) == [
        "rejected: is the same as chosen"
    ]


def test_vlfeedback_in_both_forms_of_its_completions() -> None:
    record = only([one for one in imported("vlfeedback", VLFEEDBACK) if isinstance(one, dict)])
    assert [text_of(answer) for answer in record["responses"]] == ["A", "B"]
    # Response B has two ratings of three: its "N/A" is named, and no number.
    assert [rating["value"] for rating in record["ratings"]] == [5, 4, 3, 2, 1]
    assert reasons(imported("vlfeedback", VLFEEDBACK)) == [
        "ratings: response 1, Ethical Considerations: 'N/A' is not a number"
    ]
    completions: list[Row] = VLFEEDBACK["completions"]  # type: ignore[assignment]
    lists = {name: [one[name] for one in completions] for name in completions[0]}
    again = imported("vlfeedback", VLFEEDBACK | {"completions": lists})
    assert [one for one in again if isinstance(one, dict)] == [record]
    ragged = lists | {"response": ["A", "B", "C"]}
    (told,) = reasons(imported("vlfeedback", VLFEEDBACK | {"completions": ragged}))
    assert "not all as long" in told
    empty = VLFEEDBACK | {"completions": [completion(" ", "1", "1", "1")]}
    assert reasons(imported("vlfeedback", empty))[-1] == "completions: no response has a text"


def test_llava_rlhf_preferences() -> None:
    record = only(imported("llava-rlhf", PREFERRED))
    assert said(record) == ("What's this?", "Two.", "One.")
    assert blocks(record) == ["text", "image"]
    assert record["id"] == "469170"
    assert json.loads(record["source"])["columns"]["length_bias"] is True
    turns = [human("<image>\nA?"), gpt("a"), human("B?"), gpt("reference")]
    several = only(imported("llava-rlhf", PREFERRED | {"conversations": turns, "preference": 1}))
    assert [text_of(message) for message in several["prompt"]] == ["A?", "a", "B?"]
    assert text_of(several["chosen"]) == "One."
    assert reasons(imported("llava-rlhf", PREFERRED | {"preference": 0})) == [
        "preference: is 0, neither 1 nor 2"
    ]
    same = PREFERRED | {"output_2": PREFERRED["output_1"]}
    assert reasons(imported("llava-rlhf", same)) == ["rejected: is the same as chosen"]


def test_llava_rlhf_prompts_have_the_first_question_and_the_rows_own_answer() -> None:
    record = only(imported("llava-rlhf-ppo", PPO))
    assert [text_of(message) for message in record["prompt"]] == ["Is it red?"]
    # Type 6 is called "no in a yes/no question", but the row's answer is yes.
    assert (record["facts"], record["expected_answer"]) == (["A red bus.", "A bus."], "Yes")
    assert "expected_answer" not in only(imported("llava-rlhf-ppo", PPO | {"caption_type": 1}))


def test_conversations() -> None:
    critic = only(imported("llava-critic", CRITIC))
    assert text_of(critic["messages"]) == "Which is better: A or B?\nA."
    record = only(imported("llava-instruct", INSTRUCT))
    assert blocks(record, "messages") == ["image", "text"]
    bare = INSTRUCT | {"image": None, "conversations": [human("Q?"), gpt("A.")]}
    assert only(imported("llava-instruct", bare))["images"] == []
    lost = INSTRUCT | {"conversations": [human("Q?"), gpt("A.")]}
    assert "0 <image> placeholders for 1 image" in reasons(imported("llava-instruct", lost))[0]


def test_chair_dpo_has_no_winner() -> None:
    record = only(imported("chair-dpo", CHAIR))
    assert [text_of(answer) for answer in record["responses"]] == ["A cat.", "A cat and a dog."]
    assert text_of(record["prompt"]) == "Describe."


def test_flat_sets() -> None:
    assert said(only(imported("spa-vl", SPA))) == ("Q?", "A.", "B.")
    assert reasons(imported("spa-vl", SPA | {"chosen": None})) == ["chosen: is missing"]
    assert said(only(imported("mm-rlhf", MM_RLHF))) == ("Q?", "A.", "B.")
    assert reasons(imported("mm-rlhf", MM_RLHF | {"image": None, "video": "a.mp4"})) == [
        "video: videos are not read"
    ]


def test_a_margin_becomes_a_factor_on_beta() -> None:
    rules = Rules(margin_weight=0.1)
    values = (2.5, None, -10, "2", float("inf"))
    rows: list[Row] = [{**MM_RLHF, "ls_factor": value} for value in values]
    made = imported("mm-rlhf", *rows, rules=rules)
    assert made[0]["beta_factor"] == 1.25  # 1 + 0.1 x 2.5
    assert "beta_factor" not in made[1]
    assert reasons(made) == [
        "ls_factor: gives a beta factor of 0, which must be above 0",
        "ls_factor: is '2', no number",
        "ls_factor: gives a beta factor of inf, which must be above 0",
    ]
    assert "beta_factor" not in only(imported("mm-rlhf", rows[0]))


def test_sentinels_context_begins_both_answers() -> None:
    record = only(imported("sentinel", SENTINEL))
    assert said(record) == (
        "Describe.",
        "A street. A car stands there.",
        "A street. A dog sits there.",
    )
    assert paths(record) == ["vg/1.jpg"]
    assert record["answer_prefix"] == "A street."  # given, so without loss
    assert "answer_prefix" not in only(
        imported("sentinel", SENTINEL, rules=Rules(context="answer"))
    )
    first = only(imported("sentinel", SENTINEL | {"context": ""}))
    assert text_of(first["chosen"]) == "A car stands there."
    dropped = only(imported("sentinel", SENTINEL, rules=Rules(context="drop")))
    assert text_of(dropped["rejected"]) == "A dog sits there."


@pytest.mark.parametrize(
    ("context", "answer", "whole"),
    [
        ("这是一只猫。", "它在睡觉。", "这是一只猫。它在睡觉。"),
        ("猫です。", " 寝ています。", "猫です。寝ています。"),
        ("고양이입니다.", "자고 있습니다.", "고양이입니다. 자고 있습니다."),
        ("A cat.", "它在睡觉。", "A cat. 它在睡觉。"),
    ],
)
def test_a_context_is_joined_as_its_language_is_written(
    context: str, answer: str, whole: str
) -> None:
    row = {"prompt": "?", "context": context, "chosen": answer, "rejected": "x"}
    assert said(only(imported("flat", row, rules=Rules(context="prefix"))))[1] == whole


def test_ha_dpo(tmp_path: Path) -> None:
    table = tmp_path / "image_data.json"
    url = "https://cs.stanford.edu/people/rak248/VG_100K_2/9.jpg"
    table.write_text(json.dumps([{"image_id": 9, "url": url}]))
    rules = Rules(image_table=table, questions=["Describe."])
    row = {"id": "9", "chosen": ["A.", "B."], "rejected": ["C.", "A."]}
    records = imported("ha-dpo", row, rules=rules)
    # Two by two, of which (A., A.) is not a pair.
    assert [said(one)[1:] for one in records if isinstance(one, dict)] == [
        ("A.", "C."),
        ("B.", "C."),
        ("B.", "A."),
    ]
    assert reasons(records) == ["rejected: is the same as chosen"]
    assert [one["id"] for one in records if isinstance(one, dict)] == ["9/0-0", "9/1-0", "9/1-1"]
    assert all(paths(one) == ["VG_100K_2/9.jpg"] for one in records if isinstance(one, dict))
    assert "--questions" in reasons(imported("ha-dpo", row, rules=Rules(image_table=table)))[0]
    blip = {"image_id": 9, "chosen": ["A."], "rejected": ["B."]}
    assert said(only(imported("ha-dpo", blip, rules=rules))) == ("Describe.", "A.", "B.")
    unknown = {"image_id": 8, "chosen": ["A."], "rejected": ["B."]}
    assert "has no image 8" in reasons(imported("ha-dpo", unknown, rules=rules))[0]


@pytest.mark.parametrize("name", ["reject", "rejected"])
def test_ha_dpo_questions(name: str) -> None:
    row = HA_POPE | {"chosen": "No.", name: "Yes."}
    assert said(only(imported("ha-dpo-pope", row))) == ("Is there a cat?", "No.", "Yes.")
    (told,) = reasons(imported("ha-dpo-pope", row | {"correct": True}))
    assert "so there is no pair" in told


def test_hsa_dpo_severity_is_a_rating_and_the_number_names_the_image() -> None:
    record = only(imported("hsa-dpo", FIRST["hsa-dpo"]))
    assert record["ratings"] == [{"answer": "rejected", "aspect": "severity", "value": 2.5}]
    assert (paths(record), record["id"]) == (["12.jpg"], "12")
    weighed = only(imported("hsa-dpo", FIRST["hsa-dpo"], rules=Rules(severity="weight")))
    (weight,) = weighed["span_weights"]
    assert (weight["answer"], weight["start"], weight["weight"]) == ("rejected", None, 2.5)
    assert "ratings" not in weighed
    rules = Rules(severity="drop")
    assert "ratings" not in only(imported("hsa-dpo", FIRST["hsa-dpo"], rules=rules))
    odd = FIRST["hsa-dpo"] | {"ratings": 4}
    assert reasons(imported("hsa-dpo", odd)) == ["ratings: must be a list"]


def source_of(record: Row) -> Row:
    told: Row = json.loads(record["source"])
    return told


def test_who_wrote_and_judged_is_told_where_a_set_says_so() -> None:
    assert source_of(only(imported("rlhf-v", RLHF_V)))["rejected_by"] == "m"
    told = source_of(only(imported("rlaif-v", RLAIF_V)))
    assert (told["prompts"], told["chosen_by"], told["rejected_by"]) == ("coco", "m", "m")
    broken = source_of(only(imported("rlaif-v", RLAIF_V | {"origin_split": "train"})))
    assert (broken["prompts"], "chosen_by" in broken) == ("coco", False)
    told = source_of(only(imported("llava-rlhf", PREFERRED)))
    assert (told["chosen_by"], told["judge"]) == ("llava", "human")
    told = source_of(imported("vlfeedback", VLFEEDBACK)[-1])
    assert (told["judge"], told["responses_by"]) == ("gpt-4v", ["m-A", "m-B"])
    pair = {"question": "Q?", "chosen": "A.", "rejected": "B.", "meta": '{"by": "x"}'}
    rules = Rules(columns={"judge": "meta.by"})
    told = source_of(only(imported("flat", pair | {"chosen_model": "y"}, rules=rules)))
    assert (told["judge"], told["chosen_by"]) == ("x", "y")


@pytest.mark.parametrize(
    ("tool", "row"),
    [
        ("llamafactory", {"conversations": [human("Q?")], "chosen": gpt("A."),
                          "rejected": gpt("B.")}),
        ("llamafactory", {"instruction": "Q?", "input": "", "chosen": "A.", "rejected": "B."}),
        ("ms-swift", {"messages": [{"role": "user", "content": "Q?"},
                                   {"role": "assistant", "content": "A."}],
                      "rejected_response": "B."}),
        ("trl", {"prompt": [{"role": "user", "content": "Q?"}],
                 "chosen": [{"role": "assistant", "content": "A."}],
                 "rejected": [{"role": "assistant", "content": "B."}]}),
    ],
)  # fmt: skip
def test_files_of_other_tools_are_read_by_the_tools_name(tool: str, row: Row) -> None:
    assert said(only(imported(tool, row))) == ("Q?", "A.", "B.")


def test_mdpos_template_is_taken_off() -> None:
    record = only(imported("mdpo", MDPO))
    assert said(record) == ("Q?", "A.", "B.")
    assert blocks(record) == ["image", "text"]
    several = "S. USER: <image>\nA? ASSISTANT: a</s>USER: B? ASSISTANT:"
    turns = only(imported("mdpo", MDPO | {"prompt": several}))["prompt"]
    assert [text_of(message) for message in turns] == ["A?", "a", "B?"]
    assert reasons(imported("mdpo", MDPO | {"prompt": "Q?"})) == [
        "prompt: has no turn that begins with USER:"
    ]


def test_helpsteers_rows_of_a_prompt_come_together_wherever_they_stand() -> None:
    rows = [
        {"prompt": prompt, "response": f"{prompt}{number}"} | STEER
        for number, prompt in enumerate(["P", "Q", "P"])
    ]
    first, second = imported("helpsteer", *rows)
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert [text_of(answer) for answer in first["responses"]] == ["P0", "P2"]
    assert [text_of(answer) for answer in second["responses"]] == ["Q1"]
    assert first["ratings"][0] == {"answer": "responses/0", "aspect": "Helpfulness", "value": 4.0}
    assert len(first["ratings"]) == 10


def test_mllm_dpo() -> None:
    record = only(imported("mllm-dpo", MLLM))
    assert said(record) == ("Q?", "A.", "B.")
    rated = {(one["answer"], one["aspect"]): one["value"] for one in record["ratings"]}
    assert (rated["chosen", "Helpfulness"], rated["rejected", "Verbosity"]) == (4.0, 1.0)
    rows = [CANDIDATE | {"Candidate": text} for text in ("A.", "B.")]
    sample = only(imported("mllm-dpo-candidates", *rows))
    assert [text_of(answer) for answer in sample["responses"]] == ["A.", "B."]
    assert {one["aspect"] for one in sample["ratings"]} == {name.capitalize() for name in FIVE}


def test_rankings() -> None:
    record = only(imported("vl-rewardbench", FIRST["vl-rewardbench"]))
    assert said(record) == ("Q?", "B.", "A.")
    tie = RANKED | {"human_ranking": [0, 0]}
    assert "no single best" in reasons(imported("vl-rewardbench", tie))[0]
    three = RANKED | {"response": ["A.", "B.", "C."], "human_ranking": [2, 0, 1]}
    record = only(imported("vl-rewardbench", three))
    assert said(record) == ("Q?", "B.", "C.")
    assert [text_of(one) for one in record["more_rejected"]] == ["A."]


def test_several_images_and_places_within_the_question() -> None:
    row = {"images": ["a.png", "b.png"], "chosen": "A.", "rejected": "B."}
    inside = only(imported("flat", row | {"question": "Is <image> like <image>?"}))
    assert blocks(inside) == ["text", "image", "text", "image", "text"]
    before = only(imported("flat", row | {"question": "Q?"}))
    assert blocks(before) == ["image", "image", "text"]
    after = only(imported("flat", row | {"question": "Q?"}, rules=Rules(placeholder="after")))
    assert blocks(after) == ["text", "image", "image"]
    asked = Rules(placeholder="after")
    kept = only(imported("flat", row | {"question": "<image><image>Q?"}, rules=asked))
    assert blocks(kept) == ["image", "image", "text"]
    (told,) = reasons(imported("flat", row | {"question": "<image> Q?"}))
    assert "1 <image> tag for 2 images" in told


def test_texts_alone_of_a_set_without_its_pictures() -> None:
    record = only(imported("mm-rlhf", MM_RLHF, rules=Rules(images="drop")))
    assert (record["images"], said(record)[0], blocks(record)) == ([], "Q?", ["text"])


def test_blocks_that_arrow_has_filled_with_nulls_are_images_to_leave_out() -> None:
    said = [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]
    row = {"prompt": [{"role": "user", "content": said}], "chosen": "c", "rejected": "r"}
    record = only(imported("flat", {**row, "images": ["a"]}, rules=Rules(images="drop")))
    assert record["images"] == [] and blocks(record) == ["text"]


@pytest.mark.parametrize("question", ["What does 'image' mean?", [{"type": "text", "text": "Q"}]])
def test_images_go_behind_the_first_question_in_whatever_form_it_is(question: Any) -> None:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "A"}]
    turns.append({"role": "user", "content": "Why?"})
    row = {"prompt": turns, "images": ["a", "b"], "chosen": "c", "rejected": "r"}
    record = only(imported("flat", row, rules=Rules(placeholder="after")))
    assert blocks(record) == ["text", "image", "image"]
    assert blocks(record, message=2) == ["text"]


def test_the_two_answers_can_be_exchanged_by_their_columns() -> None:
    row = {"prompt": "q", "chosen": "worse", "rejected": "better"}
    rules = Rules(columns={"chosen": "rejected", "rejected": "chosen"})
    assert said(only(imported("flat", row, rules=rules))) == ("q", "better", "worse")


@pytest.mark.parametrize("uneven", [{"model": ["m"] * 3}, {"model": ["m"]}, {"model": "xy"}])
def test_an_object_of_lists_must_be_even(uneven: Row) -> None:
    row = {"prompt": "q", "completions": {"response": ["a", "b"], **uneven}}
    assert any("completions" in reason for reason in reasons(imported("groups", row)))


@pytest.mark.parametrize("value", [True, "1_0", "nan", "4/5"])
def test_what_is_no_rating_is_named(value: object) -> None:
    row = {"prompt": "q", "completions": [{"response": "a", "annotations": {"H": value}}]}
    assert "not a number" in reasons(imported("groups", row))[0]


@pytest.mark.parametrize("ranks", [[float("nan"), 1], [1, float("nan")], [True, False], ["1", "2"]])
def test_what_is_no_ranking_is_named(ranks: list[object]) -> None:
    row = {"query": "q", "response": ["a", "b"], "human_ranking": ranks}
    assert "finite numbers" in reasons(imported("vl-rewardbench", row))[0]


def test_a_rating_of_too_many_digits_is_named() -> None:
    rating = {"answer": "chosen", "aspect": "a", "value": 10**400}
    row = {"prompt": "q", "chosen": "c", "rejected": "r", "ratings": [rating]}
    assert "is not a number" in reasons(imported("flat", row))[0]


def test_a_digit_that_is_no_number_does_not_name_an_image() -> None:
    row = {"image": "photo\u00b2.jpg", "prompt": "q", "chosen": "c", "rejected": "r"}
    told = reasons(imported("flat", row, rules=Rules(image_path="{id:012d}.jpg")))
    assert "has no number" in told[0]


def test_sharegpt_with_either_kind_of_turns() -> None:
    row = {"conversations": [human("<image>Q?")], "chosen": gpt("A."), "rejected": gpt("B.")}
    row |= {"images": ["a.png"], "system": "Be brief."}
    found = recognize([row])
    assert found is not None
    assert found.taken_for.name == "sharegpt"
    record = only(imported("auto", row))
    assert said(record) == ("Be brief.\nQ?", "A.", "B.")
    roles = {
        "messages": [{"role": "user", "content": "<image>Q?"}],
        "chosen": {"role": "assistant", "content": "A."},
        "rejected": {"role": "assistant", "content": "B."},
        "images": ["a.png"],
    }
    assert said(only(imported("auto", roles))) == ("Q?", "A.", "B.")


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"question": "Q?", "answer": "A."}, "conversation"),
        ({"question": "Q?"}, "prompt"),
        ({"prompt": "Q?", "responses": ["A.", "B."]}, "sample"),
        ({"messages": [{"role": "user"}], "rejected_response": "B."}, "preference"),
    ],
)
def test_auto_says_the_kind(row: Row, kind: str) -> None:
    found = recognize([row])
    assert found is not None
    assert found.taken_for.kind == kind


@pytest.mark.parametrize("row", [None, 3, "text", [], RowError("row", "is not JSON")])
def test_rows_that_are_no_objects_are_named(row: Any) -> None:
    assert len(reasons(imported("flat", row))) == 1


def test_the_page_names_every_set_and_shape() -> None:
    page = (Path(__file__).parents[3] / "docs/data.md").read_text()
    assert [name for name in (*SETS, *SHAPES) if f"`{name}`" not in page] == []


ODD: tuple[Any, ...] = (
    None, "", " ", "text", "<image>", "[", "{}", '{"a": 1}', 0, -1, 2.5, float("nan"), True,
    [], {}, [None], [1, 2], [[]], ["a", 1], [{}], [{"from": "human"}], {"a": {"b": []}},
    {"from": "gpt", "value": 3}, [{"from": 3, "value": None}], [{"role": "user", "content": None}],
    [{"role": "user", "content": [{"type": "image"}]}], {"Rating": []}, {"response": 3}, "\ud800",
    b"bytes", {"bytes": None, "path": None}, {"bytes": b"", "path": 3}, ["<image>", "b"],
)  # fmt: skip


@pytest.mark.parametrize(
    "name", sorted(FIRST.keys() | {"ha-dpo", "sharegpt", "llava", "groups", "lists"})
)
def test_odd_values_become_records_or_reasons_and_nothing_else(name: str) -> None:
    lists = {"image_id": 3, "chosen": ["A."], "rejected": ["B."], "question": "Q?"}
    share = {"conversations": [human("Q?")], "chosen": gpt("A."), "rejected": gpt("B.")}
    others: dict[str, Row] = {"ha-dpo": lists, "lists": lists, "sharegpt": share}
    others |= {"llava": POVID, "groups": VLFEEDBACK}
    row = FIRST.get(name) or others[name]
    rules = (Rules(placeholder="after"), Rules(images="drop", context="answer"))
    columns = [*row, "video", "image", "source", "veridical", "severity", "context", "system"]
    if SETS.get(name, SETS["povid"]).together:
        columns = columns[:3]  # each try has a temporary file
    for column in columns:
        for value in ODD:
            for one in rules:
                for record in imported(name, row | {column: value}, rules=one):
                    assert isinstance(record, dict | RowError)
