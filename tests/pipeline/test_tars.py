import tarfile

import pytest
from helpers import LOCAL, make_config
from hypothesis import given, settings
from hypothesis import strategies as st
from tar_cases import MEMBERS, listing, samples
from tar_files import make_tar

from pipeline.catalog import read_catalog
from pipeline.errors import UserError
from pipeline.reading import open_source, stat_source
from pipeline.spans import find_place, member_uri

# ---- what a tar file holds


def test_samples_with_captions_and_columns(tar):
    path = tar(
        [
            ("x/0.mp4", b"zero"),
            ("x/0.json", {"caption": "from json", "score": 1}),
            ("x/0.txt", "from text"),
            ("x/1.webm", b"one!"),
            ("x/1.txt", "only text\n"),
            ("x/2.MOV", b"two"),
            ("x/2.JSON", {"prompt": "an alias", "score": 2.5, "tags": ["a"]}),
            ("x/3.png", b"three"),
            ("readme.md", "nothing"),
            ("x/9.json", {"caption": "of nothing"}),
        ]
    )
    found = listing(path)
    assert found.from_store
    assert not found.failures
    rows = samples(found)
    version = stat_source(str(path), LOCAL)[0]
    for name, data in {"0.mp4": b"zero", "1.webm": b"one!", "2.MOV": b"two"}.items():
        row = rows[f"x/{name}"]
        uri = member_uri(f"x/{name}", str(path))
        assert find_place(uri, row["version"]).tar_version == version
        with open_source(uri, row["version"], LOCAL) as file:
            assert file.read() == data
        del row["version"]
    assert rows["x/0.mp4"] == {"caption": "from json", "score": 1}
    assert rows["x/1.webm"] == {"caption": "only text"}
    assert rows["x/2.MOV"] == {"caption": "an alias", "score": 2.5, "tags": ["a"]}
    assert rows["x/3.png"].keys() == {"version"}
    assert len(rows) == 4


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_odd_names(tar, form):
    names = ["d" * 90 + "/" + "n" * 180 + ".mp4", "Hündchen : [1]*?.mp4", "a::b.mp4", "../x.mp4"]
    members = [(name, name.encode()) for name in names]
    path = tar([*members, (names[0][:-4] + ".txt", "far")], format=form)
    rows = samples(listing(path))
    assert rows.keys() == set(names)
    assert rows[names[0]]["caption"] == "far"
    for name in names:
        with open_source(member_uri(name, str(path)), rows[name]["version"], LOCAL) as file:
            assert file.read() == name.encode()


def test_a_name_that_is_not_utf8(tmp_path):
    info = tarfile.TarInfo("a\udcff.mp4")
    info.size = 1
    block = info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
    (tmp_path / "a.tar").write_bytes(block + b"x" + bytes(511 + 1024))
    [name] = samples(listing(tmp_path / "a.tar"))
    assert name == "a\\xff.mp4"


def test_the_key_reaches_to_the_first_dot_or_the_last(tar):
    path = tar(
        [
            ("0.left.mp4", b"x"),
            ("0.right.mp4", b"y"),
            ("0.right.txt", "its own"),
            ("0.txt", "of both"),
        ]
    )
    rows = samples(listing(path))
    assert rows["0.left.mp4"]["caption"] == "of both"
    assert rows["0.right.mp4"]["caption"] == "its own"


def test_a_configured_caption(tar):
    path = tar(
        [
            ("0.mp4", b"x"),
            ("0.json", {"caption": "short", "long": "detailed"}),
            ("1.mp4", b"x"),
            ("1.json", {"long": "more"}),
            ("1.txt", "text"),
        ]
    )
    config = make_config(dataset__uri=str(path), dataset__columns={"caption": "long"})
    assert read_catalog(config).columns["caption"].to_pylist() == ["detailed", "more"]


def test_keys_are_columns_but_the_tar_file_says_where_and_which(tar):
    path = tar(
        [
            ("0.mp4", b"x"),
            ("0.json", {"video": "else.mp4", "version": 7, "url": "https://x", "id": "k0"}),
            ("1.mp4", b"x"),
            ("1.json", {"video": "else.mp4", "id": "k1", "width": 64, "height": 48}),
        ]
    )
    catalog = read_catalog(make_config(dataset__uri=str(path)))
    rows = catalog.sources.to_pylist()
    assert [row["uri"] for row in rows] == [member_uri(f"{n}.mp4", str(path)) for n in (0, 1)]
    assert [row["id"] for row in rows] == ["k0", "k1"]
    assert [row["width"] for row in rows] == [None, 64]
    assert all(row["pinned"] and row["version"].endswith("+1") for row in rows)
    assert catalog.columns["url"].to_pylist() == ["https://x", None]
    assert sum("left out" in note for note in catalog.notes) == 2


def test_columns_of_two_types_are_named(tar):
    path = tar([("0.mp4", b"x"), ("0.json", {"n": 1}), ("1.mp4", b"x"), ("1.json", {"n": "a"})])
    with pytest.raises(UserError, match="column 'n' mixes types"):
        listing(path)


def link(kind):
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, "0.mp4"
    return info


