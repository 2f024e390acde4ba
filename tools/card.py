#!/usr/bin/env python3
"""What a machine with a card says of this engine, in less than eight minutes, from a pack of at most 64 MiB.

    python tools/card.py pack card.tar.xz                                  where it is built: programs and files
    tar xf card.tar.xz && python tools/card.py run --device NVIDIA         where the card is; needs Python alone
    python tools/card.py run --device NVIDIA --peak 989 --bandwidth 4800   with the card's TFLOP/s (f16) and GB/s
    python tools/card.py run --device llvmpipe --small                     the same, small, on software Vulkan

Its parts: a bundled picture; every shader against its definition; a step of IF-I-M with random weights, by shader on the
card's clock, against the roofline; works of a step beside PyTorch's cuBLAS and cuDNN, where numpy and torch are. A part
ends when its share of the time does. The report is printed, and kept in OUT (default: $OUT, else target/card).
"""
import argparse
import json
import os
import platform
import re
import select
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PROGRAMS = ROOT / "target" / "programs"
MOST = 64 << 20
FILES = ["tools/card.py", "tools/peers", "models/scenes"]
PROMPT = "a red circle to the left of a blue square"
IF_I_M = ("if_i_m", "tools/peers/if_i_m.json")
SMALL = ("scenes1", "models/scenes/stage_1/unet")


class Failure(Exception):
    """What a part came to."""


def build():
    """The programs, by name."""
    targets = [["--bin", "ancestral"], ["--bench", "works"], ["--test", "contracts"]]
    found = {}
    for target in targets:
        verb = ["test", "--no-run"] if target[0] == "--test" else ["build"]
        words = ["cargo", *verb, "--release", *target, "--message-format=json"]
        done = subprocess.run(words, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True)
        for line in done.stdout.splitlines():
            message = json.loads(line) if line.startswith("{") else {}
            if message.get("executable") and message["target"]["name"] == target[1]:
                found[target[1]] = Path(message["executable"])
    return found


def inputs(name):
    """A U-Net's inputs, as the yardstick has them."""
    sys.path.insert(0, str(HERE / "peers"))
    import works
    work = next(work for work in works.ALL if work.name == name)
    file = PROGRAMS / f"{name}.safetensors"
    works.save_tensors(file, works.inputs(work))


def pack(file):
    shutil.rmtree(PROGRAMS, ignore_errors=True)
    PROGRAMS.mkdir(parents=True)
    for name, program in build().items():
        shutil.copy(program, PROGRAMS / name)
        subprocess.run(["strip", str(PROGRAMS / name)], check=True)
    for name, _ in (IF_I_M, SMALL):
        inputs(name)
    said = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True, capture_output=True)
    commit = PROGRAMS / "COMMIT"
    commit.write_text(said.stdout or "unknown")
    tracked = subprocess.run(["git", "ls-files", *FILES], cwd=ROOT, text=True, capture_output=True, check=True)
    with tarfile.open(file, "w:xz") as packed:
        for path in tracked.stdout.splitlines():
            packed.add(ROOT / path, path)
        for path in sorted(PROGRAMS.iterdir()):
            packed.add(path, "COMMIT" if path == commit else f"target/programs/{path.name}")
    size = Path(file).stat().st_size
    print(f"{file}: {size / (1 << 20):.1f} MiB")
    if size > MOST:
        sys.exit("that is more than 64 MiB")


class Works:
    """benches/works.rs, spoken to line by line."""

    def __init__(self, env, log):
        self.process = subprocess.Popen([str(PROGRAMS / "works"), "serve"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=log, env=env)

    def ask(self, *words, until):
        self.process.stdin.write(("\t".join(str(word) for word in words) + "\n").encode())
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], max(0, until - time.time()))[0]:
            raise Failure(f"no answer to `{words[0]}` in time")
        kind, _, text = self.process.stdout.readline().decode().strip().partition(" ")
        if kind != "ok":
            raise Failure(f"`{words[0]}`: {text or 'it ended'}")
        return text

    def stop(self):
        self.process.kill()
        self.process.wait()


