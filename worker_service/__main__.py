"""``python -m worker_service``: answers questions until SIGTERM."""

import sys

from worker_service.celery_app import main

if __name__ == "__main__":
    sys.exit(main())
