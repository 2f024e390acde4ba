#!/usr/bin/env python3
"""Runs the kernels' cases on every implementation of Vulkan and WebGPU that can be had here without a card, has other
compilers read what the shaders are translated to, and writes benches/results/drivers.md. `./check --drivers` calls it.

    python3 tools/drivers/run.py --sources HASH                   all, and the table
    python3 tools/drivers/run.py --only 'Mesa 26,Dawn'            some, printed and not kept

What is not there is downloaded once, under target/drivers, from Debian's, npm's and PyPI's registries; nothing is
installed. What cannot be had is said in the table's head, and the others go on.
"""
import argparse
import datetime
import glob
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "target" / "drivers"
TABLE = ROOT / "benches" / "results" / "drivers.md"
DEBIAN = ["mesa-vulkan-drivers", "libvulkan1", "glslc", "spirv-tools"]
DAWN, SLANG = "webgpu@0.6.2", "slangtorch==1.3.22"
# What no implementation here can run.
NOWHERE = {"attention_matrices16"}
ON_A_GPU = ["harness::cases_on_the_gpu", "table::"]


class Missing(Exception):
    """What cannot be had here, and why."""


def call(command, **options):
    """Runs a command; its output."""
    try:
        done = subprocess.run(command, text=True, capture_output=True, **options)
    except OSError as error:
        raise Missing(str(error)) from error
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise Missing(f"{command[0]}: {lines[-1]}")
    return done.stdout


def fetched(name, fetch):
    """The folder that `fetch` fills, once."""
    folder, unfinished = BUILD / name, BUILD / f"{name}.unfinished"
    if not folder.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        fetch(unfinished)
        unfinished.rename(folder)
    return folder


class Trixie:
    """Packages of Debian 13 with all that they need, the C library too, unpacked into a folder and started by its loader."""

    def __init__(self):
        self.folder = fetched("trixie", self.fetch)
        loaders = glob.glob(f"{self.folder}/usr/lib/*/ld-linux-*.so.*")
        if not loaders:
            raise Missing("no loader among trixie's packages")
        self.loader, self.libraries = loaders[0], str(Path(loaders[0]).parent)

    @staticmethod
    def fetch(folder):
        apt, key = folder / "apt", "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
        for part in ("state/lists/partial", "cache/archives/partial"):
            (apt / part).mkdir(parents=True)
        (apt / "status").touch()
        suites = ("trixie", "trixie-backports")
        lines = [f"deb {key} http://deb.debian.org/debian {suite} main\n" for suite in suites]
        (apt / "sources.list").write_text("".join(lines))
        places = {"State": "state", "State::status": "status", "Cache": "cache", "Etc::SourceList": "sources.list"}
        options = [f"-oDir::{name}={apt / place}" for name, place in places.items()]
        options += [f"-oDir::Etc::{name}=/dev/null" for name in ("SourceParts", "Preferences", "PreferencesParts")]
        get = ["apt-get", *options, "-oAPT::Sandbox::User=root", "-qq", "-y"]
        call([*get, "update"])
        call([*get, "--download-only", "--no-install-recommends", "-t", suites[1], "install", *DEBIAN])
        for package in sorted((apt / "cache" / "archives").glob("*.deb")):
            call(["dpkg", "-x", str(package), str(folder)])
        shutil.rmtree(apt)

    def start(self, *program):
        return [self.loader, "--library-path", self.libraries, *program]

    def tool(self, name, *arguments):
        return self.start(f"{self.folder}/usr/bin/{name}", *arguments)

    def driver(self):
        return f"{self.folder}/usr/share/vulkan/icd.d/lvp_icd.json"


def dawn():
    """Dawn for node: what node imports."""
    install = lambda folder: call(
        ["npm", "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund", DAWN])
    index = fetched("dawn", install) / "node_modules" / "webgpu" / "index.js"
    call(["node", "--input-type=module", "-e", f"await import('{index}')"])
    return index


def slangc():
    """Slang's compiler, which PyPI's slangtorch carries."""
    def unpack(folder):
        call([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder), SLANG])
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            wheel.extractall(folder, [name for name in wheel.namelist() if "/bin/" in name])
        (folder / "slangtorch" / "bin" / "slangc").chmod(0o755)
    compiler = str(fetched("slang", unpack) / "slangtorch" / "bin" / "slangc")
    call([compiler, "-v"])
    return compiler


def system_driver():
    """The software driver that is installed."""
    for folder in ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"):
        for driver in sorted(glob.glob(f"{folder}/lvp_icd*.json")):
            return driver
    raise Missing("no software Vulkan driver is installed (./check installs one)")


def build():
    """The tests' program."""
    command = ["cargo", "test", "--release", "--test", "contracts", "--no-run", "--message-format=json"]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True)
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return next(m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "contracts")


