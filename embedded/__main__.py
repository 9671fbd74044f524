"""``python -m embedded``: what ``make run`` runs."""

import sys

from embedded.run import main

sys.exit(main())
