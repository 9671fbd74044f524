"""The web page: a question box, answers as they are written, and nothing that has to be built."""
