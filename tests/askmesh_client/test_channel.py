import pytest
from askmesh_client.channel import target_uri


@pytest.mark.parametrize(
    ("targets", "uri"),
    [
        ("127.0.0.1:50051", "ipv4:127.0.0.1:50051"),
        ("10.0.0.1:50051, 10.0.0.2:50052", "ipv4:10.0.0.1:50051,10.0.0.2:50052"),
        ("[::1]:50051", "ipv6:[::1]:50051"),
        ("[::1]:50051,[fe80:0::2]:50052", "ipv6:[::1]:50051,[fe80::2]:50052"),
        ("llm-service.mesh:65535", "dns:///llm-service.mesh:65535"),
    ],
)
def test_targets(targets: str, uri: str) -> None:
    assert target_uri(targets) == uri


@pytest.mark.parametrize(
    "targets", ["", "llm", "llm:", ":50051", "llm:0", "llm:65536", "::1:50051", "http://llm:50051", "a:1,", "llm:٣"]
)
def test_a_target_that_cannot_be_read_is_refused_with_the_remedy(targets: str) -> None:
    with pytest.raises(ValueError, match="must be host:port, for example"):
        target_uri(targets)


@pytest.mark.parametrize("targets", ["a:1,b:1", "a:1,10.0.0.1:1", "10.0.0.1:1,[::1]:1"])
def test_several_targets_of_which_grpc_could_use_only_one_are_refused(targets: str) -> None:
    with pytest.raises(ValueError, match="all IPv4 or all IPv6"):
        target_uri(targets)


def test_a_bad_ipv6_address_is_refused() -> None:
    with pytest.raises(ValueError, match="zz"):
        target_uri("[zz]:1")
