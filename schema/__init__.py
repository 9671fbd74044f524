"""The tables of PostgreSQL, and how a database gets them."""
