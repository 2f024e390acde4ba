// embedding: y[i] = table[ids[i]]; where a part of the table is bound, 0 for what is in another
//   ids    [rows]            f32   whole numbers below 2^24, smaller than the table's rows
//   table  [entries, C]      Weight   from row `first` of `all`
//   y      [rows, C]         Elem
// One workgroup computes WG elements. One pass over memory.
struct Params { len: u32, channels: u32, entries: u32, first: u32, all: u32 }

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
    // What lies before the part is, unsigned, far beyond it.
    let entry = min(u32(ids[row]), p.all - 1u) - p.first;
    var value = 0.0;
    if entry < p.entries {
        value = f32(table[entry * p.channels + i - row * p.channels]);
    }
    y[i] = Elem(value);
}
