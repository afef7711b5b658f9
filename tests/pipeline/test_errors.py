"""The two kinds of failure."""

import pickle

from pipeline.errors import UserError
from pipeline.leases import LeaseLostError


def test_a_message_is_told_without_what_others_add_to_it():
    error = LeaseLostError("another run took over")
    error.args = (f"{error.args[0]}\nFailed to apply UDF transform",)
    for found in (error, pickle.loads(pickle.dumps(error))):
        assert isinstance(found, UserError)
        assert str(found) == "another run took over"
