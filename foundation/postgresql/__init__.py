"""PostgreSQL as askmesh uses it: its URL, connections, pool, and what its errors mean."""
