//! Rows of the table of `./check --drivers`: lines of a file, fields apart by tabs.

use ancestral::internals::kernels::ALL;
use ancestral::wgpu;
use std::io::Write;

/// Names the file.
const TABLE: &str = "ANCESTRAL_TABLE";

fn add(line: &str) {
    if let Some(path) = std::env::var_os(TABLE) {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// All that a shader was run for in a format came out right, with an NMSE of at most this.
pub fn holds(shader: &str, format: &str, nmse: f64) {
    add(&format!("holds\t{shader}\t{format}\t{nmse:.0e}"));
}

/// Something that a shader was run for in a format came out wrong.
pub fn fails(shader: &str, format: &str) {
    add(&format!("holds\t{shader}\t{format}\tfails"));
}

/// What the table must have a row of, and what it says of the adapters.
#[test]
#[ignore = "`./check --drivers` asks for it"]
fn shaders_and_adapters() {
    for kernel in ALL.iter() {
        for shader in kernel.shaders {
            add(&format!("shader\t{}\t{}", kernel.name, shader.name));
        }
    }
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN;
    let instance = wgpu::Instance::new(descriptor);
    for adapter in pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all())) {
        let info = adapter.get_info();
        let matrices = adapter
            .cooperative_matrix_properties()
            .into_iter()
            .map(|m| format!("{}x{}x{} {:?} to {:?}", m.m_size, m.n_size, m.k_size, m.ab_type, m.cr_type));
        let matrices: Vec<String> = matrices.collect();
        let sizes = (info.subgroup_min_size, info.subgroup_max_size);
        add(&format!("adapter\t{}, {}\t{sizes:?}\t{}", info.name, info.driver_info, matrices.join(", ")));
    }
}
