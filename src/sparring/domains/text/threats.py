"""The discrete threat models of texts, by name: what may become of a text, one edit at a time.

Each lists its edits, decides membership without them, and says how many words changed (`sparring.core.discrete`).
"""

from sparring.domains.text.append import Append
from sparring.domains.text.characters import Characters
from sparring.domains.text.injected import Injected
from sparring.domains.text.insertion import Insertion
from sparring.domains.text.substitution import Substitution
from sparring.domains.text.suffix import Suffix

__all__ = ["Append", "Characters", "Injected", "Insertion", "Substitution", "Suffix"]
