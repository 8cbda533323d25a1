"""Replies to "Is there a dog in the image?", and what the strict rule reads in them."""

from __future__ import annotations

import time

import pytest

from veridical.scoring.yes_no_answers import parse_answer

QUESTION = "Is there a dog in the image?"

YES = """
Yes
yes
YES
Yes.
Yes!
  Yes
"Yes"
'Yes'
**Yes**
*Yes.*
`yes`
Yes, there is a dog in the image.
Yes, but it is not a big one.
Yes - a dog is lying on the couch.
Yes; it is on the left.
Yeah
Yeah, there's one on the grass.
Yep
Yup.
Affirmative.
Correct.
True
Indeed, a dog is there.
Y
1. Yes
1) Yes, there is.
(a) Yes
A) Yes
- Yes
• Yes
# Yes
Answer: Yes
A: Yes
The answer is yes.
The answer is: Yes.
Final answer: Yes
**Answer:** Yes
My answer is yes, there is a dog.
Well, yes.
So yes, there is a dog.
I think yes.
I would say yes.
I'd go with yes.
I think so.
Absolutely!
Absolutely, there is a dog.
Certainly.
Of course.
Definitely yes.
Sure, there is a dog.
No doubt, there is a dog.
Probably yes.
There is.
There is one.
There are two.
There are several of them.
There is a dog in the image.
There's a dog on the couch.
There are dogs in the image.
There is a small brown dog, and there is no cat.
There is a dog, not a cat.
There is a dog but no cat.
There appears to be a dog in the background.
There is clearly a dog.
There is a puppy on the floor.
I see a dog.
I can see a dog near the tree.
A dog is visible in the image.
The image shows a dog.
The image contains a dog and two people.
It is.
Is there a dog in the image? Yes.
Q: Is there a dog in the image?\\nA: Yes
Yes or no: Yes
Answer yes or no.\\nYes
\\boxed{Yes}
A dog is lying on the sofa.
A puppy is sitting in the grass.
Two dogs are running on the beach.
That's correct.
That is true.
No cats, but there is a dog.
Let me look at the picture. Yes, there is a dog.
The image shows a kitchen. There is a dog under the table.
<answer>Yes</answer>
"""

NO = """
No
no
NO
No.
No!
"No"
**No**
No, there is no dog in the image.
No, there is a cat.
No, but there is a cat.
No dog is visible.
No dogs.
Nope
Nope, just a cat.
Nah
Negative.
Incorrect.
False
None
Nothing like that.
N
1. No
2) No, there is not.
(b) No
B) No
- No
Answer: No
The answer is no.
The answer is "No".
Final answer: No
Well, no.
I think no.
I would say no.
I'd go with no.
I don't think so.
I do not believe so.
I don't think there is a dog.
Not at all.
Not in this image.
Not visible.
Absolutely not.
Definitely not.
Certainly not!
Of course not.
Probably not.
It is not.
It isn't.
There is not.
There isn't.
There isn't one.
There aren't any.
There isn't a dog.
There is no dog in the image.
There is no dog here, only a cat.
There are no dogs in the picture.
There is not a dog in the image.
There are not any dogs.
There is nothing
There is nothing.
There is nothing like a dog.
There is none.
There does not appear to be a dog.
There doesn't seem to be any dog in the image.
There appears to be no dog.
There is a cat, not a dog.
There is a cat rather than a dog.
There is a cat, but no dog.
There is a cat and not a dog.
The image does not contain a dog.
The image doesn't show any dog.
The picture shows no dog.
The dog is not visible.
A dog isn't present in the image.
I don't see a dog.
I do not see any dogs in this image.
I see no dog.
I can find no dog.
Is there a dog in the image? No.
Yes/No: No
Please answer yes or no.\\nNo
The image lacks a dog.
That's incorrect.
That is not correct.
Not that I can see.
Not as far as I can tell.
zero dogs
There are zero dogs.
A dog is not what I see.
No, actually there is a cat.
Let me look at the picture. No, there is no dog.
The image shows a kitchen. There is no dog in it.
"""

