"""Letters that a reader takes for others: neighbours on a keyboard, and homoglyphs."""

ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _keys() -> dict[str, str]:
    """The letters beside, above and below each one on a QWERTY keyboard, whose rows are shifted by half a key."""
    places = {key: (row, 2 * at + row) for row, keys in enumerate(ROWS) for at, key in enumerate(keys)}
    return {
        key: "".join(
            o for o, (r, c) in places.items() if o != key and abs(r - row) <= 1 and abs(c - at) <= 2 - abs(r - row)
        )
        for key, (row, at) in places.items()
    }


KEYS = _keys()
"""Letter -> the letters that a finger slips to; lower-case."""

HOMOGLYPHS = {
    "a": "\u0430",  # Cyrillic, here and below where nothing else is said
    "c": "\u0441",
    "d": "\u0501",
    "e": "\u0435",
    "h": "\u04bb",
    "i": "\u0456",
    "j": "\u0458",
    "l": "\u04cf",
    "o": "\u043e\u03bf",  # and Greek
    "p": "\u0440",
    "q": "\u051b",
    "s": "\u0455",
    "v": "\u03bd",  # Greek
    "w": "\u051d",
    "x": "\u0445",
    "y": "\u0443",
    "A": "\u0410\u0391",
    "B": "\u0412\u0392",
    "C": "\u0421",
    "E": "\u0415\u0395",
    "H": "\u041d\u0397",
    "I": "\u0406\u0399",
    "J": "\u0408",
    "K": "\u041a\u039a",
    "M": "\u041c\u039c",
    "N": "\u039d",
    "O": "\u041e\u039f",
    "P": "\u0420\u03a1",
    "S": "\u0405",
    "T": "\u0422\u03a4",
    "X": "\u0425\u03a7",
    "Y": "\u04ae\u03a5",
    "Z": "\u0396",
}
"""Letter -> letters of other scripts with the same shape in most fonts, after the confusables of Unicode Technical
Standard 39, "Unicode security mechanisms"."""
