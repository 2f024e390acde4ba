// rows16: rows of a tile of subgroup.wgsl, where 12 would leave much of the last tile empty.

const ROWS: u32 = 16u;
