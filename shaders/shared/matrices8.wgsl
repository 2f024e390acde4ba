// matrices8: cooperative matrices of 8 x 8, of f16 with f32 sums: Apple's, and those of Mesa's software driver. Their
// factors lie in workgroup memory element by element, since Metal takes no other pointers. For shared/matrices.wgsl.

alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;

const EDGE: u32 = 8u;       // rows and columns of a matrix
const SUBGROUPS: u32 = 8u;  // of a workgroup

alias Staged = f16;
const STAGED: u32 = 1u;     // elements of one

fn put_left(quad: u32, x: vec4<f16>) {
    let at = quad * 4u;
    left[at] = x.x; left[at + 1u] = x.y; left[at + 2u] = x.z; left[at + 3u] = x.w;
}

fn put_right(quad: u32, x: vec4<f16>) {
    let at = quad * 4u;
    right[at] = x.x; right[at + 1u] = x.y; right[at + 2u] = x.z; right[at + 3u] = x.w;
}
