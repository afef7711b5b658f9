"""To a device and back; here the device is the CPU, whose streams do nothing."""

import numpy as np
import pytest
import torch

from pipeline.transfer import Transfer


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_what_is_sent_comes_back(dtype):
    transfer = Transfer(torch.device("cpu"))
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    sent = transfer.send(array)
    [(name, back)] = transfer.fetch({"doubled": sent * 2}).wait().items()
    assert name == "doubled"
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, array * 2)


def test_what_is_sent_may_change_afterwards():
    transfer = Transfer(torch.device("cpu"))
    array = np.zeros(3, np.float32)
    sent = transfer.send(array)
    array += 1
    assert sent.tolist() == [0, 0, 0]


def test_what_is_fetched_is_a_copy():
    values = torch.zeros(3)
    fetched = Transfer(torch.device("cpu")).fetch({"values": values})
    values += 1
    assert fetched.wait()["values"].tolist() == [0, 0, 0]


def test_streams_are_of_the_device_that_is_named_not_of_the_current_one(monkeypatch):
    device, asked = torch.device("cuda:1"), []

    class Api:
        """Of a device that is not there."""

        def Stream(self, device):  # noqa: N802 (torch's name)
            asked.append(device)
            return torch.cpu.Stream()

        def current_stream(self, device):
            asked.append(device)
            return torch.cpu.Stream()

        def __getattr__(self, name):
            return getattr(torch.cpu, name)

    monkeypatch.setattr(torch, "get_device_module", lambda device: Api())
    transfer = Transfer(device)
    transfer._pinned = False
    values = torch.ones(2)
    assert transfer.fetch({"values": values}).wait()["values"].tolist() == [1, 1]
    assert asked == [device] * 3
