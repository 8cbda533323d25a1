"""The table of benchmarks: a line each, in the order in which they are shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A line of the table, which is read without importing the benchmark.

    Attributes:
        module: has the benchmark as `BENCHMARK`, and the function of `veridical eval NAME` as
            `eval_NAME`.
        summary: what that command does, in one line.
        positionals: its parameters that may be bare words.
        shared: whether several processes of a launcher may do it together.
        group: which stands for it in `--benchmarks`; "" for benchmarks of judges and rewards.
    """

    module: str
    summary: str
    positionals: tuple[str, ...] = ("model",)
    shared: bool = True
    group: str = ""


HALLUCINATION, KNOWLEDGE, TEXT = "hallucination", "knowledge", "text"
"""Groups, as in `--benchmarks`: objects that are not there, what a model knows and sees, and text
without images."""

BENCHMARKS = {
    "chair": Line(
        "veridical.eval.chair",
        "Score image descriptions: count mentioned objects that are not there (CHAIR).",
        group=HALLUCINATION,
    ),
    "pope": Line(
        "veridical.eval.pope",
        "Score answers to yes/no questions about objects (POPE).",
        group=HALLUCINATION,
    ),
    "amber": Line(
        "veridical.eval.amber",
        "Score descriptions and yes/no answers on objects, attributes and relations (AMBER).",
        group=HALLUCINATION,
    ),
    "object_halbench": Line(
        "veridical.eval.object_halbench",
        "Score descriptions by word lists, or by a judge that lists their objects "
        "(Object HalBench).",
        group=HALLUCINATION,
    ),
    "dash_b": Line(
        "veridical.eval.dash_b",
        "Score yes/no answers on objects that images only seem to show (DASH-B).",
        group=HALLUCINATION,
    ),
    "hallusionbench": Line(
        "veridical.eval.hallusionbench",
        "Score answers about figures and their edited copies (HallusionBench).",
        group=HALLUCINATION,
    ),
    "mmhal": Line(
        "veridical.eval.mmhal",
        "Have answers to open questions rated for hallucinations (MMHal-Bench, MMHal-V).",
        group=HALLUCINATION,
    ),
    "mmvet": Line(
        "veridical.eval.mmvet",
        "Have answers scored that need several capabilities (MM-Vet).",
        group=KNOWLEDGE,
    ),
    "textvqa": Line(
        "veridical.eval.textvqa",
        "Score short answers on the text in images (TextVQA).",
        group=KNOWLEDGE,
    ),
    "vqav2": Line(
        "veridical.eval.vqav2",
        "Score short answers by their agreement with people's (VQAv2).",
        group=KNOWLEDGE,
    ),
    "gqa": Line(
        "veridical.eval.gqa",
        "Score short answers to questions on scene graphs (GQA).",
        group=KNOWLEDGE,
    ),
    "mmbench": Line(
        "veridical.eval.mmbench",
        "Score multiple choice in every order of the options (MMBench).",
        group=KNOWLEDGE,
    ),
    "llava_bench": Line(
        "veridical.eval.llava_bench",
        "Have open answers scored beside reference answers (LLaVA-Bench).",
        group=KNOWLEDGE,
    ),
    "mt_bench": Line(
        "veridical.eval.mt_bench",
        "Have answers to two-turn questions rated (MT-Bench).",
        group=TEXT,
    ),
    "alpaca_eval": Line(
        "veridical.eval.alpaca_eval",
        "Have answers to instructions compared with a baseline's (AlpacaEval).",
        group=TEXT,
    ),
    "vl_rewardbench": Line(
        "veridical.eval.vl_rewardbench",
        "Score a judge on pairs of answers about images (VL-RewardBench).",
        (),
    ),
    "multimodal_rewardbench": Line(
        "veridical.eval.multimodal_rewardbench",
        "Score a judge on pairs of answers (Multimodal RewardBench).",
        (),
    ),
    "label_free": Line(
        "veridical.eval.label_free",
        "Check a model without labels, on held-out pairs of a true and a false answer.",
    ),
    "text_pairs": Line(
        "veridical.eval.text_pairs",
        "Check text ability without an image, on pairs of a right and a wrong text.",
    ),
    "reward": Line(
        "veridical.eval.reward",
        "Score a reward model on pairs: accuracy, calibration, effect of length.",
        ("model", "data"),
        shared=False,
    ),
}


def groups() -> dict[str, list[str]]:
    """The benchmarks of each group."""
    found: dict[str, list[str]] = {}
    for name, line in BENCHMARKS.items():
        if line.group:
            found.setdefault(line.group, []).append(name)
    return found


def place_of(name: str) -> int:
    """Where a benchmark stands in the table; one that is not in it comes last."""
    return list(BENCHMARKS).index(name) if name in BENCHMARKS else len(BENCHMARKS)
