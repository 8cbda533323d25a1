"""Which chat template a model has, what it is given, and what no text may hold."""

from __future__ import annotations

import copy
import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tokenizers import AddedToken

from veridical import cli
from veridical.data.messages import Message, assistant_message, text_block, user_message
from veridical.data.prompts import Prompt
from veridical.models.conversations import render_conversation
from veridical.models.load import load_policy
from veridical.models.policy import Policy
from veridical.models.prompt_texts import render_prompt
from veridical.models.rendering import render_group
from veridical.runtime.errors import RefusedRowError, UserError
from veridical.runtime.files import read_json
from veridical.runtime.fingerprint import EMBEDDED_MODEL
from veridical.runtime.rendering_record import freeze_time
from veridical.runtime.runs import start_run
from veridical.sampling import Decoding, Request, respond
from veridical.train.loop.resume import check_run_folder

PROMPT = [user_message("Describe the image.")]
PICTURE = Image.new("RGB", (96, 96), "red")
DATED = "{{ strftime_now('%d %b %Y') }} {{ strftime_now('%H:' + '%M') }} "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The embedded model's files, to be changed."""
    made = tmp_path / "model"
    shutil.copytree(EMBEDDED_MODEL, made)
    return made


@pytest.fixture
def own(policy: Policy) -> Policy:
    """The tiny model with a processor of its own."""
    return Policy(policy.model, copy.deepcopy(policy.processor), "tiny")


def embedded_template(folder: Path) -> str:
    return (folder / "chat_template.jinja").read_text()


def move_template(folder: Path, template: Any) -> None:
    """Put the template into the tokenizer's file, as older models have it."""
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))


def test_a_template_in_the_tokenizers_file_counts(folder: Path) -> None:
    before = render_prompt(load_policy(str(folder), device="cpu"), PROMPT)
    move_template(folder, embedded_template(folder))
    assert render_prompt(load_policy(str(folder), device="cpu"), PROMPT) == before


def test_one_of_several_templates_is_chosen_by_name(folder: Path) -> None:
    text = embedded_template(folder)
    before = render_prompt(load_policy(str(folder), device="cpu"), PROMPT)
    named = [{"name": "short", "template": text}, {"name": "long", "template": "Long. " + text}]
    move_template(folder, named)
    with pytest.raises(UserError, match=r"\(long, short\).*--template chat_template=NAME"):
        load_policy(str(folder), device="cpu")
    for name, expected in (("short", before), ("long", "Long. " + before)):
        policy = load_policy(str(folder), device="cpu", template={"chat_template": name})
        assert render_prompt(policy, PROMPT) == expected


def test_a_model_without_a_template_or_with_a_broken_one_is_refused(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text("{% for message in messages %}")
    with pytest.raises(UserError, match="can't be read"):
        load_policy(str(folder), device="cpu")
    path.unlink()
    with pytest.raises(UserError, match=r"has no chat template.*chat_template\.jinja"):
        load_policy(str(folder), device="cpu")


def test_variables_reach_the_template_or_are_refused(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    before = path.read_text()
    path.write_text("{% if enable_thinking %}Think. {% endif %}" + before)
    plain = render_prompt(load_policy(str(folder), device="cpu"), PROMPT)
    assert "Think." not in plain
    told = load_policy(str(folder), device="cpu", template={"enable_thinking": True})
    assert render_prompt(told, PROMPT) == "Think. " + plain
    path.write_text("{% if enable_thinking is undefined or enable_thinking %}On.{% endif %}")
    assert "On." not in render_or_refusal(load_policy(str(folder), device="cpu"))
    with pytest.raises(UserError, match="--template effort has no effect"):
        load_policy(str(folder), device="cpu", template={"effort": "low"})
    with pytest.raises(UserError, match="--template messages can't be set"):
        load_policy(str(folder), device="cpu", template={"messages": []})


def render_or_refusal(policy: Policy) -> str:
    try:
        return render_prompt(policy, [user_message("", images=0)])
    except RefusedRowError as refused:
        return str(refused)


def test_key_and_value_on_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (48, 48)).save(picture)
    words = ["ask", str(folder), str(picture), "What is this?", "--max-new-tokens", "2"]
    assert cli.main([*words, "--template", "effort=low"]) == 2
    assert "--template effort has no effect" in capsys.readouterr().err
    path = folder / "chat_template.jinja"
    path.write_text("{% if effort == 'low' and not loud %}{% endif %}" + path.read_text())
    assert cli.main([*words, "--template", "effort=low", "--template", "loud=false"]) == 0


@pytest.mark.parametrize("form", ["%-d %h %e", "%C%y %^a %k:%M", "%D %F %T %s", "%_d.%0m.%G"])
def test_every_directive_that_a_template_writes_is_that_of_strftime(own: Policy, form: str) -> None:
    moment = datetime(2001, 2, 3, 4, 5)
    freeze_time(moment)
    own.processor.chat_template = f"{{{{ strftime_now('{form}') }}}}|" + own.processor.chat_template
    assert render_prompt(own, PROMPT).startswith(moment.strftime(form) + "|")


def test_a_run_that_goes_on_tomorrow_has_todays_prompts(own: Policy, tmp_path: Path) -> None:
    own.processor.chat_template = DATED + own.processor.chat_template
    run = start_run(tmp_path / "run", "train dpo", {})
    freeze_time(datetime(2001, 2, 3, 4, 5))
    assert render_prompt(own, PROMPT).startswith("03 Feb 2001 04:05 ")
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps({**run.record, "prompt_time": "1999-12-31T23:59:58"}))
    again = start_run(tmp_path / "run", "train dpo", {})
    assert again.record["prompt_time"] == "1999-12-31T23:59:58"
    again.finish()
    assert read_json(path)["prompt_time"] == "1999-12-31T23:59:58"
    assert render_prompt(own, PROMPT).startswith("31 Dec 1999 23:59 ")
    start_run(tmp_path / "other", "train dpo", {})
    assert "1999" not in render_prompt(own, PROMPT)


