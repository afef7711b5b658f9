"""Reading safetensors by range: what is read, and what lying headers meet."""

import io
import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from vae import CheckpointError, open_safetensors
from vae.safetensors_file import DTYPES, PIECE_BYTES

FLOATS = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 7
TENSORS = {
    "a": FLOATS,
    "b": FLOATS.bfloat16(),
    "c": torch.arange(5, dtype=torch.uint8),
    "nothing": torch.zeros(3, 0),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
}


class Recorder(io.BytesIO):
    """Remembers which ranges were read."""

    def __init__(self, data: bytes, most: int | None = None) -> None:
        super().__init__(data)
        self.ranges: list[tuple[int, int]] = []
        self.most = most

    def read(self, count: int = -1, /) -> bytes:
        at = self.tell()
        data = super().read(count if self.most is None else min(count, self.most))
        self.ranges.append((at, at + len(data)))
        return data


def packed(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    shape = list(shape) if isinstance(shape, tuple) else shape
    offsets = list(offsets) if isinstance(offsets, tuple) else offsets
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def refused(data: bytes) -> str:
    with pytest.raises(CheckpointError) as caught, open_safetensors(io.BytesIO(data)) as file:
        list(file.read(file.tensors))
    return str(caught.value)


@pytest.mark.parametrize("most", [None, 1, 7])
@pytest.mark.parametrize("order", [sorted(TENSORS), sorted(TENSORS, reverse=True), ["b"]])
def test_tensors_come_as_stored_in_the_order_asked_for(order, most):
    with open_safetensors(Recorder(save(TENSORS), most)) as file:
        found = list(file.read(order))
    assert [name for name, _ in found] == order
    for name, tensor in found:
        assert tensor.dtype == TENSORS[name].dtype
        assert tensor.shape == TENSORS[name].shape
        assert torch.equal(tensor, TENSORS[name])


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_every_dtype_is_read(name):
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3).to(DTYPES[name])
    with open_safetensors(io.BytesIO(save({"x": tensor}))) as file:
        assert file.shapes == {"x": (2, 3)}
        [(_, found)] = file.read(["x"])
    assert found.dtype == tensor.dtype
    assert torch.equal(found.view(torch.uint8), tensor.view(torch.uint8))


@given(st.data())
def test_exactly_the_wanted_bytes_are_read_and_neighbours_at_once(data):
    sizes = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=8))
    tensors = {f"t{i}": torch.full((size,), i, dtype=torch.uint8) for i, size in enumerate(sizes)}
    recorder = Recorder(save(tensors))
    with open_safetensors(recorder) as file:
        wanted = [name for name in file.tensors if data.draw(st.booleans())]
        recorder.ranges.clear()
        for name, tensor in file.read(wanted):
            assert torch.equal(tensor, tensors[name])
        read = sorted(at for first, last in recorder.ranges for at in range(first, last))
        places = [file.tensors[name] for name in wanted]
        assert read == sorted(at for place in places for at in range(place.start, place.end))
        full = [place for place in places if place.start != place.end]
        gaps = sum(a.end != b.start for a, b in itertools.pairwise(full))
        assert len(recorder.ranges) <= gaps + 1


