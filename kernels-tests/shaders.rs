//! What every WGSL file must be like; no GPU needed. Each kernel at each precision parses and validates, binds its
//! tensors densely, has the uniform its Rust module declares, and translates as wgpu has it translated for Vulkan,
//! Metal and DX12.

use ancestral::internals::graph::{Graph, Source, Storage};
use ancestral::internals::kernels::{ALL, FieldType, Kernel, Matrices, Precision, Shader};
use naga::back::{hlsl, msl, pipeline_constants::process_overrides, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ResourceBinding, ScalarKind, ShaderStage, TypeInner};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// What a kernel may use on every adapter: WebGPU's default limits.
const MAX_STORAGE_BUFFERS: usize = 8;
const MAX_WORKGROUP_BYTES: u32 = 16_384;
const MAX_INVOCATIONS: u32 = 256;
const MAX_LINES: usize = 150;

const ELEM_F16: Precision = Precision { elem_f16: true, weight_f16: false };
const WEIGHT_F16: Precision = Precision { elem_f16: false, weight_f16: true };
const PRECISIONS: [Precision; 4] = [Precision::F32, Precision::F16, ELEM_F16, WEIGHT_F16];

/// Names a folder that gets every translation: `./check --drivers` has other compilers read them.
const TRANSLATIONS: &str = "ANCESTRAL_TRANSLATIONS";

type Checked = Result<(), String>;

fn is_half(precision: Precision) -> bool {
    precision.elem_f16 || precision.weight_f16
}

fn parse(source: &str) -> Result<Module, String> {
    naga::front::wgsl::parse_str(source).map_err(|error| error.emit_to_string(source))
}

fn validate(module: &Module, shader: &Shader, precision: Precision) -> Result<ModuleInfo, String> {
    let mut capabilities = Capabilities::empty();
    capabilities.set(Capabilities::SHADER_FLOAT16, is_half(precision));
    capabilities.set(Capabilities::SUBGROUP, shader.needs.subgroups());
    capabilities.set(Capabilities::COOPERATIVE_MATRIX, shader.needs.cooperative.is_some());
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if shader.needs.subgroups() {
        validator
            .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
            .subgroup_operations(naga::valid::SubgroupOperationSet::all());
    }
    validator.validate(module).map_err(|error| error.emit_to_string(""))
}

/// Group 0; binding 0 the uniform `p: Params`; storage buffers after it without a gap.
fn check_bindings(module: &Module) -> Checked {
    let mut bound: Vec<(u32, AddressSpace)> = Vec::new();
    for (_, variable) in module.global_variables.iter() {
        if let Some(binding) = &variable.binding {
            let name = variable.name.as_deref().unwrap_or_default();
            if binding.group != 0 {
                return Err(format!("`{name}` is in group {}", binding.group));
            }
            if (binding.binding == 0) != (variable.space == AddressSpace::Uniform && name == "p") {
                return Err(format!(
                    "binding {} is `{name}`; the uniform `p` alone is binding 0",
                    binding.binding
                ));
            }
            bound.push((binding.binding, variable.space));
        }
    }
    bound.sort_by_key(|(at, _)| *at);
    let dense = bound.iter().enumerate().all(|(i, (at, _))| i as u32 == *at);
    if !dense || bound.len() < 2 {
        return Err(format!(
            "bindings {:?} are not 0, 1, 2, …",
            bound.iter().map(|b| b.0).collect::<Vec<_>>()
        ));
    }
    if bound.len() - 1 > MAX_STORAGE_BUFFERS {
        return Err(format!(
            "{} storage buffers; adapters need only allow {MAX_STORAGE_BUFFERS}",
            bound.len() - 1
        ));
    }
    Ok(())
}

/// The uniform's members are those of the Rust struct: names, offsets, types.
fn check_params(module: &Module, kernel: &Kernel) -> Checked {
    let params = module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some("Params"));
    let Some(TypeInner::Struct { members, .. }) = params.map(|(_, ty)| &ty.inner) else {
        return Err("no struct Params".into());
    };
    let wgsl = members.iter().map(|m| {
        let kind = match module.types[m.ty].inner {
            TypeInner::Scalar(naga::Scalar { kind: ScalarKind::Uint, width: 4 }) => Some(FieldType::U32),
            TypeInner::Scalar(naga::Scalar { kind: ScalarKind::Float, width: 4 }) => Some(FieldType::F32),
            _ => None,
        };
        (m.name.clone().unwrap_or_default(), m.offset as usize, kind)
    });
    let rust = kernel.fields.iter().map(|f| (f.name.to_string(), f.offset, Some(f.ty)));
    for (wgsl, rust) in wgsl.clone().zip(rust.clone()) {
        if wgsl != rust {
            return Err(format!("Params has {wgsl:?} where Rust has {rust:?}"));
        }
    }
    let (wgsl, rust) = (wgsl.len(), rust.len());
    if wgsl == rust { Ok(()) } else { Err(format!("Params has {wgsl} members, Rust {rust}")) }
}

