"""Nouns that are part of a compound: no other noun can stand for the clock of a clock tower.

Nouns make compounds with any other noun, so no list of them is ever complete. What can stand before
or behind a noun that is alone is one of few words, or has one of few endings: a noun beside any
other word is taken for a part of a compound, and left alone. The word lists are our own, from what
stands beside objects in captions of real models.
"""

from __future__ import annotations

import re

from veridical.data.text.english import is_plural


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ANYWHERE = _words(
    "a about above across after against all almost along alongside also amid amidst among an and "
    "another any are around as at away back be because been before behind being below beneath "
    "beside besides between beyond both but by can could despite did do does down during each "
    "either even every everywhere few for from had has have he her here him his how i if in "
    "inside into is it its itself just like likely many may might mine more most much my near "
    "nearby neither next no nor not now of off on once one only onto or other our out outdoors "
    "outside over own past perhaps possibly several she should since so some such than that the "
    "their them themselves then there these they this those though through throughout to together "
    "too toward towards two under underneath unless until up upon upside us very via was we were "
    "what when where which while who whose will with within without would yet you your"
)
"""Words that are not part of a compound on either side: of grammar, of place, of time."""
_BEFORE = _ANYWHERE | _words(
    "three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "twenty thirty fifty dozen first second third fourth last various numerous multiple "
    "additional single lone same different made homemade well-made half-eaten red blue green "
    "yellow orange purple pink brown black white gray grey golden silver beige tan big large "
    "larger largest small smaller smallest little tiny huge giant enormous tall taller tallest "
    "long longer short shorter wide narrow round square thick thin slender old older new newer "
    "young younger modern vintage antique ancient classic historic fresh ripe unripe clean clear "
    "dirty dusty rusty messy tidy neat cluttered empty full open closed broken bright dark shiny "
    "colorful vibrant cute fluffy furry hairy fancy cozy sunny snowy grassy sandy rocky wet dry "
    "hot warm cool cold soft hard smooth rough heavy light tasty juicy cheesy creamy spicy sweet "
    "healthy happy sad lively friendly lovely pretty playful curious adorable gentle elegant "
    "simple fine nice good great real fake strange funny unusual unique typical main prominent "
    "majestic elderly energetic busy favorite ornate entire whole central distant close closer "
    "closest high higher low lower upper left right leftmost rightmost middle front rear opposite "
    "separate parallel matching bare wild brave wooden metal metallic plastic wicker leather "
    "ceramic marble bronze rubber concrete hold holds carry carries wear wears ride rides watch "
    "watches eat eats include includes contain contains feature features show shows see sees use "
    "uses have spot spots"
)
_BEFORE_ENDINGS = ("ed", "ing", "ful", "ous", "able", "ible", "ish", "less", "ive", "'s", "s'")
_NOUNS_BEFORE = _words(
    "archive bed breed building cable camping cheerleading climbing clothing coding cooking "
    "cycling dining dish dressing drive dumpling evening feed fencing fish fishing flooring "
    "flying frying gaming gardening goldfish hiking hive hunting ironing jellyfish landing "
    "laughing living morning olive parking playing racing reading reed riding rocking rolling "
    "sailing seating seed serving sewing shaving shed shipping shopping skateboarding skating "
    "skiing sled sleeping sliding snowboarding speed surfing swimming table timetable towing "
    "training vegetable vending warning washing wedding weed wing wrestling writing"
)
"""Nouns with such an ending, and what says what the noun is for: a sailing boat."""
_BEHIND = _ANYWHERE | _words(
    "appropriately apart beautifully forward ready still today tonight upright visible present "
    "available full high low close closer further adjacent partly aboard abroad aloft ahead mid- "
    "air outdoors indoors downhill uphill empty open alone alike often always sometimes laid made "
    "found seen shown left kept held built caught thrown worn drawn driven hung bent"
)
_BEHIND_ENDINGS = ("ed", "ing", "ly")
_NOUNS_BEHIND = _words(
    "assembly baking bed belly building butterfly ceiling clothing coating cooking covering "
    "crossing decking dressing family fencing filling fly gathering grooming icing jelly landing "
    "lettering lighting making meeting melting opening painting parking paving pudding racing "
    "railing riding ring roofing sailing seating seed serving setting shed siding signing skiing "
    "sled stuffing supply surfing swimming topping training viewing wedding wing wrapping"
)
"""Nouns with such an ending."""
_VERBS = _words(
    "adds adorns allows appears becomes belongs brings captures carries catches comes consists "
    "contains contributes creates crosses dangles demonstrates depicts dominates eats emphasizes "
    "enhances enjoys extends faces fills flies gazes gives glides goes grazes hangs helps hides "
    "highlights holds implies includes indicates investigates jumps keeps lays leans lies lives "
    "makes moves looks navigates observes occupies offers passes peeks performs provides pulls "
    "reaches receives reflects relaxes remains represents rests runs seems serves sits sleeps "
    "soars spans speeds stares stays stretches strolls suggests surrounds takes transforms "
    "travels waits walks wanders watches wears yawns add adorn allow appear become belong bring "
    "come consist contain contribute create demonstrate dominate emphasize enhance enjoy extend "
    "gather give go hide imply include indicate interact make navigate observe occupy perform "
    "provide receive remain represent resemble seem suggest surround take vary wander"
)
"""Verbs that are not nouns. Their number says little: "the color of the dogs suggests"."""
_PLURAL_VERBS = _words(
    "carry catch cross dangle eat face fill fly gaze glide graze grow hang help hold jump keep "
    "lay lean lie live look move offer play pull reach reflect relax rest run serve sit sleep "
    "soar span spread stand stare stay stretch travel wait walk watch wear"
)
"""Verbs that are nouns too, or close to one: no compound has them behind a plural."""
_NEXT = re.compile(r"[ -]([A-Za-z][A-Za-z-]*)")
_LAST = re.compile(r"([A-Za-z][A-Za-z'\N{RIGHT SINGLE QUOTATION MARK}-]*)[ -]$")


def in_compound(answer: str, start: int, end: int) -> bool:
    """Whether the noun at a place may be a part of a compound, or of a word with a hyphen."""
    if answer[end : end + 1] == "-" or answer[max(0, start - 1) : start] == "-":
        return True
    following, before = _NEXT.match(answer, end), _LAST.search(answer[:start])
    if before is not None and not _is_before(before[1].lower()):
        return True
    several = is_plural(answer[start:end].lower().split()[-1])
    return following is not None and not _is_behind(following[1].lower(), several)


def _is_before(word: str) -> bool:
    """Whether a word can stand before a noun that is alone."""
    word = word.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return word in _BEFORE or (word.endswith(_BEFORE_ENDINGS) and word not in _NOUNS_BEFORE)


def _is_behind(word: str, several: bool) -> bool:
    """Whether a word can stand behind a noun that is alone, or behind several such."""
    if word in _BEHIND or word in _VERBS or (several and word in _PLURAL_VERBS):
        return True
    one = next((noun for noun in (word, word.removesuffix("s")) if noun in _NOUNS_BEHIND), None)
    return word.endswith(_BEHIND_ENDINGS) and one is None
