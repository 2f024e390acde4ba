//! What a run costs, as tables.

use ancestral::cost::{Bytes, NetworkCost, PartCost, RunCost};
use std::fmt::{self, Write};

/// The plan of a run.
pub fn table(cost: &RunCost) -> String {
    let mut text = String::new();
    // A string takes all that is written to it.
    let _ = run(&mut text, cost);
    text
}

fn network(f: &mut impl Write, cost: &NetworkCost) -> fmt::Result {
    writeln!(f, "{}: {}", cost.name, cost.sizes)?;
    writeln!(
        f,
        "  {:<6} {:>6} {:>10} {:>10} {:>10} {:>10} {:>6} {:>12} {:>10}",
        "part", "runs", "dispatches", "GFLOP", "moved", "fewest", "ratio", "activations", "at least"
    )?;
    for p in &cost.parts {
        writeln!(
            f,
            "  {:<6} {:>6} {:>10} {:>10.2} {:>10} {:>10} {:>6.2} {:>12} {:>10}",
            p.name,
            p.runs,
            p.dispatches,
            p.flops / 1e9,
            Bytes(p.moved),
            Bytes(p.fewest),
            p.moved / p.fewest.max(1.0),
            Bytes(p.activations as f64),
            Bytes(p.activations_least as f64)
        )?;
    }
    writeln!(f, "  whole run: {} dispatches, {:.1} GFLOP", cost.dispatches(), cost.flops() / 1e9)?;
    let of = |part: fn(&PartCost) -> u64| Bytes(cost.parts.iter().map(part).sum::<u64>() as f64);
    writeln!(
        f,
        "  memory: {} = weights {} + activations {} + inputs {}; largest tensor {} (`{}`)",
        Bytes(cost.bytes() as f64),
        Bytes(cost.weights as f64),
        of(|p| p.activations),
        of(|p| p.inputs),
        Bytes(cost.largest.1 as f64),
        cost.largest.0
    )?;
    cost.refused.iter().try_for_each(|what| writeln!(f, "  DOES NOT FIT: {what}"))
}

fn run(f: &mut impl Write, cost: &RunCost) -> fmt::Result {
    for of in &cost.networks {
        network(f, of)?;
        writeln!(f)?;
    }
    let bytes = |bytes: u64| Bytes(bytes as f64);
    write!(f, "most memory at once: {}; kept for the next run: {}", bytes(cost.peak), bytes(cost.kept))?;
    match cost.limits.budget {
        Some(most) => writeln!(f, ", within a budget of {}", bytes(most))?,
        None => writeln!(f)?,
    }
    cost.refused.iter().try_for_each(|what| writeln!(f, "DOES NOT FIT: {what}"))?;
    const REMEDY: &str = "it does not fit: take a smaller size or count, f16, a smaller model, or the CPU";
    write!(f, "limits: {}; {}", cost.limits, if cost.fits() { "it all fits" } else { REMEDY })
}
