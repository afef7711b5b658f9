import pytest
import torch

from vae import DiagonalGaussian


def moments(dtype=torch.float32):
    values = torch.randn(2, 3, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    return values.to(dtype)


def test_mean_comes_first():
    m = moments()
    posterior = DiagonalGaussian.from_moments(m)
    assert torch.equal(posterior.mean, m[:, :, :4])
    assert torch.equal(posterior.logvar, m[:, :, 4:])
    assert torch.equal(posterior.mode(), posterior.mean)
    torch.testing.assert_close(posterior.std, m[:, :, 4:].exp().sqrt())


def test_logvar_is_clamped():
    logvar = torch.tensor([-100.0, -30.0, 0.0, 20.0, 100.0])
    posterior = DiagonalGaussian(torch.zeros(5), logvar)
    assert posterior.logvar.tolist() == [-30.0, -30.0, 0.0, 20.0, 20.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_sample_is_mean_plus_std_times_float32_noise(dtype):
    posterior = DiagonalGaussian.from_moments(moments(dtype))
    noise = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(9)).to(dtype)
    sample = posterior.sample(torch.Generator().manual_seed(9))
    assert sample.dtype == dtype
    assert torch.equal(sample, posterior.mean + posterior.std * noise)


def test_sample_has_the_given_moments():
    size = (1, 1, 20_000, 1, 1)
    posterior = DiagonalGaussian(torch.full(size, 3.0), torch.full(size, 4.0).log())
    sample = posterior.sample(torch.Generator().manual_seed(0))
    assert sample.mean() == pytest.approx(3.0, abs=0.06)
    assert sample.std() == pytest.approx(2.0, abs=0.06)


@pytest.mark.parametrize(
    ("mean", "logvar", "words"),
    [
        (torch.zeros(2), torch.zeros(3), "agree in shape"),
        (torch.zeros(2), torch.zeros(2).double(), "agree in dtype"),
        (torch.zeros(2), torch.zeros(2, device="meta"), "agree in device"),
        (torch.zeros(2).long(), torch.zeros(2).long(), "floating point"),
    ],
)
def test_parts_that_do_not_fit_are_refused(mean, logvar, words):
    with pytest.raises(ValueError, match=words):
        DiagonalGaussian(mean, logvar)


@pytest.mark.parametrize("shape", [(1, 3, 5, 2, 2), (1, 3, 0, 2, 2), (3, 8, 2, 2)])
def test_moments_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="moments must have shape"):
        DiagonalGaussian.from_moments(torch.zeros(shape))
