//! What a run costs, as tables.

use super::card::Card;
use ancestral::cost::{Bytes, NetworkCost, NodeCost, PartCost, RunCost};
use std::fmt::{self, Write};

/// The plan of a run; with a card, of each node on it.
pub fn table(cost: &RunCost, card: Option<&Card>) -> String {
    let mut text = String::new();
    // A string takes all that is written to it.
    let _ = run(&mut text, cost, card);
    text
}

/// Seconds that a part takes on a card at least.
fn seconds(part: &PartCost, card: &Card) -> Option<f64> {
    part.nodes.iter().map(|n| Some(n.count as f64 * card.seconds(n)?)).sum()
}

/// A part's nodes, those that take longest first.
fn nodes(f: &mut impl Write, part: &PartCost, card: &Card) -> fmt::Result {
    let time = |n: &NodeCost| card.seconds(n).map(|each| each * n.count as f64);
    let mut nodes: Vec<&NodeCost> = part.nodes.iter().collect();
    let weight = |n: &NodeCost| time(n).unwrap_or(n.flops * n.count as f64);
    nodes.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
    writeln!(
        f,
        "  {:<6} {:>6} {:>10} {:>10} {:>10} {:>10} {:>10}  shader, first node",
        part.name, "nodes", "workgroups", "at work", "GFLOP", "moved", "least"
    )?;
    for n in nodes {
        let share = card.multiprocessors.map_or(String::new(), |_| format!("{:.0} %", 100.0 * card.share(n)));
        let least = time(n).map_or(String::new(), |s| format!("{:.1} µs", 1e6 * s));
        writeln!(
            f,
            "         {:>6} {:>10} {share:>10} {:>10.2} {:>10} {least:>10}  {}, {}",
            n.count,
            n.workgroups,
            n.flops * n.count as f64 / 1e9,
            Bytes(n.moved * n.count as f64),
            n.shader,
            n.label
        )?;
    }
    Ok(())
}

fn network(f: &mut impl Write, cost: &NetworkCost, card: Option<&Card>) -> fmt::Result {
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
    if let Some(card) = card {
        cost.parts.iter().try_for_each(|part| nodes(f, part, card))?;
        let all = cost.parts.iter().map(|part| Some(part.runs as f64 * seconds(part, card)?)).sum();
        if let Some(all) = all {
            let all: f64 = all;
            writeln!(f, "  whole run on such a card: at least {all:.3} s")?;
        }
    }
    cost.refused.iter().try_for_each(|what| writeln!(f, "  DOES NOT FIT: {what}"))
}

fn run(f: &mut impl Write, cost: &RunCost, card: Option<&Card>) -> fmt::Result {
    for of in &cost.networks {
        network(f, of, card)?;
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
