"""Messages: one form, whatever they came as."""

from __future__ import annotations

from veridical.data.messages import (
    assistant_message,
    clean_messages,
    count_images,
    text_of,
    user_message,
)


def test_messages_are_made_of_typed_blocks() -> None:
    assert user_message("What?", images=2) == {
        "role": "user",
        "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What?"}],
    }
    assert assistant_message("A cup.")["content"] == [{"type": "text", "text": "A cup."}]


def test_text_and_images_of_messages() -> None:
    messages = [user_message("What?", images=2), assistant_message("A cup.")]
    assert text_of(messages) == "What?\nA cup."
    assert text_of(messages[0]) == "What?"
    assert count_images(messages) == 2


def test_cleaning_drops_what_arrow_filled_in_and_is_idempotent() -> None:
    filled: list[dict[str, object]] = [
        {
            "role": "user",
            "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}],
            "name": None,
        },
        {"role": "assistant", "content": "A cup."},
    ]
    clean = [user_message("What?"), assistant_message("A cup.")]
    assert clean_messages(filled) == clean
    assert clean_messages(clean) == clean
