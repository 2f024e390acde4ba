#!/usr/bin/env python3
"""Times the works of a diffusion step on this engine and on its peers: the same data, the same device, alternating
rounds in one go, results checked against PyTorch. Prints one Markdown table; --save keeps it with a bar chart.

    python tools/peers/run.py                              all works, all peers that install, the best device
    python tools/peers/run.py --works kernels --device llvmpipe
    python tools/peers/run.py --works attn,conv256_32 --peers ours,ncnn --rounds 9
    python tools/peers/run.py --device nvidia --dtype f16 --save h100

Needs Rust, and a Python with numpy; with torch and diffusers in it, PyTorch takes part and checks the others. What
else is needed is installed or built on the first run, under target/peers. README.md here says how each is timed.
"""
import argparse
import datetime
import hashlib
import json
import os
import platform
import queue
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

import works as catalogue
from works import HERE, ROOT

BUILD = ROOT / "target" / "peers"
PEERS = {
    "ours": "this engine on the GPU",
    "ours_cpu": "this engine's CPU device",
    "torch": "PyTorch on the CPU",
    "cuda": "PyTorch on CUDA, if --device names a CUDA device",
    "ncnn": "ncnn through Vulkan",
    "ncnn_cpu": "ncnn on the CPU",
    "burn": "burn's wgpu backend (WGSL)",
    "ort": "ONNX Runtime on the CPU",
    "ort_webgpu": "ONNX Runtime's WebGPU provider",
}
ON_CPU = ("ours_cpu", "torch", "ort", "ncnn_cpu")
SOFTWARE = ("llvmpipe", "swiftshader", "lavapipe")
# Largest mean squared error, relative to the mean square, that counts as the same result.
TOLERANCE = {("f32", False): 1e-8, ("f32", True): 1e-6, ("f16", False): 1e-4, ("f16", True): 1e-3}


def say(text):
    print(text, file=sys.stderr, flush=True)


class Failure(Exception):
    """A peer that cannot take part, with the word why."""


def command(words, what, **kwargs):
    """Runs a set-up command; its last line of complaint is the word."""
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, **kwargs)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no word"]
        error = next((line for line in reversed(lines) if "error" in line.lower()), lines[-1])
        raise Failure(f"{what}: {error.strip()[:200]}")
    return done.stdout


def environment(name, *choices):
    """The Python of an environment of its own with the first list of packages that installs."""
    folder = BUILD / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = folder / "installed"
    if not done.exists():
        say(f"{name}: installing {' or '.join(' '.join(c) for c in choices)} into {folder.relative_to(ROOT)}")
        for i, packages in enumerate(choices):
            try:
                shutil.rmtree(folder, ignore_errors=True)
                command([sys.executable, "-m", "venv", folder], "venv")
                command([python, "-m", "pip", "install", "-q", "--only-binary", ":all:", *packages], "pip")
                break
            except Failure:
                if i + 1 == len(choices):
                    raise
        done.write_text(" ".join(packages) + "\n")
    return python


def build_engine():
    words = ["cargo", "build", "--release", "--bench", "works", "--message-format=json-render-diagnostics"]
    messages = [json.loads(line) for line in command(words, "cargo", cwd=ROOT).splitlines()]
    for message in messages:
        if message.get("executable") and message["target"]["name"] == "works":
            return [message["executable"], "serve"]
    raise Failure("cargo names no executable")


def build_burn():
    target = BUILD / "burn"
    say("burn: building (minutes, the first time)")
    words = ["cargo", "build", "--release", "--locked", "--target-dir", target]
    command(words, "cargo", cwd=HERE / "burn")
    return [target / "release" / ("burn-peer.exe" if os.name == "nt" else "burn-peer")]


def torch_python():
    command([sys.executable, "-c", "import torch"], "PyTorch is not in this Python")
    return [sys.executable, HERE / "peer_torch.py"]


