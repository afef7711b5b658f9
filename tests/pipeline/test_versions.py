"""Versions of listed files: the same as asking for each, in fewer requests."""

import bisect
import threading

import pytest
from helpers import LOCAL, settings
from hypothesis import given
from hypothesis import strategies as st

from pipeline import versions
from pipeline.errors import Reason, SourceError
from pipeline.versions import find_versions

PAGE = 50
"""Keys of a page of the pretended store, so that few keys make many pages."""


class Bucket:
    """A pretended S3 bucket that counts pages and questions."""

    def __init__(self, keys, page=PAGE):
        self.keys = sorted(keys)
        self.pages, self.asked, self.page, self.lock = 0, [], page, threading.Lock()

    def list_page(self, _filesystem, _retry, bucket, **query):
        with self.lock:
            self.pages += 1
        assert bucket == "b"
        prefix = query["Prefix"]
        begin = bisect.bisect_right(self.keys, query.get("StartAfter", ""))
        found = [key for key in self.keys[begin:] if key.startswith(prefix)]
        shown = found[: self.page]
        return {
            "Contents": [{"Key": key, "ETag": f'"{key}-tag"'} for key in shown],
            "IsTruncated": len(found) > self.page,
        }

    def stat(self, uri, _storage):
        key = uri.removeprefix("s3://b/")
        with self.lock:
            self.asked.append(uri)
        if key not in self.keys:
            raise SourceError(Reason.MISSING, f"{uri} does not exist")
        return f"{key}-tag", 1


def find(monkeypatch, bucket, keys, piece=1000):
    monkeypatch.setattr(versions, "list_page", bucket.list_page)
    monkeypatch.setattr(versions, "stat_source", bucket.stat)
    monkeypatch.setattr(versions, "_PIECE", piece)
    answers = find_versions([f"s3://b/{key}" for key in keys], LOCAL)
    return {
        uri.removeprefix("s3://b/"): str(a.reason) if isinstance(a, SourceError) else a
        for uri, a in answers.items()
    }


KEYS = st.lists(
    st.tuples(st.sampled_from(["", "a/", "a/b/", "c", "ü/"]), st.integers(0, 300)).map(
        lambda parts: f"{parts[0]}{parts[1]:03}"
    ),
    max_size=300,
    unique=True,
)


@settings(max_examples=150)
@given(there=KEYS, wanted=KEYS, piece=st.integers(1, 200), page=st.integers(1, 60))
def test_listing_tells_what_asking_would(there, wanted, piece, page):
    bucket = Bucket(there, page)
    with pytest.MonkeyPatch.context() as monkeypatch:
        found = find(monkeypatch, bucket, wanted, piece)
    assert found == {key: f"{key}-tag" if key in there else "missing" for key in wanted}
    assert len(bucket.asked) == len(set(bucket.asked))
    assert bucket.pages + len(bucket.asked) <= len(wanted) * 1.2 + 20


def test_a_dense_folder_is_listed(monkeypatch):
    there = [f"v/{n:05}.mp4" for n in range(1000)]
    bucket = Bucket(there)
    wanted = [*there[::2], "v/00001x.mp4", "v/99999.mp4"]
    found = find(monkeypatch, bucket, wanted)
    assert bucket.asked == []
    assert bucket.pages == 20
    assert [key for key, a in found.items() if a == "missing"] == ["v/00001x.mp4", "v/99999.mp4"]


def test_a_sparse_folder_is_asked(monkeypatch):
    there = [f"v/{n:06}.mp4" for n in range(60_000)]
    bucket = Bucket(there)
    find(monkeypatch, bucket, there[::100])  # 600 wanted, at most one a page
    assert len(bucket.asked) > 580
    assert bucket.pages < 10


def test_few_files_are_asked(monkeypatch):
    bucket = Bucket([f"{n}.mp4" for n in range(9)])
    find(monkeypatch, bucket, bucket.keys)
    assert bucket.pages == 0
    assert len(bucket.asked) == 9


def test_far_folders_are_reached_without_what_lies_between(monkeypatch):
    there = [f"{folder}/{n:04}.mp4" for folder in "amz" for n in range(2000)]
    wanted = [key for key in there if key[0] in "az" and key[2:6] < "0100"]
    bucket = Bucket(there)
    find(monkeypatch, bucket, wanted)
    assert bucket.asked == []
    assert bucket.pages <= 6


@pytest.mark.parametrize("fault", ["refused", "unordered", "stuck"])
def test_a_store_that_does_not_list_well_is_asked(monkeypatch, fault):
    there = [f"{n:02}.mp4" for n in range(80)]
    bucket = Bucket(there)
    real = bucket.list_page

    def list_page(*given, **query):
        if fault == "refused":
            raise PermissionError("no")
        page = real(*given, **query)
        if fault == "unordered":
            page["Contents"].reverse()
        else:
            page |= {"Contents": [], "IsTruncated": True}
        return page

    bucket.list_page = list_page
    found = find(monkeypatch, bucket, [*there, "none.mp4"])
    assert found == {**{key: f"{key}-tag" for key in there}, "none.mp4": "missing"}
    assert len(bucket.asked) == 81


def test_other_stores_and_old_versions_are_asked(monkeypatch, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"x")
    missing = [str(tmp_path / f"{n}.mp4") for n in range(20)]
    answers = find_versions([str(path), *missing], LOCAL)
    assert isinstance(answers[str(path)], str)
    assert all(answers[m].reason is Reason.MISSING for m in missing)
    bucket = Bucket(["a.mp4"])
    find(monkeypatch, bucket, [f"a.mp4?versionId={n}" for n in range(20)])
    assert bucket.pages == 0
