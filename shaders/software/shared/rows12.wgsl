// rows12: rows of a tile of subgroup.wgsl. 24 sums are as many as a software adapter keeps in registers.

const ROWS: u32 = 12u;
