import pytest

from pipeline.errors import UserError
from pipeline.explain import explained


@pytest.mark.parametrize(
    ("uri", "remedy"), [("/cache", "check the path"), ("s3://b/cache", "AWS_ACCESS_KEY_ID")]
)
def test_what_a_store_refuses_names_the_cache_and_the_remedy(uri, remedy):
    with pytest.raises(UserError) as caught, explained(uri, "written"):
        raise OSError("Generic S3 error\n   \x1b[31m↳\x1b[0m 403 Forbidden\n")
    told = str(caught.value)
    assert told.startswith(f"{uri} cannot be written: Generic S3 error ↳ 403 Forbidden; ")
    assert remedy in told


@pytest.mark.parametrize("error", [UserError("no room"), KeyError("x")])
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, explained("/cache", "read"):
        raise error
    assert caught.value is error
