"""A training step of the bundled base: ours beside PyTorch's, pictures a second.

    cargo bench --bench training --no-run && python tools/peers/training.py [ROUNDS]

PyTorch by its best way on a CPU: torch.compile, channels last, the fused AdamW, one process of one thread a core with the
gradients averaged after each step; in bfloat16 autocast, and in f32. Ours: `benches/training.rs`. The same network and batch of
32; rounds alternate, medians are told.
"""
import glob
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BATCH, STEPS = 32, 8
sys.path.insert(0, str(ROOT / "tools"))


def worker(rank, world, kind):
    import torch
    import torch.distributed as dist

    import model

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    torch.manual_seed(rank)
    net = model.unet("base").to(memory_format=torch.channels_last)
    params = list(net.parameters())
    opt = torch.optim.AdamW(params, lr=1e-4, fused=True)
    fast = torch.compile(net)
    n = BATCH // world
    x = torch.randn(n, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    goal, t, states = torch.randn_like(x), torch.randint(0, 1000, (n,)), torch.randn(n, 20, 128)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
            out = fast(x, t, states).sample
        (out.float() - goal).square().mean().backward()
        flat = torch.cat([p.grad.reshape(-1) for p in params if p.grad is not None])
        dist.all_reduce(flat)
        flat /= world
        at = 0
        for p in params:
            if p.grad is not None:
                p.grad.copy_(flat[at:at + p.numel()].view_as(p))
                at += p.numel()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)

    for _ in range(3):
        step()
    for line in sys.stdin if rank == 0 else iter(lambda: "", None):
        go = torch.tensor([0.0 if rank == 0 and line.startswith("end") else 1.0])
        dist.broadcast(go, 0)
        if go.item() == 0:
            break
        took = []
        for _ in range(STEPS):
            start = time.perf_counter()
            step()
            took.append(time.perf_counter() - start)
        if rank == 0:
            print(BATCH / statistics.median(took), flush=True)


def begin(kind):
    """A pair of processes that wait for lines; the first says its rate after each."""
    world = os.cpu_count()
    ranks = []
    for rank in range(world):
        command = [sys.executable, __file__, "--worker", str(rank), str(world), kind]
        pipe = subprocess.PIPE if rank == 0 else subprocess.DEVNULL
        ranks.append(subprocess.Popen(command, stdin=pipe, stdout=subprocess.PIPE if rank == 0 else None, text=True))
    return ranks


def ask(ranks):
    ranks[0].stdin.write("go\n")
    ranks[0].stdin.flush()
    return float(ranks[0].stdout.readline())


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found = {}
    for kind in ("bf16", "f32"):
        ranks = begin(kind)
        ask(ranks)                                 # compiled, and warm
        bench = max(glob.glob(str(ROOT / "target/release/deps/training-*[!d]")), key=os.path.getmtime)
        for _ in range(rounds):
            found.setdefault(f"torch {kind}", []).append(ask(ranks))
            out = subprocess.run([bench], capture_output=True, text=True, check=True).stdout
            for name, rate in re.findall(r"batch \d+, ([^:]+): ([\d.]+) pictures/s", out):
                found.setdefault(f"ours {name}", []).append(float(rate))
        ranks[0].stdin.write("end\n")
        ranks[0].stdin.flush()
        for rank in ranks:
            rank.wait()
    for name, rates in sorted(found.items()):
        print(f"{name:34} {statistics.median(rates):7.1f} pictures/s  ({min(rates):.1f} to {max(rates):.1f})")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        main()
