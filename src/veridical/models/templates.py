"""Chat templates: which one a model has, what it is given, and how it is rendered.

Everything that renders a conversation comes through `render`. It always names the template, so
that the same one counts wherever a model's files keep it, and it gives the template one moment as
"now" for the whole run: a run that is resumed tomorrow renders the same prompts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from veridical.data.messages import (
    Block,
    Message,
    assistant_message,
    text_block,
    user_message,
)
from veridical.data.text.thoughts import opens_thought
from veridical.runtime.errors import RefusedRowError, UserError
from veridical.runtime.rendering_record import frozen_time, note_given

if TYPE_CHECKING:
    from transformers import ProcessorMixin

NAME = "chat_template"
"""The key of `--template` that chooses among several named templates."""
OWN = frozenset(
    {"messages", "add_generation_prompt", "continue_final_message", "tokenize", "tools"}
)
PROBE = "a\"b'c\nd"
"""Quotes of both kinds and a line break: whatever writes a block as code changes one of them."""

_DIRECTIVES = tuple(f"%{letter}" for letter in "aAwdbBmyYHIpMSfzZjUWcxXGuVeFTDR")
_DIRECTIVES += tuple(f"%-{letter}" for letter in "dmHIMSjy")
"""For formats that are put together while rendering; those that a template writes are all known."""
_DIRECTIVE = re.compile(r"%[-_0^#]?[A-Za-z]")
_verdicts: dict[tuple[str, str, str], bool] = {}


def note_variables(model: str, processor: ProcessorMixin, variables: Mapping[str, Any]) -> None:
    """Remember what a loaded model's template is given, defaults included, for the run's record."""
    named = {NAME: variables[NAME]} if NAME in variables else {}
    note_given(model, resolved_variables(processor, variables) | named)


def template_text(
    processor: ProcessorMixin, variables: Mapping[str, object], model: str = "The model"
) -> str:
    """The chat template of a processor, or of its tokenizer where it has none.

    Args:
        processor: of a vision-language model.
        variables: `chat_template` among them chooses by name.
        model: what the model is called in an error.

    Raises:
        UserError: there is none, or there are several and none is chosen.
    """
    found = getattr(processor, "chat_template", None)
    found = found or getattr(processor.tokenizer, "chat_template", None)
    if not found:
        raise UserError(
            f"{model} has no chat template, so a conversation can't be rendered. "
            "Put its chat_template.jinja into the folder."
        )
    if isinstance(found, str):
        return found
    named: dict[str, str] = dict(found)
    wanted = variables.get(NAME, next(iter(named)) if len(named) == 1 else "default")
    if wanted not in named:
        names = ", ".join(sorted(named))
        raise UserError(
            f"{model} has several chat templates ({names}), and none is called {wanted}. "
            f"Choose one with --template {NAME}=NAME."
        )
    return named[wanted]


def check_template(processor: ProcessorMixin, variables: Mapping[str, object], model: str) -> None:
    """Refuse a model without a chat template, and a `--template KEY=VALUE` without effect.

    Raises:
        UserError: there is no template, it can't be read as one, it does not read a key, or the
            key is not the user's to set.
    """
    text = template_text(processor, variables, model)
    try:
        _environment().parse(text)
    except TemplateSyntaxError as error:
        raise UserError(
            f"The chat template of {model} can't be read: {error.message} (line {error.lineno})."
        ) from error
    for key in variables:
        if key in OWN:
            raise UserError(f"--template {key} can't be set: it is what the template is given.")
        if key != NAME and not _reads(text, key):
            raise UserError(
                f"--template {key} has no effect: the model's chat template does not read it. "
                "Leave it out, or name a variable of the template."
            )


def resolved_variables(
    processor: ProcessorMixin, variables: Mapping[str, object]
) -> dict[str, object]:
    """What the template is given: its switch of thinking is False where nothing sets it."""
    switch = thinking_switch(template_text(processor, variables))
    own = {key: value for key, value in variables.items() if key != NAME}
    return ({switch: False} if switch else {}) | own


@lru_cache(maxsize=64)
def thinking_switch(text: str) -> str | None:
    """The variable by which a template switches thoughts off: `enable_thinking`, or `thinking`.

    `thinking` is also an ordinary word, and a name that templates give to a thought of their own,
    so it counts only where the template asks whether it is defined, or reads it and never sets it.
    """
    if _reads(text, "enable_thinking"):
        return "enable_thinking"
    try:
        parsed = _environment().parse(text)
    except TemplateSyntaxError:
        return None
    asked: list[nodes.Node | None] = [
        test.node for test in parsed.find_all(nodes.Test) if "defined" in test.name
    ]
    asked += [found.node for found in parsed.find_all(nodes.Filter) if found.name == "default"]
    names = [name for name in parsed.find_all(nodes.Name) if name.name == "thinking"]
    never_set = bool(names) and all(name.ctx == "load" for name in names)
    return "thinking" if never_set or any(name in asked for name in names) else None


def thinking_is_on(processor: ProcessorMixin, variables: Mapping[str, object]) -> bool | None:
    """What the template's switch of thinking is set to; None where it has none."""
    switch = thinking_switch(template_text(processor, variables))
    return bool(resolved_variables(processor, variables)[switch]) if switch else None


