// cut_quads: y[o, i] = x[o, i + shift], 0 where x has no such column, as cut.wgsl, four columns at a time;
// from_cols, to_cols and the shift multiples of 4
//   x  [outer, from_cols]  Elem
//   y  [outer, to_cols]    Elem
// The shift may be negative, in two's complement. One workgroup computes WG quads. One pass over memory.
struct Params { len: u32, from_cols: u32, to_cols: u32, shift: u32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<vec4<Elem>>;  // [outer, from_cols]
@group(0) @binding(2) var<storage, read_write> y: array<vec4<Elem>>;  // [outer, to_cols]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * WG + lane;
    if i >= p.len / 4u {
        return;
    }
    let outer = i / (p.to_cols / 4u);
    // What lies before the first column is, unsigned, far beyond the last.
    let col = (i - outer * (p.to_cols / 4u)) * 4u + p.shift;
    var value = vec4<Elem>();
    if col < p.from_cols {
        value = x[(outer * p.from_cols + col) / 4u];
    }
    y[i] = value;
}
