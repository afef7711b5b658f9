import dataclasses
import json

import pytest
from helpers import make_contract

from pipeline.contract import FORMAT_VERSION, Contract, ContractError

OTHER = {
    "vae_version": 1,
    "z_channels": 16,
    "encoder_sha256": "00" * 32,
    "value_range": (0.0, 1.0),
    "layout": "C,t,h,w",
    "statistic": "mean",
    "dtype": "float32",
    "scale": 0.5,
    "shift": 0.1,
    "window_frames": 16,
    "latent_frames": 4,
}


def test_every_field_is_compared_here():
    assert {*OTHER, "format_version"} == {f.name for f in dataclasses.fields(Contract)}


@pytest.mark.parametrize(("name", "value"), OTHER.items())
def test_a_field_that_differs_is_named_with_both_values(name, value):
    ours, theirs = make_contract(), make_contract(**{name: value})
    assert ours.differing_fields(theirs) == {name: (getattr(ours, name), value)}
    assert ours.contract_id != theirs.contract_id


def test_equal_contracts_do_not_differ():
    assert make_contract().differing_fields(make_contract()) == {}
    assert make_contract().contract_id == make_contract().contract_id


@pytest.mark.parametrize("changes", [{}, OTHER])
def test_the_text_reads_back(changes):
    contract = make_contract(**changes)
    found = Contract.from_dict(json.loads(contract.to_json()), "here")
    assert found == contract
    assert hash(found) == hash(contract)
    assert found.contract_id == contract.contract_id


def test_tensors_of_a_statistic():
    assert make_contract(statistic="moments").tensors == ("mean", "logvar")
    assert make_contract(statistic="mean").tensors == ("mean",)
    assert make_contract(statistic="sample").tensors == ("sample",)


def fields(**changes):
    return {**json.loads(make_contract().to_json()), **changes}


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 0, None, "1"])
def test_another_format_is_refused(version):
    with pytest.raises(ContractError, match=r"s3://b/contract\.json: format_version") as caught:
        Contract.from_dict(fields(format_version=version, brand_new=1), "s3://b/contract.json")
    assert repr(version) in str(caught.value)


@pytest.mark.parametrize("gone", [(), ("dtype",), ("dtype", "scale")])
@pytest.mark.parametrize("added", [(), ("colour",)])
def test_missing_and_unknown_fields_are_named(gone, added):
    odd = fields(**dict.fromkeys(added, "red"))
    for name in gone:
        del odd[name]
    if not gone and not added:
        assert Contract.from_dict(odd, "here") == make_contract()
        return
    with pytest.raises(ContractError) as caught:
        Contract.from_dict(odd, "here")
    names = ", ".join(sorted([*gone, *added]))
    assert str(caught.value) == f"here: missing or unknown contract fields: {names}"


@pytest.mark.parametrize("version", [0, 3, None, [2]])
def test_a_vae_of_the_future_is_refused(version):
    with pytest.raises(ContractError, match=r"here: vae_version .* is unknown to this t2v-latents"):
        Contract.from_dict(fields(vae_version=version), "here")


def test_the_version_tells_the_spatial_factor():
    assert make_contract(vae_version=1).spatial_factor == 8
    assert make_contract(vae_version=2).spatial_factor == 16
