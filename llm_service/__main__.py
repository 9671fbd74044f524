"""``python -m llm_service`` runs the service; its settings are environment variables, see README.md."""

import sys

from llm_service.server import main

sys.exit(main())
