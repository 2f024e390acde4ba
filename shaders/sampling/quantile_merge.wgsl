// quantile_merge: s[b] = the quantile that two passes of quantile_digits.wgsl left ten bits of, interpolated linearly
//   before   [B, parts, 1027]  f32    see quantile_digits.wgsl
//   numbers  [64 + B]          f32    see shared/predict.wgsl; s is put behind them, in place
// One workgroup computes one picture.
struct Params { item: u32, parts: u32 }

const WG: u32 = 256u;
const BINS: u32 = 1024u;
const ROW: u32 = 1027u;
const NONE: u32 = 0xffffffffu;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> before: array<f32>;   // [B, parts, 1027]
@group(0) @binding(2) var<storage, read_write> numbers: array<f32>;  // [64 + B]

var<workgroup> next: atomic<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let b = group.x;
    let first = b * p.parts * ROW;
    if lane == 0u {
        atomicStore(&next, NONE);
    }
    let known = u32(before[first + BINS]) << 10u;
    let bin = select_bin(first, ROW, p.parts, BINS, u32(before[first + BINS + 1u]), lane);
    // The next larger element is in the next bin that has any, else in what no bin counts.
    for (var i = lane; i < BINS; i = i + WG) {
        if i > bin.number && merged[i] > 0u {
            atomicMin(&next, known | i);
        }
    }
    for (var part = lane; part < p.parts; part = part + WG) {
        let above = before[first + part * ROW + BINS + 2u];
        if above != -1.0 {
            atomicMin(&next, bitcast<u32>(above));
        }
    }
    workgroupBarrier();
    if lane == 0u {
        let position = numbers[7] * f32(p.item - 1u);
        let low = bitcast<f32>(known | bin.number);
        var high = low;
        if bin.rank + 1u >= bin.count && atomicLoad(&next) != NONE {
            high = bitcast<f32>(atomicLoad(&next));
        }
        numbers[64u + b] = low + (position - floor(position)) * (high - low);
    }
}
