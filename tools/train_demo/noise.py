"""Makes questions look typed by people: openers, case, punctuation, small typing errors."""

from __future__ import annotations

import random
import string

_ENDS = ["?"] * 9 + [""] * 8 + ["."] * 2 + ["!", " ?", "??", "...", "?!"]
_CONTRACTIONS = {"i'm": "im", "what's": "whats", "don't": "dont", "can't": "cant", "i'd": "id"}


def dress(text: str, rng: random.Random, typo_share: float = 0.15) -> str:
    """Return the question with random case, ending and (for a share) typing errors."""
    if rng.random() < typo_share:
        text = misspell(text, rng)
    if rng.random() < 0.3:
        for right, wrong in _CONTRACTIONS.items():
            text = text.replace(right, wrong)
    case = rng.random()
    if case < 0.45:
        text = text[:1].upper() + text[1:]
        text = text.replace(" i ", " I ").replace(" i'", " I'")
    elif case < 0.47 and "/" not in text:
        text = text.upper()
    if text and text[-1] in "?!.:=":
        return text
    return text + rng.choice(_ENDS)


def misspell(text: str, rng: random.Random) -> str:
    """Return the text with one or two letters swapped, dropped, doubled or replaced."""
    words = text.split(" ")
    places = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    for index in rng.sample(places, min(len(places), rng.choice([1, 1, 2]))):
        words[index] = _slip(words[index], rng)
    if len(words) > 5 and rng.random() < 0.2:
        short = [i for i, word in enumerate(words) if word in ("the", "a", "an", "to", "do", "is")]
        if short:
            del words[rng.choice(short)]
    return " ".join(words)


def _slip(word: str, rng: random.Random) -> str:
    at = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[:at] + word[at] + word[at:]
    return word[:at] + rng.choice(string.ascii_lowercase) + word[at + 1 :]
