//! The gradients of what is affine in a group norm: weight, bias, and a time embedding's scale and shift.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::group_norm::GroupNorm;
use crate::kernels::{Cost, INDEX, Kernel, Shader, fold_grid};

params! {
    /// Pictures.
    pictures: u32,
    /// Channels.
    channels: u32,
    /// 1 if scale and shift are bound.
    has_emb: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "group_norm_affine_gradient",
    shaders: &[Shader::plain(
        "group_norm_affine_gradient",
        wgsl!("training/group_norm_affine_gradient"),
        &[INDEX],
        |params, _| fold_grid(Params::read(params).channels.div_ceil(64) as usize),
    )],
    fields: Params::FIELDS,
    reference: |p, x, y| compute(p, x, y, f64::from),
    cpu: |p, x, y| compute(p, x, y, |v| v as f32),
    cost: |_, inputs, output| {
        Cost::streaming(6.0 * inputs[0].iter().product::<usize>() as f64, inputs, output)
    },
    ..Kernel::PLAIN
};

/// From the sums `[N, 2, C]` of [`group_norm_sums`](super::group_norm_sums): the gradients of weight and bias, `[C]` in
/// f32, and of emb `[N, 2C]`, which is `[1]` of any value where there is none.
pub fn group_norm_affine_gradient(
    g: &mut Graph,
    label: &str,
    sums: &Tensor,
    norm: &GroupNorm,
    emb: Option<&Tensor>,
) -> [Tensor; 3] {
    let (n, channels) = (sums.dim(0), norm.weight.len());
    let p = Params { pictures: n as u32, channels: channels as u32, has_emb: emb.is_some().into() };
    let empty = g.empty();
    let demb: &[usize] = if emb.is_some() { &[n, 2 * channels] } else { &[1] };
    let made =
        [g.make(&[channels], Storage::F32), g.make(&[channels], Storage::F32), g.make(demb, Storage::Elem)];
    let inputs = [sums, &norm.weight, &norm.bias, emb.unwrap_or(&empty)];
    g.push_into(&KERNEL, label, p.bytes(), &inputs, &[&made[0], &made[1], &made[2]]);
    made
}

fn compute<T: Copy + Into<f64>>(
    params: &[u8],
    inputs: &[&[T]],
    outputs: &mut [&mut [T]],
    rounded: fn(f64) -> T,
) {
    let p = Params::read(params);
    let channels = p.channels as usize;
    let [dweight, dbias, demb] = outputs else { return };
    if p.has_emb == 0 {
        demb.fill(rounded(0.0));
    }
    for c in 0..channels {
        let (weight, bias): (f64, f64) = (inputs[1][c].into(), inputs[2][c].into());
        let mut sums = [0.0; 2];
        for n in 0..p.pictures as usize {
            let at = n * 2 * channels + c;
            let (plain, by_h): (f64, f64) = (inputs[0][at].into(), inputs[0][at + channels].into());
            let mut scale = 1.0;
            if p.has_emb != 0 {
                scale += inputs[3][at].into();
                demb[at] = rounded(weight * by_h + bias * plain);
                demb[at + channels] = rounded(plain);
            }
            sums[0] += scale * by_h;
            sums[1] += scale * plain;
        }
        (dweight[c], dbias[c]) = (rounded(sums[0]), rounded(sums[1]));
    }
}
