"""``askmesh`` and ``python -m operations``."""

from operations.commands import askmesh

if __name__ == "__main__":
    askmesh()
