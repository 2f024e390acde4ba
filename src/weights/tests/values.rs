//! Widening and repacking, against the definition.

use super::*;
use crate::error::Error;
use crate::graph::{Pass, Repack, WeightPart};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Opens a file of one f16 tensor `w` whose element `e` is `e mod 2039`: exact in f16, and of a period
/// that no dimension here divides.
fn ramp(folder: &Folder, shape: &[usize]) -> Checkpoint {
    let count: usize = shape.iter().product();
    let data: Vec<u8> = (0..count).flat_map(|e| f16::from_f32((e % 2039) as f32).to_le_bytes()).collect();
    let header = format!("{{{}}}", entry("w", "F16", &format!("{shape:?}"), 0, data.len() as u64));
    Checkpoint::open_file(&folder.write("ramp", raw(&header, &data))).unwrap()
}

/// The index in the file of element `e` of the result.
fn source(repack: Repack, shape: &[usize], e: usize) -> usize {
    match (repack, shape) {
        (Repack::Transpose, &[o, i]) => (e % o) * i + e / o,
        (Repack::Conv(Pass::Forward), &[o, i, kh, kw]) => ((e % o) * i + e / o % i) * kh * kw + e / o / i,
        (Repack::Conv(Pass::Backward), &[o, i, kh, kw]) => {
            (e / i % o * i + e % i) * kh * kw + kh * kw - 1 - e / i / o
        }
        _ => e,
    }
}

#[track_caller]
fn compare(repack: Repack, shape: &[usize]) {
    let folder = Folder::new();
    let checkpoint = ramp(&folder, shape);
    let count: usize = shape.iter().product();
    let values = streamed::<f32>(&checkpoint, repack, count);
    for (e, &value) in values.iter().enumerate() {
        assert_eq!(value, (source(repack, shape, e) % 2039) as f32, "{repack:?} {shape:?} {e}");
    }
    assert_eq!(checkpoint.read("w", repack).unwrap(), values);
    // In the file's own type they are the same numbers.
    let halves = streamed::<f16>(&checkpoint, repack, count);
    assert!(halves.iter().map(|half| half.to_f32()).eq(values), "{repack:?} {shape:?}");
}

