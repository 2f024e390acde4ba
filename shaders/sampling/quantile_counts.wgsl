// quantile_counts: |x̂₀|, and of each part of a picture how many elements have which first 11 bits: the first pass of a
// quantile by many workgroups
//   x           [B, HW, C]         f32
//   out         [B or 2 B, HW, OC] Elem   the network's output; [unconditional | conditional] if guided
//   lead        see step.wgsl      f32    read if kept
//   numbers     [64 + B]           f32    see shared/predict.wgsl
//   magnitudes  [B, HW, C]         f32
//   counts      [B, parts, 2048]   f32    by exponent and three digits behind it; the sign is zero
// One workgroup computes one part of one picture.
struct Params {
    batch: u32, item: u32, channels: u32, out_channels: u32, guided: u32, kept: u32, known_at: u32, parts: u32,
}

const WG: u32 = 256u;
const BINS: u32 = 2048u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;           // [B, HW, C]
@group(0) @binding(2) var<storage, read_write> out: array<Elem>;        // [B or 2 B, HW, OC]
@group(0) @binding(3) var<storage, read_write> lead: array<f32>;        // [4, B, HW, C] and [B, HW, C + 1]
@group(0) @binding(4) var<storage, read_write> numbers: array<f32>;     // [64 + B]
@group(0) @binding(5) var<storage, read_write> magnitudes: array<f32>;  // [B, HW, C]
@group(0) @binding(6) var<storage, read_write> counts: array<f32>;      // [B, parts, 2048]

var<workgroup> bins: array<atomic<u32>, BINS>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let b = group.y;
    for (var bin = lane; bin < BINS; bin = bin + WG) {
        atomicStore(&bins[bin], 0u);
    }
    workgroupBarrier();
    let span = (p.item + p.parts - 1u) / p.parts;
    let end = min((group.x + 1u) * span, p.item);
    for (var i = group.x * span + lane; i < end; i = i + WG) {
        let bits = magnitude(b, i);
        magnitudes[b * p.item + i] = bitcast<f32>(bits);
        atomicAdd(&bins[bits >> 20u], 1u);
    }
    workgroupBarrier();
    for (var bin = lane; bin < BINS; bin = bin + WG) {
        counts[(b * p.parts + group.x) * BINS + bin] = f32(atomicLoad(&bins[bin]));
    }
}
