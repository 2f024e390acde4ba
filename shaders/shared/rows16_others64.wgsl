// rows16_others64: sizes for attention_tile.wgsl and attention_products.wgsl, with up to 512 columns of a head.

const ROWS: u32 = 16u;
const OTHERS: u32 = 64u;
const PARTS: u32 = 2u;
