"""Ranks follow from the hosts, and hosts with different requests do not train together."""

from __future__ import annotations

import logging

import pytest

from finetune.errors import UserError
from finetune.sagemaker.host_group.members import (
    HostInfo,
    Members,
    check_same_request,
    log_members,
    request_digests,
)

GPU = "NVIDIA A10G"


def test_ranks_are_ordered_by_host() -> None:
    hosts = (HostInfo("algo-1", 4), HostInfo("algo-2", 1), HostInfo("algo-3", 2))
    members = [Members(hosts, host.name, "10.0.0.1") for host in hosts]
    assert [each.first_rank for each in members] == [0, 4, 5]
    assert [each.host_index for each in members] == [0, 1, 2]
    assert {each.world_size for each in members} == {7}


def test_equal_requests_are_accepted() -> None:
    request = request_digests({"epochs": "3"}, ["train"])
    check_same_request(HostInfo("algo-1", request=request), HostInfo("algo-2", devices=8, request=request))


def test_differences_are_named() -> None:
    first = HostInfo("algo-1", request=request_digests({"epochs": "3", "seed": "1", "lr": "0.1"}, ["train"]))
    other = HostInfo("algo-2", request=request_digests({"epochs": "4", "seed": "1"}, ["train", "test"]))
    with pytest.raises(UserError) as caught:
        check_same_request(first, other)
    assert str(caught.value).startswith(
        "The requests of algo-1 and algo-2 differ in channel test, hyperparameter epochs, hyperparameter lr:"
    )


def test_many_differences_are_counted() -> None:
    first = HostInfo("algo-1", request=request_digests({f"h{number}": "1" for number in range(8)}, []))
    with pytest.raises(UserError, match="hyperparameter h4 and 3 more: start"):
        check_same_request(first, HostInfo("algo-2"))


def test_digests_do_not_contain_values() -> None:
    assert "secret-token" not in str(request_digests({"token": "secret-token"}, []))


def test_other_version_is_refused() -> None:
    with pytest.raises(UserError, match=r"algo-2 runs version '0\.3\.0' of this image, algo-1 runs '0\.2\.0'"):
        check_same_request(HostInfo("algo-1", version="0.2.0"), HostInfo("algo-2", version="0.3.0"))


@pytest.mark.parametrize(("models", "warned"), [((GPU, GPU), False), ((GPU, "NVIDIA T4"), True), ((GPU, None), True)])
def test_different_devices_are_a_warning(
    models: tuple[str | None, str | None], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    hosts = tuple(HostInfo(f"algo-{number}", 4, model, 24 * 10**9) for number, model in enumerate(models, 1))
    with caplog.at_level(logging.INFO):
        log_members(Members(hosts, "algo-1", "10.0.0.1"))
    assert "2 hosts with 8 devices: algo-1: 4 x NVIDIA A10G with 24 GB; " in caplog.text
    assert ("different devices" in caplog.text) is warned
