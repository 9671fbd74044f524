"""Answers questions: woken through the broker, it claims them in PostgreSQL and asks llm_service by gRPC."""