class Peer:
    """A peer on a device in a number format, in a process of its own that is started when first asked."""

    def __init__(self, key, device, dtype, start, threads):
        self.key, self.device, self.dtype, self.start = key, device, dtype, start
        self.label = f"{key} {dtype}"
        self.on_cpu = key in ON_CPU
        self.name, self.process, self.words, self.failed = None, None, None, None
        # All with the same threads. Their pools may spin inside a run as they like; 10 ms after it they must rest.
        count = str(threads)
        self.env = os.environ | {
            "PEER_THREADS": count, "RAYON_NUM_THREADS": count, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count,
            "LP_NUM_THREADS": count, "KMP_BLOCKTIME": "10", "PYTHONPATH": str(HERE),
        }

    def takes(self, work):
        return work.kind != "unet" or self.key in ("ours", "ours_cpu", "torch", "cuda")

    def send(self, *words, timeout):
        """One command and its answer."""
        self.process.stdin.write("\t".join(str(w) for w in words) + "\n")
        self.process.stdin.flush()
        try:
            line = self.answers.get(timeout=timeout)
        except queue.Empty:
            self.stop()
            raise Failure(f"no answer to `{words[0]}` in {timeout} s") from None
        if line is None:
            log = (BUILD / f"{self.key}.log").read_text(errors="replace").strip().splitlines()
            self.stop()
            raise Failure(f"ended during `{words[0]}`: {log[-1][:200] if log else 'without a word'}")
        kind, _, text = line.partition(" ")
        if kind != "ok":
            raise Failure(text)
        return text

    def ask(self, *words, timeout=600):
        if self.process is None or self.process.poll() is not None:
            self.launch()
        return self.send(*words, timeout=timeout)

    def launch(self):
        if self.failed:
            raise Failure(self.failed)
        try:
            if self.words is None:
                self.words = [str(w) for w in self.start()]
            with open(BUILD / f"{self.key}.log", "w") as log:
                self.process = subprocess.Popen(self.words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                                                text=True, env=self.env, cwd=BUILD)
            self.answers = queue.Queue()
            threading.Thread(target=self.listen, args=(self.process, self.answers), daemon=True).start()
            self.name = self.send("open", self.device, self.dtype, timeout=120)
        except (Failure, OSError) as error:
            self.failed = str(error)
            self.stop()
            raise Failure(self.failed) from None

    @staticmethod
    def listen(process, answers):
        for line in process.stdout:
            if line.startswith(("ok", "error")):
                answers.put(line.strip())
        answers.put(None)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process = None


def make_inputs(work, reference):
    """Inputs, reference and folder of a work; the reference is none where PyTorch is missing."""
    folder = BUILD / "works"
    folder.mkdir(parents=True, exist_ok=True)
    model = None
    if work.kind == "unet":
        model = ROOT / work.size[0]
        if model.suffix == ".json":
            config, model = model, BUILD / "models" / work.name
            if not (model / "diffusion_pytorch_model.safetensors").exists():
                say(f"{work.name}: making random weights in {model.relative_to(ROOT)}")
                reference.ask("make", config, model)
    files = [HERE / "works.py", HERE / "peer_torch.py", *([model / "config.json"] if model else [])]
    stamp = hashlib.sha256(b"".join(f.read_bytes() for f in files))
    if model:
        weights = (model / "diffusion_pytorch_model.safetensors").stat()
        stamp.update(f"{weights.st_size} {weights.st_mtime_ns}".encode())
    base = folder / f"{work.name}-{stamp.hexdigest()[:12]}"
    inputs, result, count = (base.with_suffix(s) for s in (".safetensors", ".reference", ".flops"))
    if not inputs.exists():
        catalogue.save_tensors(inputs, catalogue.inputs(work))
    if not count.exists():
        try:
            extra = [model] if model else []
            count.write_text(reference.ask("reference", work.name, work.kind, inputs, result, *extra))
        except Failure as error:
            say(f"{work.name}: no reference, results are not checked: {error}")
    flops = work.flops
    if work.kind == "unet" and count.exists():
        flops = float(count.read_text())
    return inputs, result if count.exists() else None, model, flops


