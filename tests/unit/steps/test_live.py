from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_bundle import made
from tire_pipeline.errors import InputError
from tire_pipeline.steps.live import registered_bundle


def test_another_bundle_in_the_place_of_a_registered_one_is_refused(fake: Any, tmp_path: Path) -> None:
    bundle = made(tmp_path / "bundle")
    fake.objects.upload_folder(bundle.path, "runs/k/bundle/")
    tags = {"tire.bundle": "runs/k/bundle/", "tire.bundle_digest": bundle.digest}
    with registered_bundle(fake, tags) as found:
        assert found.digest == bundle.digest
    other = replace(bundle, threshold=0.1).save()
    fake.objects.upload_folder(other.path, "runs/k/bundle/")
    with pytest.raises(InputError, match="it was overwritten"), registered_bundle(fake, tags):
        pass