/// The file opens by saying what it computes, and stays readable.
fn check_text(shader: &Shader) -> Checked {
    if shader.file().is_empty() || !shader.name.starts_with(shader.file()) {
        return Err(format!("the file starts with `// {}: `, not with its name", shader.file()));
    }
    let lines = shader.wgsl.lines().count();
    if lines > MAX_LINES {
        return Err(format!("{lines} lines, at most {MAX_LINES}"));
    }
    match shader.wgsl.lines().find(|line| line.trim_start().starts_with('#') || line.chars().count() > 120) {
        Some(line) => Err(format!("a directive or a long line: {line}")),
        None => Ok(()),
    }
}

/// Workgroup sizes and memory with the overrides' values, within what every adapter has.
fn check_limits(module: &Module, shader: &Shader) -> Checked {
    let entry = &module.entry_points[0];
    let invocations: u32 = entry.workgroup_size.iter().product();
    if invocations == 0 || invocations > MAX_INVOCATIONS {
        return Err(format!("{invocations} invocations in a workgroup, at most {MAX_INVOCATIONS}"));
    }
    let shared = module.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::WorkGroup);
    let bytes: u32 = shared.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx())).sum();
    let most = shader.needs.cooperative.map_or(MAX_WORKGROUP_BYTES, |_| Matrices::WORKGROUP_BYTES);
    if bytes > most {
        return Err(format!("{bytes} bytes of workgroup memory, at most {most}"));
    }
    Ok(())
}

/// What wgpu-hal 30 does with a shader on each backend, with the checks it injects switched on and off.
fn check_translation(module: &Module, info: &ModuleInfo, shader: &Shader, precision: Precision) -> Checked {
    let entry = (ShaderStage::Compute, "main");
    let constants = shader.constants.iter().map(|(name, value)| (name.to_string(), *value)).collect();
    let (module, info) =
        process_overrides(module, info, Some(entry), &constants).map_err(|e| format!("overrides: {e}"))?;
    check_limits(&module, shader)?;
    let storage: BTreeMap<u32, bool> = module
        .global_variables
        .iter()
        .filter_map(|(_, v)| {
            let writes = matches!(v.space, AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE));
            Some((v.binding.as_ref()?.binding, writes))
        })
        .collect();
    for version in [(1, 3), (1, 6)] {
        let spirv = to_spirv(&module, &info, (shader, precision), &storage, version)?;
        keep(shader, precision, &format!("{}.{}.spv", version.0, version.1), bytemuck::cast_slice(&spirv));
        if spirv.first() != Some(&0x0723_0203) {
            return Err("SPIR-V without its magic number".into());
        }
    }
    let metal = to_metal(&module, &info, &storage)?;
    if shader.needs.cooperative == Some(Matrices::OF8) {
        return check_simdgroups(&module, &metal);
    }
    if shader.needs.cooperative.is_some() {
        // HLSL has no such matrices: DX12 takes another shader.
        return Ok(());
    }
    let models: &[_] = if is_half(precision) || shader.needs.subgroups() {
        &[hlsl::ShaderModel::V6_2, hlsl::ShaderModel::V6_6]
    } else {
        &[hlsl::ShaderModel::V5_1, hlsl::ShaderModel::V6_0]
    };
    for model in models {
        let text = to_hlsl(&module, &info, &storage, *model)?;
        keep(shader, precision, &format!("{}.hlsl", model.to_str()), text.as_bytes());
        if !text.contains("numthreads") {
            return Err("HLSL without an entry point".into());
        }
    }
    if metal.contains("kernel void") { Ok(()) } else { Err("MSL without a kernel".into()) }
}

