"""From a claim to its outcome: generation, and the text on its way to readers."""
