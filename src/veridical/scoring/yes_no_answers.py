"""Whether an answer to a yes/no question says yes or no."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, TypeAlias

from veridical.data.vocabulary import Vocabulary, read_vocabulary

YesNoVerdict: TypeAlias = Literal["yes", "no"]
Parsing: TypeAlias = Literal["strict", "official"]

_ASKED = re.compile(
    r"^\s*(?:(?:is|are) there|(?:can|do) you see"
    r"|(?:does|do) (?:the|this|these) \w+ (?:show|contain|have|depict|include))"
    r" (?:an? |any |some |the )?(.+?)(?: in | on |\?|$)",
    re.I,
)
_YES = "yes|yeah|yep|yup|yea|yess|affirmative|correct|true|indeed"
_NO = "no|nope|nah|negative|incorrect|false|none|nothing"
# Layout, quotes, placeholders: "**Yes**", "\boxed{No}".
_LAYOUT = re.compile(r"<[^<>]*>|\\boxed|[*_`\"#>\[\]{}\u201c\u201d]")
# The options, repeated: "Yes/No", "Answer yes or no."
_ECHO = re.compile(
    r"\b(?:neither (?:yes nor no|no nor yes)"
    r"|yes\b\s*(?:/|\||,|or|and)\s*no|no\b\s*(?:/|\||,|or|and)\s*yes)\b"
)
# What may stand before the word that decides: "1.", "a)", "Answer:", "The answer is", "Well,".
_BEFORE = re.compile(
    r"(?:(?:\(?\d+[.):]|\(?[a-d][.)]|a:"
    r"|(?:the |my )?(?:final |correct |short )?(?:answer|response)(?: is|:| would be)"
    r"|(?:well|so|ok|okay|hmm|oh|uh|um)\b(?! so)"
    r"|there(?: is|'s) no (?:doubt|question)(?: about it| that)?"
    r"|i (?:would |'d )?(?:think|believe|say|guess)(?! so)"
    r")[\s:,]*)+(?=\w)"
)
# "No doubt" and "no idea" begin with the word and do not say it.
_LEADING = re.compile(
    rf"(?P<word>{_YES}|{_NO})\b(?!['-]\w)(?!\.\s*\d)(?! (?:doubt|question|idea|clue|comment|way"
    r"|problem|worries|matter|information|wonder|answer|one|\d+)\b)"
)
_CLOSING = re.compile(r"\b(yes|no)\b(?=\W*$|[,;:!])")
_SURE = re.compile(
    r"(?:(?:sure|certainly|absolutely|definitely|of course|for sure|without a doubt|exactly|right"
    r"|no doubt|that is right|that's right)\b\W*)+"
)
_UNKNOWN = re.compile(
    r"\b(?:not (?:\w+ )?(?:sure|certain|clear|possible|know|able|enough)|unsure|unclear|unknown"
    r"|uncertain|(?:do|does|did)(?: not|n't) (?:\w+ )?(?:know|understand)|cannot|(?:can|could)"
    r"(?: not|'t|n't)|no (?:idea|clue|way|answer|comment|information)|unable|impossible|sorry"
    r"|(?:hard|difficult) to|maybe|perhaps|possibly|might|may|could be|either|depends)\b"
)
_IS = r"(?:is|are|was|were|does|do|did|has|have)"
_NOT = rf"(?:{_IS} not|{_IS}n't|ain't|'s not|'re not)"
_IT = r"(?:it|that|this|they|there|these|those|i|we)"
# "It is not.", "There aren't any", "Not in this image", "I don't think so"; "It is", "I think so".
_SHORT_NO = re.compile(
    rf"(?:{_IT} ?{_NOT}(?: (?:any|one|so|there|at all))?"
    r"|(?:(?:certainly|absolutely|definitely|probably|most|likely|of course|clearly) )*not"
    r"(?: at all| really| likely| visible| present| there| here| in (?:the|this) \w+"
    r"| (?:that|as far as) i (?:can )?(?:see|tell|notice))?"
    r"|(?:that|this|it)(?:'s| is) (?:incorrect|false|wrong|not (?:correct|true|right|the case))"
    r"|i (?:don't|do not) (?:think|believe) so|i(?:'m| am) afraid not|it (?:seems|appears) not"
    r"|(?:it )?(?:does not|doesn't) (?:appear|seem|look)(?: so| like it| that way))\W*$"
)
_SHORT_YES = re.compile(
    rf"(?:{_IT} {_IS}(?: (?:one|some|so|indeed))?|i (?:think|believe) so"
    r"|(?:that|this|it)(?:'s| is) (?:correct|true|right))\W*$"
)
_THERE = rf"\bthere(?: \w+ly)?(?: {_IS}|'s|'re| (?:appears?|seems?) to be)(?: \w+ly)?"
# "There is nothing but a dog" and "no other animals besides a dog" deny nothing of the dog.
_ONLY = re.compile(
    rf"{_THERE} (?:(?P<nothing>nothing)(?: else| here| there)?"
    r"|no other (?P<kind>(?:\w+ ){0,2}\w+))"
    r" (?:but|except(?: for)?|besides|other than|than|apart from)\b"
)
_ABSENT = re.compile(
    rf"^(?:not|no(?!\.? ?\d|[- ]one))\b|^zero\b(?! (?:doubt|question|chance))"
    rf"|{_THERE} (?:no|not|none|nothing|never|neither|zero)\b|\bthere {_NOT}\b"
    r"|\b(?:contains?|shows?|has|have|depicts?|includes?|see|find|features?|displays?) (?:no|none"
    r"|nothing)\b|\b(?:do|does|did)(?: not|n't) (?:\w+ly )?(?:contain|show|see|have|depict|include"
    r"|find|feature|display|appear|seem|notice|spot|observe|detect|exist|think|believe)\b"
    r"|\b(?:is|are|was|were)(?: not|n't) (?:\w+ly )?(?:visible|present|there|shown|in|seen|found"
    r"|detected|pictured|depicted|included|any|here|part|what|an?)\b"
    r"|\b(?:image|picture|photo|scene) lacks\b|\b(?:is|are) (?:absent|missing)\b"
)
_PRESENT = re.compile(
    rf"{_THERE}|\b(?:i|we) (?:can |do |\w+ly )*see\b"
    r"|\b(?:is|are|can be) (?:\w+ly )?(?:visible|present|shown|seen)\b"
    r"|\b(?:contains?|shows?|has|depicts?|includes?|features?|displays?)\b"
)
# "There is one", "There are several of them": what was asked for, by another word.
_PRONOUN = re.compile(
    rf"(?:{_THERE}|\bsee) (?:one|some|many|several|two|three|four|five|it|them)(?: of them)?\b"
    r"(?! \w)"
)
_NEGATED_TURN = re.compile(r"\b(?:rather than|instead of|and not|but not)\b")
# "A dog is lying on the sofa": what was asked for, without an adjective ("a toy dog"), does it.
_DOES = re.compile(
    r"^(?:an?|one|two|three|four|five|several|some|many) (?P<what>\w+(?: \w+)?) (?:is|are)"
    r" (?!being|missing|lacking|nothing)\w+ing (?:in|on|at|by|near|under|behind|beside|through)\b"
)
_NOBODY = re.compile(r"\b(?:no[- ]one|nobody)\b")
_NOBODY_THERE = re.compile(
    r"(?:there(?: is|'s) )?(?:no[- ]one|nobody)(?: is| there| visible| present)*"
    r"(?: in (?:the|this) \w+)?\W*$"
)
# After a stop: "No, wait, yes."
_TAKEN_BACK = re.compile(
    r"[.,;:!?\n\u2026\u2013\u2014-][ \t]*(?:but |oh,? |hmm,? |no,? )?(?:wait|actually|sorry|i mean"
    r"|scratch that|correction|on second thoughts?)\b",
    re.I,
)
_CLAUSE = re.compile(r"[,;:]|\bbut\b")


def parse_answer(
    answer: str, parsing: Parsing = "strict", question: str = ""
) -> YesNoVerdict | None:
    """What an answer says.

    Official: the text before the first full stop, split at spaces with commas removed, is a no if
    it has the word "No", "no" or "not" in it, and a yes otherwise, whatever it is.

    Strict (our choice) reads sentence by sentence until one decides:

    - a word for yes or no at its beginning, or after "Answer:", "The answer is", "1." and the like;
      the options repeated ("Yes/No") are neither;
    - doubt ("not sure", "I cannot see", "perhaps") ends the reading without a result;
    - "there is no ...", "... is not visible", "it isn't" are a no, "there is ...", "I see ..." a
      yes. Where the question is "Is there a ...?", such a statement has to name what is asked for:
      "There is a dog, not a cat." is a yes for a dog, a no for a cat and nothing for a bird;
      "A dog is lying on the sofa." is a yes for a dog;
    - what is taken back ("No, wait, yes.") is neither, and "No one ..." is about people alone.

    Args:
        answer: what the model said, without its thought.
        parsing: which rule.
        question: what it was asked; "" where that is not known.
    """
    if parsing == "official":
        words = set(answer.split(".")[0].replace(",", "").split(" "))
        return "no" if words & {"No", "no", "not"} else "yes"
    asked = asked_object(question)
    said = {_read(part, asked) for part in _TAKEN_BACK.split(answer)}
    return None if {"yes", "no"} <= said else _read(answer, asked)


def _read(answer: str, asked: str) -> YesNoVerdict | None:
    """What the first sentence that decides says."""
    for sentence in _sentences(answer):
        if _NOBODY.search(sentence):
            if _NOBODY_THERE.match(sentence) and _coco().name_of(asked) == "person":
                return "no"
            continue
        verdict = _leading(sentence, asked)
        if verdict is None and _UNKNOWN.search(sentence):
            return None
        verdict = verdict or _said(sentence, asked)
        if verdict is not None:
            return verdict
    return None


def asked_object(question: str) -> str:
    """What "Is there a ... in the image?" asks for, in lower case; "" for another question."""
    found = _ASKED.match(question)
    return found[1].strip().lower() if found else ""


def _sentences(answer: str) -> list[str]:
    """Sentences in lower case, without layout and what may stand before the answer.

    Those that only ask are left out.
    """
    text = _ECHO.sub(" ", _LAYOUT.sub(" ", answer.lower().replace("\u2019", "'")))
    # "No. 1 is a dog" is one sentence.
    parts = re.split(r"(?<=[!?])\s*|(?<=[^\d\s]\.)(?!(?<=\bno\.)[ \t]+\d)\s+|\n+", text)
    bare = (" ".join(part.split()).strip(" '-\u2013\u2014\u2022+:/,") for part in parts)
    sentences = (_BEFORE.sub("", part, count=1) for part in bare if part)
    return [part for part in sentences if not part.endswith("?") or _leading(part)]


def _leading(sentence: str, asked: str = "") -> YesNoVerdict | None:
    found = _LEADING.match(sentence)
    if found and asked and _denies_another(sentence[found.end() :], asked):
        return None
    if found:
        return "yes" if re.fullmatch(_YES, found["word"]) else "no"
    letter = sentence.strip(" .)(!")
    return "yes" if letter == "y" else "no" if letter == "n" else None


def _denies_another(rest: str, asked: str) -> bool:
    """Whether what follows "no" at once is another of COCO's objects: "No cats, but a dog"."""
    mentions = _coco().mentions(rest) if rest[:1] == " " else []
    if not mentions or mentions[0].start != 1:
        return False
    return not _names(mentions[0].text, asked)


