"""Pairs whose rejected answer is the true one with realistic mistakes put in.

The construction of POVID's pairs and of the corrupted sets of Amirloo et al. (2024, section 5.3):
the chosen answer stays, and the rejected one says something else of the image.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veridical.builders._answers import AnswerKind, ChosenAnswer, read_answers, write_pairs
from veridical.builders._object_lists import objects_of
from veridical.builders._parts import Parts, finish
from veridical.builders.corrupting.asked import MistakeWording
from veridical.builders.corrupting.objects import Habits, habits_of, read_habits
from veridical.builders.corrupting.rules import MistakeRules, all_sites, corrupt, kinds_of
from veridical.builders.corrupting.shares import balanced_weights
from veridical.builders.corrupting.sites import MistakeKind
from veridical.builders.options import ObjectFiles
from veridical.data.object_lists import match_image_ids, name_objects, read_objects
from veridical.data.reading import read
from veridical.data.text.languages import guess_language
from veridical.data.vocabulary import Vocabulary, read_vocabulary
from veridical.runtime.cache import digest
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file
from veridical.runtime.options import Loading, Reading
from veridical.runtime.progress import are_in, track
from veridical.runtime.randomness import generator
from veridical.runtime.runs import start_run
from veridical.runtime.shards import print_result, read_shard

if TYPE_CHECKING:
    from veridical.builders.corrupting.by_model import MistakeModel

RULES = "rules"
Work = Callable[[Sequence[ChosenAnswer]], list[dict[str, object]]]


@dataclass(frozen=True)
class Truth:
    """What is known of the images, and of images as such.

    Attributes:
        listed: image id to the vocabulary's names of what is there; None if nothing is known.
        vocabulary: which words name which object.
        habits: what usually appears, and with what.
    """

    listed: Mapping[str, Sequence[str]] | None
    vocabulary: Vocabulary
    habits: Habits

    def of(self, answer: ChosenAnswer) -> list[str] | None:
        """What is in an answer's images; None if that is not known."""
        return None if self.listed is None else objects_of(answer, self.listed)


def build_corrupt(
    data: Path,
    out: Path,
    by: str = RULES,
    kind: AnswerKind = "conversation",
    rules: MistakeRules = MistakeRules(),
    files: ObjectFiles = ObjectFiles(),
    co_occurrence: Path | None = None,
    wording: MistakeWording = MistakeWording(),
    reading: Reading = Reading(),
    loading: Loading = Loading(),
    seed: int = 0,
    shard: str | None = None,
) -> None:
    """Make preference pairs from true answers: the rejected one has mistakes put in.

    An interrupted run continues when the command is given again. The number of shards does not
    change the result. Answers in which nothing can be changed are counted and listed.

    Args:
        data: conversations with true answers, preference pairs, or samples.
        out: folder for the run: `pairs.parquet`, `summary.json`, `skipped.jsonl`, `run.json`, and
            `spent.jsonl` for an endpoint.
        by: `rules` (English answers, no model), or a model that sees only the text: `local:MODEL`
            (hub name, folder or `embedded`) or `endpoint:MODEL` (its name at an OpenAI-compatible
            endpoint).
        kind: what the rows are. The true answer is the last one of a `conversation`, the chosen one
            of a `preference`, every response of a `sample`.
        rules: which mistakes `rules` makes.
        files: what is in the images. With --objects, objects of the image are never put in, and
            co-occurrence is counted there; without it, only the objects that an answer mentions
            are known.
        co_occurrence: JSON {object: {other: count}}, or POPE's lists of others, the most common
            first. If not set, counted in --objects or, without it, in the answers.
        wording: how a model is asked.
        reading: how DATA is read.
        loading: how a local model is loaded.
        seed: seed of the draws and of sampling.
        shard: make only this shard, such as 2/8; who makes the last one writes the result. Under
            `torchrun` every process takes its own.
    """
    require_file(data, "--data")
    asked: MistakeModel | None = None
    if _check_by(by):
        rules.check()
        if wording.endpoint is not None:
            raise UserError("--endpoint goes with --by endpoint:MODEL; rules ask nobody.")
    else:
        from veridical.builders.corrupting.by_model import mistake_model  # Transformers: seconds

        asked = mistake_model(by, wording, loading, seed)
    part = read_shard(shard)
    options = {
        "data": data, "out": out, "by": by, "kind": kind, "rules": rules, "files": files,
        "co_occurrence": co_occurrence, "wording": wording, "reading": reading,
        "loading": loading, "seed": seed, "shard": shard,
    }  # fmt: skip
    given = {"co_occurrence": co_occurrence, "prompt": wording.prompt}
    named = {name: path for name, path in given.items() if path is not None}
    inputs = {"data": data, **files.inputs, **named}
    folders = asked.spec.folders if asked else []
    with start_run(out, "build corrupt", options, inputs, any_process=True, models=folders) as run:
        records = read(data, kind, reading)
        answers = read_answers(records.rows, kind)
        whole: dict[str, object] = {"kind": kind, "seed": seed}
        whole["data"] = run.record["inputs"]["data"]["sha256"]
        if asked is None:
            truth = _truth(answers, files, co_occurrence)
            weights = _weights(answers, rules, truth)
            whole |= _rules_identity(rules, truth)
            work = _by_rules(rules, weights, truth, seed)
        else:
            work, identity = asked.open(run, len(answers))
            whole |= identity
        parts, began = Parts(out, whole, dict), time.monotonic()
        results = parts.work_through_shard(answers, work, "answers", part)
        if results is None:
            return
        pairs, skipped = write_pairs(out, records, answers, results, "answer")
        summary: dict[str, object] = {"answers": len(answers), "pairs": pairs, "skipped": skipped}
        summary |= {"by": by} | (asked.cost(results) if asked else _mistakes(results, rules))
        finish(run, summary, parts, time.monotonic() - began)
        print_result(are_in(pairs, "pairs", out / "pairs.parquet"))


