from __future__ import annotations

from tests.unit.fakes import object_store, picture
from tire_pipeline.datasets.snapshots import build
from tire_pipeline.validation.expectations import Verdict
from tire_pipeline.validation.report import as_html, as_record

VERDICT = Verdict("rows", True, "there are images", "found 4", "Upload more.")


def test_the_record_counts_and_the_page_shows_pictures_and_escapes_names() -> None:
    store, _ = object_store()
    for i, name in enumerate(("good/1.png", "good/2.png", "<b>bad</b>/3.png", "4.png", "good/broken.png")):
        store.put(f"datasets/v1/{name}", picture(i) if "broken" not in name else b"x")
    store.put("datasets/v1/_READY", b"")
    snapshot = build(store, "v1")
    record = as_record("v1", snapshot.digest, snapshot.index, [VERDICT])
    assert (record["ok"], record["num_images"], record["num_usable"], record["num_unlabelled"]) == (True, 5, 3, 1)
    assert record["classes"] == {"<b>bad<": 1, "good": 2}
    assert [q["path"] for q in record["quarantined"]] == ["good/broken.png"]
    page = as_html(record, snapshot.index, store.get)
    assert page.count("data:image/jpeg;base64,") == 3
    assert "<b>bad" not in page
    assert "good/broken.png" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
