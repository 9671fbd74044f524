"""Tests of the worker, most of them with real servers, and workers as processes."""

import os

# The stand-in for llm_service serves in the process that starts servers, and with gRPC's handlers for fork() every
# fourth child of such a process died of SIGSEGV.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
