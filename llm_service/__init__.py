"""The gRPC service in front of the model server."""