def _said(sentence: str, asked: str) -> YesNoVerdict | None:
    """What a sentence says that does not begin with yes or no."""
    if _SHORT_NO.match(sentence):
        return "no"
    does = _DOES.match(sentence)
    if does and asked and _is(does["what"], asked):
        return "yes"
    only = _ONLY.search(sentence)
    if only and asked:
        return _said_by_exception(only, asked)
    sure = _SURE.match(sentence)
    rest = sentence[sure.end() :] if sure else sentence
    closing = set(_CLOSING.findall(rest))
    if _SHORT_YES.match(rest) or (sure and not rest) or _leading(rest, asked) == "yes":
        return "yes"
    if _leading(rest, asked) == "no" or closing == {"no"}:
        return "no"
    return "yes" if closing == {"yes"} else _stated(rest, asked)


def _stated(sentence: str, asked: str) -> YesNoVerdict | None:
    """What a statement that things are there, or are not, says of what was asked for."""
    verdicts: list[YesNoVerdict] = []
    stated = False
    for clause in _CLAUSE.split(_NEGATED_TURN.sub(", not", sentence)):
        absent = bool(_ABSENT.search(clause.strip()))
        # "I see a knot" says something only beside what was asked for.
        present = _PRESENT.search(clause) if asked else re.search(_THERE, clause)
        stated = stated or absent or bool(present)
        general = re.search(r"\b(?:nothing|none)\b", clause) or _PRONOUN.search(clause)
        if stated and (not asked or general or _names(clause, asked)):
            verdicts.append("no" if absent else "yes")
    if not verdicts or (not asked and len(set(verdicts)) > 1):
        return None
    return verdicts[0]