def test_large_tensors_are_read_in_pieces():
    tensors = {"small": torch.ones(5), "large": torch.ones(PIECE_BYTES // 2, dtype=torch.float32)}
    recorder = Recorder(save(tensors))
    with open_safetensors(recorder) as file:
        header = len(recorder.ranges)
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in file.read(file.tensors))
    assert max(last - first for first, last in recorder.ranges) == PIECE_BYTES
    assert len(recorder.ranges) == header + 3


@given(st.sets(st.sampled_from(sorted(TENSORS))))
def test_a_copy_of_some_tensors_is_a_file(names):
    copied = io.BytesIO()
    with open_safetensors(io.BytesIO(save(TENSORS))) as file:
        file.copy(names, copied)
    found = load(copied.getvalue())  # the format's own implementation
    assert found.keys() == names
    assert all(torch.equal(found[name], TENSORS[name]) for name in names)


def test_a_path_is_opened_and_closed_and_an_open_file_stays_open(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(save(TENSORS))
    for source in (path, str(path)):
        with open_safetensors(source) as file:
            assert file.name == str(path)
            assert file.shapes.keys() == TENSORS.keys()
    with path.open("rb") as opened:
        with open_safetensors(opened) as file:
            assert file.name == str(path)
        assert not opened.closed


LIES = {
    "nothing": (b"", "ends within its header, after 0 bytes"),
    "cut length": (b"\x08\0\0", "ends within its header, after 3 bytes"),
    "huge header": ((100_000_001).to_bytes(8, "little") + b"{}", "above the limit"),
    "negative length": (b"\xff" * 8 + b"{}", "above the limit"),
    "long header": ((99).to_bytes(8, "little") + b"{}", "header of 99 bytes in a file of 10"),
    "no JSON": (packed(b"{]"), "is no JSON"),
    "no text": (packed(b"\xff\xfe\xfd\xfc"), "is no JSON"),
    "deep": (packed(b"[" * 200_000), "is no JSON"),
    "endless number": (packed(b"1" * 10_000), "is no JSON"),
    "list": (packed([]), "no mapping"),
    "twice": (packed(b'{"a": 1, "a": 2}'), "occurs twice"),
    "no place": (packed({"a": {"dtype": "F32", "shape": [2]}}, b"\0" * 8), "'a' by something else"),
    "number": (packed({"a": 3}), "'a' by something else"),
    "surplus": (packed({"a": {**entry(), "x": 1}}, b"\0" * 8), "'a' by something else"),
    "dtype": (packed({"a": entry("F33")}, b"\0" * 8), "unknown dtype 'F33'"),
    "list dtype": (packed({"a": entry(["F32"])}, b"\0" * 8), "unknown dtype"),
    "shape": (packed({"a": entry(shape="2")}, b"\0" * 8), "no list of sizes"),
    "negative": (packed({"a": entry(shape=(-2,))}, b"\0" * 8), "no list of sizes"),
    "fraction": (packed({"a": entry(shape=(2.0,))}, b"\0" * 8), "no list of sizes"),
    "truth": (packed({"a": entry("U8", (True,), (0, 1))}, b"\0"), "no list of sizes"),
    "one offset": (packed({"a": entry(offsets=(0,))}, b"\0" * 8), "no list of sizes"),
    "negative offset": (packed({"a": entry(offsets=(-8, 0))}, b"\0" * 8), "no list of sizes"),
    "backwards": (packed({"a": entry(shape=(0,), offsets=(8, 0))}, b"\0" * 8), "-8 bytes"),
    "too few": (packed({"a": entry(shape=(3,))}, b"\0" * 8), r"8 bytes for F32 of shape (3,)"),
    "enormous": (packed({"a": entry(shape=(2**62, 2**62))}, b"\0" * 8), "8 bytes for F32"),
    "cut data": (packed({"a": entry()}, b"\0" * 7), "its tensors end at byte"),
    "surplus data": (packed({"a": entry()}, b"\0" * 9), "its tensors end at byte"),
    "beyond": (packed({"a": entry(offsets=(2**60, 2**60 + 8))}, b"\0" * 8), "'a' begins at byte"),
    "overlap": (packed({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12), "'b' begins at"),
    "same place": (packed({"a": entry(), "b": entry()}, b"\0" * 8), "'b' begins at"),
    "gap": (packed({"a": entry(), "b": entry(offsets=(9, 17))}, b"\0" * 17), "'b' begins at"),
}


@pytest.mark.parametrize("name", LIES)
def test_lying_headers_are_refused(name):
    data, words = LIES[name]
    message = refused(data)
    assert words in message
    assert "not a complete safetensors file" in message
    assert len(message) < 600


def test_a_file_that_shrinks_while_it_is_read_is_refused():
    data = Recorder(save(TENSORS))
    with open_safetensors(data) as file:
        data.truncate(len(data.getvalue()) - 50)
        with pytest.raises(CheckpointError, match="it ends at byte"):
            list(file.read(file.tensors))


HEADER = json.loads(save(TENSORS)[8:].split(b"}}")[0] + b"}}")
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(max_examples=300)
@given(
    name=st.sampled_from(sorted(HEADER)),
    field=st.sampled_from(["dtype", "shape", "data_offsets", None]),
    value=JUNK | st.sampled_from(sorted(DTYPES)) | st.lists(st.integers(0, 200), max_size=4),
)
def test_mutated_headers_are_refused_or_consistent(name, field, value):
    header = json.loads(json.dumps(HEADER))
    if field is None:
        header[name] = value
    else:
        header[name][field] = value
    body = save(TENSORS)
    body = body[8 + int.from_bytes(body[:8], "little") :]
    try:
        with open_safetensors(io.BytesIO(packed(header, body))) as file:
            found = dict(file.read(file.tensors))
    except CheckpointError:
        return
    assert sum(tensor.nbytes for tensor in found.values()) == len(body)


@settings(max_examples=300)
@given(st.data())
def test_damaged_bytes_are_refused_or_read(data):
    body = bytearray(save(TENSORS))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    for damaged in (bytes(body), bytes(body[:cut])):
        try:
            with open_safetensors(io.BytesIO(damaged)) as file:
                list(file.read(file.tensors))
        except CheckpointError:
            pass
