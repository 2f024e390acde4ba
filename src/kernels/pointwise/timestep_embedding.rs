//! Sinusoidal embedding of timesteps (Ho et al. 2020, arXiv:2006.11239; diffusers' `get_timestep_embedding`).

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Cost, INDEX, Kernel, Shader, defined_in_f32, element_grid};

params! {
    /// Elements of y.
    len: u32,
    /// Width of an embedding.
    channels: u32,
    /// Frequencies.
    half_channels: u32,
    /// 1: cosines before sines (`flip_sin_to_cos`).
    cos_first: u32,
}

const MAX_PERIOD: f64 = 10_000.0;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "timestep_embedding",
    shaders: &[Shader::plain(
        "timestep_embedding",
        wgsl!("pointwise/timestep_embedding"),
        &[INDEX],
        element_grid,
    )],
    fields: Params::FIELDS,
    // The product of time and frequency is rounded to f32, as PyTorch's is: at t = 999 that is part of the definition.
    reference: |params, inputs, y| defined_in_f32(compute, params, inputs, y[0]),
    cpu: |p, x, y| compute(p, x, y[0]),
    cost: |_, inputs, output| Cost::streaming(2.0 * output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// t `[N]` → `[N, channels]`; `shift` is `downscale_freq_shift` (1 in the first DDPM code, 0 later).
#[track_caller]
pub fn timestep_embedding(g: &mut Graph, t: &Tensor, channels: usize, cos_first: bool, shift: f64) -> Tensor {
    let half = channels / 2;
    assert!(half > 0, "a timestep embedding of {channels} channels");
    // f32 roundings where PyTorch makes them: the exponent, then the exponential.
    let freq = (0..half)
        .map(|i| {
            let exponent = (-(MAX_PERIOD.ln()) as f32 * i as f32) / (half as f64 - shift) as f32;
            f64::from(exponent).exp() as f32
        })
        .collect();
    let freq = g.constant(&[half], freq);
    let len = t.len() * channels;
    let p = Params {
        len: len as u32,
        channels: channels as u32,
        half_channels: half as u32,
        cos_first: cos_first.into(),
    };
    g.push(&KERNEL, "time_proj", p.bytes(), &[t, &freq], &[t.len(), channels], Storage::Elem)
}

fn compute(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let (channels, half) = (p.channels as usize, p.half_channels as usize);
    for (y, t) in y.chunks_exact_mut(channels).zip(inputs[0]) {
        y.fill(0.0);
        for (i, freq) in inputs[1].iter().enumerate() {
            let angle = f64::from(t * freq);
            let (first, second) =
                if p.cos_first != 0 { (angle.cos(), angle.sin()) } else { (angle.sin(), angle.cos()) };
            y[i] = first as f32;
            y[half + i] = second as f32;
        }
    }
}
