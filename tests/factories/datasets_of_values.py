"""Datasets as the data service would have written them, with questions that `services_without_models` can answer."""

import zlib
from typing import Any

import sqlalchemy as sa

from shared import read_models as others
from shared.database import Database
from shared.ids import new_id

SIZES = {"train": 12, "validation": 10, "test": 24}
SPEC = {"documents_key": None, "split": {"train": 0.3, "validation": 0.2, "test": 0.5}, "seed": 0}
LINEAGE = {"file_id": "file-values", "filename": "values.jsonl", "file_sha256": "f1"}


def make_dataset(
    database: Database, project_id: str, *, sizes: dict[str, int] = SIZES, sha256: str = "5e", status: str = "ready"
) -> str:
    """Two questions a document; the answer is the checksum of the key that the question names."""
    dataset_id = new_id("ds_")
    dataset = {"id": dataset_id, "project_id": project_id, "name": "values", "status": status, "sha256": sha256}
    rows: list[dict[str, Any]] = []
    for split, size in sizes.items():
        for number in range(size):
            key = f"{split}_{number}"
            question = {"role": "user", "content": f"What is the value of {key}?"}
            example = {"id": new_id("ex_"), "project_id": project_id, "dataset_id": dataset_id, "position": len(rows)}
            example |= {"split": split, "messages": [question], "answer": str(zlib.crc32(key.encode()))}
            example |= {"documents": [f"{key}.md"], "cluster": f"{split}_{number // 2}"}
            example |= {"provenance": {"file_id": LINEAGE["file_id"], "line": len(rows) + 1}}
            rows.append(example | {"metadata": {"kind": "even" if number % 2 == 0 else "odd"}})
    with database.transaction(project_id) as session:
        session.execute(sa.insert(others.datasets).values(dataset | {"sizes": sizes, "lineage": LINEAGE, "spec": SPEC}))
        session.execute(sa.insert(others.examples), rows)
    return dataset_id
