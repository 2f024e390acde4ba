// tile: which 4 rows x 8 columns of a product an invocation computes.

// A workgroup of 64 invocations covers up to 64 columns and, where the product is narrower, more rows: no lane is
// left without work at 16 or 32 channels. Columns go first, so neighbours read the same rows.
fn tile_place(tile: u32, lane: u32, cols: u32) -> vec2<u32> {
    let across = min((cols + 7u) / 8u, 8u);
    let down = 64u / across;
    let tiles = (cols + across * 8u - 1u) / (across * 8u);
    let row = (tile / tiles * down + lane / across) * 4u;
    let col = (tile % tiles * across + lane % across) * 8u;
    // Lanes beyond the last whole row of invocations get a row past any end.
    return vec2<u32>(select(row, 0xffffffffu, lane >= across * down), col);
}

// Workgroups of a product.
fn tile_count(rows: u32, cols: u32) -> u32 {
    let across = min((cols + 7u) / 8u, 8u);
    let down = 4u * (64u / across);
    return (cols + across * 8u - 1u) / (across * 8u) * ((rows + down - 1u) / down);
}
