"""Every family's chat template: what is learned is the answers with their end tokens, exactly.

No model is built: a template, two kinds of tokenizer, and conversations of many shapes. A row that
a template cannot hold is refused, and `REFUSED` states with which words.
"""

from __future__ import annotations

import dataclasses
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from family_models import build_tokenizer
from PIL import Image
from real_templates import TEMPLATES, RealTemplate, template_of
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from veridical.data.records import Message, assistant_message, user_message
from veridical.models.answer_parts import Answer
from veridical.models.conversations import render_conversation
from veridical.models.judged_groups import render_judged_group
from veridical.models.policy import Policy
from veridical.models.prompt_texts import render_prompt, tokenize_after
from veridical.models.rendering import RefusedRowError, render_answers, render_group
from veridical.sampling.engines.adapters import template_options

PICTURE = Image.new("RGB", (8, 8))


def system(text: str) -> Message:
    return {"role": "system", "content": [{"type": "text", "text": text}]}


def turns(*texts: str, images: int = 1) -> list[Message]:
    """Question and answer in turn; the first question has the images."""
    return [
        user_message(text, images if i == 0 else 0) if i % 2 == 0 else assistant_message(text)
        for i, text in enumerate(texts)
    ]


CASES: dict[str, list[Message]] = {
    "one turn": turns("Is there a dog?", "Yes. There is a red dog."),
    "multi-turn": turns("A dog?", "Yes.", "Yes.", "Yes.", "A cup, or Yes.?", "No. Yes."),
    "system turn": [system("Answer in short."), *turns("A dog?", "Yes.", "A cup?", "No.")],
    "system and text only": [system("Answer in short."), *turns("A dog?", "Yes.", images=0)],
    "several images": turns("Compare the two pictures.", "One is red.", "More?", "No.", images=2),
    "a later image": [
        *turns("A dog?", "Yes.", "A cup?", "No."),
        *turns("And in this one?", "A chair."),
    ],
    "text only": turns("What is a dog?", "An animal.", "And a cup?", "A thing.", images=0),
    "white space": turns(" A dog? \n", "  Yes.\n\nIt is red. \n", " \nA cup? ", "\n\nNo. "),
    "paragraphs": turns("List.", "- a dog\n- a cup\n\n```\n  x = 1\n```\n\nDone", "Why?", "So."),
    "Chinese": turns("图中有什么", "有一只狗。它是红色的。", "还有呢", "没有了。"),
    "emoji": turns("What is it? 🐕", "🐕‍🦺 A dog 👍🏽", "👍?", "👍🏽"),
    "empty thought": turns("A dog?", "<think>\n\n</think>\n\nYes.", "A cup?", "No."),
    "thought": turns("A dog?", "<think>\nIt barks.\n</think>\n\nYes."),
    "tags of a prompt": turns("A dog?", "<thinking>\nIt barks.\n</thinking>\n\nYes."),
}
# What is learned of each answer, where it is not the answer as it stands there.
ANSWERS = {
    "white space": ["Yes.\n\nIt is red.", "No."],
    "empty thought": ["Yes.", "No."],
}
AS_TEXT = {"empty thought": ["<think>\n\n</think>\n\nYes.", "No."]}
# The other templates know no thoughts and keep one as it is written.
KNOW_THOUGHTS = {
    "Qwen3.5", "Qwen3.5 (thinking)", "Qwen3.6", "Qwen3.8", "LFM2.5-VL", "Gemma 4",
}  # fmt: skip
REWRITTEN = {
    "LFM2.5-VL": "<think>It barks.</think>Yes.",
    "Gemma 4": "<|channel>thought\nIt barks.\n<channel|>Yes.",
}

ENDS = {
    "Gemma 3": "<end_of_turn>",
    "Gemma 4": "<turn|>",
    "Idefics2": "<end_of_utterance>",
    "Idefics3": "<end_of_utterance>",
    "Aya Vision": "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
    "Cohere2 Vision": "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
}
THINKING_IS_OFF = "thinking is switched off"
REFUSED = {
    ("Qwen3.5", "thought"): THINKING_IS_OFF,
    ("Qwen3.5 (thinking)", "thought"): THINKING_IS_OFF,
    ("Qwen3.6", "thought"): THINKING_IS_OFF,
    ("Qwen3.8", "thought"): THINKING_IS_OFF,
    ("Gemma 4", "thought"): THINKING_IS_OFF,
    ("Kimi K2.5", "thought"): THINKING_IS_OFF,
    ("GLM-4V", "thought"): "changes the text of a turn",
    ("GLM-4V", "empty thought"): "changes the text of a turn",
    ("Llama 3.2 Vision", "system turn"): "incompatible with system messages",
    ("Molmo 2", "system turn"): "roles must alternate",
    ("Molmo 2", "system and text only"): "roles must alternate",
}


