"""``python -m questions.migrations``: the former name of ``python -m schema.migrations``.

Manifests and scripts of the release before call it.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("schema.migrations", run_name="__main__")
