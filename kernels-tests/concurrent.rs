//! Several callers of one GPU.

use crate::device::{on_gpu, skip};
use ancestral::internals::device::{Device, Gpu, ProgramOptions, Weights};
use ancestral::internals::graph::{Graph, Storage, Tensor};
use ancestral::internals::kernels::elementwise::scale;
use ancestral::internals::kernels::matmul::matmul;
use ancestral::internals::weights::Checkpoint;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

/// Twice x, on a device.
fn twice(device: &Device, x: &[f32]) -> Result<Vec<f32>, String> {
    let mut g = Graph::new();
    let input = g.input("x", &[x.len()], Storage::Elem);
    let y = scale(&mut g, &input, 2.0);
    g.output("y", &y);
    let text = |error: ancestral::Error| error.to_string();
    let mut program = device.program(g, &Weights::none(), &ProgramOptions::default()).map_err(text)?;
    program.write("x", x);
    program.run(&mut |_| true).map_err(text)?;
    program.read("y").map_err(text)
}

/// The adapter of the tests once more, with its wgpu device in hand.
fn in_hand(device: &Device) -> Option<(wgpu::Device, Device)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let adapter = adapters.into_iter().find(|adapter| device.name().contains(&adapter.get_info().name))?;
    let (of_wgpu, queue) =
        pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default())).ok()?;
    let gpu = Gpu::from_wgpu(adapter.get_info(), of_wgpu.clone(), queue);
    Some((of_wgpu, Device::Gpu(gpu)))
}

/// What the driver reports of one caller's mistake is no other's error.
#[test]
fn errors_belong_to_those_who_make_them() {
    on_gpu(|device| {
        let Some((of_wgpu, device)) = in_hand(device) else { return skip("no second device") };
        let mistake = || {
            let usage = wgpu::BufferUsages::empty();
            drop(of_wgpu.create_buffer(&wgpu::BufferDescriptor {
                label: Some("a mistake"),
                size: 16,
                usage,
                mapped_at_creation: false,
            }));
        };
        std::thread::scope(|scope| drop(scope.spawn(mistake).join()));
        assert_eq!(twice(&device, &[1.0, 2.0]), Ok(vec![2.0, 4.0]));
        std::thread::scope(|scope| {
            scope.spawn(|| (0..20).for_each(|_| mistake()));
            let runs: Vec<_> = (0..4)
                .map(|i| {
                    let device = &device;
                    scope.spawn(move || twice(device, &[i as f32; 5]))
                })
                .collect();
            for (i, run) in runs.into_iter().enumerate() {
                assert_eq!(run.join().expect("no panic"), Ok(vec![2.0 * i as f32; 5]));
            }
        });
    });
}

/// Two devices on one checkpoint each have their own copy of it.
#[test]
fn weights_are_uploaded_to_each_device() {
    on_gpu(|first| {
        let Some((_, second)) = in_hand(first) else { return skip("no second device") };
        let path = std::env::temp_dir().join(format!("ancestral-devices-{}.safetensors", std::process::id()));
        let bytes: Vec<u8> = [1.0f32, -2.0, 3.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, vec![3], &bytes).expect("three numbers");
        serialize_to_file([("b", view)], None, &path).expect("a file");
        let weights = Weights::new(Checkpoint::open_file(&path).expect("a checkpoint"));
        for device in [first, &second] {
            let mut g = Graph::new();
            let x = g.input("x", &[2, 3], Storage::Elem);
            let b = g.vector("b", &[3]);
            let y = product(&mut g, &x, &b);
            g.output("y", &y);
            let mut program = device.program(g, &weights, &ProgramOptions::default()).expect("it fits");
            program.write("x", &[0.0; 6]);
            program.run(&mut |_| true).expect("it runs");
            assert_eq!(program.read("y").expect("it is read"), [1.0, -2.0, 3.0, 1.0, -2.0, 3.0]);
        }
        let _ = std::fs::remove_file(path);
    });
}

/// x w + b; w is zero until it is written.
fn product(g: &mut Graph, x: &Tensor, b: &Tensor) -> Tensor {
    let w = g.input("w", &[3, 3], Storage::Weight);
    matmul(g, "y", x, &w, Some(b))
}