def on_mesa(width=None):
    def of(_):
        driver = {"VK_DRIVER_FILES": system_driver()}
        if width:
            return [], driver | {"LP_NATIVE_VECTOR_WIDTH": str(32 * width)}, ON_A_GPU
        return [], driver, [*ON_A_GPU, "cooperative::"]
    return of


def on_mesa_26(trixie):
    if isinstance(trixie, Missing):
        raise trixie
    return trixie.start(), {"VK_DRIVER_FILES": trixie.driver()}, ON_A_GPU


# Each: before the tests' program, its environment, which tests; and what its adapter must say.
IMPLEMENTATIONS = {
    "CPU device": (lambda _: ([], {}, ["harness::cases_on_the_cpu_device"]), None),
    "installed Mesa": (on_mesa(), "(8, 8)"),
    "width 4": (on_mesa(4), "(4, 4)"),
    "width 16": (on_mesa(16), "(16, 16)"),
    "Mesa 26": (on_mesa_26, "8x8x8"),
    "Dawn": (lambda _: ([], {"VK_DRIVER_FILES": system_driver(), "ANCESTRAL_DAWN": str(dawn())}, ["dawn::"]), None),
}


class Report:
    """What was found."""

    def __init__(self):
        self.about, self.cells, self.shaders, self.failures, self.compilers = {}, {}, set(), [], []

    def fail(self, what):
        self.failures.append(what)
        print(f"FAILED: {what}", flush=True)

    def run(self, name, program, trixie):
        """Runs the cases on an implementation."""
        of, expected = IMPLEMENTATIONS[name]
        try:
            before, environment, tests = of(trixie)
        except Missing as reason:
            self.about[name] = f"not there: {reason}"
            return
        slug = name.lower().replace(" ", "-")
        rows, log, cache = BUILD / f"{slug}.tsv", BUILD / f"{slug}.log", str(BUILD / "cache" / slug)
        rows.unlink(missing_ok=True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("VK_", "LP_"))}
        kept |= environment | {"ANCESTRAL_TABLE": str(rows), "ANCESTRAL_REQUIRE_GPU": "1"}
        kept |= {"ANCESTRAL_TEST_DEVICE": "llvmpipe", "ANCESTRAL_CACHE_DIR": cache, "MESA_SHADER_CACHE_DIR": cache}
        with open(log, "w") as out:
            done = subprocess.run([*before, program, *tests, "--include-ignored", "--nocapture"], cwd=ROOT, env=kept,
                                  stdout=out, stderr=subprocess.STDOUT)
        adapters = []
        for line in rows.read_text().splitlines() if rows.exists() else []:
            kind, *fields = line.split("\t")
            if kind == "shader":
                self.shaders.add(fields[1])
            elif kind == "adapter":
                adapters.append(fields)
            else:
                self.cells.setdefault(tuple(fields[:2]), {}).setdefault(name, fields[2])
        if done.returncode:
            self.fail(f"{name}: see {log.relative_to(ROOT)}")
        software = [" ".join(fields) for fields in adapters if "llvmpipe" in fields[0]]
        if expected and not any(expected in text for text in software):
            self.fail(f"{name}: not on the adapter that was meant ({'; '.join(software) or 'none'})")
        self.about[name] = "; ".join(
            f"{about}, subgroups of {sizes.strip('()').split(', ')[0]}, "
            + (f"matrices {matrices}" if matrices else "no matrices")
            for about, sizes, matrices in adapters if "llvmpipe" in about) or tests[0] == "dawn::" and DAWN or ""

    def compile(self, name, files, command):
        """Has a compiler read translations."""
        def one(file):
            done = subprocess.run(command(file), text=True, capture_output=True)
            return done.returncode and f"{name}: {file.name}: {(done.stderr + done.stdout).strip()[:300]}"
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            wrong = [what for what in pool.map(one, files) if what]
        for what in wrong:
            self.fail(what)
        self.compilers.append((name, f"{len(files) - len(wrong)} of {len(files)}"))
        if not files:
            self.fail(f"{name}: no translations to read")

    def translations(self, program, trixie):
        folder = BUILD / "translations"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        test = [program, "shaders::shaders_are_sound_at_every_precision", "--exact"]
        subprocess.run(test, cwd=ROOT, env=os.environ | {"ANCESTRAL_TRANSLATIONS": str(folder)}, check=True,
                       stdout=subprocess.DEVNULL)
        for file in folder.glob("*.hlsl"):
            file.write_text(plain(file.read_text()))
        hlsl = "-x hlsl -fshader-stage=compute -fentry-point=main --target-env=vulkan1.1 -o /dev/null".split()
        if isinstance(trixie, Missing):
            self.compilers += [(name, f"not there: {trixie}") for name in ("glslc, HLSL in f32", "spirv-val")]
        else:
            self.compile("glslc, HLSL in f32", sorted(folder.glob("*.f32.f32.*.hlsl")),
                         lambda file: trixie.tool("glslc", *hlsl, str(file)))
            for version, target in (("1.3", "vulkan1.1"), ("1.6", "vulkan1.3")):
                self.compile(f"spirv-val, SPIR-V {version}", sorted(folder.glob(f"*.{version}.spv")),
                             lambda file, target=target: trixie.tool("spirv-val", "--target-env", target, str(file)))
        name = "slangc -O0, HLSL in every format"
        try:
            compiler = slangc()
        except Missing as reason:
            self.compilers.append((name, f"not there: {reason}"))
            return
        arguments = "-O0 -lang hlsl -stage compute -entry main -target spirv -o".split()
        # Shader models mostly give the same text.
        texts = {file.read_text(): file for file in sorted(folder.glob("*.hlsl"))}
        self.compile(name, list(texts.values()),
                     lambda file: [compiler, *arguments, str(file.with_suffix(".slang.spv")), str(file)])

    def text(self, sources, seconds):
        """The table."""
        columns = {name for cells in self.cells.values() for name in cells}
        names = [name for name in self.about if name in columns]
        out = [
            "# Every shader on every implementation", "",
            f"{datetime.date.today()}, sources `{sources}` (`shaders/` and `src/kernels/`), by `./check --drivers` in "
            f"{seconds / 60:.0f} minutes on {processor()}. The largest normalised mean squared error of a shader's cases "
            "against its definition in f64; a dash where it cannot run, or computes no such case.", "",
        ]
        out += [f"- **{name}**: {about}" for name, about in self.about.items() if about]
        out += ["- Run by none here: DX12 and Metal (their translations are compiled only), matrices of 16×16×16 (products "
                f"run with plain ones in their place; not run at all: {', '.join(sorted(NOWHERE))}), the speed of f16.", ""]
        for name in names:
            there = {shader for (shader, _), cells in self.cells.items() if name in cells}
            without = sorted(self.shaders - there)
            if name != "CPU device" and without:
                out.append(f"- {name} runs all but {len(without)}: {', '.join(without)}.")
        out += ["", "| compiler | translations it takes |", "|---|---|"]
        out += [f"| {name} | {found} |" for name, found in self.compilers]
        out += ["", f"| shader | format | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
        for (shader, format), cells in sorted(self.cells.items()):
            out.append(f"| {shader} | {format} | {' | '.join(cells.get(name, '–') for name in names)} |")
        return "\n".join(out) + "\n"


def plain(hlsl):
    """naga's HLSL without two things that Microsoft's compilers take and these do not: a parameter that repeats SV_GroupID,
    which nothing reads, and zeros cast to arrays."""
    hlsl = re.sub(r"(\w+ : SV_GroupID), uint3 \w+ : SV_GroupID", r"\1", hlsl)
    zeros, cast = {}, r"\((\w+)((?:\[\d+\])+)\)0"

    def name(match):
        of, lengths = match[1], re.findall(r"\d+", match[2])
        value = f"({of})0"
        for length in reversed(lengths):
            value = "{" + ", ".join([value] * int(length)) + "}"
        called = "_".join(["zeros", of, *lengths])
        zeros[called] = f"static const {of} {called}{match[2]} = {value};\n"
        return called

    hlsl = re.sub(cast, name, hlsl)
    return "".join(zeros.values()) + hlsl


def processor():
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if platform.system() == "Linux" else None
    return f"{os.cpu_count()} cores of {found[1] if found else platform.processor()}"


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sources", default="", help="hash of the shaders and kernels")
    arguments.add_argument("--only", default="", help="implementations, and `translations`, apart by commas")
    chosen = arguments.parse_args()
    only = [name.strip() for name in chosen.only.split(",") if name.strip()]
    wanted = lambda name: not only or name in only
    BUILD.mkdir(parents=True, exist_ok=True)
    started, report = time.time(), Report()
    program = build()
    try:
        trixie = Trixie()
    except Missing as reason:
        trixie = reason
    for name in filter(wanted, IMPLEMENTATIONS):
        begun = time.time()
        report.run(name, program, trixie)
        print(f"{name} ({time.time() - begun:.0f} s): {report.about[name]}", flush=True)
    if wanted("translations"):
        report.translations(program, trixie)
        for name, found in report.compilers:
            print(f"{name}: {found}", flush=True)
    ran = {shader for shader, _ in report.cells}
    for shader in sorted(report.shaders - ran - NOWHERE) if not only else []:
        report.fail(f"`{shader}` runs on none of them")
    text = report.text(chosen.sources, time.time() - started)
    if only:
        print(text)
    else:
        TABLE.write_text(text)
        print(f"{len(report.cells)} rows in {TABLE.relative_to(ROOT)}")
    if report.failures:
        sys.exit(f"{len(report.failures)} failures")


if __name__ == "__main__":
    main()
