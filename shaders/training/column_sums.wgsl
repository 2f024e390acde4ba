// column_sums: y[s, c] = Σ_r x[r, c] f[r, c], r over the rows of part s; f is 1 unless has_factor
//   x, f  [rows, cols]   Elem
//   y     [parts, cols]  f32
// One workgroup computes 16 columns of one part: 16 rows at a time, then their sum through workgroup memory.
struct Params { rows: u32, cols: u32, parts: u32, has_factor: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<Elem>;  // [rows, cols]
@group(0) @binding(2) var<storage, read_write> f: array<Elem>;  // [rows, cols]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [parts, cols]

var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let across = (p.cols + 15u) / 16u;
    let index = linear_group(group, grid);
    let part = index / across;
    let c = index % across * 16u + lane % 16u;
    let length = (p.rows + p.parts - 1u) / p.parts;
    let end = min(p.rows, (part + 1u) * length);
    var sum = 0.0;
    if c < p.cols && part < p.parts {
        for (var r = part * length + lane / 16u; r < end; r = r + 16u) {
            var v = f32(x[r * p.cols + c]);
            if p.has_factor != 0u {
                v = v * f32(f[r * p.cols + c]);
            }
            sum = sum + v;
        }
    }
    sums[lane] = sum;
    workgroupBarrier();
    for (var width = 128u; width >= 16u; width = width / 2u) {
        if lane < width {
            sums[lane] = sums[lane] + sums[lane + width];
        }
        workgroupBarrier();
    }
    if lane < 16u && c < p.cols && part < p.parts {
        y[part * p.cols + c] = sums[lane];
    }
}
