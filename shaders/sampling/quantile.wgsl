// quantile: s[b] = quantile of |x̂₀| over picture b, interpolated linearly: dynamic thresholding's measure
// (Saharia et al. 2022, section 2.3)
//   x       [B, HW, C]         f32
//   out     [B or 2 B, HW, OC] Elem   the network's output; [unconditional | conditional] if guided
//   lead    see step.wgsl      f32    read if kept
//   numbers [64 + B]           f32    see shared/predict.wgsl; s is put behind them, in place
// One workgroup computes one picture. |x̂₀| ≥ 0, so its bits order as numbers do: four passes of 256-bin counts find
// the element of the lower rank exactly, a fifth the next larger one.
struct Params { batch: u32, item: u32, channels: u32, out_channels: u32, guided: u32, kept: u32, known_at: u32 }

const WG: u32 = 256u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;       // [B, HW, C]
@group(0) @binding(2) var<storage, read_write> out: array<Elem>;    // [B or 2 B, HW, OC]
@group(0) @binding(3) var<storage, read_write> lead: array<f32>;    // [4, B, HW, C] and [B, HW, C + 1]
@group(0) @binding(4) var<storage, read_write> numbers: array<f32>; // [64 + B]

var<workgroup> bins: array<atomic<u32>, 256>;
var<workgroup> prefix: u32;   // the digits of the sought element found so far
var<workgroup> rank: u32;     // its rank among the elements that share them
var<workgroup> equal: u32;    // how many elements equal it
var<workgroup> next: atomic<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let b = group.x;
    let position = numbers[7] * f32(p.item - 1u);
    if lane == 0u {
        prefix = 0u;
        rank = u32(position);
        atomicStore(&next, 0xffffffffu);
    }
    for (var pass_number = 0u; pass_number < 4u; pass_number = pass_number + 1u) {
        let shift = 24u - 8u * pass_number;
        atomicStore(&bins[lane], 0u);
        workgroupBarrier();
        for (var i = lane; i < p.item; i = i + WG) {
            let bits = magnitude(b, i);
            // In the first pass every element counts; a shift by 32 is not defined.
            if pass_number == 0u || (bits >> (shift + 8u)) == (prefix >> (shift + 8u)) {
                atomicAdd(&bins[(bits >> shift) & 255u], 1u);
            }
        }
        workgroupBarrier();
        if lane == 0u {
            var bin = 0u;
            var count = atomicLoad(&bins[0]);
            while rank >= count && bin < 255u {
                rank = rank - count;
                bin = bin + 1u;
                count = atomicLoad(&bins[bin]);
            }
            prefix = prefix | (bin << shift);
            equal = count;
        }
        workgroupBarrier();
    }
    for (var i = lane; i < p.item; i = i + WG) {
        let bits = magnitude(b, i);
        if bits > prefix {
            atomicMin(&next, bits);
        }
    }
    workgroupBarrier();
    if lane == 0u {
        let low = bitcast<f32>(prefix);
        var high = low;
        if rank + 1u >= equal && atomicLoad(&next) != 0xffffffffu {
            high = bitcast<f32>(atomicLoad(&next));
        }
        numbers[64u + b] = low + (position - floor(position)) * (high - low);
    }
}
