"""What others call the columns of a row, and which of their columns hold images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from veridical.data.column_names import OF_RECORDS, as_known, known, with_underscores
from veridical.data.record_kinds import MESSAGE_FIELDS, OPTIONAL_FIELDS
from veridical.runtime.files import JSON_ERRORS, parse_json

IMAGES = (
    "images", "image", "image_path", "image_paths", "image_file", "image_files", "image_bytes",
    "file_name", "filename", "img", "imgs", "img_path", "img_paths", "picture", "pictures", "photo",
    "photos",
)  # fmt: skip
"""Names of the column of images, the plainest first."""
QUESTIONS = ("question", "instruction", "query")
ANSWERS = ("answer", "response", "output", "completion", "caption", "text")
LABELS = ("kto_tag", "desirable")
"""Other names of `label`: whether an answer without a pair is a good one."""
EXPECTED = ("answer", "solution", "ground_truth")
"""Names of a prompt's expected answer. A longer text, as of a `response`, is not a short answer."""
ROLES = {"system": "system", "human": "user", "user": "user"} | dict.fromkeys(
    ("gpt", "assistant"), "assistant"
)
_LOOKS_LIKE_IMAGES = re.compile(
    r"(^|_)(image|img|picture|photo|pixel|video|frame|screenshot)s?(_|$)", re.I
)
_FILE = re.compile(r"\.(?:bmp|gif|jpe?g|png|tiff?|webp|avif|heic)(?:[?#]\S*)?$", re.I)
_FILE_NAME = r"[^\s)\"'<>]+\.(?:bmp|gif|jpe?g|png|tiff?|webp)"
_MARKER = re.compile(
    rf"<img>.*?</img>|<\|(?:image|image_pad|vision_start|image_[0-9]+)\|>|\[IMG\]"
    rf"|!\[[^\]]*\]\({_FILE_NAME}|<img [^>]*src=.?{_FILE_NAME}",
    re.I,
)
_CONVERSED = ("prompt", "messages", "chosen", "rejected")
_LISTS = (
    *IMAGES, "rejected_images", "contrast_images",
    "responses", "more_rejected", "ratings", "facts", "span_weights",
)  # fmt: skip
# How PNG, JPEG, GIF, WebP and TIFF files begin, in base64.
_BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "SUkqA", "TU0AK")
LABELED_BAD = "its answer is labeled as a bad one, and is none to learn"
DEEPEST = 8  # objects within objects
FIRST_ITEMS = 16  # of a list
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")


def pair_names(field: str) -> tuple[str, ...]:
    """Other names of the columns `chosen` and `rejected`."""
    endings = ("response", "answer", "text", "messages", "conversations", "conversation")
    more = ("y_win",) if field == "chosen" else ("y_lose", "reject")
    return (*(f"{field}_{ending}" for ending in endings), *more)


OTHERS = frozenset(
    (*IMAGES, *QUESTIONS, *ANSWERS, *pair_names("chosen"), *pair_names("rejected"))
) | {"messages", "conversations", "input", "system"}
"""Names that are read in place of the kinds' own."""


RECORD_NAMES = (
    *OF_RECORDS, *IMAGES, *QUESTIONS, *ANSWERS, *LABELS, *EXPECTED, *pair_names("chosen"),
    *pair_names("rejected"), "conversations", "input", "system",
)  # fmt: skip
"""Every name that is read; of those that are told apart by nothing, the first counts."""
KNOWN = known(RECORD_NAMES)


def with_own_names(
    row: Mapping[str, object], kind: str, exact: bool = False
) -> tuple[dict[str, object], set[str]]:
    """A row with the names of its kind, and the columns of other names that were used for it.

    Understood are, beside the names in `IMAGES`:

    - `question` or `instruction` (with `input` and `system`) for the prompt;
    - `chosen_response`, `rejected_response` and the like, `y_win`, `y_lose`, `reject`; `chosen` and
      `rejected` as one message;
    - `messages` or `conversations` beside `rejected_response` or `rejected_conversations`;
    - turns of `from` and `value` for `role` and `content`;
    - blocks that hold their picture (`{"type": "image", "image": "a.png"}`, `image_url`), where
      the row has no column of images;
    - a prompt's `answer`, `solution` or `ground_truth` for its `expected_answer`, if it is a text
      or a number;
    - an unpaired answer's `response`, `answer` or `output` for its `completion`, the last turn of
      `messages` or `conversations`, and `kto_tag` or `desirable` for its `label`;
    - a question with an `answer`, `response`, `output`, `completion`, `caption` or `text` for a
      conversation.

    Messages that are JSON in a text, and lists of images, responses and the like that are, count as
    what they stand for. A column of the kind's own name always comes first. All names may be
    written with capitals, and with spaces, hyphens or nothing for underscores, unless `exact`.

    Raises:
        RowError: two columns have one name, written in two ways.
    """
    spelled = {} if exact else as_known(row, KNOWN)
    named, used = (
        {n: _unpacked(n, value) for n, value in row.items() if n not in spelled},
        set[str](),
    )
    named |= {ours: _unpacked(ours, row[name]) for name, ours in spelled.items()}
    _name(named, used, kind)
    fields = {"id", *IMAGES[:2], *MESSAGE_FIELDS[kind], *OPTIONAL_FIELDS[kind]}
    fields |= {"conversations"} if kind == "conversation" else set()
    return named, used | {name for name, ours in spelled.items() if ours in used | fields}


