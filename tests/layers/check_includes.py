#!/usr/bin/env python3
"""The allowed includes between rooms, enforced on every #include line. usage: check_includes.py REPOSITORY

Left may include right, nothing else (CONTRIBUTING.md, "The house"). A room may always include itself.
"""
import pathlib
import re
import sys

ALLOWED = {
    "src/base": [],
    "src/os": ["src/base"],
    "src/gguf": ["src/base"],
    "kernels": ["src/base"],
    "search": ["src/base"],
    "search/llm": ["search", "src/os", "src/base"],
    "probes": ["src/os", "src/base"],
    "src/report": ["src/base"],
    "src/engine": ["kernels", "src/gguf", "src/os", "src/base"],
    "src/study": ["src/report", "search", "probes", "src/gguf", "src/os", "src/base"],
}
ANY = ("bench", "tests", "tools")  # may include every room
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')
ANGLED = re.compile(r"^\s*#\s*include\s+<((?:src|kernels|search|probes|tests|bench)/[^>]+)>")
CUDA = re.compile(r"^\s*#\s*include\s+[<\"](cuda|cublas|cooperative_groups)")
SOURCES = {".cc", ".h", ".cu", ".cuh"}


def room_of(path):
    """The longest room that holds a path, or None."""
    rooms = [room for room in ALLOWED if path == room or path.startswith(room + "/")]
    return max(rooms, key=len, default=None)


def faults_in(root, path):
    relative = path.relative_to(root).as_posix()
    room = room_of(relative)
    anything = relative.startswith(tuple(f"{name}/" for name in ANY))
    for number, line in enumerate(path.read_text(encoding="utf8").splitlines(), 1):
        if CUDA.match(line) and not relative.startswith("kernels/cuda/"):
            yield f"{relative}:{number}: CUDA header outside kernels/cuda/"
        if ANGLED.match(line):
            yield f"{relative}:{number}: a file of ours is included with quotes, not <>"
        match = INCLUDE.match(line)
        if not match:
            continue
        target = match.group(1)
        if not (root / target).exists():
            yield f"{relative}:{number}: \"{target}\" is no path from the repository root; write it root-relative"
            continue
        other = room_of(target)
        if anything:
            continue
        if room is None or (other != room and other not in ALLOWED[room]):
            yield f"{relative}:{number}: {room} may not include {other} ({target}); allowed: {ALLOWED.get(room)}"


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    files = [path for top in ("src", "kernels", "search", "probes", *ANY) for path in sorted((root / top).rglob("*"))
             if path.suffix in SOURCES]
    faults = [fault for path in files for fault in faults_in(root, path)]
    for fault in faults:
        print(fault)
    print(f"{len(files)} files, {len(faults)} faults")
    return 1 if faults or not files else 0


sys.exit(main())
