"""Causal attention: the fused kernel, and blocks of queries, against the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vae_child import taken

from vae import attention


def definition(q, k, v):
    n, channels = q.shape[1:]
    scores = (q @ k.transpose(1, 2)).double() / channels**0.5
    hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
    return (scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v.double()).float()


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(1, 3),
    n=st.integers(1, 40),
    channels=st.sampled_from([1, 8, 32]),
    rows=st.integers(1, 7),
)
def test_any_blocks_of_queries_give_what_the_definition_does(batch, n, channels, rows):
    generator = torch.Generator().manual_seed(n)
    q, k, v = torch.randn(3, batch, n, channels, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "QUERY_BLOCK_BYTES", rows * 4 * batch * n)
        blocks = attention.blockwise_attention(q, k, v)
    torch.testing.assert_close(blocks, definition(q, k, v), atol=1e-5, rtol=0)
    fused = attention.causal_attention(q, k, v)
    torch.testing.assert_close(fused, definition(q, k, v), atol=1e-5, rtol=0)


@pytest.mark.parametrize("way", ["causal_attention", "blockwise_attention"])
@pytest.mark.parametrize(
    ("n", "channels", "share"),
    [(12_000, 32, 0.35), pytest.param(42_160, 512, 0.06, marks=pytest.mark.slow)],
)
def test_resident_memory_stays_far_below_all_pairs(way, n, channels, share):
    """42,160 positions are those of a window of 544x992; all pairs would take 7.1 GB."""
    assert taken(kind="attention", n=n, channels=channels, way=way) < share * n * n * 4
