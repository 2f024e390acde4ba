//! How workgroups share the pixels and channels of a picture in the parts of a group norm: by strips of pixels, and by runs
//! of whole groups where the channels are many (`shaders/shared/group_quads.wgsl`). All of it follows from the shape of one
//! picture.

/// Invocations of a workgroup, each of which keeps to a quad of channels.
const INVOCATIONS: usize = 256;
/// About so many elements are a workgroup's: 32 an invocation.
const ELEMENTS: usize = 8192;
/// Most pixels of a strip, so that pictures of few channels, too, occupy a large card: 512 workgroups at 256².
const MAX_PIXELS: usize = 128;
/// Most strips of a picture, which are put together again.
const MAX_STRIPS: usize = 4096;

/// A picture's strips and runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shares {
    /// Pixels of a strip; the last one may have fewer.
    pub strip: u32,
    /// Runs of channels.
    pub runs: u32,
}

impl Shares {
    /// Of a picture of `channels` in `groups` that stay together.
    pub fn new(pixels: usize, channels: usize, groups: usize) -> Shares {
        let fits = |runs: &usize| {
            let of_run = (channels / runs, groups / runs);
            groups.is_multiple_of(*runs) && of_run.0.is_multiple_of(4) && of_run.0 <= 4 * INVOCATIONS
        };
        let runs = (1..=groups).find(fits).unwrap_or(1);
        let wanted = (ELEMENTS / (channels / runs)).clamp(1, MAX_PIXELS);
        let strip = wanted.max(pixels.div_ceil(MAX_STRIPS)).min(pixels);
        Shares { strip: strip as u32, runs: runs as u32 }
    }

    /// Whether workgroups of quads can take two inputs of so many channels.
    pub fn has_quads(&self, in_a: u32, in_b: u32, groups: u32) -> bool {
        let quads = [in_a, in_b, (in_a + in_b) / self.runs].iter().all(|n| n.is_multiple_of(4));
        let most = INVOCATIONS as u32;
        quads && (in_a + in_b) / self.runs <= 4 * most && groups / self.runs <= most
    }
}

/// Whether workgroups of quads can take a picture of two inputs of so many channels.
pub(crate) fn in_quads(pixels: usize, [in_a, in_b]: [u32; 2], groups: u32) -> bool {
    Shares::new(pixels, (in_a + in_b) as usize, groups as usize).has_quads(in_a, in_b, groups)
}
