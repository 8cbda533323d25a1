"""Nouns that are part of a compound: no other noun can stand for the clock of a clock tower.

The word lists are our own, from what stands beside objects in captions of real models.
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_HEADS = _words(
    "aisle animal area arrangement bag bell bin booth bowl box building bunch cage cake "
    "carrier cart case chip club collar collection compartment controller costume counter "
    "court crossroad cushion deck decoration depot design device dish display doll door "
    "driver engine enthusiast entry event exhibit fabric face factory fan farm festival field "
    "figure figurine floret flyer food frame game garage gate hair hand handle handler head "
    "helmet holder house illustration interior item juice keeper key lane leash leg lid "
    "litter lot lover maker mascot meal model monitor oven owner park party passenger path "
    "peel pen picture pie piece pile pillow plant player port pot print race rack ramp rider "
    "roll roof room route sanctuary sauce screen seat section setting setup shed shelf "
    "shelter shop show sign skier skin slice soup space stable stall station statue stop "
    "store strap string stripe suit surfer tail team terminal theme tire topping tower toy "
    "track trail trailer trainer tray trick trunk user vendor walker wheel window yard"
)
"""Words that make a compound of the noun before them."""
_MODIFIERS = _words(
    "bullet cell coca coffee commuter computer desktop dining dirt double-decker dump fighter "
    "fire fishing freight garbage jet jumbo mountain passenger pick-up pickup polar police "
    "propeller rocking sail semi side steam teddy tow transit wii wine"
)
"""Words that fit the noun behind them and few others."""
_NEXT = re.compile(r"[ -]([A-Za-z]+)")
_BEFORE = re.compile(r"([A-Za-z-]+)[ -]$")


def in_compound(answer: str, start: int, end: int) -> bool:
    """Whether the noun at a place is a part of a compound, or of a word with a hyphen."""
    following, before = _NEXT.match(answer, end), _BEFORE.search(answer[:start])
    if answer[end : end + 1] == "-" or answer[max(0, start - 1) : start] == "-":
        return True
    if before is not None and before[1].lower() in _MODIFIERS:
        return True
    return following is not None and _single(following[1].lower()) in _HEADS


def _single(word: str) -> str:
    """A plural without its ending, where that is one of the words; else the word."""
    endings = (word, word.removesuffix("s"), word.removesuffix("es"), f"{word[:-3]}y")
    return next((one for one in endings if one in _HEADS), word)
