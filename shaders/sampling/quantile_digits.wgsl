// quantile_digits: of the elements whose first bits are those of the one sought, how many have which next ten: the
// second pass of a quantile, and the third
//   magnitudes  [B, item]          f32
//   before      [B, parts, row]    f32    what the pass before found: 2048 counts, or as y
//   numbers     [64 + B]           f32    see shared/predict.wgsl
//   y           [B, parts, 1027]   f32    1024 counts; the bits that are known, as a number; the rank among those that
//                                         share them; the least of the part's elements above, -1 if none is
// One workgroup computes one part of one picture, from all of its parts' counts.
struct Params { item: u32, parts: u32, row: u32, shift: u32 }

const WG: u32 = 256u;
const BINS: u32 = 1024u;
const ROW: u32 = 1027u;
const NONE: u32 = 0xffffffffu;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> magnitudes: array<f32>;  // [B, item]
@group(0) @binding(2) var<storage, read_write> before: array<f32>;      // [B, parts, row]
@group(0) @binding(3) var<storage, read_write> numbers: array<f32>;     // [64 + B]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;           // [B, parts, 1027]

var<workgroup> bins: array<atomic<u32>, BINS>;
var<workgroup> next: atomic<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let b = group.y;
    for (var bin = lane; bin < BINS; bin = bin + WG) {
        atomicStore(&bins[bin], 0u);
    }
    if lane == 0u {
        atomicStore(&next, NONE);
    }
    // Of the first pass nothing is known but the counts.
    let first = b * p.parts * p.row;
    let begins = p.row != ROW;
    var rank = u32(numbers[7] * f32(p.item - 1u));
    var known = 0u;
    if !begins {
        known = u32(before[first + BINS]) << 10u;
        rank = u32(before[first + BINS + 1u]);
    }
    let bin = select_bin(first, p.row, p.parts, select(BINS, 2048u, begins), rank, lane);
    known = known | bin.number;

    let span = (p.item + p.parts - 1u) / p.parts;
    let end = min((group.x + 1u) * span, p.item);
    for (var i = group.x * span + lane; i < end; i = i + WG) {
        let bits = bitcast<u32>(magnitudes[b * p.item + i]);
        let shared_bits = bits >> p.shift;
        if shared_bits == known {
            atomicAdd(&bins[(bits >> (p.shift - 10u)) & 1023u], 1u);
        } else if shared_bits > known {
            atomicMin(&next, bits);
        }
    }
    workgroupBarrier();
    let to = (b * p.parts + group.x) * ROW;
    for (var i = lane; i < BINS; i = i + WG) {
        y[to + i] = f32(atomicLoad(&bins[i]));
    }
    if lane == 0u {
        y[to + BINS] = f32(known);
        y[to + BINS + 1u] = f32(bin.rank);
        let above = atomicLoad(&next);
        y[to + BINS + 2u] = select(bitcast<f32>(above), -1.0, above == NONE);
    }
}