def thinking_advice(
    processor: ProcessorMixin, variables: Mapping[str, object], value: str, otherwise: str
) -> str:
    """How to switch thoughts on (`true`) or off (`false`), or what to do otherwise; in an error."""
    switch = thinking_switch(template_text(processor, variables))
    return f"set --template {switch}={value}, or {otherwise}" if switch else otherwise


def render(
    processor: ProcessorMixin,
    variables: Mapping[str, object],
    messages: Sequence[Message],
    generation: bool = False,
) -> str:
    """Render a conversation.

    Args:
        processor: whose template is used.
        variables: what `--template` gave.
        messages: with typed blocks; a template that takes only strings gets strings.
        generation: end where the model is to answer.

    Raises:
        RefusedRowError: the template refuses it; in the template's words.
        UserError: there is no template.
    """
    if any(block["type"] == "image" for message in messages for block in message["content"]):
        _require_placeholder(processor, variables)
        _require_each_image(processor, variables, messages)
    if not takes_blocks(processor, variables):
        strings = [_as_string(processor, message) for message in messages]
        return _apply(processor, variables, strings, generation)
    return _apply(processor, variables, messages, generation)


def takes_blocks(processor: ProcessorMixin, variables: Mapping[str, object]) -> bool:
    """Whether the template reads typed blocks; found by trying.

    A template that expects strings writes a list of blocks as code, or fails.
    """

    def probe() -> bool:
        typed = [user_message(PROBE, images=0)]
        try:
            if PROBE in _apply(processor, variables, typed, generation=True):
                return True
            return PROBE not in _apply(
                processor, variables, [{"role": "user", "content": PROBE}], generation=True
            )
        except RefusedRowError:
            return not _renders_string(processor, variables)

    return _verdict(processor, variables, "blocks", probe)


def keeps_thoughts(processor: ProcessorMixin, variables: Mapping[str, object]) -> bool:
    """Whether the template renders the thought of a last answer that is given apart from it."""

    def probe() -> bool:
        answer = assistant_message("answer")
        answer["reasoning_content"] = "a thought apart"
        try:
            rendered = render(processor, variables, [user_message("question", images=0), answer])
        except RefusedRowError:
            return False
        return "a thought apart" in rendered

    return _verdict(processor, variables, "thoughts", probe)


def begins_thoughts(processor: ProcessorMixin, variables: Mapping[str, object]) -> bool:
    """Whether a prompt ends with a thought that has just begun."""

    def probe() -> bool:
        return opens_thought(render(processor, variables, [user_message("text", images=0)], True))

    try:
        return _verdict(processor, variables, "begun", probe)
    except RefusedRowError:
        return False


def _require_placeholder(processor: ProcessorMixin, variables: Mapping[str, object]) -> None:
    def probe() -> bool:
        if not takes_blocks(processor, variables):
            return _placeholder(processor) is not None
        with_image, without = (
            _apply(processor, variables, [user_message("text", images=count)], True)
            for count in (1, 0)
        )
        return with_image != without

    if not _verdict(processor, variables, "image", probe):
        raise RefusedRowError("the chat template leaves images out")


