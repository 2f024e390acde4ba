// reduce_subgroup: as reduce.wgsl, for workgroups that are one subgroup: no workgroup memory, no barrier.

// Sum of `value` over the subgroup, the same in every invocation.
fn workgroup_sum(value: f32, lane: u32) -> f32 {
    return subgroupAdd(value);
}

// Largest `value` of the subgroup, the same in every invocation.
fn workgroup_max(value: f32, lane: u32) -> f32 {
    return subgroupMax(value);
}