UNPARSED = """
.
?
...
Not sure
Not sure.
I'm not sure.
I am not entirely sure.
I am unsure
I don't know
I do not know.
I don\u2019t know.
I cannot see one
I can't see one.
I cannot see the image.
I can't tell.
I cannot determine whether there is a dog.
It is not clear.
It is unclear whether there is a dog.
It is not possible to say.
It is hard to tell.
It is difficult to say whether there is a dog.
It is impossible to say.
Unable to determine.
I'm sorry, but I can't help with that.
As an AI, I cannot see images.
Maybe
Maybe not.
Perhaps there is a dog.
Possibly.
There might be a dog.
There may be a dog.
It could be a dog.
It depends.
No idea
No idea.
No way to tell.
No comment.
Yes/No
yes/no
Yes or no
Yes or No?
No/Yes
Yes and no
Yes, no
Answer yes or no.
Please answer yes or no.
Is there a dog in the image?
There is a cat.
There is a cat on the couch.
There is a cat, not a bird.
The image shows a kitchen.
A cat.
dog
I see a knot.
Notable are the colors.
Yesterday
Nobel
Norway is in the north.
Sure, I can help with that.
No, wait, yes.
No, actually yes.
No. Wait, there is a dog.
Yes. Actually, no.
Yes — sorry, no.
No. 1 is a dog.
No 1 is a dog.
No. 1
No one is in the image.
No-one is there.
Nobody is in the image.
No one doubts that there is a dog.
No cat is visible.
Zero doubt about that dog.
A dog toy is lying on the sofa.
A toy dog is lying on the sofa.
A hot dog is lying on the plate.
A dog is being asked about.
The image lacks a cat.
The dog lacks a collar.
The dog's owner is on the couch.
0
1
Ja
Thank you!
"""


def _replies(table: str) -> list[str]:
    return [line.replace("\\n", "\n") for line in table.strip("\n").split("\n")]


TABLE = [
    (reply, verdict)
    for table, verdict in ((YES, "yes"), (NO, "no"), (UNPARSED, None))
    for reply in _replies(table)
]


@pytest.mark.parametrize(("reply", "verdict"), TABLE)
def test_the_strict_rule(reply: str, verdict: str | None) -> None:
    assert parse_answer(reply, question=QUESTION) == verdict


def test_the_table_is_long_and_says_nothing_twice() -> None:
    assert len(TABLE) >= 120
    assert len({reply for reply, _ in TABLE}) == len(TABLE)


@pytest.mark.parametrize(
    ("asked", "verdict"), [("a dog", "yes"), ("a cat", "no"), ("a bird", None), ("dogs", "yes")]
)
def test_what_a_statement_says_depends_on_the_question(asked: str, verdict: str | None) -> None:
    question = f"Is there {asked} in the image?"
    assert parse_answer("There is a dog, not a cat.", question=question) == verdict


@pytest.mark.parametrize("reply", ["No one is in the image.", "There is no one.", "Nobody"])
def test_nobody_is_no_person(reply: str) -> None:
    assert parse_answer(reply, question="Is there a person in the image?") == "no"


def test_without_a_question_a_statement_with_both_says_nothing() -> None:
    assert parse_answer("There is a dog.") == "yes"
    assert parse_answer("There is no dog.") == "no"
    assert parse_answer("There is a dog, not a cat.") is None


def test_words_for_one_of_the_objects_of_coco_are_understood() -> None:
    question = "Is there a person in the image?"
    assert parse_answer("There is a man on a bench.", question=question) == "yes"
    assert parse_answer("There is no woman.", question=question) == "no"


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("There is no doubt that there is a dog.", "yes"),
        ("There is no doubt that there is no dog.", "no"),
        ("There is nothing else but a dog.", "yes"),
        ("There is nothing but grass.", "no"),
        ("There are no other animals besides a dog.", "yes"),
        ("There is no other dog than the brown one.", "yes"),
        ("There are no other animals besides a cat.", None),
        ("There is no dog but a cat.", "no"),
        ("There is a hot dog.", None),
        ("There is a hot dog and a dog.", "yes"),
        ("Neither yes nor no.", None),
        ("I'm afraid not.", "no"),
        ("It does not appear so.", "no"),
    ],
)
def test_a_negative_word_need_not_deny_what_was_asked_for(reply: str, verdict: str | None) -> None:
    assert parse_answer(reply, question=QUESTION) == verdict


@pytest.mark.parametrize("question", ["Does the image show a dog?", "Can you see a dog?"])
def test_a_statement_has_to_name_what_other_questions_ask_for(question: str) -> None:
    assert parse_answer("There is a cat.", question=question) is None
    assert parse_answer("There is a dog.", question=question) == "yes"


def test_time_does_not_grow_with_the_square_of_empty_lines() -> None:
    began = time.thread_time()
    assert parse_answer("\n" * 40_000 + "No", question=QUESTION) == "no"
    assert time.thread_time() - began < 1
