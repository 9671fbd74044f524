"""What is asked, and how it lives in PostgreSQL: requests, asking, claims, reading, cancelling, sweeping, erasing."""
