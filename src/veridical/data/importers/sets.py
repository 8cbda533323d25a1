"""Published sets and other tools' formats by name: a line each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from veridical.data.importers.rules import Rules
from veridical.data.record_kinds import Kind

NON_COMMERCIAL = "CC BY-NC 4.0"
NOT_STATED = "not stated"
INSTRUCT = "llava-instruct"
FIVE = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


@dataclass(frozen=True)
class NamedSet:
    """A published set, or a format.

    Attributes:
        name: as in `--as NAME`.
        shape: of its rows, a name in `shapes.SHAPES`.
        kind: of the records that they become.
        columns: by which `auto` knows it: a row has all of them. None for what only a name tells.
        rules: what its rows need.
        hub: its name on the hub, where known.
        license: of the data.
        note: what a user must know of it.
        leave_out: a column, and why rows in which it holds something are left out.
        together: columns that rows of one prompt share; they become one record. The column
            `response` has the answer of each.
        ratings: columns of ratings: the answer that each is of ("" for the row's own response)
            and the aspect.
        printed: columns that may hold an object as Python prints it.
        factors: what is true of all its rows: `chosen_by`, `rejected_by`, `judge`, `prompts`.
        factor_columns: the columns that say so of each row; `a.b` is `b` within `a`.
    """

    name: str
    shape: str
    kind: Kind
    columns: frozenset[str] = frozenset()
    rules: Rules = field(default_factory=Rules)
    hub: str = ""
    license: str = NOT_STATED
    note: str = ""
    leave_out: tuple[str, str] | None = None
    together: tuple[str, ...] = ()
    ratings: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    printed: tuple[str, ...] = ()
    factors: Mapping[str, str] = field(default_factory=dict)
    factor_columns: Mapping[str, str] = field(default_factory=dict)


def _columns(names: str) -> frozenset[str]:
    return frozenset(names.split())


def _rules(**columns: str) -> Rules:
    return Rules(columns=columns)


_OF_MODEL = {
    "prompts": "origin_dataset",
    "chosen_by": "origin_split.model",
    "rejected_by": "origin_split.model",
}
"""One model wrote both answers."""
_SETS = (
    NamedSet(
        "povid", "llava", "preference", _columns("conversations rejected_conversations"),
        hub="YiyangAiLab/POVID_preference_data_for_VLLMs", license="CC BY 4.0",
        note="its rows hold no weights",
        factors={"prompts": INSTRUCT, "chosen_by": INSTRUCT, "rejected_by": "gpt-4v"},
    ),
    NamedSet(
        "rlhf-v", "text-json", "preference", _columns("text origin_dataset origin_split"),
        hub="openbmb/RLHF-V-Dataset", license=NON_COMMERCIAL,
        note="its rows hold no weights; those of corrected segments come from the two answers: "
        "`veridical train dpo --loss ddpo`",
        factors={"chosen_by": "human", "judge": "human"},
        factor_columns={"prompts": "origin_dataset", "rejected_by": "origin_split.model"},
    ),
    NamedSet(
        "rlaif-v", "flat", "preference",
        _columns("question chosen rejected origin_dataset origin_split"),
        hub="openbmb/RLAIF-V-Dataset", license=NON_COMMERCIAL,
        note="the set of TPO has the same columns", factor_columns=_OF_MODEL,
    ),
    NamedSet(
        "tpo", "flat", "preference", hub="helehan/topic-overwrite", factor_columns=_OF_MODEL
    ),
    NamedSet(
        "vlfeedback", "groups", "sample", _columns("completions prompt models"),
        hub="MMInstruction/VLFeedback", factors={"judge": "gpt-4v"},
        note="pairs by the rule of Silkie: `veridical build pairs FILE --rule all --margin 0 "
        "--aspects Helpfulness \"Ethical Considerations\" \"Visual Faithfulness\"`",
    ),
    NamedSet(
        "llava-rlhf", "llava", "preference",
        _columns("conversations output_1 output_2 preference"),
        hub="zhiqings/LLaVA-Human-Preference-10K", license="Apache-2.0",
        note="the last answer in conversations is LLaVA-Instruct's, and is replaced",
        factors={
            "prompts": INSTRUCT, "chosen_by": "llava", "rejected_by": "llava", "judge": "human"
        },
    ),
    NamedSet(
        "llava-rlhf-ppo", "llava", "prompt", _columns("conversations captions caption_type"),
        rules=_rules(facts="captions"), hub="zhiqings/LLaVA-RLHF-Data",
        note="the first question of each; captions become facts; the expected answer of a "
        "question with a short one is the row's, as the types 6 and 7 are confused",
    ),
    NamedSet(
        "llava-critic", "llava", "conversation", _columns("id source conversations image"),
        hub="lmms-lab/llava-critic-113k", license="Apache-2.0",
        note="the answers to compare stand in the question: conversations to train a judge by, "
        "no pairs",
    ),
    NamedSet(
        "chair-dpo", "llava", "sample", _columns("conversations answer_1 answer_2"),
        note="nothing says which answer is better: `build objects` reads detections.json, and "
        "`build rank --judge exact` compares by it",
    ),
    NamedSet(
        "llava-instruct", "llava", "conversation", _columns("id image conversations"),
        hub="liuhaotian/LLaVA-Instruct-150K", license="see its card",
    ),
    NamedSet(
        "spa-vl", "flat", "preference", _columns("question chosen rejected image_name image"),
        hub="sqrti/SPA-VL", license="CC BY 4.0",
        note="the test split has no answers: --kind prompt",
    ),
    NamedSet(
        "mmpr", "flat", "preference", _columns("part question chosen rejected"),
        hub="OpenGVLab/MMPR", license="MIT",
        note="SOURCE is its meta.json, --images-root the folder that holds the roots",
    ),
    NamedSet(
        "mm-rlhf", "flat", "preference", _columns("prompt chosen rejected ls_factor"),
        hub="yifanzhang114/MM-RLHF",
        note="dpo_pairs.jsonl; data.jsonl with the scores was not seen; --margin-weight 0.1 makes "
        "ls_factor a factor on beta, as the set's own code does",
    ),
    NamedSet(
        "sentinel", "flat", "preference", _columns("question context y_win y_lose image_path"),
        rules=Rules(columns={"chosen": "y_win", "rejected": "y_lose"}, context="prefix"),
        hub="psp-dada/SENTINEL", license="Apache-2.0 (of the code)",
        note="context begins both answers and carries no loss",
    ),
    NamedSet(
        "ha-dpo", "lists", "preference",
        hub="juliozhao/hadpo-data",
        note="desc_data.json; its questions were not seen: --questions; --image-table is its "
        "image_data.json",
    ),
    NamedSet(
        "ha-dpo-pope", "flat", "preference", _columns("image_id question answer correct chosen"),
        rules=_rules(images="image_id"), hub="juliozhao/hadpo-data",
        leave_out=("correct", "the model's own answer was right, so there is no pair"),
        note="pope_data.json; --image-table is its image_data.json",
    ),
    NamedSet(
        "hsa-dpo", "flat", "preference", _columns("id question chosen rejected rejected_score"),
        rules=Rules(
            columns={"images": "id", "severity": "rejected_score"}, image_path="{id}.jpg"
        ),
        hub="WenyiXiao/HSA-DPO",
        note="images are named by the row's number; --severity weight makes the severity the "
        "rejected answer's weight",
    ),
    NamedSet(
        "mdpo", "flat", "preference", _columns("img_path prompt chosen rejected"),
        rules=Rules(turn_marks=["USER:", "ASSISTANT:"]), hub="fwnlp/mDPO-preference-data",
    ),
    NamedSet(
        "helpsteer", "groups", "sample", _columns(f"prompt response {' '.join(FIVE)}"),
        hub="nvidia/HelpSteer", license="CC BY 4.0", together=("prompt",),
        factors={"judge": "human"},
        ratings={name: ("", name.capitalize()) for name in FIVE},
        note="text only; HelpSteer2 has the same columns; `veridical build pairs` makes pairs",
    ),
    NamedSet(
        "helpsteer2", "groups", "sample",
        hub="nvidia/HelpSteer2", license="CC BY 4.0", together=("prompt",),
        factors={"judge": "human"},
        ratings={name: ("", name.capitalize()) for name in FIVE},
    ),
    NamedSet(
        "mllm-dpo", "flat", "preference",
        _columns("question chosen rejected Helpfulness_gpt4v Helpfulness_candidate"),
        hub="alexshengzhili/mllm-dpo", printed=("question", "chosen", "rejected"),
        ratings={
            f"{name.capitalize()}_{suffix}": (answer, name.capitalize())
            for suffix, answer in (("gpt4v", "chosen"), ("candidate", "rejected"))
            for name in FIVE
        },
    ),
    NamedSet(
        "mllm-dpo-candidates", "groups", "sample",
        _columns("question_id prompt Candidate Helpfulness Correctness Coherence"),
        rules=_rules(response="Candidate"), hub="alexshengzhili/mllm-dpo",
        together=("image", "prompt"),
        ratings={name.capitalize(): ("", name.capitalize()) for name in FIVE},
        note="`veridical build pairs` makes pairs by the released rule",
    ),
    NamedSet(
        "vl-rewardbench", "groups", "preference", _columns("query response human_ranking"),
        hub="MMInstruction/VL-RewardBench", license="MIT",
        note="a benchmark of reward models: not to train on",
    ),
    NamedSet(
        "openrlhf", "flat", "prompt", _columns("input label"),
        rules=_rules(prompt="input", expected_answer="label"),
    ),
    NamedSet(
        "verl", "flat", "prompt", _columns("data_source prompt reward_model"),
        rules=_rules(expected_answer="reward_model.ground_truth"),
    ),
)  # fmt: skip
SETS: dict[str, NamedSet] = {one.name: one for one in _SETS}
"""By name; `auto` takes the first whose columns a row has."""
