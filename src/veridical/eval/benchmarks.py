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
    """

    module: str
    summary: str
    positionals: tuple[str, ...] = ("model",)
    shared: bool = True


BENCHMARKS = {
    "chair": Line(
        "veridical.eval.chair",
        "Score image descriptions: count mentioned objects that are not there (CHAIR).",
    ),
    "pope": Line("veridical.eval.pope", "Score answers to yes/no questions about objects (POPE)."),
    "amber": Line(
        "veridical.eval.amber",
        "Score descriptions and yes/no answers on objects, attributes and relations (AMBER).",
    ),
    "object_halbench": Line(
        "veridical.eval.object_halbench",
        "Score descriptions by word lists, or by a judge that lists their objects "
        "(Object HalBench).",
    ),
    "dash_b": Line(
        "veridical.eval.dash_b",
        "Score yes/no answers on objects that images only seem to show (DASH-B).",
    ),
    "hallusionbench": Line(
        "veridical.eval.hallusionbench",
        "Score answers about figures and their edited copies (HallusionBench).",
    ),
    "mmhal": Line(
        "veridical.eval.mmhal",
        "Have answers to open questions rated for hallucinations (MMHal-Bench, MMHal-V).",
    ),
    "mmvet": Line(
        "veridical.eval.mmvet",
        "Have answers scored that need several capabilities (MM-Vet).",
    ),
    "textvqa": Line(
        "veridical.eval.textvqa", "Score short answers on the text in images (TextVQA)."
    ),
    "vqav2": Line(
        "veridical.eval.vqav2", "Score short answers by their agreement with people's (VQAv2)."
    ),
    "gqa": Line("veridical.eval.gqa", "Score short answers to questions on scene graphs (GQA)."),
    "mmbench": Line(
        "veridical.eval.mmbench", "Score multiple choice in every order of the options (MMBench)."
    ),
    "llava_bench": Line(
        "veridical.eval.llava_bench",
        "Have open answers scored beside reference answers (LLaVA-Bench).",
    ),
    "mt_bench": Line(
        "veridical.eval.mt_bench", "Have answers to two-turn questions rated (MT-Bench)."
    ),
    "alpaca_eval": Line(
        "veridical.eval.alpaca_eval",
        "Have answers to instructions compared with a baseline's (AlpacaEval).",
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
    "reward": Line(
        "veridical.eval.reward",
        "Score a reward model on pairs: accuracy, calibration, effect of length.",
        ("model", "data"),
        shared=False,
    ),
}


def place_of(name: str) -> int:
    """Where a benchmark stands in the table; one that is not in it comes last."""
    return list(BENCHMARKS).index(name) if name in BENCHMARKS else len(BENCHMARKS)
