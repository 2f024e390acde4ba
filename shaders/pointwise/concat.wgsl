// concat: y[n, i] = [a[n mod NA, i] | b[n mod NB, i]] along the innermost dimension: what a network takes in,
// from the sample and a conditioning picture, repeated for the halves of classifier-free guidance
//   a  [NA, rows, in_a]         f32
//   b  [NB, rows, in_b]         f32   in_b may be 0
//   y  [N, rows, in_a + in_b]   Elem
// One workgroup computes WG elements. One pass over memory.
struct Params { len: u32, in_a: u32, in_b: u32, rows: u32, batch_a: u32, batch_b: u32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<f32>;   // [NA, rows, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<f32>;   // [NB, rows, in_b]
@group(0) @binding(3) var<storage, read_write> y: array<Elem>;  // [N, rows, in_a + in_b]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * WG + lane;
    if i >= p.len {
        return;
    }
    let channels = p.in_a + p.in_b;
    let c = i % channels;
    let row = i / channels;
    let n = row / p.rows;
    let at = row - n * p.rows;
    if c < p.in_a {
        y[i] = Elem(a[(n % p.batch_a * p.rows + at) * p.in_a + c]);
    } else {
        y[i] = Elem(b[(n % p.batch_b * p.rows + at) * p.in_b + c - p.in_a]);
    }
}
