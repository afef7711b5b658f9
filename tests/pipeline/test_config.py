import math
from fractions import Fraction
from pathlib import Path

import pytest
from helpers import NARROW, make_config
from hypothesis import given
from hypothesis import strategies as st

from pipeline.buckets import Bucket
from pipeline.config import load_config
from pipeline.errors import UserError

YAML = """
dataset: {uri: videos}
output: {uri: cache}
buckets:
  - {height: 32, width: 48}
vae: {random_seed: 3}
windows: {fps: 24}
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(YAML)
    return str(file)


def complaint(**fields):
    with pytest.raises(UserError) as caught:
        make_config(**fields)
    return str(caught.value)


def test_a_file_with_defaults(path):
    config = load_config(path)
    # From the root: workers and cluster nodes have other working directories.
    assert config.dataset.uri == str(Path("videos").absolute())
    assert config.bucket_list == (Bucket(32, 48),)
    assert config.windows.rate == 24
    assert config.windows.stride == 17
    assert config.latents.statistic == "moments"
    assert config.latents.dtype == "float16"


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("windows.fps=null", lambda c: c.windows.fps is None),
        ("windows.fps=30000/1001", lambda c: c.windows.rate == Fraction(30000, 1001)),
        ("windows.tail=pad", lambda c: c.windows.tail == "pad"),
        ("dataset.limit=3", lambda c: c.dataset.limit == 3),
        ("dataset.columns.caption=a=b", lambda c: c.dataset.columns.caption == "a=b"),
        ("run.pack_bytes=2MiB", lambda c: c.run.pack_bytes == 2**21),
        ("buckets=[{height: 16, width: 16}]", lambda c: c.bucket_list == (Bucket(16, 16),)),
        ("storage={anonymous: true}", lambda c: c.storage.anonymous is True),
        (" windows.stride =5", lambda c: c.windows.stride == 5),
    ],
)
def test_overrides_are_yaml_and_win_over_the_file(path, override, read):
    assert read(load_config(path, [override]))


def test_the_last_override_wins_and_fields_win_over_overrides(path):
    config = load_config(path, ["windows.stride=5", "windows.stride=6", "dataset.limit=2"])
    assert config.windows.stride == 6
    config = load_config(path, ["dataset.limit=2"], {"dataset.limit": 9})
    assert config.dataset.limit == 9


@pytest.mark.parametrize("override", ["windows.fps", "=3", "", " =3", "a.b=[1"])
def test_an_override_that_is_none_says_which(path, override):
    with pytest.raises(UserError, match="--set") as caught:
        load_config(path, [override])
    assert repr(override) in str(caught.value)


@pytest.mark.parametrize("override", ["windows.fps.x=3", "buckets.0.height=32"])
def test_an_override_below_a_value_is_refused(path, override):
    with pytest.raises(UserError, match="not a section"):
        load_config(path, [override])


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("windows.strid", "stride"),
        ("datset", "dataset"),
        ("run.micro_bach", "micro_batch"),
        ("vae.widths.encoder_chs", "encoder_ch"),
        ("dataset.columns.captions", "caption"),
        ("max_failures_rate", "max_failure_rate"),
    ],
)
def test_an_unknown_key_suggests_the_nearest(path, key, near):
    with pytest.raises(UserError) as caught:
        load_config(path, [f"{key}=1"])
    assert f"{key}: unknown key; did you mean {near!r}?" in str(caught.value)


def test_an_unknown_key_in_a_list_suggests_the_nearest():
    text = complaint(buckets=[{"hieght": 32, "width": 32}])
    assert "buckets.0.hieght: unknown key; did you mean 'height'?" in text
    assert "buckets.0.height: is required and not set" in text


def test_an_unknown_key_near_nothing_lists_what_is_known(path):
    with pytest.raises(UserError, match="known here: fps, stride, tail"):
        load_config(path, ["windows.zzz=1"])


def test_all_mistakes_are_told_at_once(path):
    with pytest.raises(UserError) as caught:
        load_config(path, ["windows.stride=0", "latents.dtype=int8", "run.encoders=none"])
    text = str(caught.value)
    assert "3 mistake(s)" in text
    assert path in text
    for key in ("windows.stride", "latents.dtype", "run.encoders"):
        assert f"{key}: " in text


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("windows__stride", 0, "greater than or equal to 1"),
        ("windows__tail", "cut", "'drop', 'pad' or 'overlap'"),
        ("windows__fps", "fast", "write e.g. 24 or 30000/1001"),
        ("windows__fps", "1/0", "write e.g. 24 or 30000/1001"),
        ("windows__fps", 0, "outside (0, 1000]"),
        ("windows__fps", -24, "outside (0, 1000]"),
        ("windows__fps", 1001, "outside (0, 1000]"),
        ("windows__segment_windows", 0, "greater than or equal to 1"),
        ("latents__statistic", "std", "'moments', 'mean' or 'sample'"),
        ("latents__dtype", "bfloat16", "'float16' or 'float32'"),
        ("output__format", "zarr", "'safetensors' or 'parquet'"),
        ("output__shard_bytes", "12 parsecs", "64MiB or 1GB"),
        ("output__shard_bytes", "-5MB", "64MiB or 1GB"),
        ("output__shard_bytes", 0, "greater than 0"),
        ("run__pack_bytes", "0.1", "greater than 0"),
        ("run__object_store_bytes", "x", "64MiB or 1GB"),
        ("run__micro_batch", "two", "write a number, or auto"),
        ("run__commit_seconds", math.nan, "greater than or equal to 0"),
        ("vae__compute_dtype", "float8", "'float32', 'bfloat16' or 'float16'"),
        ("vae__version", 3, "1 or 2"),
        ("vae__version", "v2", "a number, or auto"),
        ("vae__z_channels", 0, "greater than 0"),
        ("max_failure_rate", 2, "less than or equal to 1"),
        ("dataset__limit", 0, "greater than 0"),
        ("resize__policy", "crop", "'cover', 'contain' or 'stretch'"),
        ("bucket_choice", "any", "'nearest' or 'all'"),
        ("dataset__uri", 5, "valid string"),
    ],
)
def test_a_bad_value_names_key_value_and_remedy(key, value, remedy):
    text = complaint(**{key: value})
    assert f"  {key.replace('__', '.')}: " in text
    assert f"(got {value!r})" in text
    assert remedy in text


@pytest.mark.parametrize(("height", "near"), [(100, "96 and 112"), (8, "16"), (-16, "16")])
def test_a_bucket_off_the_grid_names_its_neighbours(height, near):
    text = complaint(buckets=[{"height": 32, "width": 32}, {"height": height, "width": 32}])
    assert f"buckets.1: bucket height {height} is not a positive multiple of 16" in text
    assert f"nearest: {near}" in text.splitlines()[1]


def test_buckets_are_needed_and_distinct():
    assert "buckets: " in complaint(buckets=[])
    assert "same bucket twice" in complaint(buckets=[{"height": 32, "width": 32}] * 2)


@pytest.mark.parametrize("vae", [{}, {"checkpoint": "x.safetensors", "random_seed": 0}])
def test_the_weights_have_exactly_one_source(vae):
    text = complaint(vae=vae)
    assert "exactly one of vae.checkpoint" in text
    assert "vae.random_seed" in text


def test_either_source_of_weights_will_do():
    assert make_config(vae={"checkpoint": "x.safetensors"}).vae.random_seed is None
    assert make_config(vae={"random_seed": 0}).vae.checkpoint is None


def test_auto_leaves_version_and_channels_open():
    for section_given in ({}, {"version": "auto", "z_channels": "auto"}, {"version": None}):
        section = make_config(vae={"random_seed": 0, **section_given}).vae
        assert (section.version, section.z_channels) == (None, None)
    section = make_config(vae={"random_seed": 0, "version": 1, "z_channels": 5}).vae
    assert (section.version, section.z_channels) == (1, 5)


@pytest.mark.parametrize("section", ["dataset", "output", "buckets", "vae"])
def test_what_is_required_is_named(section):
    fields = {
        "dataset": {"uri": "a"},
        "output": {"uri": "b"},
        "buckets": [{"height": 16, "width": 16}],
        "vae": NARROW,
    }
    del fields[section]
    with pytest.raises(UserError, match=f"{section}: is required and not set"):
        load_config(None, [], fields)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1", 1),
        (7, 7),
        ("1kb", 1000),
        ("1 KiB", 1024),
        ("1.5MB", 1_500_000),
        (" 64MiB ", 64 * 2**20),
        ("0.5gib", 2**29),
        ("2GB", 2 * 10**9),
    ],
)
def test_sizes(text, count):
    assert make_config(output__shard_bytes=text).output.shard_bytes == count


@given(st.integers(1, 10**7), st.integers(1, 10**6))
def test_frame_rates_stay_exact(numerator, denominator):
    rate = Fraction(numerator, denominator)
    if rate <= 1000:
        config = make_config(windows__fps=f"{numerator}/{denominator}")
        assert config.windows.rate == rate
        again = make_config(windows__fps=config.windows.fps)
        assert again.windows.fps == config.windows.fps


@pytest.mark.parametrize(
    ("value", "rate"),
    [(24, 24), (29.97, Fraction(2997, 100)), ("23.976", Fraction(2997, 125)), (0.5, 0.5)],
)
def test_frame_rates_as_numbers_are_taken_as_written(value, rate):
    assert make_config(windows__fps=value).windows.rate == rate


def test_equal_rates_written_differently_are_one_configuration():
    assert make_config(windows__fps="48/2") == make_config(windows__fps=24.0)


@pytest.mark.parametrize(
    ("text", "complaint"), [("- 1", "list"), ("", "NoneType"), ("{", "YAML"), ("a: [", "YAML")]
)
def test_a_file_that_is_no_mapping_says_so(tmp_path, text, complaint):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint) as caught:
        load_config(str(path))
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml.*name an existing"):
        load_config(str(tmp_path / "none.yaml"))


def test_a_configuration_does_not_change():
    with pytest.raises(ValueError, match="frozen"):
        make_config().windows.stride = 3


def test_the_recorded_configuration_reads_back():
    config = make_config(windows__fps="30000/1001", output__shard_bytes="1GB")
    assert type(config).model_validate_json(config.model_dump_json()) == config
