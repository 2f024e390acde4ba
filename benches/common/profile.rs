//! Where a program's time goes.

use ancestral::internals::device::Program;
use std::collections::BTreeMap;

/// Nodes listed by themselves.
const SLOWEST: usize = 10;

/// Prints a program's profile; the first run finds everything cold.
pub fn profile(name: &str, program: &mut Program) {
    program.run(&mut |_| true).expect("it runs");
    let mut times = program.profile().expect("it runs");
    let total: f64 = times.iter().map(|t| t.seconds).sum();
    println!("\n{name}: {} nodes, {:.1} ms one by one", times.len(), 1e3 * total);
    let mut by_shader: BTreeMap<&str, (usize, f64, f64)> = BTreeMap::new();
    for t in &times {
        let (nodes, seconds, flops) = by_shader.entry(t.shader).or_default();
        (*nodes, *seconds, *flops) = (*nodes + 1, *seconds + t.seconds, *flops + t.cost.flops);
    }
    let mut rows: Vec<_> = by_shader.into_iter().collect();
    rows.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    for (shader, (nodes, seconds, flops)) in rows {
        println!("  {shader:28} {nodes:4} {:9.2} ms {:7.1} GFLOP/s", 1e3 * seconds, flops / seconds * 1e-9);
    }
    times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    for t in times.iter().take(SLOWEST) {
        println!("    {:8.2} ms {:28} {}", 1e3 * t.seconds, t.shader, t.label);
    }
}