def metaspace_tokenizer(special: list[str], bos: str | None, eos: str) -> Any:
    """As Llama's: a space becomes a mark of the word behind it; bytes where no token fits."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    every = dict.fromkeys(["<unk>", "<pad>", eos, *([bos] if bos else []), *special])
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[
            *(AddedToken(token, special=True, normalized=False) for token in every),
            *(AddedToken(f"<0x{byte:02X}>", normalized=False) for byte in range(256)),
        ],
        show_progress=False,
    )
    tokenizer.train_from_iterator(["Yes. There is a red dog. A cup? No.\n\n- a chair"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


class WithoutOffsets:
    """A tokenizer as slow ones are: the same tokens, and no word of where they are."""

    is_fast = False

    def __init__(self, tokenizer: Any) -> None:
        self.fast = tokenizer

    def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
        return self.fast(text, add_special_tokens=add_special_tokens)

    def __len__(self) -> int:
        return len(self.fast)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fast, name)


def policy_of(template: RealTemplate, kind: str, **variables: Any) -> Policy:
    special = list(dict.fromkeys([*template.special, *template.ends, template.image]))
    if kind == "metaspace":
        tokenizer = metaspace_tokenizer(special, template.bos, template.eos)
    else:
        tokenizer = build_tokenizer(special, template.bos, template.eos, "<pad>")
    processor = transformers.LlavaProcessor(
        CLIPImageProcessorPil(), tokenizer, chat_template=template.text, image_token=template.image
    )
    if kind == "without offsets":
        processor.tokenizer = WithoutOffsets(tokenizer)
    ends = [tokenizer.convert_tokens_to_ids(end) for end in (template.eos, *template.ends)]
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=ends))
    return Policy(model, processor, template.name, template=variables)


def learned(policy: Policy, conversation: list[Message]) -> list[str]:
    """What every run of learned tokens decodes to."""
    images = [PICTURE] * sum(
        block["type"] == "image" for message in conversation for block in message["content"]
    )
    found = []
    for group in render_conversation(policy, "row", images, conversation):
        pairs = zip(group.response_ids[0].tolist(), group.learned_of(0).tolist(), strict=True)
        for counts, run in groupby(pairs, key=lambda pair: pair[1]):
            if counts:
                ids = [token for token, _ in run]
                found.append(policy.processor.tokenizer.decode(ids, skip_special_tokens=False))
    return found


@pytest.mark.parametrize("kind", ["byte level", "metaspace", "without offsets"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_what_is_learned_is_the_answers_with_their_end_tokens(
    template: RealTemplate, case: str, kind: str
) -> None:
    policy = policy_of(template, kind)
    conversation = CASES[case]
    if (template.name, case) in REFUSED:
        with pytest.raises(RefusedRowError, match=REFUSED[template.name, case]):
            learned(policy, conversation)
        return
    answers = [m["content"][0]["text"] for m in conversation if m["role"] == "assistant"]
    answers = ANSWERS.get(case, answers)
    if template.name not in KNOW_THOUGHTS:
        answers = AS_TEXT.get(case, answers)
    elif case == "thought":
        answers = [REWRITTEN[template.name]]
    end = ENDS.get(template.name, template.eos)
    found = [text.lstrip() for text in learned(policy, conversation)]
    if kind == "metaspace":
        # This tokenizer writes a space behind every special token.
        found = [text.replace("<|channel> ", "<|channel>") for text in found]
        found = [text.replace("<channel|> ", "<channel|>") for text in found]
    assert found == [answer + end for answer in answers]


@pytest.mark.parametrize(
    ("name", "thought"),
    [("Gemma 4", "<|channel>thought\n{}\n<channel|>"), ("LFM2.5-VL", "<think>{}</think>")],
)
def test_an_earlier_turns_thought_is_learned_too(name: str, thought: str) -> None:
    """The template leaves it out once a later turn follows."""
    on = {"enable_thinking": True} if name == "Gemma 4" else {}
    policy = policy_of(template_of(name), "byte level", **on)
    first, second = ("<think>\nIt barks.\n</think>\n\nYes.", "<think>\nNone.\n</think>\n\nNo.")
    end = ENDS.get(name, template_of(name).eos)
    assert learned(policy, turns("A dog?", first, "A cup?", second)) == [
        thought.format("It barks.") + "Yes." + end, thought.format("None.") + "No." + end,
    ]  # fmt: skip
    if on:
        return
    # Only the first has one.
    assert learned(policy, turns("A dog?", first, "A cup?", "No."))[0].startswith(
        thought.format("It barks.")
    )


@pytest.mark.parametrize("kind", ["byte level", "metaspace", "without offsets"])
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_an_answer_follows_what_the_model_is_given(template: RealTemplate, kind: str) -> None:
    """Pairs, a given beginning of the answer, and a reward model's question after the answer."""
    policy = policy_of(template, kind)
    tokenizer = policy.processor.tokenizer
    prompt = CASES["one turn"][:1]
    asked = render_prompt(policy, prompt)
    answers = [[assistant_message("Yes. A dog.")], [assistant_message("No.")]]
    group = render_group(policy, "row", [PICTURE], prompt, answers)
    assert group.prompt_text == asked
    for text, ids in zip(group.response_texts, group.response_ids, strict=True):
        whole = tokenizer(asked + text, add_special_tokens=False)["input_ids"]
        assert whole[-len(ids) :] == ids.tolist()
    begun = render_prompt(policy, prompt, "Yes. A")
    assert begun.startswith(asked)
    assert begun[len(asked) :].lstrip() == "Yes. A"
    # The tokens of the beginning are those that the whole answer begins with.
    beginning = tokenize_after(policy, begun[len(asked) :], asked)
    assert group.response_ids[0].tolist()[: len(beginning)] == beginning
    judged = render_judged_group(policy, "row", [PICTURE], prompt, answers, "Is this right?")
    assert asked.rstrip().startswith(judged.prompt_text.rstrip())
    for text, (answer,) in zip(judged.response_texts, answers, strict=True):
        assert answer["content"][0]["text"] in text
        assert "Is this right?" in text


