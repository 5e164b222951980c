"""What a model's folder says of itself."""

import json
from pathlib import Path

from services.training.base_facts import BaseFacts, base_facts


def test_reads_the_platforms_note(tmp_path: Path) -> None:
    (tmp_path / "uplift.json").write_text(json.dumps({"licence": "Apache-2.0", "provenance": "by somebody"}))
    assert base_facts(tmp_path) == BaseFacts("apache-2.0", "by somebody")


def test_reads_the_licence_of_the_card_where_there_is_no_note(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: MIT\n---\n# A model\nlicense: other\n")
    assert base_facts(tmp_path) == BaseFacts("mit", "")


def test_names_no_licence_where_none_is_named(tmp_path: Path) -> None:
    assert base_facts(tmp_path) == BaseFacts(None, "")
    (tmp_path / "README.md").write_text("# A model\nlicense: somewhere in the text\n")
    assert base_facts(tmp_path) == BaseFacts(None, "")
