// spread: 8 numbers, one of each lane of a subgroup of 8, handed round to all lanes: on a software adapter a load costs
// ten times what a broadcast does.

fn spread(x: f32) -> array<f32, 8> {
    return array<f32, 8>(subgroupBroadcast(x, 0u), subgroupBroadcast(x, 1u), subgroupBroadcast(x, 2u),
        subgroupBroadcast(x, 3u), subgroupBroadcast(x, 4u), subgroupBroadcast(x, 5u), subgroupBroadcast(x, 6u),
        subgroupBroadcast(x, 7u));
}

// s + the 4 rows' 8 columns c times the lanes' x.
fn dot8(c: array<vec4f, 8>, x: f32, s: vec4f) -> vec4f {
    let b = spread(x);
    return s + c[0] * b[0] + c[1] * b[1] + c[2] * b[2] + c[3] * b[3] + c[4] * b[4] + c[5] * b[5] + c[6] * b[6]
        + c[7] * b[7];
}

// 8 columns of 4 rows, a + e times the lanes' x.
fn add8(a: array<vec4f, 8>, e: vec4f, x: f32) -> array<vec4f, 8> {
    let b = spread(x);
    return array<vec4f, 8>(a[0] + e * b[0], a[1] + e * b[1], a[2] + e * b[2], a[3] + e * b[3], a[4] + e * b[4],
        a[5] + e * b[5], a[6] + e * b[6], a[7] + e * b[7]);
}
