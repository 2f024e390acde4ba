"""Counts the lines of src/ outside tests and tables, after formatting, of commits or of the working tree.

    python tools/count_lines.py                    # the working tree
    python tools/count_lines.py 79e5c47 HEAD       # two commits side by side

Every .rs file is copied and formatted by rustfmt first, those too that a macro declares, so that commits compare. Not counted:
files of tests (in a folder `tests`, or named `tests.rs` or `*_tests.rs`), `#[cfg(test)]` modules, tables (`*.txt`).
"""
import io
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def copy(commit, to):
    if commit is None:
        for path in sorted((ROOT / "src").rglob("*.rs")):
            target = to / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
        (to / "rustfmt.toml").write_bytes((ROOT / "rustfmt.toml").read_bytes())
        return
    archive = subprocess.run(["git", "archive", commit, "src", "rustfmt.toml"], cwd=ROOT, check=True, capture_output=True)
    tarfile.open(fileobj=io.BytesIO(archive.stdout)).extractall(to, filter="data")


def is_test(path):
    return "tests" in path.parts or path.name == "tests.rs" or path.name.endswith("_tests.rs")


def without_tests(lines):
    """The lines up to each `#[cfg(test)]` item and after it: a declaration, or a module to its closing brace."""
    kept, at = [], 0
    while at < len(lines):
        if lines[at].strip() != "#[cfg(test)]":
            kept.append(lines[at])
            at += 1
            continue
        indent = len(lines[at]) - len(lines[at].lstrip())
        at += 1
        while lines[at].strip().startswith("#["):
            at += 1
        if not lines[at].rstrip().endswith(";"):
            end = " " * indent + "}"
            while at < len(lines) and lines[at].rstrip("\n") != end:
                at += 1
        at += 1
    return kept


def count(commit):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        copy(commit, folder)
        files = [path for path in sorted((folder / "src").rglob("*.rs")) if not is_test(path.relative_to(folder))]
        for path in files:
            command = ["rustfmt", "--edition", "2024", "--config", "skip_children=true", "--config-path", folder, path]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode and "skip_children" in done.stderr:  # a stable rustfmt follows `mod` lines: by standard input
                text = subprocess.run(["rustfmt", "--edition", "2024", "--config-path", folder], input=path.read_text(),
                                      capture_output=True, text=True, check=True).stdout
                path.write_text(text)
        by_room = Counter()
        for path in files:
            room = path.relative_to(folder / "src").parts[0].removesuffix(".rs")
            by_room[room] += len(without_tests(path.read_text().splitlines(True)))
        return by_room


def main():
    for commit in sys.argv[1:] or [None]:
        rooms = count(commit)
        print(f"{commit or 'working tree'}: {sum(rooms.values())} lines")
        print("  " + ", ".join(f"{room} {lines}" for room, lines in rooms.most_common()))


if __name__ == "__main__":
    main()
