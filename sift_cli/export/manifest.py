"""What an artifact says of itself: JSON texts under fixed keys, the same in safetensors metadata and in ONNX
properties."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sift_cli.core.certificate import Certificate
from sift_cli.core.plan import METADATA_KEY as PLAN
from sift_cli.core.plan import TransformPlan
from sift_cli.errors import Malformed

CERTIFICATE, PROVENANCE, MODEL = "sift.certificate", "sift.provenance", "sift.model"


@dataclass(frozen=True)
class Manifest:
    """Plan, certificate and provenance of an artifact."""

    plan: TransformPlan
    certificate: Certificate = field(default_factory=Certificate)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def dumps(self) -> dict[str, str]:
        """Key → JSON text. The architecture, which is in the plan, has a key of its own for whoever only looks for
        that."""
        documents = {
            MODEL: self.plan.architecture.to_json(),
            PLAN: self.plan.to_json(),
            CERTIFICATE: self.certificate.to_json(),
            PROVENANCE: dict(self.provenance),
        }
        return {key: dump(document) for key, document in documents.items()}


def dump(document: Mapping[str, Any]) -> str:
    """A document as it is stored."""
    return json.dumps(document, separators=(",", ":"))


def is_artifact(metadata: Mapping[str, str]) -> bool:
    """Whether a file with this metadata was written by sift after a transform."""
    return PLAN in metadata


def loads(metadata: Mapping[str, str], path: Path) -> Manifest:
    """Read a manifest from a file's metadata. Nothing in it is trusted.

    Raises:
        Malformed: A document is missing, is no JSON, or says something that is not allowed there.
    """
    documents = {}
    for key in (PLAN, CERTIFICATE, PROVENANCE):
        try:
            documents[key] = json.loads(metadata.get(key, "{}" if key == PROVENANCE else "null"))
        except (ValueError, RecursionError) as error:
            raise Malformed(path, f"metadata {key}", str(error)) from None
    try:
        plan = TransformPlan.from_json(documents[PLAN])
        certificate = Certificate.from_json(documents[CERTIFICATE] or Certificate().to_json())
    except (ValueError, AttributeError) as error:
        raise Malformed(path, "its plan or certificate", str(error)) from None
    provenance = documents[PROVENANCE]
    return Manifest(plan, certificate, provenance if isinstance(provenance, dict) else {})
