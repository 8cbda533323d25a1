"""The table of commands: each is a typed function, imported only when it is called."""

from __future__ import annotations

from dataclasses import dataclass


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
    "demo": Command(
        "veridical.study.demo:demo", "See the whole story on the embedded model, in minutes."
    ),
    "ask": Command(
        "veridical.sampling.ask:ask",
        "Ask a model one question about one image.",
        ("model", "image", "question"),
    ),
    "build bdhs": Command(
        "veridical.builders.bdhs:build_bdhs",
        "Make preference pairs that need no annotator, by guided sampling.",
        ("model",),
        shared=True,
    ),
    "build sample": Command(
        "veridical.builders.sample:build_sample",
        "Have a model answer every prompt several times.",
        ("model",),
        shared=True,
    ),
    "build rate": Command(
        "veridical.builders.rate:build_rate",
        "Rate sampled responses by what is known to be in the images, or by a reward model.",
        ("samples",),
    ),
    "build annotate": Command(
        "veridical.builders.annotate:build_annotate",
        "Have a model mark sampled responses, on this machine or at an endpoint.",
        ("samples",),
    ),
    "build rank": Command(
        "veridical.builders.rank:build_rank",
        "Make preference pairs by having a judge compare responses.",
        ("samples",),
    ),
    "build best": Command(
        "veridical.builders.best:build_best",
        "Keep the best response to each prompt, to be learned by `train sft`.",
        ("samples",),
    ),
    "build pairs": Command(
        "veridical.builders.pairs:build_pairs",
        "Make preference pairs from rated responses.",
        ("samples",),
    ),
    "build distort": Command(
        "veridical.builders.distort:build_distort",
        "Make pairs whose rejected branch sees a distorted picture.",
    ),
    "build facts": Command(
        "veridical.builders.facts:build_facts",
        "Put captions, objects or options beside records, for judges and reward models.",
        ("data",),
    ),
    "build objects": Command(
        "veridical.builders.objects:build_objects",
        "Turn annotations of COCO, of YOLO or of a detector into lists of objects.",
        ("annotations",),
    ),
    "build join": Command(
        "veridical.builders.join:build_join",
        "Join two sets of pairs: several rejected answers to one chosen one.",
        ("pairs", "more"),
    ),
    "train dpo": Command(
        "veridical.train.dpo:train_dpo",
        "Align a model by direct preference optimisation on pairs.",
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
        "Fine-tune a model on rated responses, so that it can be asked for good ones.",
        ("model",),
        shared=True,
    ),
    "train online": Command(
        "veridical.train.online:train_online",
        "Align a model on pairs that it makes while it learns: Online-DPO, mixed, Online-BDHS.",
        ("model",),
        shared=True,
    ),
    "train reward": Command(
        "veridical.train.reward:train_reward",
        "Train a reward model on pairs: a judge that sees the image and is told facts.",
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
        "Align a model by reinforcement learning (RLOO), each response against its siblings.",
        ("model",),
        shared=True,
    ),
    "eval pope": Command(
        "veridical.eval.pope:eval_pope",
        "Ask yes/no questions about objects, and score the answers.",
        ("model",),
        shared=True,
    ),
    "eval chair": Command(
        "veridical.eval.chair:eval_chair",
        "Have images described, and count the objects that are not there.",
        ("model",),
        shared=True,
    ),
    "eval reward": Command(
        "veridical.eval.reward:eval_reward",
        "Find out how often a reward model is right, and what it goes by.",
        ("model", "data"),
    ),
    "eval compare": Command(
        "veridical.eval.compare:eval_compare",
        "Compare two evaluations, paired by image.",
        ("baseline", "candidate"),
    ),
    "report": Command(
        "veridical.report.page:report",
        "Write the report of one or several runs as one page.",
        ("runs",),
    ),
    "world make": Command(
        "veridical.world.dataset:write_scenes",
        "Draw scenes, with descriptions, questions and what each picture holds.",
        ("folder",),
    ),
    "world pairs": Command(
        "veridical.world.wrong_facts:write_wrong_facts",
        "Make pairs that differ by one wrong fact, to train and to test reward models.",
        ("scenes",),
    ),
    "world train": Command(
        "veridical.world.train:train_world", "Train the embedded model from scratch (an hour)."
    ),
    "evidence": Command(
        "veridical.study.evidence:evidence", "Run the three-seed study behind the README's figures."
    ),
    "rewards": Command(
        "veridical.study.reward_study:reward_study",
        "Find out what reward models with and without facts are worth.",
    ),
    "methods": Command(
        "veridical.study.methods:methods", "Compare every method, from the same base and budget."
    ),
}
