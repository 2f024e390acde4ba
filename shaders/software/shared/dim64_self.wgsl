// dim64_self: sizes for attention_lanes.wgsl, with heads of up to 64 columns and no first keys.

const DIM: u32 = 64u;
const BLOCK: u32 = 256u;
const BOTH: bool = false;
