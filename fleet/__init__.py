"""Which mesh this is, which processes of it run, and whether they agree."""