PARTS = [  # answer, its given beginning, a part of weight 2
    ("Yes. A red dog, Yes.", "Yes.", "dog"),
    ("有一只狗。它是红色的。", "有一只狗。", "红色"),
    (" \nIt is 🐕‍🦺, a dog 👍🏽! ", "It is", "👍🏽"),
    ("<think>\nIt barks.\n</think>\n\nYes. A dog.", "<think>\nIt barks.\n</think>\n\nYes.", "dog"),
]


@pytest.mark.parametrize("kind", ["byte level", "metaspace", "without offsets"])
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_the_parts_of_an_answer_are_found_in_it(template: RealTemplate, kind: str) -> None:
    """What follows a given beginning counts, and of that only the weighed part weighs 2."""
    thinks = "Kimi" in template.name or template.name in KNOW_THOUGHTS - {"LFM2.5-VL"}
    thinks = thinks or template.name == "GLM-4V"
    for text, beginning, part in PARTS[: 3 if thinks else 4]:
        policy = policy_of(template, kind)
        start = text.rindex(part)
        spans = [(start, start + len(part), 2.0)]
        answer = Answer([assistant_message(text)], prefix=beginning, spans=spans)
        group = render_answers(policy, "row", [PICTURE], CASES["one turn"][:1], [answer])
        ids, counts = group.response_ids[0], group.learned_of(0)
        rest = text.strip()[len(beginning) :].strip() + ENDS.get(template.name, template.eos)
        assert decoded(policy, ids[counts]) == rest
        assert not (counts[1:] < counts[:-1]).any(), "nothing is left out in between"
        weights = group.weights_of(0)
        assert set(weights.tolist()) == {1.0, 2.0} and bool(counts[weights == 2].all())
        # A token that shares a character with the part weighs as the part does: "dog." is one.
        assert decoded(policy, ids[weights == 2]).rstrip(".") == part


def decoded(policy: Policy, ids: Any) -> str:
    """What tokens say, without white space at the ends."""
    text: str = policy.processor.tokenizer.decode(ids.tolist(), skip_special_tokens=False)
    return text.strip()


def test_a_beginning_that_ends_in_a_thought_is_refused_where_the_template_sets_it_apart() -> None:
    policy = policy_of(template_of("LFM2.5-VL"), "byte level")
    message = assistant_message("<think>\nIt barks.\n</think>\n\nYes.")
    for parts in ({"prefix": "<think>\nIt"}, {"spans": [(8, 10, 2.0)]}):
        with pytest.raises(RefusedRowError, match="ends or begins inside the answer's thought"):
            answer = Answer([message], **parts)
            render_answers(policy, "row", [PICTURE], CASES["one turn"][:1], [answer])


