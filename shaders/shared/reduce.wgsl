// reduce: sums and maxima over a workgroup. Needs `override WG: u32`, the workgroup's size, a power of two.

var<workgroup> reduce_scratch: array<f32, WG>;

// Sum of `value` over the workgroup, the same in every invocation.
fn workgroup_sum(value: f32, lane: u32) -> f32 {
    reduce_scratch[lane] = value;
    workgroupBarrier();
    for (var width = WG / 2u; width > 0u; width = width / 2u) {
        if lane < width {
            reduce_scratch[lane] = reduce_scratch[lane] + reduce_scratch[lane + width];
        }
        workgroupBarrier();
    }
    let sum = reduce_scratch[0];
    workgroupBarrier();
    return sum;
}

// Largest `value` of the workgroup, the same in every invocation.
fn workgroup_max(value: f32, lane: u32) -> f32 {
    reduce_scratch[lane] = value;
    workgroupBarrier();
    for (var width = WG / 2u; width > 0u; width = width / 2u) {
        if lane < width {
            reduce_scratch[lane] = max(reduce_scratch[lane], reduce_scratch[lane + width]);
        }
        workgroupBarrier();
    }
    let top = reduce_scratch[0];
    workgroupBarrier();
    return top;
}
