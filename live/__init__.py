"""What is fast and may be lost, in Redis and the broker: text as it is written, copies of answers, signals, hints."""