def _name(named: dict[str, object], used: set[str], kind: str) -> None:
    """Fill the fields of a kind from columns of other names, which are noted in `used`."""
    if named.get("images") is None and named.get("image") is None:
        _take(named, used, "images", IMAGES[2:])
    if kind == "preference":
        _name_pair(named, used)
    if kind == "unpaired":
        _name_labeled(named, used)
    if kind in ("preference", "prompt", "sample", "unpaired") and named.get("prompt") is None:
        _name_prompt(named, used)
    if kind == "prompt":
        plain = [name for name in EXPECTED if _is_short(named.get(name))]
        _take(named, used, "expected_answer", plain)
    if kind == "conversation" and not {"messages", "conversations"} & _given(named):
        _name_conversation(named, used)
    for field in _CONVERSED:
        named[field] = _turns(named.get(field))
    if named.get("images") is None and named.get("image") is None:
        _lift_images(named)


def is_labeled_bad(row: Mapping[str, object]) -> bool:
    """Whether a row is of a set without pairs (KTO's), and its answer one of the bad ones."""
    labels = [row.get(name) for name in LABELS]
    if "completion" in row or "messages" in row:  # else `label` may be anything
        labels.append(row.get("label"))
    return any(isinstance(label, bool | int) and not label for label in labels)


def image_marker(row: Mapping[str, object]) -> str | None:
    """What stands in a user's text of a named row where a program puts a picture, None if nothing.

    Not `<image>`, of which `record_messages` makes a picture's place.
    """
    for value in (row["prompt"], row["messages"]):
        messages = value if isinstance(value, list) else [{"role": "user", "content": value}]
        for message in messages:
            if isinstance(message, Mapping) and message.get("role") == "user":
                found = _MARKER.search(str(message.get("content")))
                if found is not None:
                    return found.group()
    return None


def image_column(name: str, value: object, depth: int = DEEPEST) -> str | None:
    """The place in a column that nothing reads which seems to hold images ("metadata.image").

    None where there is none. Objects in it are looked through, and of lists the first items.

    Args:
        name: of the column, or the place within it.
        value: what a row has there.
        depth: how many objects within objects are looked into.
    """
    if _looks_like_images(name, value):
        return name
    if isinstance(value, str):
        value = _json_in(value)
    if depth and isinstance(value, Mapping):
        inner = [(f"{name}.{key}", item) for key, item in value.items()]
    elif depth and isinstance(value, list):
        inner = [(name, item) for item in value[:FIRST_ITEMS]]
    else:
        return None
    found = (image_column(place, item, depth - 1) for place, item in inner)
    return next((place for place in found if place is not None), None)


def _looks_like_images(name: str, value: object) -> bool:
    if value is None or value is False or value in ("", 0, [], {}):
        return False
    if _LOOKS_LIKE_IMAGES.search(with_underscores(name.rpartition(".")[2])):
        return True
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, str):
        return is_base64(first) or bool(_FILE.search(first.strip()) and "\n" not in first)
    if isinstance(first, bytes):
        return first.startswith(_MAGIC)
    return isinstance(first, Mapping) and isinstance(first.get("bytes"), bytes)


def is_base64(text: str) -> bool:
    """Whether a text is an image in base64, or a `data:` URL of one."""
    return text.startswith("data:image/") or (len(text) > 100 and text.startswith(_BASE64))


def _unpacked(name: str, value: object) -> object:
    """What a text stands for that is JSON of messages, or of a column's list; else the value."""
    found = _json_in(value) if isinstance(value, str) else None
    items = found if isinstance(found, list) else [found]
    is_list = name in _LISTS and (isinstance(found, list) or (name in IMAGES and bool(found)))
    if found and (is_list or all(_is_message(item) for item in items)):
        return found
    return value


