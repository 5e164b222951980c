"""What a model's folder says of itself: its licence, where it comes from."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)
_LICENCE = re.compile(r"^license:\s*[\"']?([\w.+-]+)", re.MULTILINE)


@dataclass(frozen=True)
class BaseFacts:
    """`licence` as the Hub spells it, such as apache-2.0; None where the folder names none."""

    licence: str | None
    provenance: str


def base_facts(folder: Path) -> BaseFacts:
    """From the platform's note of what it fetched, or else from the model card that came with the folder."""
    note, card = folder / "uplift.json", folder / "README.md"
    noted = json.loads(note.read_text()) if note.is_file() else {}
    licence = noted.get("licence")
    if not licence and card.is_file():
        front = _FRONT_MATTER.match(card.read_text(errors="replace"))
        found = _LICENCE.search(front[1]) if front else None
        licence = found[1] if found else None
    return BaseFacts(str(licence).lower() if licence else None, str(noted.get("provenance", "")))
