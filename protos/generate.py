"""Regenerate, check and release the gRPC contract.

    generate.py            format the protos and regenerate the stubs in python/askmesh
    generate.py --check    change nothing; fail if lint, format, compatibility or stubs are not in order
    generate.py --release  check, then make this contract the one that later ones must not break

Run it with the python of the generator's environment, which holds what requirements.txt names.

The stubs come from grpc_tools.protoc and not from ``buf generate``: the plugin for gRPC's Python stubs exists only
inside grpc_tools' protoc, so buf would need a wrapper script for it, or its remote plugins and thus the network.
"""  # noqa: INP001 - a script, not a module

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
STUBS = HERE / "python" / "askmesh"
RELEASED = HERE / "released.binpb"
TOOLS = Path(sysconfig.get_path("scripts"))  # buf and the protoc plugins stand beside this python


class ToolError(Exception):
    """A tool could not do its work; the message is what it said."""


def tool(*command: str | Path) -> str:
    """Run a tool in the protos folder and return its output. Raises ToolError if it fails."""
    path = os.pathsep.join((str(TOOLS), os.environ.get("PATH", os.defpath)))
    try:
        done = subprocess.run(  # noqa: S603 - the commands stand in this file
            command, cwd=HERE, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise ToolError(f"{error.filename} is missing: install protos/requirements.txt for {sys.executable}") from None
    if done.returncode != 0:
        raise ToolError((done.stdout + done.stderr).strip() or f"{command[0]} exited with {done.returncode}")
    return done.stdout


def buf(*arguments: str | Path) -> str:
    return tool(TOOLS / "buf", *arguments)


def protoc(into: Path, plugins: tuple[str, ...], protos: list[str]) -> None:
    outputs = (f"--{plugin}_out={into}" for plugin in plugins)
    tool(sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={HERE}", *outputs, *protos)


def generate(into: Path) -> None:
    """Write the stubs of all protos into a folder. Only protos with a service get gRPC stubs."""
    image = json.loads(buf("build", "--exclude-imports", "--exclude-source-info", "--output=-#format=json"))
    protos = [proto["name"] for proto in image["file"]]
    services = [proto["name"] for proto in image["file"] if proto.get("service")]
    protoc(into, ("python", "mypy"), protos)
    protoc(into, ("grpc_python", "mypy_grpc"), services)
    for folder in {(into / name).parent for name in protos}:
        (folder / "py.typed").touch()  # askmesh is a namespace package: type checkers look here


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def changes() -> dict[str, bytes | None]:
    """What regeneration would change in the stubs: a file's new content, or None for one that goes."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        new = contents(Path(folder) / STUBS.name)
    old = contents(STUBS)
    return {name: new.get(name) for name in sorted(new.keys() | old.keys()) if new.get(name) != old.get(name)}


def regenerate() -> None:
    buf("format", "--write")
    changed = changes()
    for name, content in changed.items():
        path = STUBS / name
        if content is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    say(f"stubs: {len(changed)} files changed" if changed else "stubs: up to date")


def check_stubs() -> None:
    if names := list(changes()):
        listed = "\n".join(f"  {(STUBS / name).relative_to(HERE.parent)}" for name in names)
        raise ToolError(f"the committed stubs differ from regenerated ones; run `make protos`\n{listed}")


def check_format() -> None:
    try:
        buf("format", "--diff", "--exit-code")
    except ToolError as error:
        raise ToolError(f"run `make protos`\n{error}") from None


def check_breaking() -> None:
    if not RELEASED.exists():
        raise ToolError(f"{RELEASED.name} is missing; restore it, or before the first release make it with --release")
    buf("breaking", f"--against={RELEASED.name}")


CHECKS = {
    "lint": lambda: buf("lint"),
    "format": check_format,
    "breaking changes": check_breaking,
    "stubs": check_stubs,
}


def check(*, without: frozenset[str] = frozenset()) -> bool:
    """Run every check, say how each went, and return whether all passed."""
    passed = True
    for name, run in CHECKS.items():
        if name in without:
            continue
        try:
            run()
        except ToolError as error:
            passed = False
            say(f"{name}: FAILED: {error}")
        else:
            say(f"{name}: ok")
    return passed


def release() -> bool:
    if not check(without=frozenset() if RELEASED.exists() else frozenset({"breaking changes"})):
        return False
    buf("build", "--exclude-source-info", f"--output={RELEASED.name}")
    say(f"released: {RELEASED.name} is now the contract that later ones must not break")
    return True


def say(line: str) -> None:
    sys.stdout.write(f"protos: {line}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description="Regenerate the stubs of the gRPC contract, or check it.")
    options = parser.add_mutually_exclusive_group()
    options.add_argument("--check", action="store_true", help="change nothing, fail if anything is out of order")
    options.add_argument("--release", action="store_true", help="check, then make this the contract not to break")
    chosen = parser.parse_args()
    try:
        if chosen.check:
            return 0 if check() else 1
        if chosen.release:
            return 0 if release() else 1
        regenerate()
    except ToolError as error:
        say(f"FAILED: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
