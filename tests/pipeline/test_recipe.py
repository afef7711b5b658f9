from fractions import Fraction

import pytest
from helpers import SMALL, TALL, WIDE, make_config, make_contract, make_recipe
from hypothesis import given
from hypothesis import strategies as st

from pipeline.buckets import Bucket
from pipeline.recipe import (
    Recipe,
    generation_id,
    latent_values,
    segment_cap,
    window_bytes,
)

BUCKETS = [{"height": b.height, "width": b.width} for b in (SMALL, WIDE, TALL)]
TIMING = {
    "windows__fps": "24",
    "windows__stride": 8,
    "windows__tail": "pad",
    "windows__min_frames": 5,
}
NUMBERS = {
    "resize__policy": "contain",
    "resize__filter": "area",
    "vae__compute_dtype": "bfloat16",
}
IRRELEVANT = {
    "run__micro_batch": 4,
    "run__pack_bytes": 10**6,
    "run__encoders": 3,
    "windows__segment_windows": 3,
    "output__format": "parquet",
    "output__shard_bytes": 1,
    "dataset__limit": 5,
    "max_attempts": 9,
    "latents__seed": 7,  # of no effect where nothing is drawn
}


def key(buckets=(SMALL,), is_image=False, contract=None, **fields):
    recipe = Recipe.from_config(make_config(**fields), make_contract(**(contract or {})))
    return recipe.key(buckets, is_image)


@pytest.mark.parametrize(("name", "value"), [*TIMING.items(), *NUMBERS.items()])
def test_what_decides_a_videos_windows_is_in_the_key(name, value):
    assert key(**{name: value}) != key()


@pytest.mark.parametrize(("name", "value"), TIMING.items())
def test_time_does_not_touch_images(name, value):
    assert key(is_image=True, **{name: value}) == key(is_image=True)


@pytest.mark.parametrize(("name", "value"), NUMBERS.items())
def test_what_decides_an_images_numbers_is_in_the_key(name, value):
    assert key(is_image=True, **{name: value}) != key(is_image=True)


@pytest.mark.parametrize(("name", "value"), IRRELEVANT.items())
def test_what_changes_no_number_is_not_in_the_key(name, value):
    assert key(**{name: value}) == key()


def test_images_and_videos_do_not_share_a_key():
    assert key(is_image=True) != key(is_image=False)


@pytest.mark.parametrize(
    "contract",
    [{"encoder_sha256": "cd" * 32}, {"statistic": "mean"}, {"dtype": "float32"}, {"scale": 2.0}],
)
def test_the_contract_is_in_the_key(contract):
    assert key(contract=contract) != key()


def test_the_seed_counts_where_samples_are_drawn():
    drawn = {"statistic": "sample"}
    assert key(contract=drawn, latents__seed=1) != key(contract=drawn, latents__seed=2)


def test_the_assigned_buckets_are_in_the_key_in_any_order():
    assert key((SMALL, WIDE)) == key((WIDE, SMALL))
    assert len({key((SMALL,)), key((WIDE,)), key((SMALL, WIDE))}) == 3


def test_adding_a_bucket_touches_only_the_sources_that_it_reassigns():
    before = make_recipe(make_config(buckets=BUCKETS[:1]))
    after = make_recipe(make_config(buckets=BUCKETS[:2]))
    square, wide = (64, 64), (128, 64)
    assert after.key(after.assign(*square), False) == before.key(before.assign(*square), False)
    assert after.key(after.assign(*wide), False) != before.key(before.assign(*wide), False)


def test_bucket_choice():
    nearest = make_recipe(make_config(buckets=BUCKETS))
    assert [nearest.assign(*size) for size in ((9, 9), (90, 40), (40, 90))] == [
        (SMALL,),
        (WIDE,),
        (TALL,),
    ]
    every = make_recipe(make_config(buckets=BUCKETS[::-1], bucket_choice="all"))
    assert every.assign(9, 9) == (SMALL, WIDE, TALL)


def test_the_key_of_one_bucket_does_not_depend_on_how_it_was_chosen():
    assert key(bucket_choice="all") == key(bucket_choice="nearest")


def test_rates_that_are_equal_have_one_key():
    assert key(windows__fps=30) == key(windows__fps="60/2")
    assert make_recipe(make_config(windows__fps="30000/1001")).fps == Fraction(30000, 1001)


def test_encoding_names_what_identity_promises():
    assert make_recipe().encoding() == {
        "filter": "bicubic",
        "encoder_sha256": "ab" * 32,
        "compute_dtype": "float32",
        "statistic": "moments",
        "dtype": "float16",
    }
    drawn = make_recipe(make_config(latents__seed=5), statistic="sample")
    assert drawn.encoding()["seed"] == 5


def test_every_part_of_a_generation_counts():
    base = ("s", "v", "k", None)
    others = [("t", "v", "k", None), ("s", "w", "k", None), ("s", "v", "l", None)]
    ids = [generation_id(*fields) for fields in (base, *others, ("s", "v", "k", "run"))]
    assert len(set(ids)) == 5
    assert generation_id(*base) == ids[0]


SIDES = st.integers(1, 80).map(lambda n: 16 * n)


@given(st.builds(Bucket, SIDES, SIDES), st.integers(1, 1024), st.integers(1, 2**28))
def test_a_segment_fits_into_a_pack_or_is_one_window(bucket, wanted, pack_bytes):
    cap = segment_cap(bucket, wanted, pack_bytes)
    assert 1 <= cap <= wanted
    assert cap == 1 or cap * window_bytes(bucket) <= pack_bytes
    assert cap == wanted or (cap + 1) * window_bytes(bucket) > pack_bytes


def test_sizes_of_a_window():
    contract = make_contract(z_channels=64)
    assert window_bytes(Bucket(544, 992)) == 17 * 544 * 992 * 3
    assert latent_values(contract, Bucket(544, 992)) == 3 * 64 * 34 * 62
    assert latent_values(contract, Bucket(544, 992), frames=1) == 64 * 34 * 62


def test_sizes_of_a_window_of_version_1():
    contract = make_contract(vae_version=1, z_channels=16, latent_frames=5)
    assert latent_values(contract, Bucket(544, 992)) == 5 * 16 * 68 * 124
    assert latent_values(contract, Bucket(544, 992), frames=1) == 16 * 68 * 124
