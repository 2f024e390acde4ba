// group_moments_quads: the moments of group_moments.wgsl, of whole quads of channels, each read once
//   a  [N, HW, in_a]             Elem   the first channels of x; in_a is a multiple of 4
//   b  [N, HW, in_b]             Elem   the rest; in_b is a multiple of 4, or 0
//   y  [N, strips, groups, 3]    f32    count, mean, Σ (x - mean)²
// One workgroup computes the groups of a run of channels over a strip of pixels. One pass over memory: an invocation
// keeps to a quad of channels and puts four pixels at a time to what it has (Chan et al. 1979); invocations, then, come
// together through workgroup memory, as many at a group as the workgroup has for each.
struct Params { pixels: u32, in_a: u32, in_b: u32, groups: u32, strip: u32, runs: u32 }

override WG: u32 = 256u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<vec4<Elem>>;  // [N, HW, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<vec4<Elem>>;  // [N, HW, in_b]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;         // [N, strips, groups, 3]

var<workgroup> means: array<vec4f, WG>;
var<workgroup> squares: array<vec4f, WG>;
var<workgroup> sums: array<f32, WG>;

fn load(at: Place, i: u32) -> vec4f {
    if at.in_b {
        return vec4f(b[at.at + i * at.stride]);
    }
    return vec4f(a[at.at + i * at.stride]);
}

// Sum over the `lanes` invocations that share a group, the same in each of them; a power of two.
fn group_sum(value: f32, lane: u32, lanes: u32) -> f32 {
    let member = lane & (lanes - 1u);
    sums[lane] = value;
    workgroupBarrier();
    for (var width = lanes / 2u; width > 0u; width = width / 2u) {
        if member < width {
            sums[lane] = sums[lane] + sums[lane + width];
        }
        workgroupBarrier();
    }
    let sum = sums[lane - member];
    workgroupBarrier();
    return sum;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let at = place(group, lane);
    var mean = vec4f();
    var square = vec4f();
    let whole = at.visits & ~3u;
    for (var i = 0u; i < whole; i = i + 4u) {
        let x = array(load(at, i), load(at, i + 1u), load(at, i + 2u), load(at, i + 3u));
        let level = ((x[0] + x[1]) + (x[2] + x[3])) * 0.25;
        let d = array(x[0] - level, x[1] - level, x[2] - level, x[3] - level);
        let apart = level - mean;
        let share = 4.0 / f32(i + 4u);
        mean = mean + apart * share;
        let within = (d[0] * d[0] + d[1] * d[1]) + (d[2] * d[2] + d[3] * d[3]);
        square = square + within + apart * apart * (f32(i) * share);
    }
    for (var i = whole; i < at.visits; i = i + 1u) {
        let x = load(at, i);
        let apart = x - mean;
        mean = mean + apart / f32(i + 1u);
        square = square + apart * (x - mean);
    }
    means[lane] = mean;
    squares[lane] = square;
    workgroupBarrier();

    // Of the workgroup's groups, in turn for as many invocations each.
    let groups = p.groups / p.runs;
    let width = (p.in_a + p.in_b) / p.groups;
    let lanes = 1u << firstLeadingBit(WG / groups);
    let own = lane / lanes;
    let first = own * width + (lane & (lanes - 1u));
    let end = select(first, own * width + width, own < groups);
    let rows = min(at.step, at.pixels);
    let count = f32(width) * f32(at.pixels);
    var sum = 0.0;
    for (var row = 0u; row < rows; row = row + 1u) {
        let visits = f32((at.pixels + at.step - 1u - row) / at.step);
        for (var c = first; c < end; c = c + lanes) {
            sum = sum + visits * means[row * at.columns + c / 4u][c % 4u];
        }
    }
    let middle = group_sum(sum, lane, lanes) / count;
    sum = 0.0;
    for (var row = 0u; row < rows; row = row + 1u) {
        let visits = f32((at.pixels + at.step - 1u - row) / at.step);
        for (var c = first; c < end; c = c + lanes) {
            let apart = means[row * at.columns + c / 4u][c % 4u] - middle;
            sum = sum + squares[row * at.columns + c / 4u][c % 4u] + visits * apart * apart;
        }
    }
    let all = group_sum(sum, lane, lanes);
    if (lane & (lanes - 1u)) == 0u && own < groups {
        let to = ((group.z * grid.x + group.x) * p.groups + group.y * groups + own) * 3u;
        y[to] = count;
        y[to + 1u] = middle;
        y[to + 2u] = all;
    }
}
