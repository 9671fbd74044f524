"""``python -m worker_service``: answers questions until SIGTERM."""

import os
import sys

# Without the threads that gRPC has for a client's input, the one in which grpc.aio waits reads it itself, and a message
# takes one hand-over less: an answer of 63 messages costs a caller 4.7 ms of CPU instead of 6.8. gRPC looks at this
# when it is imported, and never again.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client")

from worker_service.waking.celery_app import main

if __name__ == "__main__":
    sys.exit(main())
