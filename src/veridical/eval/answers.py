"""Answers: made with a policy and continued after an interruption, or read from a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from veridical.data.messages import Message, text_of
from veridical.data.prompts import Prompt
from veridical.data.responses import Response, StopReason
from veridical.data.steering import parse_steer, steered
from veridical.data.text.thoughts import answer_of
from veridical.eval.asked_model import AskedModel
from veridical.eval.harness_logs import (
    is_lmms_log,
    is_vlmevalkit,
    of_lmms_log,
    of_vlmevalkit,
    read_tsv,
    refuse_excel,
)
from veridical.eval.stored_answers import PARTIAL, count_others, mend_last_line, stored_rows
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file, read_json, read_jsonl, reading
from veridical.runtime.json_types import JsonObject
from veridical.runtime.kinds import by_kind
from veridical.runtime.progress import counted, part_of, track
from veridical.runtime.shards import ALL, CLAIM, Shard, leave_to_others

SHOWN = 3
"""Rows, or kinds of reasons, that a message names."""


@dataclass(frozen=True)
class AnswerSettings:
    """Everything that decides an answer besides the prompt.

    Attributes:
        model: who is asked.
        max_new_tokens: length limit, in tokens.
        temperature: 0 takes the most likely token.
        seed: of the sampling noise.
        batch_size: answers made at once; it changes none of them.
        steer: the attributes asked for (`veridical.data.steering`); None asks for nothing.
        shard: which of the answers this process makes; it changes none of them.
    """

    model: AskedModel
    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    batch_size: int = 32
    steer: str | None = None
    shard: Shard = ALL

    def decoding(self) -> JsonObject:
        """What is written beside every answer, and is a part of its key."""
        decoding: JsonObject = {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
        }
        if self.model.template:
            decoding["template"] = dict(self.model.template)
        if self.model.placement.attention != "auto":
            decoding["attention"] = self.model.placement.attention
        return decoding | ({"steer": parse_steer(self.steer)} if self.steer is not None else {})


@dataclass(frozen=True)
class KeyedAnswer:
    """A response and the key of all that decided it, by which a later run finds it again.

    Attributes:
        response: what the model said; its text and stop reason are kept.
        key: as `answer_key` makes it.
        refused: why the model's processor refused the image; then nothing was said.
    """

    response: Response
    key: str
    refused: str = ""

    def as_json(self) -> dict[str, str]:
        """What a row of `answers.jsonl` says about the answer itself."""
        reason = "refused" if self.refused else self.response.stop_reason
        row = {"answer": self.response.text, "stop_reason": reason, "key": self.key}
        return row | ({"refused": self.refused} if self.refused else {})


def nothing_later(known: Mapping[str, str]) -> Sequence[Prompt]:
    """What is asked after the answers, where nothing is."""
    return ()


def make_answers(
    prompts: Sequence[Prompt],
    settings: AnswerSettings,
    folder: Path,
    label: str,
    later: Callable[[Mapping[str, str]], Sequence[Prompt]] = nothing_later,
) -> list[KeyedAnswer] | None:
    """Ask the model; answers that `folder` has already for the same settings are kept.

    New ones are appended to `answers.partial.jsonl`, a batch at a time, so that an interrupted
    run continues where it stopped. A key has the model's weights, the decoding settings, the
    prompt and the image's bytes in it, whatever the model's name.

    Args:
        prompts: what to ask, with distinct ids.
        settings: with what.
        folder: the run's folder.
        label: names the progress line.
        later: what this run asks after answers that are here already, by the prompts' ids; answers
            to that are this run's too.

    Returns:
        The answers, in the order of `prompts`; None where another shard puts them together. One
        whose image the model's processor refuses says why (`refused`); it is tried again when the
        run is started again.

    Raises:
        UserError: the model cannot be loaded, or cannot be asked one of the prompts.
    """
    keys = [answer_key(prompt, settings) for prompt in prompts]
    known = _known_answers(folder)
    missing = [n for n, key in enumerate(keys) if key not in known or known[key].refused]
    if len(missing) < len(prompts):
        here = part_of(len(prompts) - len(missing), len(prompts), "answers", "is", "are")
        print(f"{here} here already.")
    texts = {
        prompt.id: known[key].response.text
        for prompt, key in zip(prompts, keys, strict=True)
        if key in known and not known[key].refused
    }
    own = [*keys, *(answer_key(prompt, settings) for prompt in later(texts))]
    others = count_others(folder, own)
    if others:
        print(
            f"{folder} has {counted(others, 'answers')} by another model, or with other settings, "
            "prompts or images, or made elsewhere, which this run replaces. To keep what is there, "
            "stop now and choose another --out."
        )
    # Whole batches, so that each is what it would be if one process made them all.
    mine = [place for place in missing if settings.shard.has(place // settings.batch_size)]
    if mine:
        waiting = [prompts[place] for place in mine]
        made = _ask(waiting, [keys[place] for place in mine], settings, folder, label)
        known |= {answer.key: answer for answer in made}
    if settings.shard.count > 1:
        known |= _known_answers(folder)
        done = sum(key in known for key in keys)
        if done < len(keys) or not settings.shard.claim(folder):
            leave_to_others(settings.shard, folder, done, len(keys))
            return None
    return [known[key] for key in keys]


def without_answers(prompts: Sequence[Prompt], settings: AnswerSettings) -> list[KeyedAnswer]:
    """Empty answers, for what is measured of a model that need not speak."""
    return [KeyedAnswer(Response(""), answer_key(prompt, settings)) for prompt in prompts]


def forget_partial_answers(folder: Path) -> None:
    """Remove the files of a run in progress, once `answers.jsonl` is written."""
    for path in (*folder.glob(PARTIAL.format("*")), folder / CLAIM):
        path.unlink(missing_ok=True)


def answer_key(prompt: Prompt, settings: AnswerSettings) -> str:
    """32 hex digits that change with anything that decides the answer."""
    parts = [
        settings.model.fingerprint.key,
        settings.model.placement.dtype,
        settings.decoding(),
        prompt.id,
        text_of(prompt.messages),
        hash_file(prompt.files[0]) if prompt.files else None,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def refuse_many(
    count: int, total: int, what: str, skipped: Sequence[Mapping[str, object]], most: float
) -> None:
    """Stop when more than the share `most` had to be left out, or all.

    Raises:
        UserError: they are; the first are named with their reasons.
    """
    if count and (count > most * total or count == total):
        kinds = by_kind(skipped, lambda row: ("", str(row["reason"])))
        if count <= SHOWN or len(kinds) == 1:
            named = "; ".join(f"{row['id']}, {row['reason']}" for row in skipped[:SHOWN])
            more = f"; and {count - SHOWN} more" if count > SHOWN else ""
        else:
            first = [(len(rows), rows[0]) for rows in kinds[:SHOWN]]
            named = "; ".join(f"{n} x {row['reason']} (first: {row['id']})" for n, row in first)
            more = f"; and {len(kinds) - SHOWN} more kinds" if len(kinds) > SHOWN else ""
        raise UserError(
            f"{part_of(count, total, what)} cannot be used, more than --max-bad-fraction {most:g} "
            f"allows: {named}{more}. Correct them, take them out, or set --max-bad-fraction higher."
            if count < total
            else f"Nothing is left: {counted(total, what)} cannot be used: {named}{more}."
        )


def read_json_rows(path: Path) -> list[Any]:
    """Read JSON Lines, or one JSON list, whatever the suffix (POPE's `.json` files are lines).

    Raises:
        UserError: the file is missing or is neither.
    """
    begins = ""
    if path.is_file():
        with reading(path):
            begins = path.read_text(encoding="utf-8", errors="replace").lstrip()[:1]
    rows: list[Any] = read_json(path) if begins == "[" else read_jsonl(path)
    return rows


ANSWER_FIELDS = ("answer", "caption", "response", "output", "prediction", "text")
"""What an answer is called in files of other programs, the plainest first."""


def read_answer_rows(path: Path, id_field: str) -> list[JsonObject]:
    """Read rows with `id_field` (text or number, made text) and `answer`.

    An answer may also be called `caption` (as in COCO's result files), `response`, `output`,
    `prediction` or `text` (as in LLaVA's). The sample logs of lmms-eval and VLMEvalKit are read
    too. A thought before an answer is left out.

    Raises:
        UserError: a line lacks one of them; it is named.
    """
    rows = []
    for number, row in enumerate(_answer_rows(path, id_field), start=1):
        given = row if isinstance(row, dict) else {}
        # In a file of questions `text` is the question.
        names = ANSWER_FIELDS[:-1] if "label" in given else ANSWER_FIELDS
        answer = next((given[name] for name in names if name in given), None)
        if given.get(id_field) is None or not isinstance(answer, str):
            has = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise UserError(
                f'{path}, row {number}: needs {{"{id_field}": ..., "answer": "text"}}, has {has}.'
            )
        identity = str(row[id_field]).strip()
        rows.append({**row, id_field: identity, "answer": answer_of(answer)})
    if not rows:
        raise UserError(f"{path} holds no answers.")
    return rows


def raw_answer_rows(path: Path) -> list[Any]:
    """The rows of a file of answers or of a harness's log, as they are there.

    Raises:
        UserError: the file is missing, or is neither JSON nor TSV.
    """
    refuse_excel(path)
    tsv = path.suffix.lower() == ".tsv"
    rows: list[Any] = [*read_tsv(path)] if tsv else read_json_rows(path)
    if len(rows) == 1 and isinstance(rows[0], dict) and isinstance(rows[0].get("logs"), list):
        return list(rows[0]["logs"])  # older versions of lmms-eval: one object with all samples
    return rows


def _answer_rows(path: Path, id_field: str) -> list[Any]:
    """The rows of a file, of a harness's log with our names."""
    rows = raw_answer_rows(path)
    if is_lmms_log(rows):
        return of_lmms_log(rows, id_field, path)
    return of_vlmevalkit(rows, id_field, path) if is_vlmevalkit(rows) else rows


def _ask(
    prompts: Sequence[Prompt],
    keys: Sequence[str],
    settings: AnswerSettings,
    folder: Path,
    label: str,
) -> list[KeyedAnswer]:
    from veridical.models.refused_rows import leave_out_refused
    from veridical.models.rendering import RefusedRowError
    from veridical.sampling import Decoding, Request, respond

    policy = settings.model.policy
    decoding = Decoding(
        settings.max_new_tokens, settings.temperature, settings.seed, settings.batch_size
    )

    def steered_question(prompt: Prompt) -> list[Message]:
        return steered(prompt.messages, settings.steer, policy.processor)

    answers: list[KeyedAnswer] = []
    partial = _partial(folder, settings.shard)
    mend_last_line(partial)
    with partial.open("a", encoding="utf-8") as file:
        for start in track(range(0, len(prompts), settings.batch_size), label):
            batch = prompts[start : start + settings.batch_size]
            requests = [
                Request(replace(prompt, messages=steered_question(prompt))) for prompt in batch
            ]

            def ask(left: list[int], requests: list[Request] = requests) -> list[Response]:
                some = [requests[n] for n in left]
                return respond(policy, some, decoding, label="") if some else []

            try:
                responses, refused = leave_out_refused(
                    [request.prompt.id for request in requests], ask
                )
            except RefusedRowError as refusal:
                asked = text_of(batch[0].messages)
                raise UserError(
                    f"{settings.model.name} cannot be asked {asked[:60]!r}: {refusal}."
                ) from refusal
            said = iter(responses)
            made = []
            for place, key in enumerate(keys[start : start + len(batch)]):
                if place in refused:
                    made.append(KeyedAnswer(Response(""), key, refused[place]))
                else:
                    made.append(KeyedAnswer(next(said), key))
            file.writelines(
                json.dumps(answer.as_json(), ensure_ascii=False) + "\n" for answer in made
            )
            file.flush()
            answers += made
    return answers


def _partial(folder: Path, shard: Shard) -> Path:
    name = "" if shard.count == 1 else f".{shard.index + 1}-of-{shard.count}"
    return folder / PARTIAL.format(name)


def _known_answers(folder: Path) -> dict[str, KeyedAnswer]:
    return {
        str(row["key"]): KeyedAnswer(
            Response(str(row["answer"]), stop_reason=cast(StopReason, row["stop_reason"])),
            str(row["key"]),
            str(row.get("refused", "")),
        )
        for row in stored_rows(folder)
        if {"key", "stop_reason"} <= row.keys()
    }
