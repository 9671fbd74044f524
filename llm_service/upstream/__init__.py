"""The model server's side: HTTP to an OpenAI-compatible server, and what its answers mean."""
