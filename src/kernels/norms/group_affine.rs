//! What a [group norm](crate::kernels::group_norm) does to each channel, from the
//! [moments](crate::kernels::group_moments) of a picture's strips (Chan, Golub & LeVeque 1979, on putting them together).

use super::group_blocks::Moments;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::group_norm::GroupNorm;
use crate::kernels::{Cost, Kernel, REDUCE, Shader};

params! {
    /// Strips of a picture.
    strips: u32,
    /// Channels of a picture.
    channels: u32,
    /// Number of groups.
    groups: u32,
    /// 1 if scale and shift are bound.
    has_emb: u32,
    /// Added to the variance.
    eps: f32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "group_affine",
    shaders: &[Shader::plain("group_affine", wgsl!("norms/group_affine"), &[REDUCE], |params, output| {
        [Params::read(params).groups, output[0] as u32, 1]
    })],
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    cost: |_, inputs, output| {
        let moments = inputs[0].iter().product::<usize>() + output.iter().product::<usize>();
        Cost::streaming(3.0 * moments as f64, inputs, output)
    },
    ..Kernel::PLAIN
};

/// Mean, gain and offset of each channel, (x − mean) · gain + offset, from moments `[N, strips, groups, 3]` and, of a time
/// embedding, scale and shift `[N, 2C]` → `[N, 3, C]`, f32.
#[track_caller]
pub fn group_affine(
    g: &mut Graph,
    label: &str,
    moments: &Tensor,
    norm: &GroupNorm,
    emb: Option<&Tensor>,
) -> Tensor {
    let &[n, strips, groups, 3] = &moments.shape[..] else {
        panic!("{label}: moments [N, strips, groups, 3] are needed, {:?} given", moments.shape)
    };
    let channels = norm.weight.len();
    assert_eq!(groups, norm.groups, "{label}: moments {:?}", moments.shape);
    if let Some(emb) = emb {
        assert_eq!(emb.len(), n * 2 * channels, "{label}: scale and shift {:?}", emb.shape);
    }
    let p = Params {
        strips: strips as u32,
        channels: channels as u32,
        groups: groups as u32,
        has_emb: emb.is_some().into(),
        eps: norm.eps,
    };
    let empty = g.empty();
    g.push(
        &KERNEL,
        label,
        p.bytes(),
        &[moments, &norm.weight, &norm.bias, emb.unwrap_or(&empty)],
        &[n, 3, channels],
        Storage::F32,
    )
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let (channels, groups, strips) = (p.channels as usize, p.groups as usize, p.strips as usize);
    for (n, y) in y.chunks_exact_mut(3 * channels).enumerate() {
        for c in 0..channels {
            let group = c / (channels / groups);
            let strip = |s: usize| {
                let m = &inputs[0][((n * strips + s) * groups + group) * 3..][..3];
                Moments { count: m[0], mean: m[1], squares: m[2] }
            };
            let strips: Vec<Moments> = (0..strips).map(strip).collect();
            let all = Moments::together(strips.iter());
            let mut gain = inputs[1][c] / (all.squares / all.count + f64::from(p.eps)).sqrt();
            let mut offset = inputs[2][c];
            if p.has_emb != 0 {
                let emb = &inputs[3][n * 2 * channels..][..2 * channels];
                gain *= 1.0 + emb[c];
                offset = offset * (1.0 + emb[c]) + emb[channels + c];
            }
            (y[c], y[channels + c], y[2 * channels + c]) = (all.mean, gain, offset);
        }
    }
}

/// In f64: it is little beside the pixels.
fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let inputs: Vec<Vec<f64>> = inputs.iter().map(|x| x.iter().map(|v| f64::from(*v)).collect()).collect();
    let inputs: Vec<&[f64]> = inputs.iter().map(Vec::as_slice).collect();
    let mut out = vec![0.0; y.len()];
    reference(params, &inputs, &mut out);
    y.iter_mut().zip(out).for_each(|(y, v)| *y = v as f32);
}
