"""What wakes a worker: hints through the broker, wake-ups through Redis."""
