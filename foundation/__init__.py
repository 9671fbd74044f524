"""What every service stands on: settings, errors, logs, PostgreSQL and Redis. It knows nothing of questions."""
