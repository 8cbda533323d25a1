"""Which language a text is in: what its full stops mean depends on it."""

# ruff: noqa: RUF001 - letters of other scripts are meant

from __future__ import annotations

from functools import lru_cache
from typing import Any

DEFAULT = "en"
"""The language of texts that are too short to guess."""
GUESSED = (
    "am", "ar", "bg", "bn", "ca", "cs", "da", "de", "el", "en", "es", "et", "fa", "fi", "fr", "gu",
    "he", "hi", "hr", "hu", "hy", "it", "ja", "ka", "kk", "km", "kn", "ko", "lt", "lv", "ml", "mr",
    "nl", "no", "pa", "pl", "pt", "ro", "ru", "sk", "sl", "sv", "ta", "te", "th", "tr", "uk", "ur",
    "vi", "zh",
)  # fmt: skip
"""Languages that a guess chooses from (ISO 639-1)."""
ABBREVIATIONS = {
    "ar": "أ|د|م|ص|ج|ه|هـ|ق",
    "bg": r"обл|д-р|т\. ?[ен]",
    "ca": "aprox|pàg|Excm|St",
    "cs": "čís|kap|kpt|mj|odst|plk|pí|popř|př|vč|zn",
    "da": "fx|mill",
    "de": "Abb|Abs|allg|angebl|Bd|bspw|Dipl|dt|ehem|einschl|engl|etw|exkl|Fa|franz|geb|gegr|gest"
    "|griech|Hrn|inkl|insb|insbes|ital|jap|lat|max|mind|Pfr|röm|Tel|verh|versch|vorm|zw|zzgl",
    "el": "κκ|δηλ|σελ|αρ|βλ|Αγ|τηλ|οδ|λεωφ",
    "en": "approx|est|vol|Ms",
    "es": "Srta|Dña|Ud|Uds|Prof|Profa|Av|Avda|Gral|aprox|Fr",
    "fi": "klo|ks|nro|ns|synt|puh|[ej]Kr",
    "fr": "MM?|Mme|Mmes|Mlle|Mlles|Mgr|Me|St|Ste|bd|av|n[o°]|nos|J|Dr|Prof|réf",
    "hi": "डॉ|श्री|सुश्री|प्रो",
    "hu": "ifj|özv|kb|[sS]zt|ún|max|tel",
    "it": "sig|dott|prof|avv|ing|S|num|pag",
    "nl": r"mevr|mw|fam|incl|excl|ong|d\. ?w\. ?z|o\. ?a",
    "no": r"dvs|f\. ?eks|eks|evt?|inkl|jf|kl|maks|mill|pga|tlf",
    "pl": r"br|doc|dr|inż|kpt|ks|mgr|mjr|nr|os|pkt|pl|płk|przyp|red|reż|św|tel|tj|tzw|zob"
    r"|m\. ?in",
    "pt": r"Sr|Sra|Srs|Srta|Dr|Dra|Prof|Profa|Exmo|Exma|Eng|Av|R|Sto|Sta|p\. ?ex"
    "|aprox|cap|máx|mín|n[º°]|núm|pág|tel|vol",
    "ro": "d-?na|dl|[dD]vs|pag|str|[sS]f|aprox|max",
    "ru": r"т\. ?[екч]|ул|пр|просп|пл|пер|обл|стр|проф|акад|гр|тов|св|адм|англ|букв|вкл|гл|дер"
    "|дир|доц|зав|зам|изд|инж|кн|корп|макс|напр|нач|оз|пос|табл|ур|фр",
    "sv": r"dvs|ev|exkl|forts|inkl|jfr|kap|kl|max|milj|obs|pga|resp|sid|S:t|tel|[ef]\. ?Kr"
    r"|m\. ?fl|t\. ?ex",
    "th": r"[พค]\.ศ|ด\.[ชญ]|น\.ส|ดร|นพ|พญ|ผศ|รศ|จ|อ|ต|ถ|ซ",
    "tr": "[bB]kz|Cad|Doç|Ecz|Hz|İng|[mM]ah|[öÖ]rn|Sn|Sok|tel|Yrd",
    "uk": r"т\. ?[еч]|ім|вул|просп|пл|пров|обл|стор|проф|акад|св|англ|бл|табл|фр",
    "vi": "TP|Tp|TX|TT|Q|P|TS|Ts|ThS|Ths|PGS|GS|BS|KS|LS|Tr|Th|Ô|Ts",
}
"""What before a full stop ends no sentence, as regular expressions by language: titles, and what
stands before names or numbers. Only what `sentencex` does not know, and nothing that is a word or a
unit too: it would hide the ends of sentences."""
EVERYWHERE = r"TP|(?<!(?:,|\b(?:an?|the|his|her|their|my|your|our|no|one|two|and|or))\s+)Ph\. ?D"
"""The same in every language: what a short text in one of another language would be split at, and
degrees that stand before names ("Ph.D. John", but not "a Ph.D." and "John Smith, Ph.D.")."""
_SURE = 0.5
"""Probability from which a guess is taken. Our choice: of 7,005 English sentences of image captions
none is taken for another language, even at 0.3."""
_MOST = 2000


def guess_language(*texts: str) -> str:
    """The ISO 639-1 code of the language of the first text that tells it; English if none does.

    Args:
        texts: the one in question, then what is probably in the same language: an answer of one
            word tells less than the question before it.
    """
    return next((known for known in map(sure_language, texts) if known is not None), DEFAULT)


@lru_cache(maxsize=4096)
def sure_language(text: str) -> str | None:
    """The ISO 639-1 code of the language of `text`; None where the guess is not sure.

    By py3langid, among the languages of `GUESSED`, from the first 2,000 characters.
    """
    code, probability = _identifier().classify(text[:_MOST])
    return str(code) if probability >= _SURE else None


@lru_cache(maxsize=1)
def _identifier() -> Any:
    # A second to load, so only where a text has to be split.
    from py3langid import langid

    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    identifier.set_languages(list(GUESSED))
    return identifier
