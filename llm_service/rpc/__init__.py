"""The gRPC side: the contract's calls, their limits and statuses, and who may make them."""