/// Matrices of 8 × 8 are Metal's own, read from arrays of their elements: Metal takes no pointer to vectors.
fn check_simdgroups(module: &Module, metal: &str) -> Checked {
    for (_, variable) in module.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::WorkGroup) {
        let name = variable.name.as_deref().unwrap_or_default();
        let TypeInner::Array { base, .. } = module.types[variable.ty].inner else { continue };
        if !matches!(module.types[base].inner, TypeInner::Scalar(_)) {
            return Err(format!("`{name}` is not an array of elements"));
        }
    }
    let needed = [
        "simdgroup_half8x8 NagaCooperativeLoad(const threadgroup half* ptr",
        "simdgroup_multiply_accumulate(",
        "simdgroup_store(",
    ];
    match needed.iter().find(|part| !metal.contains(**part)) {
        Some(part) => Err(format!("MSL without `{part}`")),
        None => Ok(()),
    }
}

/// Writes a translation down where it is asked for.
fn keep(shader: &Shader, precision: Precision, ending: &str, translation: &[u8]) {
    if let Some(folder) = std::env::var_os(TRANSLATIONS) {
        let name = |half| if half { "f16" } else { "f32" };
        let (elem, weight) = (name(precision.elem_f16), name(precision.weight_f16));
        let path = Path::new(&folder).join(format!("{}.{elem}.{weight}.{ending}", shader.name));
        std::fs::write(&path, translation).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

fn slot(binding: u32) -> ResourceBinding {
    ResourceBinding { group: 0, binding }
}

fn to_spirv(
    module: &Module,
    info: &ModuleInfo,
    (shader, precision): (&Shader, Precision),
    storage: &BTreeMap<u32, bool>,
    lang_version: (u8, u8),
) -> Result<Vec<u32>, String> {
    use spv::Capability::*;
    let mut capabilities =
        vec![Shader, Matrix, Sampled1D, Image1D, ImageQuery, DerivativeControl, StorageImageExtendedFormats];
    if is_half(precision) {
        capabilities.push(Float16);
    }
    if shader.needs.subgroups() {
        capabilities.extend([
            GroupNonUniform,
            GroupNonUniformBallot,
            GroupNonUniformShuffle,
            GroupNonUniformArithmetic,
        ]);
    }
    if shader.needs.cooperative.is_some() {
        capabilities.extend([CooperativeMatrixKHR, VulkanMemoryModel]);
    }
    let target = |at: &u32| {
        (slot(*at), spv::BindingInfo { descriptor_set: 0, binding: *at, binding_array_size: None })
    };
    let options = spv::Options {
        lang_version,
        flags: spv::WriterFlags::LABEL_VARYINGS | spv::WriterFlags::FORCE_POINT_SIZE,
        capabilities: Some(capabilities.into_iter().collect()),
        fake_missing_bindings: false,
        binding_map: storage.keys().map(target).collect(),
        bounds_check_policies: naga::proc::BoundsCheckPolicies {
            index: naga::proc::BoundsCheckPolicy::Unchecked,
            buffer: naga::proc::BoundsCheckPolicy::Unchecked,
            image_load: naga::proc::BoundsCheckPolicy::Unchecked,
            binding_array: naga::proc::BoundsCheckPolicy::Unchecked,
        },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::Native,
        force_loop_bounding: false,
        use_storage_input_output_16: false,
        ..spv::Options::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: "main".into() };
    spv::write_vec(module, info, &options, Some(&pipeline)).map_err(|error| format!("SPIR-V: {error}"))
}

fn to_metal(module: &Module, info: &ModuleInfo, storage: &BTreeMap<u32, bool>) -> Result<String, String> {
    let target = |(at, writes): (&u32, &bool)| {
        (slot(*at), msl::BindTarget { buffer: Some(*at as u8), mutable: *writes, ..Default::default() })
    };
    let resources = msl::EntryPointResources {
        resources: storage.iter().map(target).collect(),
        immediates_buffer: None,
        sizes_buffer: Some(storage.len() as u8),
    };
    let options = msl::Options {
        lang_version: (2, 4),
        per_entry_point_map: [("main".to_string(), resources)].into(),
        fake_missing_bindings: false,
        force_loop_bounding: false,
        ..msl::Options::default()
    };
    let pipeline = msl::PipelineOptions {
        entry_point: Some((ShaderStage::Compute, "main".into())),
        vertex_pulling_transform: true,
        ..msl::PipelineOptions::default()
    };
    let (text, names) =
        msl::write_string(module, info, &options, &pipeline).map_err(|error| format!("MSL: {error}"))?;
    names
        .entry_point_names
        .into_iter()
        .try_for_each(|n| n.map(drop))
        .map_err(|error| format!("MSL: {error}"))?;
    Ok(text)
}

fn to_hlsl(
    module: &Module,
    info: &ModuleInfo,
    storage: &BTreeMap<u32, bool>,
    shader_model: hlsl::ShaderModel,
) -> Result<String, String> {
    let target = |register: u32, space: u8| hlsl::BindTarget { space, register, ..Default::default() };
    let options = hlsl::Options {
        shader_model,
        binding_map: storage.keys().map(|at| (slot(*at), target(*at, 0))).collect(),
        fake_missing_bindings: false,
        // `num_workgroups` comes in a root constant there.
        special_constants_binding: Some(target(0, 1)),
        ..hlsl::Options::default()
    };
    let pipeline = hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, "main".into())) };
    let mut text = String::new();
    let mut writer = hlsl::Writer::new(&mut text, &options, &pipeline);
    let written = writer.write(module, info, None).map_err(|error| format!("HLSL: {error}"))?;
    written
        .entry_point_names
        .into_iter()
        .try_for_each(|n| n.map(drop))
        .map_err(|error| format!("HLSL: {error}"))?;
    Ok(text)
}

