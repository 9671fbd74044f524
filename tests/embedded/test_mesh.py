import pytest

from embedded.mesh import connections_of
from foundation.settings import EmbeddedSettings


@pytest.mark.parametrize(
    ("replicas", "pool_size", "connections"),
    [((1, 1), 10, 200), ((1, 20), 10, 270), ((10, 10), 8, 200), ((8, 16), 50, 1_252)],
)
def test_every_process_gets_its_connections_and_people_some(
    replicas: tuple[int, int], pool_size: int, connections: int
) -> None:
    api, workers = replicas
    settings = EmbeddedSettings(api_replicas=api, worker_replicas=workers)
    assert connections_of(settings, pool_size) == connections
