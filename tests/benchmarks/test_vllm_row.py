"""The arithmetic of the row over the real vLLM, which needs no vLLM."""

import pytest

from benchmarks.measured import Measured
from benchmarks.vllm_row import Turn, compared
from tests.vllm.server import totals

METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a model {of} mine"} 14.0
vllm:num_requests_running{engine="1",model_name="a model {of} mine"} 2.0
vllm:num_requests_waiting{engine="0",model_name="a model {of} mine"} 0.0
vllm:generation_tokens_total{engine="0",model_name="a model {of} mine"} 1.234567e+06
vllm:e2e_request_latency_seconds_bucket{engine="0",le="+Inf",model_name="a model {of} mine"} 3.0
process_open_fds 39.0

"""


def test_metrics_are_summed_over_their_labels() -> None:
    assert totals(METRICS) == {
        "vllm:num_requests_running": 16,
        "vllm:num_requests_waiting": 0,
        "vllm:generation_tokens_total": 1_234_567,
        "vllm:e2e_request_latency_seconds_bucket": 3,
        "process_open_fds": 39,
    }


def _turn(running: float, tokens: float, **cpu_seconds: float) -> Turn:
    """A load of 20 s."""
    load = Measured(count=40, seconds=20, latencies=[10], first_tokens=[], cpu=cpu_seconds)
    counted = {
        "vllm:request_inference_time_seconds_sum": 20 * running,
        "vllm:request_queue_time_seconds_sum": 100,
        "vllm:generation_tokens_total": tokens,
    }
    return Turn(load, counted)


def test_the_mesh_is_told_as_a_part_of_direct_calls() -> None:
    direct = [_turn(15, 4_000, vLLM=19), _turn(17, 4_400, vLLM=19)]
    mesh = [_turn(12, 3_000, vLLM=15, api_service=0.5, worker_service=0.7, load=9)] * 2
    told = {figure.what: figure for figure in compared(direct, mesh)}
    assert {what: figure.value for what, figure in told.items()} == pytest.approx(
        {
            "running of 16, called directly": 16,
            "running of 16, through the mesh": 12,
            "running, of the direct count": 0.75,
            "tokens/s, called directly": 210,
            "tokens/s, through the mesh": 150,
            "tokens/s, of the direct rate": 150 / 210,
            "CPU a token": 0.4,
        }
    )
    assert told["running of 16, through the mesh"].detail == "and 5.0 waiting in vLLM"
    assert told["tokens/s, through the mesh"].cpu["vLLM"] == 375
