// dim512: sizes for attention_lanes.wgsl, with heads of up to 512 columns and both sets of keys.

const DIM: u32 = 512u;
const BLOCK: u32 = 128u;
const BOTH: bool = true;