def nmse(file, reference):
    y, expected = (np.fromfile(f, np.float32).astype(np.float64) for f in (file, reference))
    if y.shape != expected.shape:
        raise Failure(f"{len(y)} numbers, {len(expected)} expected")
    return float(((y - expected) ** 2).sum() / (expected**2).sum())


def measure(work, peers, args, reference, results):
    """Prepares a work on all peers, checks it, and times it in alternating rounds."""
    inputs, expected, model, flops = make_inputs(work, reference)
    reference.stop()
    rows = results["works"].setdefault(work.name, {"flops": flops, "bytes": work.bytes, "peers": {}})
    ready = []
    for peer in peers:
        if not peer.takes(work):
            continue
        row = rows["peers"][peer.label] = {"times": []}
        try:
            extra = [model] if model else []
            row["first"] = float(peer.ask("prepare", work.name, work.kind, inputs, *extra, timeout=args.patience))
            out = BUILD / f"{peer.key}.out"
            peer.ask("read", work.name, out)
            if expected:
                row["nmse"] = nmse(out, expected)
                if not row["nmse"] <= TOLERANCE[peer.dtype, work.kind == "unet"]:
                    raise Failure(f"WRONG: NMSE {row['nmse']:.1e}")
            started = time.perf_counter()
            probe = float(peer.ask("run", work.name, 1))
            took = time.perf_counter() - started
            ready.append((peer, row, max(1, min(50, round(0.3 / max(took, 1e-4)))), took))
            say(f"{work.name:11} {peer.label:15} first {row['first']:.0f} ms, then {probe:.3g} ms"
                f"{', NMSE %.1e' % row['nmse'] if expected else ''}")
            if took > args.budget:
                row["times"].append(probe)
        except Failure as error:
            row["failure"] = str(error)
            say(f"{work.name:11} {peer.label:15} left out: {error}")
    spent = {peer.label: took if row["times"] else 0.0 for peer, row, _, took in ready}
    for i in range(0 if args.prepare_only else args.rounds):
        turn = i % max(1, len(ready))
        for peer, row, runs, took in ready[turn:] + ready[:turn]:
            if "failure" in row or spent[peer.label] + took > args.budget and row["times"]:
                continue
            time.sleep(0.05)
            started = time.perf_counter()
            try:
                row["times"].append(float(peer.ask("run", work.name, runs)))
            except Failure as error:
                row["failure"] = str(error)
                say(f"{work.name:11} {peer.label:15} left out: {error}")
            spent[peer.label] += time.perf_counter() - started
    for peer, *_ in ready:
        if peer.process:
            try:
                peer.ask("drop", work.name)
            except Failure:
                peer.stop()


def middle(row):
    """Median in ms and noise: half the distance of the quartiles over the median; none without a sound result."""
    times = row["times"]
    if "failure" in row or not times or statistics.median(times) <= 0:
        return None
    median = statistics.median(times)
    if len(times) < 2:
        return median, None
    low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    return median, (high - low) / 2 / median


def ours_for(label):
    """Which of our rows a peer is compared with: the same device and number format."""
    key, dtype = label.split()
    return "ours_cpu f32" if key in ("torch", "ort") else f"ours {dtype}"


def is_ours(label):
    return label.startswith("ours")


def number(value):
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def cell(entry, label):
    row = entry["peers"].get(label)
    if row is None:
        return ""
    found = middle(row)
    if found is None:
        return "WRONG" if "WRONG" in row.get("failure", "") else "–"
    median, noise = found
    noise = "" if noise is None else f" ±{100 * noise:.0f} %"
    speed = f"{entry['bytes'] / median / 1e6:.3g} GB/s" if entry["bytes"] else number(entry["flops"] / median / 1e6)
    text = f"{number(median)}{noise} / {speed}"
    ours = entry["peers"].get(ours_for(label))
    if not is_ours(label) and ours and middle(ours):
        text += f" / **{number(median / middle(ours)[0])}×**"
    return text


