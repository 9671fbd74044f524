"""Who calls: API keys, tokens of an OIDC issuer, and what a browser may do for other sites."""