fn check(kernel: &Kernel, shader: &Shader, precision: Precision) -> Checked {
    let module = parse(&shader.source(precision))?;
    let info = validate(&module, shader, precision)?;
    check_bindings(&module)?;
    check_params(&module, kernel)?;
    check_text(shader)?;
    check_translation(&module, &info, shader, precision)
}

/// How a shader reads its tensors, in the order of the bindings: inputs, output.
fn storages(shader: &'static Shader) -> Vec<Storage> {
    static KNOWN: OnceLock<Mutex<HashMap<&str, Vec<Storage>>>> = OnceLock::new();
    let mut known = KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let find = || {
        let halves = [ELEM_F16, WEIGHT_F16].map(|precision| {
            let module = parse(&shader.source(precision)).expect("every shader parses");
            let mut tensors = BTreeMap::new();
            for (_, variable) in module.global_variables.iter() {
                if let (Some(at), &TypeInner::Array { base, .. }) =
                    (&variable.binding, &module.types[variable.ty].inner)
                {
                    let half = module.types[base].inner.scalar().is_some_and(|s| s.width == 2);
                    tensors.insert(at.binding, half);
                }
            }
            tensors
        });
        let storage = |at: &u32| match (halves[0][at], halves[1][at]) {
            (true, _) => Storage::Elem,
            (_, true) => Storage::Weight,
            _ => Storage::F32,
        };
        halves[0].keys().map(storage).collect()
    };
    known.entry(shader.name).or_insert_with(find).clone()
}

/// Every node's tensors are stored as its shader reads them. f32 programs run right whatever is mixed up here, f16
/// programs do not.
pub fn check_storage(graph: &Graph) -> Checked {
    for node in &graph.nodes {
        let expected = storages(node.shader());
        for (i, (id, storage)) in node.inputs.iter().chain(&node.outputs).zip(&expected).enumerate() {
            let info = graph.info(*id);
            // `Graph::empty` stands in for what is not read.
            let empty = matches!(info.source, Source::Constant(_)) && info.len() == 1;
            // The device converts the sample where activations are f16.
            let sample = i < node.kernel.rewrites.elem_inputs && info.storage == Storage::F32;
            if info.storage != *storage && !empty && !sample {
                let (name, kernel) = (&node.label, node.kernel.name);
                return Err(format!(
                    "{name}: tensor {i} of `{kernel}` is {:?}, its shader reads {storage:?}",
                    info.storage
                ));
            }
        }
    }
    Ok(())
}

#[test]
fn shaders_are_sound_at_every_precision() {
    for kernel in ALL.iter() {
        for shader in kernel.shaders {
            for precision in
                PRECISIONS.into_iter().filter(|p| shader.needs.cooperative.is_none() || *p == Precision::F16)
            {
                if let Err(what) = check(kernel, shader, precision) {
                    panic!("{} at {precision:?}: {what}", shader.name);
                }
            }
            // Whichever shader is taken, the graph stores its tensors the same way.
            if shader.needs.cooperative.is_none() {
                assert_eq!(storages(shader), storages(&kernel.shaders[0]), "{}", shader.name);
            }
        }
    }
}

/// The `.wgsl` files of a folder, by name.
fn wgsl(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(folder).expect("the folder exists");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let mut files: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "wgsl"))
        .filter_map(|path| Some((path.file_stem()?.to_str()?.to_string(), path)))
        .collect();
    files.sort();
    files
}

