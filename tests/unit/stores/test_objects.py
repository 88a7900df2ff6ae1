from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError

from tests.unit.fakes import client_error, object_store
from tire_pipeline.errors import InputError, ServiceUnavailable, TireError
from tire_pipeline.settings import Settings
from tire_pipeline.stores.objects import ObjectStore, _ordered, connect


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (client_error(404, "NoSuchBucket"), InputError, "The bucket 'tire' does not exist at http://s3"),
        (client_error(404, "NoSuchKey"), InputError, "s3://tire/k does not exist"),
        (client_error(403, "SignatureDoesNotMatch"), InputError, "refuses these credentials .*TIRE_S3_SECRET_ACCESS"),
        (client_error(401), InputError, "refuses these credentials"),
        (client_error(503, "SlowDown"), ServiceUnavailable, "answered 503 SlowDown for s3://tire/k. Retry"),
        (
            EndpointConnectionError(endpoint_url="http://s3"),
            ServiceUnavailable,
            "did not answer .*TIRE_S3_ENDPOINT_URL",
        ),
        (NoCredentialsError(), InputError, "No key pair .*TIRE_S3_ACCESS_KEY_ID"),
    ],
)
def test_every_failure_of_s3_is_said_with_its_fix(error: Exception, kind: type[TireError], said: str) -> None:
    store, client = object_store()
    client.error = error
    for call in (lambda: store.get("k"), lambda: store.put("k", b""), lambda: list(store.list("k"))):
        with pytest.raises(kind, match=said):
            call()


def test_head_tells_missing_from_forbidden() -> None:
    store, client = object_store()
    assert store.head("k") is None
    client.error = client_error(403)
    with pytest.raises(InputError, match="refuses these credentials"):
        store.head("k")


@pytest.mark.parametrize(
    "settings",
    [
        {"s3_endpoint_url": "localhost:9000"},
        {"s3_endpoint_url": "http://localhost:9000", "s3_access_key_id": "a"},
    ],
)
def test_an_endpoint_that_is_no_url_and_half_a_key_pair_are_bad_input(settings: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"S3 cannot be addressed: .* TIRE_S3_ENDPOINT_URL looks like http://HOST"):
        connect(Settings(**settings, _env_file=None))  # type: ignore[arg-type, call-arg]


def test_a_bucket_name_that_s3_does_not_allow_is_bad_input() -> None:
    keys = {"s3_access_key_id": "a", "s3_secret_access_key": "b", "s3_endpoint_url": "http://127.0.0.1:9"}
    store = connect(Settings(bucket="My Bucket", **keys, _env_file=None))  # type: ignore[arg-type, call-arg]
    with pytest.raises(InputError, match=r"Check TIRE_BUCKET"):
        store.get("k")


def test_listings_go_on_over_pages(store: ObjectStore) -> None:
    names = [f"p/{i:02d}/x" for i in range(10)]
    for name in names:
        store.put(name, b"")
    assert [i.key for i in store.list("p/")] == names
    assert list(store.list_folders("p/")) == [f"{i:02d}" for i in range(10)]


def test_a_folder_comes_back_as_it_went(tmp_path: Path, store: ObjectStore) -> None:
    (tmp_path / "in/a b").mkdir(parents=True)
    (tmp_path / "in/a b/ü.bin").write_bytes(b"1")
    (tmp_path / "in/c").write_bytes(b"")
    store.upload_folder(tmp_path / "in", "x/")
    store.put("x/a b/", b"")  # S3's console makes folders like that
    out = store.download_folder("x/", tmp_path / "out")
    assert {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()} == {
        "a b/ü.bin": b"1",
        "c": b"",
    }


def test_nothing_is_written_outside_the_folder(tmp_path: Path, store: ObjectStore) -> None:
    store.put("x/../../evil", b"1")
    with pytest.raises(InputError, match="would be written outside"):
        store.download_folder("x/", tmp_path / "out")
    assert not (tmp_path.parent / "evil").exists()


def test_an_empty_prefix_is_no_download(tmp_path: Path, store: ObjectStore) -> None:
    with pytest.raises(InputError, match="s3://tire/x/ is empty"):
        store.download_folder("x/", tmp_path / "out")


def test_an_upload_that_reads_back_differently_is_not_done(tmp_path: Path) -> None:
    store, client = object_store()
    (tmp_path / "f").write_bytes(b"1")
    put = client.put_object

    def torn(**given: object) -> object:
        return put(**{**given, "Body": b"2"})

    client.put_object = torn
    with pytest.raises(ServiceUnavailable, match="reads back other bytes"):
        store.upload_folder(tmp_path, "x/")


def test_equal_values_have_equal_etags(store: ObjectStore) -> None:
    assert store.put_json("a", {"x": 1, "y": 2}) == store.put_json("b", {"y": 2, "x": 1})


def test_results_come_in_order_with_a_bounded_number_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    results = _ordered(lambda i: i, items(), 2, 8)
    assert next(results) == 0
    assert len(taken) <= 8
    assert list(results) == list(range(1, 100))