/// The tensor `w` put together of its pieces, each of which comes once.
#[track_caller]
fn streamed<E: Element>(checkpoint: &Checkpoint, repack: Repack, count: usize) -> Vec<E> {
    let (taken, pieces) = (Mutex::new(vec![false; count]), AtomicUsize::new(0));
    let values = Mutex::new(vec![E::zeroed(); count]);
    checkpoint
        .stream(&[WeightPart::whole("w")], repack, &|first, piece: &[E]| {
            assert!(first % 4 == 0 && (1..=1 << 20).contains(&piece.len()), "{first} {}", piece.len());
            assert!(piece.len().is_multiple_of(4) || first + piece.len() == count, "{first}");
            let here = first..first + piece.len();
            taken.lock().unwrap()[here.clone()].iter_mut().for_each(|taken| {
                assert!(!std::mem::replace(taken, true), "twice");
            });
            values.lock().unwrap()[here].copy_from_slice(piece);
            pieces.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
    let pieces = pieces.into_inner();
    assert!(pieces > 0 && (count > 1 << 20 || pieces == 1), "{pieces}");
    assert!(taken.into_inner().unwrap().into_iter().all(|taken| taken), "some never came");
    values.into_inner().unwrap()
}

#[test]
fn straight() {
    for shape in [&[1][..], &[], &[7, 5, 3], &[1 << 20], &[(1 << 20) + 1], &[3, 1 << 20]] {
        compare(Repack::None, shape);
    }
}

#[test]
fn transposed() {
    for shape in
        [[1, 1], [1, 9], [9, 1], [3, 5], [16, 256], [17, 257], [64, 48], [1024, 1024], [1, 1_050_000]]
    {
        compare(Repack::Transpose, &shape);
    }
    // Larger than a piece: outputs that fit, that must be split, that are odd, and odd and too many.
    for shape in [[1100, 1003], [1_048_580, 2], [350_003, 3], [1027, 1030], [3, 350_003]] {
        compare(Repack::Transpose, &shape);
    }
}

#[test]
fn convolutions() {
    let compare = |shape: &[usize]| {
        for pass in [Pass::Forward, Pass::Backward] {
            compare(Repack::Conv(pass), shape);
        }
    };
    for shape in [
        [1, 1, 1, 1],
        [5, 1, 3, 3],
        [1, 5, 3, 3],
        [4, 6, 3, 2],
        [33, 17, 1, 1],
        [6, 8, 14, 14],
        [19, 29, 3, 3],
    ] {
        compare(&shape);
    }
    // Larger than a piece: panels, one tap, outputs split, odd outputs, then shapes that must be gathered.
    for shape in [
        [352, 343, 3, 3],
        [1028, 1023, 1, 1],
        [131_076, 1, 3, 3],
        [351, 344, 3, 3],
        [131_076, 2, 2, 2],
        [41_948, 1, 5, 5],
    ] {
        compare(&shape);
    }
    for shape in [[351, 343, 3, 3], [5, 3, 270, 270], [8, 4, 182, 182], [1, 3, 600, 600], [1, 1, 1025, 1025]]
    {
        compare(&shape);
    }
}

#[test]
fn types_mixed_in_one_file() {
    let folder = Folder::new();
    let values = [0.0, -0.0, 1.0, -2.5, 65504.0, 6e-8, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
    // Three f16 first: what follows is not aligned to its size.
    let bytes = file(&[
        ("h", Dtype::F16, &[3], &[1.5, -0.25, 2049.0]),
        ("f32", Dtype::F32, &[9], &values),
        ("odd", Dtype::F16, &[1], &[7.0]),
        ("f64", Dtype::F64, &[9], &values),
        ("bf16", Dtype::BF16, &[9], &values),
        ("f16", Dtype::F16, &[9], &values),
    ]);
    let checkpoint = Checkpoint::open_file(&folder.write("x", bytes)).unwrap();
    let read = |name| checkpoint.read(name, Repack::None).unwrap();
    assert_eq!(read("h"), [1.5, -0.25, 2048.0]);
    assert_eq!(read("odd"), [7.0]);
    let bits = |values: Vec<f32>| {
        values.iter().map(|v| if v.is_nan() { 1 } else { v.to_bits() }).collect::<Vec<_>>()
    };
    assert_eq!(bits(read("f32")), bits(values.map(|v| v as f32).to_vec()));
    assert_eq!(bits(read("f64")), bits(values.map(|v| v as f32).to_vec()));
    assert_eq!(bits(read("bf16")), bits(values.map(|v| bf16::from_f64(v).to_f32()).to_vec()));
    assert_eq!(bits(read("f16")), bits(values.map(|v| f16::from_f64(v).to_f32()).to_vec()));
}

#[test]
fn every_half_is_widened_exactly() {
    let folder = Folder::new();
    let data: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for dtype in ["F16", "BF16"] {
        let header = format!("{{{}}}", entry("w", dtype, "[65536]", 0, 131_072));
        let checkpoint = Checkpoint::open_file(&folder.write(dtype, raw(&header, &data))).unwrap();
        for (bits, value) in (0..=u16::MAX).zip(checkpoint.read("w", Repack::None).unwrap()) {
            let half =
                if dtype == "F16" { f16::from_bits(bits).to_f64() } else { bf16::from_bits(bits).to_f64() };
            assert!(
                f64::from(value) == half || value.is_nan() && half.is_nan(),
                "{dtype} {bits:#06x}: {value}"
            );
        }
    }
}

/// What is stored in f16 is the nearest to the file's value, rounded to f32 first; f16 itself is copied, bit for bit.
#[test]
fn halves_are_stored() {
    let folder = Folder::new();
    let values = [0.1, -2.5, 65504.0, 1e-7, 3.3, -0.0, 1e9];
    for dtype in [Dtype::F32, Dtype::F64, Dtype::BF16] {
        let path = folder.write(&format!("{dtype:?}"), file(&[("w", dtype, &[7], &values)]));
        let checkpoint = Checkpoint::open_file(&path).unwrap();
        let wide = checkpoint.read("w", Repack::None).unwrap();
        let halves: Vec<f16> = streamed(&checkpoint, Repack::None, 7);
        assert_eq!(halves, wide.into_iter().map(f16::from_f32).collect::<Vec<_>>(), "{dtype:?}");
    }
    let data: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    // One header is a multiple of 2, one is not: aligned bytes, and those that are not.
    for pad in ["", " "] {
        let header = format!("{{{}}}{pad}", entry("w", "F16", "[65536]", 0, 131_072));
        let checkpoint = Checkpoint::open_file(&folder.write("all", raw(&header, &data))).unwrap();
        let halves: Vec<f16> = streamed(&checkpoint, Repack::None, 1 << 16);
        assert!(halves.iter().map(|half| half.to_bits()).eq(0..=u16::MAX));
    }
}

/// Several tensors as one, of different types and sizes, against the definition.
#[test]
fn stacked() {
    let folder = Folder::new();
    for inputs in [1, 3, 700] {
        let outs = [5, 1, 900];
        let ramp =
            |from: usize, len: usize| (from..from + len).map(|e| (e % 2039) as f64).collect::<Vec<_>>();
        let starts = [0, outs[0] * inputs, (outs[0] + outs[1]) * inputs];
        let values: Vec<Vec<f64>> = (0..3).map(|p| ramp(starts[p], outs[p] * inputs)).collect();
        let shapes = outs.map(|out| [out, inputs]);
        let bytes = file(&[
            ("a", Dtype::F16, &shapes[0], &values[0]),
            ("b", Dtype::F32, &shapes[1], &values[1]),
            ("c", Dtype::F16, &shapes[2], &values[2]),
        ]);
        let path = folder.write("x", bytes);
        let checkpoint = Checkpoint::open_file(&path).unwrap();
        let shape = [outs.iter().sum(), inputs];
        for repack in [Repack::None, Repack::Transpose] {
            for (e, value) in checkpoint
                .read_parts(&WeightPart::all(["a", "b", "c"]), repack)
                .unwrap()
                .into_iter()
                .enumerate()
            {
                assert_eq!(value, (source(repack, &shape, e) % 2039) as f32, "{repack:?} {inputs} {e}");
            }
        }
        refused(
            checkpoint.read_parts(&WeightPart::all(["a", "nothing"]), Repack::None),
            &path,
            &["`nothing`", "not in this checkpoint"],
        );
    }
    let path = folder
        .write("y", file(&[("a", Dtype::F32, &[1, 2], &[0.0; 2]), ("b", Dtype::F32, &[2, 1], &[0.0; 2])]));
    let checkpoint = Checkpoint::open_file(&path).unwrap();
    refused(
        checkpoint.read_parts(&WeightPart::all(["a", "b"]), Repack::Transpose),
        &path,
        &["`b`", "another shape"],
    );
}

/// Rows of tensors in another order, several times or not at all, against the definition.
#[test]
fn rows_of_tensors() {
    let folder = Folder::new();
    for shape in [&[7, 5][..], &[7, 5, 1], &[7, 5, 1, 1], &[7], &[7, 3, 3, 3], &[1200, 1100]] {
        let (checkpoint, row) = (ramp(&folder, shape), shape[1..].iter().product::<usize>());
        let ranges = [4..7, 0..2, 2..2, 1..5];
        let order: Vec<usize> = ranges.iter().cloned().flatten().collect();
        let parts = ranges.each_ref().map(|range| WeightPart::rows("w", range.clone()));
        let repacks: &[Repack] = match shape.len() {
            1 => &[Repack::None],
            2 | 3 => &[Repack::None, Repack::Transpose],
            _ if shape[2] == 3 => &[Repack::None, Repack::Conv(Pass::Forward), Repack::Conv(Pass::Backward)],
            _ => &[Repack::None, Repack::Transpose, Repack::Conv(Pass::Forward)],
        };
        for &repack in repacks {
            let mut cut = shape.to_vec();
            cut[0] = order.len();
            let two = [cut[0], row];
            let cut = if repack == Repack::Transpose { &two[..] } else { &cut };
            let values = checkpoint.read_parts(&parts, repack).unwrap();
            assert_eq!(values.len(), order.len() * row);
            for (e, value) in values.into_iter().enumerate() {
                let at = source(repack, cut, e);
                let at = order[at / row] * row + at % row;
                assert_eq!(value, (at % 2039) as f32, "{repack:?} {shape:?} {e}");
            }
        }
    }
    let path = folder.write("x", file(&[("w", Dtype::F32, &[3, 3, 3, 3], &[0.5; 81])]));
    let checkpoint = Checkpoint::open_file(&path).unwrap();
    let read = |rows, repack| checkpoint.read_parts(&[WeightPart::rows("w", rows)], repack);
    assert_eq!(read(1..3, Repack::Winograd(Pass::Forward)).unwrap().len(), 36 * 3 * 2);
    assert_eq!(read(1..2, Repack::WholeQuads).unwrap(), [&[0.5; 27][..], &[0.0]].concat());
    refused(read(2..4, Repack::Conv(Pass::Forward)), &path, &["`w`", "expected rows 2 to 4, found 3"]);
    refused(read(1..usize::MAX, Repack::None), &path, &["`w`", "found 3"]);
}

/// Filters of two inputs of 2 and 3 channels among zeros, by their definition, and in f16.
#[test]
fn filters_filled_up() {
    let folder = Folder::new();
    let checkpoint = ramp(&folder, &[6, 5, 3, 3]);
    for pass in [Pass::Forward, Pass::Backward] {
        // Backward, outputs are what is read.
        let (from, to) = match pass {
            Pass::Forward => ([2, 3, 6], [4, 4, 8]),
            Pass::Backward => ([4, 2, 5], [4, 4, 8]),
        };
        let repack = Repack::Filled { pass, from, to };
        let plain = checkpoint.read("w", Repack::Conv(pass)).unwrap();
        let found = checkpoint.read("w", repack).unwrap();
        assert_eq!(found.len(), 9 * 8 * 8);
        for (e, value) in found.iter().enumerate() {
            let [tap, i, o] = [e / 64, e / 8 % 8, e % 8].map(|n| n as u32);
            let row = if i < to[0] { Some(i).filter(|i| *i < from[0]) } else { Some(i - to[0] + from[0]) };
            let row = row.filter(|row| *row < from[0] + from[1] && o < from[2]);
            let at = row.map(|row| ((tap * (from[0] + from[1]) + row) * from[2] + o) as usize);
            assert_eq!(*value, at.map_or(0.0, |at| plain[at]), "{pass:?} {e}");
        }
        let halves: Vec<f16> = streamed(&checkpoint, repack, found.len());
        assert!(halves.iter().zip(&found).all(|(half, value)| half.to_f32() == *value), "{pass:?}");
    }
}

#[test]
fn refusals() {
    let folder = Folder::new();
    let path =
        folder.write("x", file(&[("i", Dtype::I64, &[1], &[7.0]), ("v", Dtype::F32, &[2], &[1.0, 2.0])]));
    let checkpoint = Checkpoint::open_file(&path).unwrap();
    refused(checkpoint.read("nothing", Repack::None), &path, &["`nothing`", "not in this checkpoint"]);
    refused(checkpoint.read("i", Repack::None), &path, &["`i`", "expected F32", "found I64"]);
    refused(
        checkpoint.read("v", Repack::Transpose),
        &path,
        &["`v`", "expected a shape [out, in], found [2]"],
    );
    refused(
        checkpoint.read("v", Repack::Conv(Pass::Forward)),
        &path,
        &["`v`", "expected a shape [out, in, kh, kw], found [2]"],
    );
    let stop =
        checkpoint.stream::<f32>(&[WeightPart::whole("v")], Repack::None, &|_, _| Err(Error::Cancelled));
    assert!(matches!(stop, Err(Error::Cancelled)));
}