def _json_in(text: str) -> object:
    """The list or object that a text holds as JSON, None where it is another text."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        return parse_json(text)
    except JSON_ERRORS:
        return None


def _is_message(item: object) -> bool:
    return isinstance(item, Mapping) and ({"role", "content"} <= item.keys() or _is_turn(item))


def _is_turn(item: Mapping[str, object]) -> bool:
    return {"from", "value"} <= item.keys()


def _given(row: Mapping[str, object]) -> set[str]:
    return {name for name, value in row.items() if value is not None}


def _take(row: dict[str, object], used: set[str], field: str, names: Sequence[str]) -> None:
    """Fill a field that is not there from the first of other names that is."""
    found = next((name for name in names if row.get(name) is not None), None)
    if row.get(field) is None and found is not None:
        row[field] = row[found]
        used.add(found)


def _name_pair(row: dict[str, object], used: set[str]) -> None:
    for field in ("chosen", "rejected"):
        _take(row, used, field, pair_names(field))
        row[field] = _one_message(row.get(field))
    if row.get("prompt") is not None:
        _take(row, used, "chosen", ANSWERS[:-1])
        return
    turns = next((n for n in ("messages", "conversations") if row.get(n) is not None), None)
    if turns is None or row.get("rejected") is None:
        _take(row, used, "chosen", ANSWERS[:-1])
        return
    used.add(turns)
    whole = _turns(row[turns])
    if row.get("chosen") is not None:
        row["prompt"] = whole
    elif isinstance(row["rejected"], list) and len(row["rejected"]) > 1:
        row["chosen"] = whole  # both are whole conversations, and begin alike
    elif isinstance(whole, list):
        row["prompt"], row["chosen"] = whole[:-1], whole[-1:]


def _name_labeled(row: dict[str, object], used: set[str]) -> None:
    _take(row, used, "label", LABELS)
    turns = next((n for n in ("messages", "conversations") if row.get(n) is not None), None)
    whole = _turns(row[turns]) if turns is not None else None
    if turns is not None and isinstance(whole, list) and row.get("prompt") is None:
        used.add(turns)
        row["prompt"], row["completion"] = whole[:-1], whole[-1:]
    _take(row, used, "completion", ANSWERS[:3])
    row["completion"] = _turns(_one_message(row.get("completion")))


def _is_short(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _name_prompt(row: dict[str, object], used: set[str]) -> None:
    _take(row, used, "prompt", QUESTIONS)
    question = row["prompt"] = _one_message(row.get("prompt"))
    if not isinstance(question, str):
        return
    # As in Alpaca's and LLaMA-Factory's files.
    more = row.get("input")
    if "instruction" in used and isinstance(more, str):
        used.add("input")
        question = f"{question}\n{more}" if more.strip() else question
    turns = [{"role": "user", "content": question}]
    system = row.get("system")
    if isinstance(system, str):
        used.add("system")
        if system.strip():
            turns.insert(0, {"role": "system", "content": system})
    row["prompt"] = turns


def _name_conversation(row: dict[str, object], used: set[str]) -> None:
    given = row.get("prompt")
    if given is not None:
        used.add("prompt")
    else:
        _name_prompt(row, used)
    question = _turns(row.get("prompt"))
    if isinstance(question, str):
        question = [{"role": "user", "content": question}]
    answer = next((name for name in ANSWERS if row.get(name) is not None), None)
    if isinstance(question, list) and answer is not None:
        used.add(answer)
        said = _one_message(row[answer])
        if isinstance(said, str):
            said = [{"role": "assistant", "content": said}]
        row["messages"] = [*question, *said] if isinstance(said, list) else None


def _one_message(value: object) -> object:
    """An answer that is one message, as a list of it; one that is `{"text": ...}`, as its text."""
    if not isinstance(value, Mapping):
        return value
    if _is_message(value):
        return [value]
    texts = [value[name] for name in ("content", "value", *ANSWERS) if value.get(name) is not None]
    return texts[0] if len(texts) == 1 and isinstance(texts[0], str) else value


def _turns(value: object) -> object:
    """Turns of `from` and `value` as messages; whatever else as it is."""
    if not isinstance(value, list):
        return value
    return [_message(item) for item in value]


def _message(item: object) -> object:
    if not isinstance(item, Mapping):
        return item
    if "role" not in item and _is_turn(item):
        item = {"role": ROLES.get(str(item["from"]), item["from"]), "content": item["value"]}
    blocks = _json_in(item["content"]) if isinstance(item.get("content"), str) else None
    return {**item, "content": blocks} if _are_blocks(blocks) else item


def _are_blocks(value: object) -> bool:
    """Whether a list is of blocks of a message, of which one is an image."""
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        return False
    types = [item.get("type") for item in value]
    return set(types) <= {"image", "image_url", "text"} and set(types) != {"text"} and bool(types)


def _lift_images(row: dict[str, object]) -> None:
    """Move pictures out of the blocks that hold them, into the row's images."""
    lifted: list[list[object]] = []
    for field in _CONVERSED:
        messages = row[field]
        if isinstance(messages, list):
            found: list[object] = []
            row[field] = [_without_pictures(message, found) for message in messages]
            lifted.append(found)
    # Whole conversations that begin alike hold their pictures twice.
    images = next((found for found in lifted if found), None)
    if images is not None:
        row["images"] = images


def _without_pictures(message: object, found: list[object]) -> object:
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), list):
        return message
    return {**message, "content": [_without_picture(block, found) for block in message["content"]]}


def _without_picture(block: object, found: list[object]) -> object:
    if not isinstance(block, Mapping) or block.get("type") not in ("image", "image_url"):
        return block
    held = [block[name] for name in ("image", "image_url", "url", "path") if block.get(name)]
    if len(held) != 1:
        return block
    picture = held[0]
    if isinstance(picture, Mapping) and isinstance(picture.get("url"), str):
        picture = picture["url"]
    found.append(picture.removeprefix("file://") if isinstance(picture, str) else picture)
    return {"type": "image"}