def _require_each_image(
    processor: ProcessorMixin, variables: Mapping[str, object], messages: Sequence[Message]
) -> None:
    """Every image block has to change what is rendered: some templates read only some places.

    Tried once for each order of roles and blocks, without the rows' own texts.
    """
    shape = [(message["role"], [block["type"] for block in message["content"]])
             for message in messages]  # fmt: skip
    if not takes_blocks(processor, variables):
        return  # each is written by us
    generation = shape[-1][0] != "assistant"  # some templates ask for nothing behind an answer

    def probe() -> bool:
        plain = [_of_shape(role, kinds) for role, kinds in shape]
        whole = _apply(processor, variables, plain, generation)
        fewer = _without_one(shape)
        return not any(_is_same(processor, variables, one, whole, generation) for one in fewer)

    try:
        read = _verdict(processor, variables, f"images of {shape}", probe)
    except RefusedRowError:
        return  # its own rendering says why
    if not read:
        raise RefusedRowError("the chat template leaves out an image of a turn")


def _of_shape(role: str, kinds: Sequence[str]) -> Message:
    image: Block = {"type": "image"}
    blocks = [image if kind == "image" else text_block("text") for kind in kinds]
    return {"role": role, "content": blocks}


def _without_one(shape: Sequence[tuple[str, list[str]]]) -> Iterator[list[Message]]:
    """The conversation without one of its images, for each of them."""
    for turn, (role, kinds) in enumerate(shape):
        for place in (number for number, kind in enumerate(kinds) if kind == "image"):
            plain = [_of_shape(*one) for one in shape]
            plain[turn] = _of_shape(role, kinds[:place] + kinds[place + 1 :])
            yield plain


def _is_same(
    processor: ProcessorMixin,
    variables: Mapping[str, object],
    messages: Sequence[Message],
    whole: str,
    generation: bool,
) -> bool:
    try:
        return _apply(processor, variables, messages, generation) == whole
    except RefusedRowError:
        return False  # it was read


def _renders_string(processor: ProcessorMixin, variables: Mapping[str, object]) -> bool:
    text = [{"role": "user", "content": PROBE}]
    try:
        return PROBE in _apply(processor, variables, text, generation=True)
    except RefusedRowError:
        return False


def _verdict(
    processor: ProcessorMixin, variables: Mapping[str, Any], what: str, probe: Any
) -> bool:
    text = template_text(processor, variables)
    given = json.dumps([dict(variables), _placeholder(processor)], sort_keys=True, default=str)
    key = (what, text, given)
    if key not in _verdicts:
        _verdicts[key] = bool(probe())
    return _verdicts[key]


def _apply(
    processor: ProcessorMixin,
    variables: Mapping[str, object],
    messages: Sequence[object],
    generation: bool,
) -> str:
    text = _with_frozen_time(template_text(processor, variables))
    try:
        rendered: str = processor.apply_chat_template(
            list(messages),
            chat_template=text,
            add_generation_prompt=generation,
            tokenize=False,
            **resolved_variables(processor, variables),
        )
    except (
        TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError,
        RecursionError,
    ) as error:  # fmt: skip
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise RefusedRowError(f"the chat template refuses it: {words}") from error
    return rendered


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`, which Transformers reads as what is inside."""

    tags = {"generation"}  # noqa: RUF012 (as its base class declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _with_frozen_time(text: str) -> str:
    if "strftime_now" not in text:
        return text
    moment = frozen_time()
    directives = dict.fromkeys([*_DIRECTIVES, *_DIRECTIVE.findall(text)])
    parts = {directive: moment.strftime(directive) for directive in directives}
    # A macro of the same name is found before Transformers' function; the line break behind it
    # is dropped, and keeps the template's own beginning the beginning of a line.
    return (
        "{% macro strftime_now(format) %}{% set found = namespace(text=format) %}"
        f"{{% for directive, written in {parts!r}.items() %}}"
        "{% set found.text = found.text | replace(directive, written) %}{% endfor %}"
        "{{ found.text }}{% endmacro %}\n" + text
    )


def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )


def _reads(text: str, variable: str) -> bool:
    return re.search(rf"\b{re.escape(variable)}\b", text) is not None


def _placeholder(processor: ProcessorMixin) -> str | None:
    """What stands for an image in text, where the template does not write it."""
    for name in ("boi_token", "image_token"):
        token = getattr(processor, name, None)
        if isinstance(token, str) and token:
            return token
    return None


def _as_string(processor: ProcessorMixin, message: Message) -> dict[str, object]:
    image = f"{_placeholder(processor)}\n"
    parts = [image if b["type"] == "image" else b["text"] for b in message["content"]]
    return {**message, "content": "".join(parts)}