def _said_by_exception(only: re.Match[str], asked: str) -> YesNoVerdict | None:
    """What "there is nothing but a dog" says: yes of a dog, no of a cat."""
    if _names(only.string[only.end() :], asked) or _names(only["kind"] or "", asked):
        return "yes"
    return "no" if only["nothing"] else None


def _is(what: str, asked: str) -> bool:
    """Whether a noun is the one that was asked for, or one for the same of COCO's objects."""
    wanted = _coco().name_of(asked)
    same = wanted is not None and _coco().name_of(what) == wanted
    return same or what in (asked, f"{asked}s", f"{asked}es")


def _names(clause: str, asked: str) -> bool:
    """Whether a clause has the word that was asked for, or one for the same of COCO's objects.

    As a part of another object's name the word does not count: a hot dog is not a dog.
    """
    mentions, wanted = _coco().mentions(clause), _coco().name_of(asked)
    if wanted is not None and any(mention.name == wanted for mention in mentions):
        return True
    others = [mention for mention in mentions if len(mention.text.split()) > len(asked.split())]
    return any(
        not any(other.start <= found.start() and found.end() <= other.end for other in others)
        for found in re.finditer(rf"\b{re.escape(asked)}(?:e?s)?\b", clause)
    )


@lru_cache(maxsize=1)
def _coco() -> Vocabulary:
    return read_vocabulary(None)