def best_ratio(entry, ours):
    """Our speed over the fastest peer's on the same device in the same format."""
    mine = entry["peers"].get(ours)
    others = [middle(row)[0] for label, row in entry["peers"].items()
              if not is_ours(label) and ours_for(label) == ours and middle(row)]
    if not mine or not middle(mine) or not others:
        return ""
    return f"**{number(min(others) / middle(mine)[0])}×**"


def table(results):
    """The Markdown page."""
    c = results["context"]
    order = [w for w in catalogue.ALL if w.name in results["works"]]
    labels = []
    for work in order:
        labels += [label for label in results["works"][work.name]["peers"] if label not in labels]
    keys = list(PEERS)
    labels.sort(key=lambda label: (keys.index(label.split()[0]), label))
    used = [label for label in labels if any(cell(results["works"][w.name], label) not in ("", "–") for w in order)]
    families = [label for label in used if is_ours(label)]
    lines = [
        f"# {c['date']}: this engine and its peers on {c['device']}", "",
        f"- Machine: {c['machine']}; {c['threads']} threads for everybody; load before {c['load']}.",
        f"- Device: {c['device']}. Number formats: {', '.join(sorted({label.split()[1] for label in used}))}; sums in f32 "
        "or as the peer does.",
        f"- Engine at commit {c['commit']}; `{c['command']}`; alternating rounds, at most {c['rounds']}, a peer stops "
        f"after {c['budget']:g} s a work.",
        "- Cells: median ms ± half the quartiles' distance / GFLOP/s by direct count / our speed over its, on the same "
        "kind of device and format (above 1: we are faster). Group norm + SiLU in GB/s. No ±: a single round.", "",
        "| work | " + " | ".join(used) + " | " + " | ".join(f"{f} over the best peer" for f in families) + " |",
        "|---" * (1 + len(used) + len(families)) + "|",
    ]
    for work in order:
        entry = results["works"][work.name]
        row = [work.title, *(cell(entry, label) for label in used), *(best_ratio(entry, f) for f in families)]
        lines.append("| " + " | ".join(row) + " |")
    lines.append("")
    for label in used:
        rows = {w.name: results["works"][w.name]["peers"].get(label, {}) for w in order}
        errors = {name: row["nmse"] for name, row in rows.items() if "nmse" in row}
        worst = max(errors, key=errors.get, default=None)
        checked = f"worst NMSE against PyTorch {errors[worst]:.0e} ({worst})" if worst else "not checked"
        lines.append(f"- `{label}`: {results['names'].get(label, PEERS[label.split()[0]])}; {checked}.")
    failures = {}
    for work in order:
        for label, row in results["works"][work.name]["peers"].items():
            if "failure" in row:
                failures.setdefault((label, row["failure"]), []).append(work.name)
    for (label, word), names in failures.items():
        lines.append(f"- `{label}` is left out of {', '.join(names)}: {word}.")
    return "\n".join(lines) + "\n"