class Report:
    """The parts, one after another."""

    def __init__(self, args):
        self.args, self.text, self.failed = args, [], []
        self.started = time.time()
        self.out = Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)
        cache = str((self.out / "cache").resolve())
        self.env = os.environ | {"ANCESTRAL_TEST_DEVICE": args.device, "ANCESTRAL_REQUIRE_GPU": "1",
                                 "ANCESTRAL_CACHE_DIR": cache}

    def say(self, text=""):
        self.text.append(text)
        print(text, flush=True)

    def part(self, title, share, run):
        """Runs a part for so many seconds of what the whole has, scaled to what is left."""
        begun = time.time()
        until = min(begun + share * self.args.minutes / 8, self.started + self.args.minutes * 60)
        self.say(f"\n## {title}\n")
        try:
            run(until)
        except (Failure, OSError, subprocess.SubprocessError) as error:
            self.failed.append(title)
            self.say(f"FAILED: {error}")
        self.say(f"\n{time.time() - begun:.0f} s.")

    def call(self, words, name, until, env=None):
        """A program's output, which is kept."""
        file = self.out / f"{name}.log"
        with open(file, "w") as log:
            try:
                done = subprocess.run([str(word) for word in words], cwd=ROOT, env=env or self.env, stdout=log,
                                      stderr=subprocess.STDOUT, timeout=max(1, until - time.time()))
            except subprocess.TimeoutExpired:
                raise Failure(f"not done in time, see {file.name}") from None
        text = file.read_text(errors="replace")
        if done.returncode:
            raise Failure(f"exit code {done.returncode}: {' '.join(text.strip().splitlines()[-3:])[:400]}")
        return text

    def shaders(self, until):
        rows = self.out / "shaders.tsv"
        rows.unlink(missing_ok=True)
        env = self.env | {"ANCESTRAL_TABLE": str(rows.resolve())}
        if self.args.small:
            env["ANCESTRAL_CASE"] = "layer_norm"
        words = [PROGRAMS / "contracts", "harness::cases_on_the_gpu", "table::", "--include-ignored", "--nocapture"]
        try:
            self.call(words, "shaders", until, env)
        finally:
            lines = [line.split("\t") for line in rows.read_text().splitlines()] if rows.exists() else []
            for _, about, sizes, matrices in (line for line in lines if line[0] == "adapter"):
                self.say(f"- {about}: subgroups {sizes}, matrices {matrices or 'none'}")
            found = [line for line in lines if line[0] == "holds"]
            wrong = sorted({f"{line[1]} in {line[2]}" for line in found if line[3] == "fails"})
            shaders = {line[2] for line in lines if line[0] == "shader"}
            missing = sorted(shaders - {line[1] for line in found})
            self.say(f"- {len(found)} shaders × formats ran; wrong: {', '.join(wrong) or 'none'}")
            if not self.args.small:
                self.say(f"- not run there: {', '.join(missing) or 'none'}")

    def table(self, until):
        try:
            import numpy  # noqa: F401
        except ImportError:
            self.say("Left out: this Python has no numpy.")
            return
        seconds = max(5, until - time.time())
        works = "attn" if self.args.small else "kernels,if_i_m"
        words = [sys.executable, HERE / "peers" / "run.py", "--engine", PROGRAMS / "works", "--works", works, "--peers",
                 "ours" if self.args.small else "ours,cuda", "--device", self.args.device, "--rounds", "3", "--budget",
                 f"{seconds / 60:.1f}", "--patience", f"{seconds / 2:.0f}"]
        text = self.call(words, "table", until)
        self.say(text[text.find("# "):].replace("# ", "### ", 1).rstrip())

    def step(self, until):
        name, model = SMALL if self.args.small else IF_I_M
        given, folder = PROGRAMS / f"{name}.safetensors", ROOT / model
        with open(self.out / "step.log", "w") as log:
            works = Works(self.env, log)
            try:
                if folder.suffix == ".json":
                    # Where the yardstick looks for it, too.
                    made = ROOT / "target" / "peers" / "models" / name
                    works.ask("make", folder, given, made, until=until)
                    folder = made
                adapter = works.ask("open", self.args.device, self.args.dtype, until=until)
                first = float(works.ask("prepare", name, "unet", given, folder, until=until))
                took = float(works.ask("run", name, 1 if self.args.small else 10, until=until))
                shaders = json.loads(works.ask("profile", name, until=until))
            finally:
                works.stop()
        (self.out / "step.json").write_text(json.dumps(shaders, indent=1))
        self.say(f"{name}, {self.args.dtype}, batch 2, on {adapter}: first {first / 1e3:.1f} s (with measuring and "
                 f"compiling), then {took:.1f} ms a step.\n")
        self.roofline(shaders)

    def roofline(self, shaders):
        """By shader: the time on the card's clock, and the least that its operations and bytes take."""
        peak, bandwidth = self.args.peak * 1e12, self.args.bandwidth * 1e9
        self.say("| shader | nodes | ms | share | TFLOP/s | GB/s | of the roofline |\n|" + "---|" * 7)
        total = sum(seconds for _, seconds, _, _ in shaders.values()) or 1.0
        least = 0.0
        for name, (count, seconds, flops, moved) in sorted(shaders.items(), key=lambda row: -row[1][1]):
            bound = max(flops / peak if peak else 0, moved / bandwidth if bandwidth else 0)
            least += bound
            ratio = f"{bound / seconds:.0%}" if bound and seconds else "–"
            rates = (flops / seconds / 1e12, moved / seconds / 1e9) if seconds else (0, 0)
            self.say(f"| {name} | {count:.0f} | {seconds * 1e3:.3f} | {seconds / total:.0%} | {rates[0]:.3g} | "
                     f"{rates[1]:.3g} | {ratio} |")
        allowed = f"; the roofline allows {least * 1e3:.2f} ms" if least else ""
        self.say(f"\nTogether {total * 1e3:.2f} ms{allowed}.")

    def picture(self, until):
        for run in ("first", "second"):
            file, begun = self.out / f"{run}.png", time.time()
            words = [PROGRAMS / "ancestral", "generate", PROMPT, "--device", self.args.device, "--output", file]
            if self.args.small:
                words += ["--stages", "1", "--steps", "4"]
            self.call(words, f"picture-{run}", until)
            self.say(f"- the {run} time: {time.time() - begun:.1f} s, {file.stat().st_size} bytes")

    def run(self):
        self.say(f"# {platform.node()}, {platform.machine()}, {os.cpu_count()} CPUs, {time.strftime('%Y-%m-%d %H:%M')}")
        self.part("A bundled picture", 60, self.picture)
        self.part("Every shader against its definition", 170, self.shaders)
        self.part("A step, by shader", 110, self.step)
        self.part("Works beside cuBLAS and cuDNN", 130, self.table)
        self.say(f"\n{time.time() - self.started:.0f} s in all; failed: {', '.join(self.failed) or 'none'}.")
        (self.out / "card.md").write_text("\n".join(self.text) + "\n")
        shutil.rmtree(self.out / "cache", ignore_errors=True)
        return bool(self.failed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("pack", help="build, and pack").add_argument("file")
    run = verbs.add_parser("run", help="measure")
    run.add_argument("--device", required=True, help="part of the adapter's name")
    run.add_argument("--dtype", default="f16", choices=["f16", "f32"], help="of the step (default: f16)")
    run.add_argument("--peak", type=float, default=0, metavar="TFLOPS", help="the card's, in that format")
    run.add_argument("--bandwidth", type=float, default=0, metavar="GBS", help="the card's memory's")
    run.add_argument("--minutes", type=float, default=8, help="for all (default: 8)")
    run.add_argument("--out", default=os.environ.get("OUT") or ROOT / "target" / "card", help="a folder for the report")
    run.add_argument("--small", action="store_true", help="a little of each part, for software Vulkan")
    args = parser.parse_args()
    if args.verb == "pack":
        return pack(args.file)
    sys.exit(Report(args).run())


if __name__ == "__main__":
    main()
