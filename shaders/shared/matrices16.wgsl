// matrices16: cooperative matrices of 16 x 16, of f16 with f32 sums, as many Vulkan drivers have them, and how their
// factors lie in workgroup memory: quads are written whole. For shared/matrices.wgsl.

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

const EDGE: u32 = 16u;      // rows and columns of a matrix
const SUBGROUPS: u32 = 4u;  // of a workgroup

alias Staged = vec4<f16>;
const STAGED: u32 = 4u;     // elements of one

fn put_left(quad: u32, x: vec4<f16>) {
    left[quad] = x;
}

fn put_right(quad: u32, x: vec4<f16>) {
    right[quad] = x;
}
