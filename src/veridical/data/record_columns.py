"""Every column of a kind of record, with its type in Arrow and Parquet."""

from __future__ import annotations

from datasets import Features, Image, List, Value

from veridical.data.record_kinds import MESSAGE_FIELDS, OPTIONAL_FIELDS, Kind


def arrow_features(kind: Kind, decode_images: bool = True) -> Features:
    """Every column of a kind, with the types it has in Arrow and Parquet.

    Args:
        kind: the kind of record.
        decode_images: whether Datasets decodes the images itself on access.
    """
    text, number, image = Value("string"), Value("float64"), Image(decode=decode_images)
    messages = List({"role": text, "content": List({"type": text, "text": text})})
    types = {
        "rejected_images": List(image),
        "contrast_images": List(image),
        "contrast_chosen": messages,
        "rejected_masked": number,
        "contrast_masked": number,
        "more_rejected": List(messages),
        "responses": List(messages),
        "ratings": List({"answer": text, "aspect": text, "value": number}),
        "facts": List(text),
        "expected_answer": text,
        "beta_factor": number,
        "answer_prefix": text,
        "span_weights": List(
            {"answer": text, "start": Value("int64"), "end": Value("int64"), "weight": number}
        ),
        "label": Value("bool"),
        "source": text,
    }
    columns = {"id": text, "images": List(image)}
    columns |= {field: types.get(field, messages) for field in MESSAGE_FIELDS[kind]}
    return Features(columns | {field: types[field] for field in OPTIONAL_FIELDS[kind]})
