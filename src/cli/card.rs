//! The least time of a program's nodes on a card, and how much of the card they keep at work.

use ancestral::cost::NodeCost;

/// A card, as far as its owner knows it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Card {
    /// Multiprocessors, compute units, cores: what a workgroup runs on.
    pub multiprocessors: Option<u64>,
    /// Floating-point operations a second, of the numbers that are multiplied.
    pub peak: Option<f64>,
    /// Bytes a second between the chip and its memory.
    pub bandwidth: Option<f64>,
}

impl Card {
    /// The share of the multiprocessors that is at work, on average over a node's run: the last workgroups leave
    /// some idle.
    pub fn share(&self, node: &NodeCost) -> f64 {
        self.multiprocessors.map_or(1.0, |all| {
            let rounds = node.workgroups.div_ceil(all.max(1)).max(1);
            node.workgroups as f64 / (rounds * all.max(1)) as f64
        })
    }

    /// Seconds that a node takes at least: its operations at the peak, or its bytes at the bandwidth, by the
    /// [share](Self::share) that is at work. None where nothing is known of the card.
    pub fn seconds(&self, node: &NodeCost) -> Option<f64> {
        let least = [self.peak.map(|peak| node.flops / peak), self.bandwidth.map(|rate| node.moved / rate)];
        let least = least.into_iter().flatten().reduce(f64::max)?;
        Some(least / self.share(node).max(f64::MIN_POSITIVE))
    }
}
