"""The table of commands: each is a typed function, imported only when it is called."""

from __future__ import annotations

from dataclasses import dataclass

from veridical.eval.benchmarks import BENCHMARKS


@dataclass(frozen=True)
class Command:
    """A function that is a command.

    Attributes:
        function: where it is, as "module:function"; its signature is the command's options.
        summary: what it does, in one line.
        positionals: the parameters that may be given as bare words, in this order; the last may
            be a list.
        shared: whether several processes of a launcher may do it together.
    """

    function: str
    summary: str
    positionals: tuple[str, ...] = ()
    shared: bool = False


COMMANDS: dict[str, Command] = {
    "align": Command(
        "veridical.study.align:align",
        "Align a model: build, train, evaluate before and after, and report.",
        ("model",),
    ),
    "ask": Command(
        "veridical.sampling.ask:ask",
        "Ask a model one question about one image.",
        ("model", "image", "question"),
    ),
    "build bdhs": Command(
        "veridical.builders.bdhs:build_bdhs",
        "Make preference pairs without an annotator, by hallucination sampling (BDHS).",
        ("model",),
        shared=True,
    ),
    "build sample": Command(
        "veridical.builders.sample:build_sample",
        "Sample several responses to every prompt.",
        ("model",),
        shared=True,
    ),
    "build rate": Command(
        "veridical.builders.rate:build_rate",
        "Rate sampled responses, by the images' object lists or by a reward model.",
        ("samples",),
        shared=True,
    ),
    "build annotate": Command(
        "veridical.builders.annotate:build_annotate",
        "Rate sampled responses with a judging model, local or at an endpoint.",
        ("samples",),
        shared=True,
    ),
    "build rank": Command(
        "veridical.builders.rank:build_rank",
        "Make preference pairs: a judge compares sampled responses.",
        ("samples",),
        shared=True,
    ),
    "build best": Command(
        "veridical.builders.best:build_best",
        "Keep the best response to each prompt, for `train sft` (rejection sampling).",
        ("samples",),
    ),
    "build pairs": Command(
        "veridical.builders.pairs:build_pairs",
        "Make preference pairs from rated responses.",
        ("samples",),
        shared=True,
    ),
    "build compose": Command(
        "veridical.builders.compose:build_compose",
        "Compose a set of pairs from other sets: subsample, mix, recombine, swap.",
        ("sets",),
        shared=True,
    ),
    "build contrast": Command(
        "veridical.builders.contrast:build_contrast",
        "Make pairs of two images, each with its own true answer, for SymMPO and S-VCO.",
        shared=True,
    ),
    "build corrupt": Command(
        "veridical.builders.corrupt:build_corrupt",
        "Make preference pairs from true answers by putting mistakes in, by rule or by a model.",
        ("data",),
        shared=True,
    ),
    "build distort": Command(
        "veridical.builders.distort:build_distort",
        "Make pairs whose rejected answer is paired with a distorted image.",
        shared=True,
    ),
    "build dropout": Command(
        "veridical.builders.dropout:build_dropout",
        "Make preference pairs from a model's own answers, continued without the image.",
        ("model",),
        shared=True,
    ),
    "build facts": Command(
        "veridical.builders.facts:build_facts",
        "Add captions, objects or options to records, for judges and reward models.",
        ("data",),
    ),
    "build objects": Command(
        "veridical.builders.objects:build_objects",
        "Convert COCO, YOLO or detector annotations into lists of objects.",
        ("annotations",),
    ),
    "build instruct": Command(
        "veridical.builders.instruct:build_instruct",
        "Make the supervised mix of LLaVA-SFT+ from LLaVA-Instruct, VQA-v2, A-OKVQA and Flickr30k.",
        shared=True,
    ),
    "build join": Command(
        "veridical.builders.join:build_join",
        "Join two sets of pairs, giving a chosen answer several rejected ones.",
        ("pairs", "more"),
    ),
    "data import": Command(
        "veridical.builders.data_import:data_import",
        "Convert a published set, or another tool's file, into records.",
        ("source",),
    ),
    "data check": Command(
        "veridical.inspection.check:data_check",
        "Check a data set: what is wrong with which row, and how to fix it.",
        ("file",),
    ),
    "data describe": Command(
        "veridical.inspection.describe:data_describe",
        "Describe sets of pairs side by side: lengths, differences, shortcuts, agreement.",
        ("sets",),
    ),
    "data split": Command(
        "veridical.builders.data_split:data_split",
        "Split a file of records into one to train on and one to hold out, by images.",
        ("data",),
    ),
    "data export": Command(
        "veridical.builders.data_export:data_export",
        "Write records in the format of another tool, or as a data set of the hub.",
        ("data",),
    ),
    "view": Command(
        "veridical.web.view:view",
        "Look at pairs, samples or answers in a browser: search, sort, compare, flag.",
        ("sets",),
    ),
    "label": Command(
        "veridical.web.label:label",
        "Have people compare answers in a browser; write what they decided as pairs.",
        ("data",),
    ),
    "train dpo": Command(
        "veridical.train.dpo:train_dpo",
        "Align a model by direct preference optimization (DPO) on pairs.",
        ("model",),
        shared=True,
    ),
    "train sft": Command(
        "veridical.train.sft:train_sft",
        "Fine-tune a model on conversations, or on the chosen answers of pairs.",
        ("model",),
        shared=True,
    ),
    "train steerlm": Command(
        "veridical.train.steerlm:train_steerlm",
        "Fine-tune a model on rated responses, to be prompted with the ratings you want.",
        ("model",),
        shared=True,
    ),
    "train online": Command(
        "veridical.train.online:train_online",
        "Align a model on pairs that it samples during training (Online-DPO, Online-BDHS).",
        ("model",),
        shared=True,
    ),
    "train reward": Command(
        "veridical.train.reward:train_reward",
        "Train a reward model on pairs; it sees the image, and facts if given.",
        ("model",),
        shared=True,
    ),
    "train ppo": Command(
        "veridical.train.ppo:train_ppo",
        "Align a model by reinforcement learning (PPO) on a judge's rewards.",
        ("model",),
        shared=True,
    ),
    "train rloo": Command(
        "veridical.train.rloo:train_rloo",
        "Align a model by reinforcement learning (RLOO) on a judge's rewards.",
        ("model",),
        shared=True,
    ),
    "train grpo": Command(
        "veridical.train.grpo:train_grpo",
        "Align a model by reinforcement learning (GRPO, DAPO, GSPO) on a judge's rewards.",
        ("model",),
        shared=True,
    ),
    "eval": Command(
        "veridical.eval.suite:evaluate",
        "Score a model by several benchmarks; it is loaded once.",
        ("model",),
        shared=True,
    ),
    **{
        f"eval {name}": Command(
            f"{line.module}:eval_{name}", line.summary, line.positionals, line.shared
        )
        for name, line in BENCHMARKS.items()
    },
    "eval compare": Command(
        "veridical.eval.compare:eval_compare",
        "Compare two evaluations, paired by image.",
        ("baseline", "candidate"),
    ),
    "eval power": Command(
        "veridical.eval.power:eval_power",
        "Say how many images it takes to see a difference between two models.",
    ),
    "eval rules": Command(
        "veridical.eval.rules:eval_rules",
        "Score one file of answers by every harness's rule.",
        ("answers",),
    ),
    "report": Command(
        "veridical.report.page:report",
        "Write a report on one or several runs, as one HTML page.",
        ("runs",),
    ),
    "world make": Command(
        "veridical.world.dataset:write_scenes",
        "Draw scenes, with descriptions, questions and object lists.",
        ("folder",),
    ),
    "world pairs": Command(
        "veridical.world.wrong_facts:write_wrong_facts",
        "Make pairs that differ in one wrong fact, to train and test reward models.",
        ("scenes",),
    ),
    "world train": Command(
        "veridical.world.train:train_world", "Train the embedded model from scratch (an hour)."
    ),
    "study plan": Command(
        "veridical.study.studying:study_plan",
        "Print a study's steps: what is done, what is left, and how long it takes.",
        ("study",),
    ),
    "study run": Command(
        "veridical.study.studying:study_run",
        "Run a study: arms that differ in named factors, over seeds; here, on Slurm or on Ray.",
        ("study",),
    ),
    "study status": Command(
        "veridical.study.studying:study_status",
        "Print how far a study is, what failed and why.",
        ("study",),
    ),
    "study report": Command(
        "veridical.study.studying:study_report",
        "Write the report of a study: effects with intervals, costs, what the power supports.",
        ("study",),
    ),
}
