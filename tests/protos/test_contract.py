"""What buf's rules cannot check about the contract's comments."""

from collections import Counter

import pytest
from askmesh.llm.v1 import generation_service_pb2
from grpc import StatusCode

from tests.protos.contract import REASONS, capitals, reasons_by_status, rpc_comments

RPCS = [method.name for method in generation_service_pb2.DESCRIPTOR.services_by_name["GenerationService"].methods]
STATUSES = {code.name for code in StatusCode}


@pytest.mark.parametrize("rpc", RPCS)
def test_every_rpc_lists_its_statuses(rpc: str) -> None:
    comment = rpc_comments()[rpc]
    assert "Statuses" in comment
    assert "as for Generate" in comment or capitals(comment) & STATUSES - {"OK"}


@pytest.mark.parametrize("rpc", RPCS)
def test_every_name_in_capitals_exists(rpc: str) -> None:
    assert capitals(rpc_comments()[rpc]) <= STATUSES | REASONS


def test_every_listed_status_exists() -> None:
    assert reasons_by_status().keys() <= STATUSES - {"OK"}


def test_every_reason_goes_with_one_status() -> None:
    assert Counter(reason for reasons in reasons_by_status().values() for reason in reasons) == Counter(REASONS)
