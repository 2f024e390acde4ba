// index: which workgroup this is, for one-dimensional grids folded into y above 65,535 workgroups.

// Number of the workgroup `group` in a grid of `grid` workgroups, counted along x, then y.
fn linear_group(group: vec3<u32>, grid: vec3<u32>) -> u32 {
    return group.y * grid.x + group.x;
}
