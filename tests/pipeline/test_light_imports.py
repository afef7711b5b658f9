"""What decodes loads no torch: it would cost each worker two seconds and 250 MB."""

import subprocess
import sys

import pytest

import pipeline
import vae


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("pipeline", ["torch", "pyarrow", "av"]),
        ("vae", ["torch"]),
        ("pipeline.stages.decode", ["torch", "deltalake", "ray"]),
        ("pipeline.job", ["torch"]),
        ("pipeline.ray_runner", ["torch"]),
        ("pipeline.isolated.child", ["torch", "pyarrow", "s3fs", "pydantic", "ray"]),
    ],
)
def test_modules_load_little(module, heavy):
    code = f"import {module}, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", [pipeline, vae])
def test_every_name_that_is_told_is_there(package):
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package._HOMES) == set(package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        package.nonsense  # noqa: B018
