// concat_quads: y[n, i] = [a[n mod NA, i] | b[n mod NB, i]] along the innermost dimension, as concat.wgsl,
// four columns at a time; in_a and in_b multiples of 4
//   a  [NA, rows, in_a]         f32
//   b  [NB, rows, in_b]         f32   in_b may be 0
//   y  [N, rows, in_a + in_b]   Elem
// One workgroup computes WG quads. One pass over memory.
struct Params { len: u32, in_a: u32, in_b: u32, rows: u32, batch_a: u32, batch_b: u32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<vec4f>;       // [NA, rows, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<vec4f>;       // [NB, rows, in_b]
@group(0) @binding(3) var<storage, read_write> y: array<vec4<Elem>>;  // [N, rows, in_a + in_b]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * WG + lane;
    if i >= p.len / 4u {
        return;
    }
    let quads_a = p.in_a / 4u;
    let quads_b = p.in_b / 4u;
    let row = i / (quads_a + quads_b);
    let c = i - row * (quads_a + quads_b);
    let n = row / p.rows;
    let at = row - n * p.rows;
    if c < quads_a {
        y[i] = vec4<Elem>(a[(n % p.batch_a * p.rows + at) * quads_a + c]);
    } else {
        y[i] = vec4<Elem>(b[(n % p.batch_b * p.rows + at) * quads_b + c - quads_a]);
    }
}
