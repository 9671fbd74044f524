"""Who asks and how much: API keys, roles, limits, turns and the ledger."""
