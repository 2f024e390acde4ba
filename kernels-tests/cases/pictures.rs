//! Cases of `resample`, `resample_gradient`, `concat`, `embedding` and `timestep_embedding`.

use super::{Case, case};
use ancestral::internals::graph::Storage;
use ancestral::internals::kernels::concat::concat;
use ancestral::internals::kernels::embedding::embedding;
use ancestral::internals::kernels::resample::{Resample, resample};
use ancestral::internals::kernels::resample_gradient::resample_gradient;
use ancestral::internals::kernels::timestep_embedding::timestep_embedding;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = resample_cases();
    cases.extend(concat_cases());
    cases.extend(embedding_cases());
    cases.extend(timestep_cases());
    cases
}

fn resample_cases() -> Vec<Case> {
    let modes = [
        ("nearest", Resample::Nearest),
        ("bilinear", Resample::Bilinear { align_corners: false }),
        ("bilinear_align", Resample::Bilinear { align_corners: true }),
        ("bicubic", Resample::Bicubic { antialias: false }),
        ("bicubic_antialias", Resample::Bicubic { antialias: true }),
    ];
    let sizes = [
        ([5, 7], [10, 14]),
        ([5, 7], [5, 7]),
        ([9, 11], [6, 5]),
        ([6, 5], [13, 17]),
        ([32, 24], [7, 9]),
        ([1, 1], [3, 4]),
        ([4, 5], [1, 1]),
        ([3, 16], [12, 1]),
    ];
    let mut cases = Vec::new();
    for (mode_name, mode) in modes {
        for ([h, w], [oh, ow]) in sizes {
            let name = format!("{mode_name}_{h}x{w}_to_{oh}x{ow}");
            cases.push(case("resample", &name, |m| {
                let x = m.elem(&[2, h, w, 3]);
                resample(&mut m.g, "resample", &x, oh, ow, mode)
            }));
            cases.push(case("resample_gradient", &name, |m| {
                let dy = m.elem(&[2, oh, ow, 3]);
                resample_gradient(&mut m.g, "resample", &dy, h, w, mode)
            }));
        }
    }
    for ([h, w], [oh, ow], channels) in [
        ([8, 6], [4, 3], 5),
        ([9, 7], [4, 3], 6),
        ([12, 16], [3, 4], 1),
        ([2, 2], [1, 1], 3),
        ([5, 5], [5, 5], 2),
    ] {
        let name = format!("area_{h}x{w}_to_{oh}x{ow}");
        cases.push(case("resample", &name, |m| {
            let x = m.elem(&[2, h, w, channels]);
            resample(&mut m.g, "resample", &x, oh, ow, Resample::Area)
        }));
        cases.push(case("resample_gradient", &name, |m| {
            let dy = m.elem(&[2, oh, ow, channels]);
            resample_gradient(&mut m.g, "resample", &dy, h, w, Resample::Area)
        }));
    }
    cases
}

fn concat_cases() -> Vec<Case> {
    // Shape of a, channels and items of b, batch.
    let record = |name: &str, a: &[usize], b: Option<(usize, usize)>, batch: usize| {
        case("concat", name, |m| {
            let x = m.f32(a);
            let y = b.map(|(channels, items)| {
                let mut shape = a.to_vec();
                let last = shape.len() - 1;
                (shape[0], shape[last]) = (items, channels);
                m.f32(&shape)
            });
            concat(&mut m.g, "concat", &x, y.as_ref(), batch)
        })
    };
    vec![
        record("repeat", &[1, 5, 7, 3], None, 2),
        record("copy", &[3, 5, 7, 3], None, 3),
        record("beside", &[2, 5, 7, 3], Some((3, 2)), 2),
        record("beside_repeated", &[2, 4, 5, 3], Some((3, 2)), 4),
        record("one_beside_many", &[4, 3, 3, 6], Some((1, 1)), 4),
        record("tokens", &[2, 77, 10], Some((7, 1)), 2),
        record("quads", &[2, 35, 12], Some((8, 1)), 4),
        record("one_element", &[1, 1], None, 1),
    ]
}

fn embedding_cases() -> Vec<Case> {
    let record = |name: &str, shape: &[usize], entries: usize, channels: usize, ids: Vec<f32>| {
        case("embedding", name, |m| {
            let (ids, table) = (m.given(shape, Storage::F32, ids), m.weight(&[entries, channels]));
            embedding(&mut m.g, "tokens", &ids, &table)
        })
    };
    vec![
        record("edges", &[2, 3], 10, 7, vec![0.0, 9.0, 5.0, 9.0, 0.0, 1.0]),
        record("one_entry", &[4], 1, 3, vec![0.0; 4]),
        record("one_channel", &[5], 32, 1, vec![31.0, 0.0, 16.0, 15.0, 8.0]),
        // What no tokenizer makes, but the kernel must not read past the table for: taken as the last entry.
        record("beyond_the_table", &[3], 4, 5, vec![4.0, 1e9, 3.0]),
        record("tokens", &[2, 77], 100, 66, (0..154).map(|i| (i * 37 % 100) as f32).collect()),
    ]
}

fn timestep_cases() -> Vec<Case> {
    let t = vec![0.0, 1.0, 7.0, 250.0, 500.5, 998.0, 999.0];
    let record = |channels: usize, cos_first: bool, shift: f64| {
        let order = if cos_first { "cos_sin" } else { "sin_cos" };
        case("timestep_embedding", format!("{channels}_{order}_shift_{shift}"), |m| {
            let t = m.given(&[t.len()], Storage::F32, t.clone());
            timestep_embedding(&mut m.g, &t, channels, cos_first, shift)
        })
    };
    let sizes = [
        (32, true, 0.0),
        (32, false, 1.0),
        (33, true, 0.0),
        (33, false, 1.0),
        (2, true, 0.0),
        (3, false, 0.0),
        (704, true, 0.0),
    ];
    sizes.into_iter().map(|(channels, cos_first, shift)| record(channels, cos_first, shift)).collect()
}