def chart(results, path):
    """A bar chart of speeds beside the table; a word if matplotlib is missing."""
    try:
        import matplotlib
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return say("no chart: matplotlib is not in this Python")
    order = [w for w in catalogue.ALL if w.name in results["works"]]
    labels = []
    for work in order:
        labels += [p for p, row in results["works"][work.name]["peers"].items() if middle(row) and p not in labels]
    labels.sort(key=lambda label: (list(PEERS).index(label.split()[0]), label))
    figure, axis = plt.subplots(figsize=(max(8, 1.5 * len(order)), 5))
    width = 0.85 / max(1, len(labels))
    for i, label in enumerate(labels):
        points = []
        for at, work in enumerate(order):
            entry = results["works"][work.name]
            found = middle(entry["peers"].get(label, {"times": []}))
            if found:
                points.append((at + (i - (len(labels) - 1) / 2) * width,
                               (entry["bytes"] or entry["flops"]) / found[0] / 1e6))
        axis.bar([p[0] for p in points], [p[1] for p in points], width, label=label,
                 color=f"C{i}", edgecolor="black" if is_ours(label) else "none", linewidth=1.2)
    axis.set_yscale("log")
    names = [w.name + ("\n(GB/s)" if results["works"][w.name]["bytes"] else "") for w in order]
    axis.set_xticks(range(len(order)), names, rotation=30, ha="right")
    axis.set_ylabel("GFLOP/s by direct count, medians")
    figure.suptitle(results["context"]["device"], fontsize=9)
    axis.legend(fontsize=8, ncols=len(labels), loc="lower center", bbox_to_anchor=(0.5, 1))
    axis.grid(axis="y", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def machine():
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def commit():
    """What was built: as a pack for another machine says, or git."""
    try:
        return (ROOT / "COMMIT").read_text().strip()
    except OSError:
        pass
    try:
        return command(["git", "describe", "--always", "--dirty"], "git", cwd=ROOT).strip()
    except (Failure, OSError):
        return "unknown"


def choose_device(args, start):
    """The adapter's own name, by which the peers find it too."""
    for wanted in [args.device] if args.device else ["gpu", "llvmpipe"]:
        peer = Peer("ours", wanted, "f32", lambda: start, args.threads)
        try:
            peer.launch()
            return peer.name, re.split(r" \((?:Vulkan|Metal|Dx12|Gl)\b", peer.name)[0]
        except Failure as error:
            say(str(error))
        finally:
            peer.stop()
    return None, None


def line_up(args, engine, adapter):
    """Every peer asked for, in every number format it can have here."""
    software = adapter is not None and any(s in adapter.lower() for s in SOFTWARE)
    dtypes = args.dtype.split(",") if args.dtype else ["f32"] if software else ["f32", "f16"]
    starts = {
        "ours": lambda: engine,
        "ours_cpu": lambda: engine,
        "torch": torch_python,
        "cuda": torch_python,
        "ncnn": lambda: [environment("ncnn", ["numpy", "ncnn"]), HERE / "peer_ncnn.py"],
        "ncnn_cpu": lambda: [environment("ncnn", ["numpy", "ncnn"]), HERE / "peer_ncnn.py"],
        "burn": build_burn,
        "ort": lambda: [environment("ort", ["numpy", "onnx", "onnxruntime"]), HERE / "peer_ort.py"],
        "ort_webgpu": lambda: [
            environment("ort_webgpu", ["numpy", "onnx", "onnxruntime-webgpu"],
                        ["numpy", "onnx", "onnxruntime", "onnxruntime-ep-webgpu"]), HERE / "peer_ort.py"],
    }
    peers = []
    for key in args.peers.split(","):
        if key not in starts:
            raise SystemExit(f"peer `{key}` is unknown; there are: {', '.join(PEERS)}")
        on_cpu = key in ON_CPU
        if not on_cpu and adapter is None or key == "cuda" and software:
            continue
        formats = ["f32"] if on_cpu or key == "ort_webgpu" else dtypes
        peers += [Peer(key, "cpu" if on_cpu else adapter, dtype, starts[key], args.threads) for dtype in formats]
    return peers


def main():
    text = __doc__.split("\n\n")
    names = "\n".join(f"  {w.name:12} {w.title}" for w in catalogue.ALL)
    peers = "\n".join(f"  {key:12} {what}" for key, what in PEERS.items())
    parser = argparse.ArgumentParser(
        description="\n\n".join(text), formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"works (and the groups kernels, steps, all, none):\n{names}\n\npeers:\n{peers}")
    parser.add_argument("--works", default="all", metavar="NAMES", help="comma separated (default: all)")
    parser.add_argument("--peers", default=",".join(PEERS), metavar="NAMES", help="comma separated (default: all)")
    parser.add_argument("--device", help="part of an adapter's name (default: the best GPU, else llvmpipe)")
    parser.add_argument("--dtype", help="f32, f16 or f32,f16 (default: both on hardware, f32 on a software adapter)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for everybody (default: all CPUs)")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (default: 5)")
    parser.add_argument("--budget", type=float, default=60, metavar="S",
                        help="a peer's rounds of a work end after so many seconds, the first excepted (default: 60)")
    parser.add_argument("--patience", type=float, default=900, metavar="S",
                        help="longest a peer may prepare a work: compile, autotune (default: 900)")
    parser.add_argument("--prepare-only", action="store_true",
                        help="install, build, compile and check, but time nothing: fills the caches")
    parser.add_argument("--keep", type=Path, metavar="FILE",
                        help="a JSON of raw times; works measured before stay in the table, so a long set can be "
                             "measured in pieces; `--works none` prints what is kept")
    parser.add_argument("--engine", type=Path, metavar="FILE", help="this engine's program, built before (benches/works.rs)")
    parser.add_argument("--check", action="store_true",
                        help="first run every shader that the device can run against its reference, there (cargo test)")
    parser.add_argument("--save", metavar="NAME", help="write benches/results/DATE-peers-NAME.md and .png")
    args = parser.parse_args()
    if args.dtype and not set(args.dtype.split(",")) <= {"f32", "f16"}:
        parser.error("--dtype is f32, f16 or f32,f16")
    chosen = catalogue.select(args.works)
    load = " ".join(f"{x:.1f}" for x in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
    BUILD.mkdir(parents=True, exist_ok=True)
    try:
        engine = [args.engine.resolve(), "serve"] if args.engine else build_engine()
    except Failure as error:
        raise SystemExit(f"the engine does not build: {error}") from None
    device, adapter = choose_device(args, engine)
    if device is None:
        say("no adapter: only the peers on the CPU take part")
    elif args.check:
        words = ["cargo", "test", "--release", "--test", "contracts", "--", "cases_on_the_gpu", "golden", "--nocapture"]
        env = {**os.environ, "ANCESTRAL_TEST_DEVICE": adapter, "ANCESTRAL_REQUIRE_GPU": "1"}
        if subprocess.run(words, cwd=ROOT, env=env).returncode:
            raise SystemExit(f"{device} does not compute right: see above")
    context = {
        "date": datetime.date.today().isoformat(), "machine": machine(), "threads": args.threads, "load": load,
        "device": device or "the CPU", "rounds": args.rounds, "budget": args.budget,
        "commit": commit(),
        "command": " ".join(["python tools/peers/run.py", *sys.argv[1:]]) if not args.keep else
                   "python tools/peers/run.py --keep, in pieces",
    }
    results = {"context": context, "names": {}, "works": {}}
    if args.keep and args.keep.exists():
        results = json.loads(args.keep.read_text())
        for key in ("machine", "threads", "device", "commit"):
            if results["context"][key] != context[key]:
                raise SystemExit(f"{args.keep} was measured with another {key}: {results['context'][key]}")
    lineup = line_up(args, engine, adapter)
    reference = Peer("torch", "cpu", "f32", torch_python, args.threads)
    try:
        for work in chosen:
            try:
                measure(work, lineup, args, reference, results)
            except Failure as error:
                say(f"{work.name} is left out: {error}")
            results["names"] |= {p.label: p.name for p in lineup if p.name}
            if args.keep:
                args.keep.write_text(json.dumps(results, indent=1))
    finally:
        for peer in [*lineup, reference]:
            peer.stop()
    if args.prepare_only:
        return
    page = table(results)
    print(page)
    if args.save:
        base = ROOT / "benches" / "results" / f"{context['date']}-peers-{args.save}"
        base.with_suffix(".md").write_text(page)
        chart(results, base.with_suffix(".png"))
        say(f"kept as {base.relative_to(ROOT)}.md")


if __name__ == "__main__":
    main()
