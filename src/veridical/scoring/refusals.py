"""Whether an answer declines to answer, by how it begins."""

from __future__ import annotations

import re

LOOKED_AT = 160
"""Characters at the beginning of an answer that are looked at (our choice: two sentences)."""
REFUSAL = re.compile(
    r"\b(?:i\s*(?:'m| am)\s+(?:sorry|afraid|unable|not able)"
    r"|i\s+apologi[sz]e"
    r"|i\s+(?:can(?:no|')?t|can not|could(?:n't| not)|won't|will not)\s+"
    r"(?:\w+\s+)?(?:see|view|help|assist|provide|describe|answer|identify|determine|process|comply)"
    r"|(?:don't|do not)\s+have\s+(?:the ability|access|enough information)"
    r"|as an? (?:ai|language model|text-based)"
    r"|no image (?:was|is|has been) (?:provided|attached|visible)"
    r"|there is no image)",
    re.IGNORECASE,
)
"""What English refusals of chat models say (our choice; other languages are not recognized)."""


def is_refusal(answer: str) -> bool:
    """Whether an answer begins by declining, in English; "I can't see a dog" is not refusing.

    A sentence that only says that an object is not there is an answer: `see` counts where the image
    itself can't be seen.
    """
    found = REFUSAL.search(answer[:LOOKED_AT].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    if found is None:
        return False
    return not re.search(r"\b(?:see|view|identify)\s*$", found[0], re.IGNORECASE) or bool(
        re.match(
            r"\s*(?:(?:the|this|that|your|any|an)\s+)?(?:images?|pictures?|photos?|it|anything)\b",
            answer[:LOOKED_AT][found.end() :],
            re.IGNORECASE,
        )
    )
