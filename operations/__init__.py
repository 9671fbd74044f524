"""The ``askmesh`` command: what operators do with questions."""