@pytest.mark.parametrize("name", ["Qwen3.5", "Qwen3.5 (thinking)", "Qwen3.6", "Qwen3.8"])
def test_with_thinking_on_the_thought_is_learned_and_an_answer_without_one_refused(
    name: str,
) -> None:
    policy = policy_of(template_of(name), "byte level", enable_thinking=True)
    thought = "It barks.\n</think>\n\nYes.<|im_end|>"
    assert learned(policy, CASES["thought"]) == [thought]
    with pytest.raises(RefusedRowError, match="begins a thought, and the answer has none"):
        learned(policy, CASES["one turn"])
    with pytest.raises(RefusedRowError, match="begins a thought, and the answer has none"):
        learned(policy, CASES["empty thought"])
    with pytest.raises(RefusedRowError, match="the answer's beginning can't be given"):
        render_prompt(policy, CASES["one turn"][:1], "Yes.")
    with pytest.raises(RefusedRowError, match="the answer is empty"):
        learned(policy, turns("A dog?", "<think>It barks.</think>"))
    # The thought of an earlier turn is not among what the model is given later on.
    both = [*CASES["thought"], user_message("Why?", 0), assistant_message("<think>So.</think>So.")]
    assert learned(policy, both) == [thought, "So.\n</think>\n\nSo.<|im_end|>"]


def test_thinking_that_is_asked_for_in_the_system_turn_wants_a_thought_of_every_answer() -> None:
    policy = policy_of(template_of("Gemma 4"), "byte level", enable_thinking=True)
    thought = "<|channel>thought\nIt barks.\n<channel|>Yes.<turn|>"
    assert learned(policy, CASES["thought"]) == [thought]
    for case in ("one turn", "multi-turn", "empty thought"):
        with pytest.raises(RefusedRowError, match="switched on, and the answer has none; set --t"):
            learned(policy, CASES[case])
    with pytest.raises(RefusedRowError, match="and the answer has none"):
        learned(policy, [*CASES["thought"], user_message("Why?", 0), assistant_message("So.")])


def test_a_server_is_told_what_the_template_is_given() -> None:
    policy = policy_of(template_of("Qwen3.5 (thinking)"), "byte level")
    assert template_options(policy) == {"chat_template_kwargs": {"enable_thinking": False}}
    policy = policy_of(template_of("Qwen3.5 (thinking)"), "byte level", enable_thinking=True)
    assert template_options(policy) == {"chat_template_kwargs": {"enable_thinking": True}}
    assert template_options(policy_of(template_of("Qwen3-VL"), "byte level")) == {}
    # Another name for the same switch; a local variable of this name is none.
    policy = policy_of(template_of("Kimi K2.5"), "byte level")
    assert template_options(policy) == {"chat_template_kwargs": {"thinking": False}}
    assert template_options(policy_of(template_of("LFM2.5-VL"), "byte level")) == {}


def test_the_advice_about_thoughts_names_the_templates_own_switch() -> None:
    policy = policy_of(template_of("Kimi K2.5"), "byte level", thinking=True)
    with pytest.raises(RefusedRowError, match="none; set --template thinking=false, or choose"):
        learned(policy, CASES["thought"])
    with pytest.raises(RefusedRowError, match="given; set --template thinking=false, or name"):
        render_prompt(policy, CASES["one turn"][:1], "Yes.")


def test_a_prompt_that_always_begins_a_thought() -> None:
    policy = policy_of(replaced("thinking_always"), "byte level")
    with pytest.raises(RefusedRowError, match="the answer has none; choose a chat template"):
        learned(policy, CASES["one turn"])
    with pytest.raises(RefusedRowError, match="changes the text of a turn"):
        learned(policy, CASES["thought"])


def replaced(file: str) -> RealTemplate:
    """Another template with Qwen's tokens."""
    return dataclasses.replace(template_of("Qwen3-VL"), name=file, file=file)


@pytest.mark.parametrize("case", ["one turn", "multi-turn", "system turn", "text only", "emoji"])
def test_a_template_that_takes_only_strings_gets_strings(case: str) -> None:
    policy = policy_of(replaced("strings_only"), "byte level")
    conversation = CASES[case]
    answers = [m["content"][0]["text"] for m in conversation if m["role"] == "assistant"]
    assert learned(policy, conversation) == [f"{answer}<|im_end|>" for answer in answers]
    prompt = render_prompt(policy, turns('It\'s a "dog"?'))
    assert prompt == (
        '<|im_start|>user\n<|image_pad|>\nIt\'s a "dog"?<|im_end|>\n<|im_start|>assistant\n'
    )