def test_a_resumed_run_needs_the_same_template_variables(tmp_path: Path) -> None:
    options = {"resume": True, "template": {"enable_thinking": True}}
    start_run(tmp_path, "train dpo", options)
    (tmp_path / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    check_run_folder(tmp_path, "train dpo", options, {}, {})
    with pytest.raises(UserError, match="--template"):
        check_run_folder(tmp_path, "train dpo", {"resume": True, "template": None}, {}, {})


def test_tokens_that_are_only_marked_as_special_are_refused_in_text(own: Policy) -> None:
    tokenizer = own.processor.tokenizer
    tokenizer.add_tokens([AddedToken("<marked>", special=True)])
    assert "<marked>" not in tokenizer.all_special_tokens
    system: Message = {"role": "system", "content": [text_block("<marked>")]}
    for messages in ([user_message("Is this <marked>?")], [system, *PROMPT]):
        with pytest.raises(RefusedRowError, match="'<marked>', which this model reads as"):
            render_prompt(own, messages)
    with pytest.raises(RefusedRowError, match="'<marked>', which this model reads as"):
        render_group(own, "a", [PICTURE], PROMPT, [[assistant_message("A <marked> dog.")]])
    # A token that is added as a word is one.
    tokenizer.add_tokens([AddedToken("zebra", special=False)])
    assert "zebra" in render_prompt(own, [user_message("Is this a zebra?")])


BLOCKS = (
    "{% for message in messages %}{{ message.role + ':' }}{% for block in message.content %}"
    "{% if block.type == 'image' %}IMAGE{% else %}{{ block.text }}{% endif %}{% endfor %}</s>"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.mark.parametrize(
    ("condition", "read"),
    [
        ("{% if loop.first %}<image>{% endif %}", [False, True, True]),
        ("{% if message is sameas messages[0] %}<image>{% endif %}", [True, False, True]),
        ("{% if message is sameas messages[-1] %}<image>{% endif %}", [True, False, True]),
        ("<image>", [True, True, True]),
    ],
)
def test_an_image_that_a_template_leaves_out_is_the_rows_reason(
    condition: str, read: list[bool], own: Policy
) -> None:
    own.processor.chat_template = BLOCKS.replace("IMAGE", condition)
    behind: Message = {"role": "user", "content": [text_block("What is this?"), {"type": "image"}]}
    turns = [user_message("One", 1), assistant_message("Yes."), user_message("Two", 1)]
    prompts = [[behind], turns, [user_message("One", 1)]]
    for prompt, taken in zip(prompts, read, strict=True):
        if taken:
            images = sum(str(message).count("'image'") for message in prompt)
            assert render_prompt(own, prompt).count("<image>") == images
        else:
            with pytest.raises(RefusedRowError, match="leaves out an image"):
                render_prompt(own, prompt)


def test_a_template_that_calls_itself_is_the_rows_reason(own: Policy) -> None:
    own.processor.chat_template = "{% macro r() %}{{ r() }}{% endmacro %}{{ r() }}"
    with pytest.raises(RefusedRowError, match="refuses it"):
        render_prompt(own, PROMPT)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('No system turn beside an image.') }}", "No system turn beside"),
        ("{{ messages[0]['content'][0]['words'] + 'x' }}", "the chat template refuses it"),
        ("{{ messages[9]['role'] }}", "the chat template refuses it"),
        ("{{ 1 // 0 }}", "the chat template refuses it"),
        ("{{ messages[0]['content'] | length }}", "leaves images out|leaves out the text"),
        ("{% for m in messages %}{{ m['content'] | tojson | upper }}{% endfor %}", "template"),
        (
            "{% for m in messages %}{% for b in m['content'] %}"
            "{{ '<image>' if b['type'] == 'image' else b['text'] | upper }}"
            "{% endfor %}{% endfor %}",
            "leaves out the text of a turn",
        ),
        (
            "{% for m in messages %}{% for b in m['content'] %}"
            "{{ '<image>' if b['type'] == 'image' else b['text'] + b['text'] }}"
            "{% endfor %}{% endfor %}",
            "repeats the text of a turn",
        ),
        (
            "{% for m in messages %}{% for b in m['content'] %}"
            "{{ '<image>' if b['type'] == 'image' else b['text'] | replace('image', 'dog') }}"
            "{% endfor %}{% endfor %}",
            "changes the text of a turn",
        ),
        (
            "{% for m in messages %}{% for b in m['content'] %}{% if b['type'] == 'text' %}"
            "{{ b['text'] }}{% endif %}{% endfor %}{% endfor %}",
            "leaves images out",
        ),
    ],
)
def test_what_a_template_does_to_a_row_is_the_rows_reason(
    own: Policy, template: str, reason: str
) -> None:
    own.processor.chat_template = template
    with pytest.raises(RefusedRowError, match=reason):
        render_prompt(own, PROMPT)
    with pytest.raises(RefusedRowError, match=reason):
        render_conversation(own, "a", [PICTURE], [*PROMPT, assistant_message("A dog.")])