def _check_by(by: str) -> bool:
    """Whether mistakes are made by rule; refuses what is neither that nor a model."""
    way, _, model = by.partition(":")
    if way not in (RULES, "local", "endpoint") or (way == RULES) == bool(model):
        raise UserError(f"--by {by} is none of {RULES}, local:MODEL, endpoint:MODEL.")
    return way == RULES


def _truth(answers: Sequence[ChosenAnswer], files: ObjectFiles, together: Path | None) -> Truth:
    known = read_vocabulary(files.vocabulary)
    listed = None
    if files.objects is not None:
        listed = name_objects(read_objects(files.objects), known)
        match_image_ids(sorted({name for one in answers for name in one.image_names}), listed)
    if together is not None:
        return Truth(listed, known, read_habits(together, known))
    named = ([m.name for m in known.mentions(answer.text)] for answer in answers)
    return Truth(listed, known, habits_of(listed.values() if listed else named, known))


def _weights(
    answers: Sequence[ChosenAnswer], rules: MistakeRules, truth: Truth
) -> dict[MistakeKind, float]:
    """The kinds' weights; with `balance`, by what all answers allow, whatever the shard."""
    if not rules.balance:
        return rules.weights
    offers: Counter[tuple[MistakeKind, ...]] = Counter()
    for one in track(answers, "what answers allow", len(answers)):
        if guess_language(one.text, one.question) == "en":
            sites = all_sites(one.text, truth.of(one), rules, truth.vocabulary, truth.habits)
            offers[kinds_of(sites)] += 1
    return balanced_weights(offers, rules.weights)


def _by_rules(
    rules: MistakeRules, weights: Mapping[MistakeKind, float], truth: Truth, seed: int
) -> Work:
    def work(chunk: Sequence[ChosenAnswer]) -> list[dict[str, Any]]:
        return [_ruled(answer, rules, weights, truth, seed) for answer in chunk]

    return work


def _ruled(
    answer: ChosenAnswer,
    rules: MistakeRules,
    weights: Mapping[MistakeKind, float],
    truth: Truth,
    seed: int,
) -> dict[str, Any]:
    language = guess_language(answer.text, answer.question)
    if language != "en":
        reason = (
            f"the answer seems to be in {language!r}, and the rules are for English; a model that "
            "reads it can be named with --by"
        )
        return {"id": answer.id, "reason": reason, "language": language}
    listed, noise = truth.of(answer), generator(seed, "corrupt", answer.id)
    done = corrupt(answer.text, listed, rules, truth.vocabulary, truth.habits, noise, weights)
    about = {"id": answer.id, "offered": list(done.offered), "listed": listed is not None}
    if done.text is None:
        wanted = [kind for kind, weight in rules.weights.items() if weight]
        return about | {"reason": f"nothing in it can be changed by rule ({', '.join(wanted)})"}
    changes = [change.as_json() for change in done.changes]
    source = {"builder": "corrupt", "by": RULES, "changes": changes, "seed": seed}
    return about | {"rejected": done.text, "source": source}


def _rules_identity(rules: MistakeRules, truth: Truth) -> dict[str, object]:
    """What decides the mistakes, besides the answers."""
    words = sorted((list(form), name) for form, name in truth.vocabulary.forms.items())
    habits = (truth.habits.together, sorted(truth.habits.frequent.items()))
    return {"rules": vars(rules), "truth": digest(repr((truth.listed, words, habits)))}


def _mistakes(results: Sequence[Mapping[str, Any]], rules: MistakeRules) -> dict[str, object]:
    """How many mistakes of each kind were made and could have been, beside what was asked for."""
    changes = [change for row in results for change in row.get("source", {}).get("changes", ())]
    made = Counter(change["kind"] for change in changes)
    offered = Counter(kind for row in results for kind in row.get("offered", ()))
    total = sum(rules.weights.values())
    foreign = Counter(row["language"] for row in results if "language" in row)
    return {
        "mistakes": len(changes),
        "other_languages": dict(sorted(foreign.items())),
        "answers_with_object_list": sum(row.get("listed", False) for row in results),
        "kinds": {
            kind: {
                "asked_share": round(weight / total, 4),
                "made_share": round(made[kind] / max(1, len(changes)), 4),
                "made": made[kind],
                "answers_that_offer_it": offered[kind],
            }
            for kind, weight in rules.weights.items()
        },
    }
