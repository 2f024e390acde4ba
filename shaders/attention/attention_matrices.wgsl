// attention_matrices: y = softmax(scale * q · kᵀ + bias + mask) · v per head, as attention.wgsl, in cooperative
// matrices of f16 with f32 sums, for heads of up to 64 columns; columns, strides and offsets are multiples of 4
//   q        [N, LQ, q_stride]   Elem   head h of a row starts at column q_offset + h D
//   k1, v1   [N, L1, kv1_stride] Elem   the first keys and values (text); L1 may be 0
//   k2, v2   [N, L2, kv2_stride] Elem   the rest (pixels); L2 may be 0
//   bias     [LQ, L1 + L2, heads] Elem  added to every picture's scores, if has_bias (T5's relative positions)
//   mask     [N, L1]             f32    added to the scores of the first keys, if has_mask
//   y        [N, LQ, heads D]    Elem
// One workgroup computes 64 queries of one head of one picture, or 32 (shared/attention_cooperative.wgsl).
// The uniform is that of shared/attention.wgsl.

@group(0) @binding(1) var<storage, read_write> q: array<vec4<Elem>>;   // [N, LQ, q_stride]
@group(0) @binding(2) var<storage, read_write> k1: array<vec4<Elem>>;  // [N, L1, k1_stride]
@group(0) @binding(3) var<storage, read_write> v1: array<vec4<Elem>>;  // [N, L1, v1_stride]
@group(0) @binding(4) var<storage, read_write> k2: array<vec4<Elem>>;  // [N, L2, k2_stride]
@group(0) @binding(5) var<storage, read_write> v2: array<vec4<Elem>>;  // [N, L2, v2_stride]
@group(0) @binding(6) var<storage, read_write> bias: array<Elem>;      // [LQ, L1 + L2, heads]
@group(0) @binding(7) var<storage, read_write> mask: array<f32>;       // [N, L1]
@group(0) @binding(8) var<storage, read_write> y: array<vec4<Elem>>;   // [N, LQ, heads D]