@pytest.fixture(params=["template", "roberta"])
def ending(request: pytest.FixtureRequest, folder: Path) -> Path:
    """A model whose tokenizer adds an end token behind every text."""
    path = folder / "tokenizer.json"
    state = json.loads(path.read_text())
    vocabulary = {token["content"]: token["id"] for token in state["added_tokens"]}
    config = json.loads((folder / "tokenizer_config.json").read_text())
    bos, eos = config["bos_token"], config["eos_token"]
    pieces = [
        {"SpecialToken": {"id": bos, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": eos, "type_id": 0}},
    ]
    if request.param == "template":
        state["post_processor"] = {
            "type": "TemplateProcessing",
            "single": pieces,
            "pair": [*pieces, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                token: {"id": token, "ids": [vocabulary[token]], "tokens": [token]}
                for token in (bos, eos)
            },
        }
    else:
        state["post_processor"] = {
            "type": "RobertaProcessing",
            "sep": [eos, vocabulary[eos]],
            "cls": [bos, vocabulary[bos]],
            "trim_offsets": True,
            "add_prefix_space": False,
        }
    path.write_text(json.dumps(state))
    return folder


def test_no_end_token_is_added_behind_a_prompt(
    ending: Path, tmp_path: Path, pictures: list[Image.Image], capsys: pytest.CaptureFixture[str]
) -> None:
    honest = load_policy("embedded", device="cpu")
    policy = load_policy(str(ending), device="cpu")
    assert "adds </s> behind every text" in capsys.readouterr().out
    tokenizer = policy.processor.tokenizer
    end = tokenizer.eos_token_id
    assert end not in tokenizer("A dog.")["input_ids"]
    assert tokenizer("A dog.")["input_ids"] == honest.processor.tokenizer("A dog.")["input_ids"]
    asked = [Request(Prompt("a", pictures[:1], PROMPT))]
    said = [respond(one, asked, Decoding(8), label="")[0] for one in (policy, honest)]
    assert said[0] == said[1]
    assert said[0].text
    # The saved processor is kept from it too.
    policy.processor.save_pretrained(tmp_path / "saved")
    shutil.copytree(ending, tmp_path / "whole", ignore=shutil.ignore_patterns("tokenizer*"))
    shutil.copytree(tmp_path / "saved", tmp_path / "whole", dirs_exist_ok=True)
    load_policy(str(tmp_path / "whole"), device="cpu")
    assert "adds" not in capsys.readouterr().out


def test_a_run_records_what_the_template_was_given(folder: Path, tmp_path: Path) -> None:
    """The value that holds where nothing was said, too."""
    path = folder / "chat_template.jinja"
    path.write_text("{% if enable_thinking %}Think. {% endif %}" + path.read_text())
    for given, used in ((None, False), ({"enable_thinking": True}, True)):
        with start_run(tmp_path / "run", "ask", {}) as run:
            load_policy(str(folder), device="cpu", template=given)
            run.finish()
        record = read_json(tmp_path / "run" / "run.json")
        assert record["template_variables"] == {str(folder): {"enable_thinking": used}}
    with start_run(tmp_path / "run", "ask", {}) as run:
        load_policy("embedded", device="cpu")
        run.finish()
    assert "template_variables" not in read_json(tmp_path / "run" / "run.json")
