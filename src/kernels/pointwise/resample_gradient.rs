//! The transpose of [`resample`](crate::kernels::resample): what the gradient of the resized picture says of the original.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::resample::{Blend, Params, Resample, Taps};
use crate::kernels::{Cost, INDEX, Kernel, RESAMPLE, Shader, element_grid};

/// The kernel. Its uniform is `resample`'s, but `len` counts the elements of the original.
pub static KERNEL: Kernel = Kernel {
    name: "resample_gradient",
    shaders: &[Shader::plain(
        "resample_gradient",
        wgsl!("pointwise/resample_gradient"),
        &[INDEX, RESAMPLE],
        element_grid,
    )],
    fields: Params::FIELDS,
    reference: |params, inputs, dx| transposed(&Params::read(params)).define(inputs[0], dx[0]),
    cpu: |params, inputs, dx| transposed(&Params::read(params)).rounded().compute(inputs[0], dx[0]),
    cost: |_, inputs, output| {
        Cost::streaming(8.0 * inputs[0].iter().product::<usize>() as f64, inputs, output)
    },
    ..Kernel::PLAIN
};

/// dy `[N, OH, OW, C]`, the gradient of a picture resized from `height` × `width` by `mode` → `[N, height, width, C]`.
#[track_caller]
pub fn resample_gradient(
    g: &mut Graph,
    label: &str,
    dy: &Tensor,
    height: usize,
    width: usize,
    mode: Resample,
) -> Tensor {
    let &[_, oh, ow, channels] = &dy.shape[..] else {
        panic!("{label}: [N, H, W, C] is needed, {:?} given", dy.shape)
    };
    push(g, label, dy, &Params::new([height, width], [oh, ow], channels, 0, mode))
}

/// The gradient of what `of` resized.
pub(crate) fn push(g: &mut Graph, label: &str, dy: &Tensor, of: &Params) -> Tensor {
    let [height, width, channels] = [of.height, of.width, of.channels].map(|n| n as usize);
    let pictures = dy.len() / (of.out_height as usize * of.out_width as usize * channels);
    let p = Params { len: (pictures * height * width * channels) as u32, ..*of };
    g.push(&KERNEL, label, p.bytes(), &[dy], &[pictures, height, width, channels], Storage::Elem)
}

/// For each coordinate of the original, the resized picture's that read it.
fn transposed(p: &Params) -> Blend<f64> {
    let of = p.blend();
    let transpose = |taps: Taps<f64>, size: usize| {
        let mut transposed: Taps<f64> = vec![Vec::new(); size];
        for (o, taps) in taps.into_iter().enumerate() {
            for (i, weight) in taps {
                match transposed[i].last_mut() {
                    // An edge that is read several times.
                    Some((last, sum)) if *last == o => *sum += weight,
                    _ => transposed[i].push((o, weight)),
                }
            }
        }
        transposed
    };
    Blend {
        rows: transpose(of.rows, of.size.0),
        columns: transpose(of.columns, of.size.1),
        size: (p.out_height as usize, p.out_width as usize),
        channels: of.channels,
    }
}
