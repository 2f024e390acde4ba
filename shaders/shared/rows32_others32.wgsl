// rows32_others32: sizes for attention_tile.wgsl and attention_products.wgsl, with up to 128 columns of a head.

const ROWS: u32 = 32u;
const OTHERS: u32 = 32u;
const PARTS: u32 = 1u;