@pytest.mark.parametrize(
    ("members", "name", "message"),
    [
        ([("0.mp4", b"x"), ("0.mp4", b"y")], "0.mp4", "holds 0.mp4 2 times"),
        ([("0.mp4", b"x"), ("0.txt", "a"), ("0.txt", "b")], "0.mp4", "holds 0.txt 2 times"),
        ([("0.mp4", b"x"), ("0.json", "{")], "0.mp4", "0.json is not JSON"),
        ([("0.mp4", b"x"), ("0.json", [1])], "0.mp4", "0.json is not a JSON object"),
        ([("0.mp4", b"x"), ("0.json", b"\xff{}")], "0.mp4", "0.json is not UTF-8"),
        ([("0.mp4", b"x"), ("0.txt", b"\xff")], "0.mp4", "0.txt is not UTF-8"),
        ([("0.mp4", b"x"), ("0.txt", b"a" * (2**20 + 1))], "0.mp4", "longer than 1048576"),
        ([("1.mp4", link(tarfile.SYMTYPE))], "1.mp4", "1.mp4 is a link"),
        ([("1.mp4", link(tarfile.LNKTYPE))], "1.mp4", "1.mp4 is a link"),
    ],
)
def test_one_sample_that_is_wrong(tar, members, name, message):
    rows = samples(listing(tar([("good.mp4", b"good"), *members])))
    assert rows[name]["failed"].startswith("invalid_data: ")
    assert message in rows[name]["failed"]
    assert "failed" not in rows["good.mp4"]


@settings(max_examples=40)
@given(cut=st.integers(1, 4607))
def test_a_tar_file_that_is_cut_off(tmp_path_factory, cut):
    data = make_tar(MEMBERS)[:cut]
    path = tmp_path_factory.mktemp("cut") / "a.tar"
    path.write_bytes(data)
    found = listing(path)
    rows = samples(found)
    text = 512 + 1024 + 512  # where the caption begins; cut off within it, its video fails too
    whole = {"0.mp4"} if cut >= 512 + 700 and not text <= cut < text + 4 else set()
    if cut >= text + 512 + 512 + 600:
        whole.add("1.mp4")
    assert {name for name, row in rows.items() if "failed" not in row} == whole
    told = [row["failed"] for row in rows.values() if "failed" in row] + list(found.notes)
    if cut <= text + 512 + 512 + 1024:
        assert any("cut off" in t or "damaged" in t or "no " in t for t in told)
    if whole:
        assert rows["0.mp4"].get("caption") in ("zero", None)


def test_a_damaged_header_ends_what_is_known(tar):
    path = tar(MEMBERS)
    data = bytearray(path.read_bytes())
    data[512 + 1024 + 10] ^= 0xFF
    path.write_bytes(data)
    rows = samples(listing(path))
    assert rows["0.mp4"].keys() == {"version"}
    assert "no header of a member at byte 1536" in rows[str(path)]["failed"]
    assert len(rows) == 2


def test_a_header_that_asks_for_too_much(tar):
    path = tar([("a.mp4", b"x"), ("n" * 300 + ".mp4", b"x")], format=tarfile.GNU_FORMAT)
    data = bytearray(path.read_bytes())
    info = tarfile.TarInfo.frombuf(bytes(data[1024:1536]), "utf-8", "strict")
    info.size = 2**34
    data[1024:1536] = info.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(data)
    rows = samples(listing(path))
    assert "a header of" in rows[str(path)]["failed"]
    assert "failed" not in rows["a.mp4"]


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        (b"", "empty_file", "no bytes"),
        (b"not a tar" * 200, "invalid_data", "no tar file"),
        (b"\x1f\x8b" + bytes(2000), "invalid_data", "compressed"),
    ],
)
def test_what_is_no_tar_file_is_one_failed_source(tmp_path, data, reason, message):
    (tmp_path / "a.tar").write_bytes(make_tar([("0.mp4", b"x")]))
    (tmp_path / "b.tar").write_bytes(data)
    config = make_config(dataset__uri=str(tmp_path), dataset__format="tar")
    good, bad = read_catalog(config).sources.to_pylist()
    assert good["reason"] is None
    assert bad["uri"] == str(tmp_path / "b.tar")
    assert bad["reason"] == reason
    assert message in bad["message"]


def test_a_tar_file_without_videos(tmp_path, tar):
    tar([("0.mp4", b"x")])
    tar([("a.txt", "only text")], "b.tar")
    (tmp_path / "c.tar").write_bytes(bytes(10240))
    found = listing(tmp_path, format="tar")
    assert len(found.notes) == 2
    assert all("holds no videos" in note for note in found.notes)
    with pytest.raises(UserError, match="holds no videos"):
        listing(tmp_path / "b.tar")


def test_which_uris_are_tar_files(tmp_path, tar):
    tar([("0.mp4", b"x")])
    tar([("1.mp4", b"x")], "b.tar")
    tar([("2.mp4", b"x")], "c.shard")
    assert samples(listing(tmp_path / "a.tar")).keys() == {"0.mp4"}
    for name in ("c.shard", "?.shard"):
        assert samples(listing(tmp_path / name, format="tar")).keys() == {"2.mp4"}
    assert samples(listing(tmp_path / "[ab].tar")).keys() == {"0.mp4", "1.mp4"}
    assert samples(listing(tmp_path, format="tar")).keys() == {"0.mp4", "1.mp4"}
    assert samples(listing(tmp_path / "*", format="tar")).keys() == {"0.mp4", "1.mp4", "2.mp4"}
    with pytest.raises(UserError, match=r"2 of them \.tar; set dataset\.format: tar"):
        listing(tmp_path)
    with pytest.raises(UserError, match=r"does not exist"):
        listing(tmp_path / "none.tar")
    (tmp_path / "x.tar.gz").write_bytes(b"x")
    with pytest.raises(UserError, match="is compressed"):
        listing(tmp_path / "x.tar.gz")


def test_limit_looks_into_no_more_tar_files_than_it_needs(tmp_path, tar, monkeypatch):
    for number in range(5):
        tar([(f"{number}.mp4", b"x")], f"{number}.tar")
    monkeypatch.setattr("pipeline.listing._TAR_BATCH", 2)
    (tmp_path / "3.tar").chmod(0)
    config = make_config(dataset__uri=str(tmp_path), dataset__format="tar", dataset__limit=2)
    assert read_catalog(config).sources.num_rows == 2
