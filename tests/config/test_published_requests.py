"""Requests published for other tools are accepted, and mean here what they mean there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from finetune.config.channels import check_channels
from finetune.config.hyperparameters import SECTIONS, JobSpec
from finetune.config.parse import parse_hyperparameters
from finetune.errors import UserError
from tests.support.published_requests import REQUESTS, PublishedRequest

ACCEPTED = [request for request in REQUESTS if not request.refused]


def values_of(spec: JobSpec) -> dict[str, object]:
    sections = [getattr(spec, name) for name in JobSpec.__dataclass_fields__]
    return {
        info.alias or name: getattr(section, name)
        for section in sections
        if isinstance(section, SECTIONS)
        for name, info in type(section).model_fields.items()
    }


def parse(request: PublishedRequest) -> JobSpec:
    return parse_hyperparameters(request.hyperparameters, request.channels.keys())


@pytest.mark.parametrize("request_", ACCEPTED, ids=lambda request: request.name)
def test_a_published_request_means_what_its_tool_does(request_: PublishedRequest) -> None:
    spec = parse(request_)
    values = values_of(spec)
    assert (spec.dialect.name if spec.dialect else "") == request_.dialect
    assert {name: values[name] for name in request_.meaning} == dict(request_.meaning)


@pytest.mark.parametrize("request_", ACCEPTED, ids=lambda request: request.name)
def test_the_channels_of_a_published_request_are_accepted(request_: PublishedRequest) -> None:
    channels = {
        name: SimpleNamespace(content_type=content_type, input_mode=mode, record_wrapper=wrapper)
        for name, (content_type, mode, wrapper) in request_.channels.items()
    }
    assert check_channels(channels, parse(request_)).by_purpose


@pytest.mark.parametrize("request_", [request for request in REQUESTS if request.refused], ids=lambda each: each.name)
def test_requests_that_no_job_can_fulfil_are_refused_with_a_remedy(request_: PublishedRequest) -> None:
    with pytest.raises(UserError, match=r"use |pass it as channel 'train'"):
        parse(request_)
