// embedding: y[i] = table[ids[i]]
//   ids    [rows]            f32   whole numbers below 2^24, smaller than the table's rows
//   table  [entries, C]      Weight
//   y      [rows, C]         Elem
// One workgroup computes WG elements. One pass over memory.
struct Params { len: u32, channels: u32, entries: u32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> ids: array<f32>;  // [rows]
@group(0) @binding(2) var<storage, read> table: array<Weight>;   // [entries, C]
@group(0) @binding(3) var<storage, read_write> y: array<Elem>;   // [rows, C]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * WG + lane;
    if i >= p.len {
        return;
    }
    let row = i / p.channels;
    let entry = min(u32(ids[row]), p.entries - 1u);
    y[i] = Elem(f32(table[entry * p.channels + i - row * p.channels]));
}
