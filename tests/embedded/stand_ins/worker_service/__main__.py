"""Says that it is ready and waits."""

import signal

from foundation.readiness import notify_ready

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
notify_ready()
signal.sigwait({signal.SIGTERM})