/// Each file of a family's folder, or of software's, is a shader; each that several share is used and binds no tensor.
#[test]
fn every_file_is_a_kernel() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let folders =
        std::fs::read_dir(&root).expect("the folder exists").map(|entry| entry.expect("readable").path());
    let families: Vec<PathBuf> = folders.filter(|path| path.is_dir() && !path.ends_with("shared")).collect();
    let shaders = || ALL.iter().flat_map(|k| k.shaders);
    let mut names: Vec<&str> = shaders().map(|s| s.file()).collect();
    names.sort_unstable();
    names.dedup();
    assert!(ALL.iter().all(|k| k.name == k.shaders[0].name), "a kernel's first shader has its name");
    let mut files: Vec<_> = families.iter().flat_map(|folder| wgsl(folder)).collect();
    files.sort();
    assert_eq!(
        files.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        names,
        "shaders/ and kernels::ALL differ"
    );
    for (name, path) in &files {
        // What needs subgroups of 8 serves software adapters alone.
        let text = std::fs::read_to_string(path).expect("readable");
        let software = shaders().filter(|s| s.wgsl == text).all(|s| s.needs.subgroup == Some(8));
        assert_eq!(software, path.parent().is_some_and(|folder| folder.ends_with("software")), "{name}.wgsl");
    }
    for (name, path) in ["shared", "software/shared"].iter().flat_map(|folder| wgsl(&root.join(folder))) {
        let text = std::fs::read_to_string(&path).expect("readable");
        assert!(text.starts_with(&format!("// {name}: ")), "shared/{name}.wgsl does not say what it is");
        let bound: Vec<&str> = text.lines().filter(|line| line.contains("@group")).collect();
        let uniform = ["@group(0) @binding(0) var<uniform> p: Params;"];
        assert!(bound.is_empty() || bound == uniform, "shared/{name}.wgsl has a binding");
        let used = shaders().any(|s| s.shared.contains(&text.as_str()));
        assert!(used, "no shader uses shared/{name}.wgsl");
    }
}

/// Wrong shaders are refused: each line is a change of a sound one.
#[test]
fn planted_errors_are_refused() {
    let kernel = |name: &str| *ALL.iter().find(|k| k.name == name).expect("a kernel");
    let planted = [
        ("group_norm", "in_a: u32, in_b: u32", "in_b: u32, in_a: u32", Precision::F32),
        ("group_norm", "act: u32, eps: f32", "act: f32, eps: f32", Precision::F32),
        ("group_norm", "@binding(6)", "@binding(7)", Precision::F32),
        ("matmul", "@group(0) @binding(3)", "@group(1) @binding(3)", Precision::F32),
        ("matmul", "// matmul: ", "// ", Precision::F32),
        ("layer_norm", "WG: u32 = 64u", "WG: u32 = 512u", Precision::F32),
        ("concat", "Elem(a[", "(a[", Precision::F16),
    ];
    for (name, from, to, precision) in planted {
        let (kernel, sound) = (kernel(name), &kernel(name).shaders[0]);
        assert!(sound.wgsl.contains(from), "{name} has no `{from}`");
        let wgsl: &'static str = sound.wgsl.replace(from, to).leak();
        let wrong = Shader { wgsl, ..*sound };
        assert!(check(kernel, sound, precision).is_ok(), "{name} is sound");
        assert!(check(kernel, &wrong, precision).is_err(), "{name} passes with `{to}` for `{from}`");
    }
}

/// What the tiles of products ask for in their inner loops is found without a division by a size, which takes as long as
/// dozens of multiply-adds: positions are carried from one quad to the next.
#[test]
fn inner_loops_divide_by_no_size() {
    let in_loop = ["advance", "gather", "left_quad", "right_quad"];
    let mut seen = Vec::new();
    for shader in ALL.iter().flat_map(|kernel| kernel.shaders) {
        let source = shader.source(Precision::F32);
        for name in in_loop {
            let Some((_, body)) = source.split_once(&format!("fn {name}(")) else { continue };
            let body = body.split("\n}").next().unwrap_or_default();
            let code = body.lines().map(|line| line.split("//").next().unwrap_or_default());
            for line in code {
                let divides = line.split(['/', '%']).skip(1).any(|by| !by.trim_start().starts_with("4u"));
                assert!(!divides, "{}: `{name}` divides: {}", shader.name, line.trim());
            }
            seen.push(name);
        }
    }
    assert!(in_loop.iter().all(|name| seen.iter().filter(|seen| *seen == name).count() >= 4), "{seen:?}");
}
