import pytest
from vae_cases import GOLDENS, TINY, golden_config

from vae import AutoencoderKL, seeded_state_dict


@pytest.fixture(scope="session")
def small() -> AutoencoderKL:
    """The narrow golden model, loaded from its file."""
    return AutoencoderKL.from_file(
        GOLDENS / "v2_small" / "weights.safetensors", golden_config("v2_small")
    )


@pytest.fixture(scope="session")
def tiny() -> AutoencoderKL:
    """A model for tests that do not compare numbers with the reference."""
    return AutoencoderKL.from_state_dict(TINY, seeded_state_dict(TINY, 1))
