//! burn's wgpu backend as a peer of `tools/peers/run.py`: reads the driver's commands, one a line with tabs between
//! words, and answers with lines that begin with `ok` or `error` (see `../README.md`).

use burn::module::Param;
use burn::nn::{GroupNorm, GroupNormConfig};
use burn::tensor::activation::silu;
use burn::tensor::module::{attention, conv2d};
use burn::tensor::ops::{AttentionModuleOptions, ConvOptions};
use burn::tensor::wgpu::{WgpuBackend, wgpu};
use burn::tensor::{DType, Device, DeviceKind, Tensor, TensorData};
use safetensors::SafeTensors;
use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

const GROUPS: usize = 32;
const EPS: f64 = 1e-5;
const HEAD_DIM: usize = 64;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A work's tensors, resident on the device.
enum Work {
    Matmul { x: Tensor<2>, w: Tensor<2> },
    Conv { x: Tensor<4>, conv: Conv },
    Norm { x: Tensor<4>, norm: GroupNorm },
    Attention { q: Tensor<4>, k: Tensor<4>, v: Tensor<4> },
    Block { x: Tensor<4>, norms: [GroupNorm; 2], convs: [Conv; 2] },
}

struct Conv {
    weight: Tensor<4>,
    bias: Tensor<1>,
}

impl Conv {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let options = ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
        conv2d(x, self.weight.clone(), Some(self.bias.clone()), options)
    }
}

/// A result, of two or four dimensions.
enum Output {
    Rows(Tensor<2>),
    Picture(Tensor<4>),
}

impl Work {
    fn run(&self) -> Output {
        match self {
            Work::Matmul { x, w } => Output::Rows(x.clone().matmul(w.clone())),
            Work::Conv { x, conv } => Output::Picture(conv.forward(x.clone())),
            Work::Norm { x, norm } => Output::Picture(silu(norm.forward(x.clone()))),
            Work::Attention { q, k, v } => {
                let options = AttentionModuleOptions::default();
                Output::Picture(attention(q.clone(), k.clone(), v.clone(), None, None, options))
            }
            Work::Block { x, norms, convs } => {
                let mut h = x.clone();
                for (norm, conv) in norms.iter().zip(convs) {
                    h = conv.forward(silu(norm.forward(h)));
                }
                Output::Picture(h + x.clone())
            }
        }
    }

    fn read(&self) -> Result<Vec<f32>> {
        let data = match (self, self.run()) {
            (_, Output::Rows(y)) => y.into_data(),
            // [1, heads, L, 64] to [1, L, heads * 64].
            (Work::Attention { .. }, Output::Picture(y)) => y.swap_dims(1, 2).into_data(),
            (_, Output::Picture(y)) => y.into_data(),
        };
        Ok(data.convert::<f32>().to_vec::<f32>().map_err(|e| format!("{e:?}"))?)
    }
}

struct Session {
    device: Device,
    dtype: DType,
    works: HashMap<String, Work>,
}

/// The inputs of a work, and where they go.
struct Inputs<'a> {
    file: SafeTensors<'a>,
    session: &'a Session,
}

impl Inputs<'_> {
    fn float<const D: usize>(&self, data: TensorData) -> Tensor<D> {
        let tensor: Tensor<D> = Tensor::from_data(data, &self.session.device);
        tensor.cast(self.session.dtype)
    }

    fn tensor<const D: usize>(&self, name: &str) -> Result<Tensor<D>> {
        let view = self.file.tensor(name)?;
        let values: Vec<f32> =
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let data = TensorData::new(values, view.shape().to_vec());
        Ok(self.float(data))
    }

    fn conv(&self, prefix: &str) -> Result<Conv> {
        let (weight, bias) = (format!("{prefix}weight"), format!("{prefix}bias"));
        Ok(Conv { weight: self.tensor(&weight)?, bias: self.tensor(&bias)? })
    }

    fn norm(&self, prefix: &str) -> Result<GroupNorm> {
        let gain: Tensor<1> = self.tensor(&format!("{prefix}weight"))?;
        let config = GroupNormConfig::new(GROUPS, gain.dims()[0]).with_epsilon(EPS);
        let mut norm = config.init(&self.session.device);
        norm.gamma = Some(Param::from_tensor(gain));
        norm.beta = Some(Param::from_tensor(self.tensor(&format!("{prefix}bias"))?));
        Ok(norm)
    }

    /// `[1, L, heads * 64]` to `[1, heads, L, 64]`, laid out so.
    fn heads(&self, name: &str) -> Result<Tensor<4>> {
        let x: Tensor<3> = self.tensor(name)?;
        let [n, length, channels] = x.dims();
        let y = x.reshape([n, length, channels / HEAD_DIM, HEAD_DIM]).swap_dims(1, 2);
        let dims = y.dims();
        let data = TensorData::new(y.into_data().convert::<f32>().to_vec::<f32>().map_err(|e| format!("{e:?}"))?, dims);
        Ok(self.float(data))
    }

    fn work(&self, kind: &str) -> Result<Work> {
        Ok(match kind {
            "matmul" => {
                // [out, in] in the file, [in, out] on the device.
                let view = self.file.tensor("weight")?;
                let (out, inner) = (view.shape()[0], view.shape()[1]);
                let at = |i: usize| {
                    let b = &view.data()[4 * i..4 * i + 4];
                    f32::from_le_bytes([b[0], b[1], b[2], b[3]])
                };
                let turned: Vec<f32> =
                    (0..inner).flat_map(|i| (0..out).map(move |o| o * inner + i)).map(at).collect();
                let data = TensorData::new(turned, [inner, out]);
                let w = self.float(data);
                Work::Matmul { x: self.tensor("x")?, w }
            }
            "conv3x3" => Work::Conv { x: self.tensor("x")?, conv: self.conv("")? },
            "group_norm_silu" => Work::Norm { x: self.tensor("x")?, norm: self.norm("")? },
            "attention" => Work::Attention { q: self.heads("q")?, k: self.heads("k")?, v: self.heads("v")? },
            "resblock" => Work::Block {
                x: self.tensor("x")?,
                norms: [self.norm("norm1.")?, self.norm("norm2.")?],
                convs: [self.conv("conv1.")?, self.conv("conv2.")?],
            },
            _ => return Err(format!("unknown kind `{kind}`").into()),
        })
    }
}

/// The adapter whose name holds `wanted`: its place among those of its kind, which is how burn numbers them.
fn adapter(wanted: &str) -> Result<(DeviceKind, WgpuBackend, String)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let apis = [
        (wgpu::Backend::Vulkan, WgpuBackend::Vulkan),
        (wgpu::Backend::Metal, WgpuBackend::Metal),
        (wgpu::Backend::Dx12, WgpuBackend::Dx12),
    ];
    let mut names = Vec::new();
    for (backend, api) in apis {
        let mut counts = HashMap::new();
        for adapter in pollster::block_on(instance.enumerate_adapters(backend.into())) {
            let info = adapter.get_info();
            let count = counts.entry(format!("{:?}", info.device_type)).or_insert(0);
            let (index, name) = (*count, format!("{} ({:?}, {})", info.name, info.backend, info.driver_info));
            *count += 1;
            let kind = match info.device_type {
                wgpu::DeviceType::DiscreteGpu => DeviceKind::DiscreteGpu(index),
                wgpu::DeviceType::IntegratedGpu => DeviceKind::IntegratedGpu(index),
                wgpu::DeviceType::VirtualGpu => DeviceKind::VirtualGpu(index),
                wgpu::DeviceType::Cpu => DeviceKind::Cpu,
                wgpu::DeviceType::Other => continue,
            };
            let any = wanted == "gpu" && kind != DeviceKind::Cpu;
            if any || name.to_lowercase().contains(&wanted.to_lowercase()) {
                return Ok((kind, api, name));
            }
            names.push(name);
        }
    }
    Err(format!("wgpu finds no adapter `{wanted}`, only: {}", names.join("; ")).into())
}

impl Session {
    fn open(wanted: &str, dtype: &str) -> Result<(Session, String)> {
        let dtype = match dtype {
            "f32" => DType::F32,
            "f16" => DType::F16,
            _ => return Err(format!("precision `{dtype}` is unknown").into()),
        };
        let (kind, api, name) = adapter(wanted)?;
        let options = Device::wgpu_options().device_kind(kind).graphics_api(api);
        let device = options.init().map_err(|e| format!("{e:?}"))?;
        Ok((Session { device, dtype, works: HashMap::new() }, format!("burn 0.22.1, WGSL, {name}")))
    }

    fn sync(&self) -> Result<()> {
        self.device.sync().map_err(|e| format!("{e:?}").into())
    }

    fn prepare(&mut self, name: &str, kind: &str, inputs: &str) -> Result<f64> {
        let bytes = std::fs::read(inputs)?;
        let inputs = Inputs { file: SafeTensors::deserialize(&bytes)?, session: self };
        let work = inputs.work(kind)?;
        self.sync()?;
        let started = Instant::now();
        let y = work.run();
        self.sync()?;
        drop(y);
        let first = started.elapsed().as_secs_f64() * 1e3;
        // Twice more: autotuning may go on in the second call.
        for _ in 0..2 {
            let y = work.run();
            self.sync()?;
            drop(y);
        }
        self.works.insert(name.to_string(), work);
        Ok(first)
    }

    fn work(&self, name: &str) -> Result<&Work> {
        self.works.get(name).ok_or_else(|| format!("`{name}` is not prepared").into())
    }

    /// Milliseconds of one of `runs` runs in flight together.
    fn run(&self, name: &str, runs: usize) -> Result<f64> {
        let work = self.work(name)?;
        self.sync()?;
        let started = Instant::now();
        // The last result is kept to the end: what nobody holds might not be computed.
        let mut last = None;
        for _ in 0..runs {
            last.replace(work.run());
        }
        self.sync()?;
        drop(last);
        Ok(started.elapsed().as_secs_f64() * 1e3 / runs as f64)
    }
}

fn answer(session: &mut Option<Session>, words: &[&str]) -> Result<String> {
    if let ["open", device, dtype] = words {
        let (opened, name) = Session::open(device, dtype)?;
        *session = Some(opened);
        return Ok(name);
    }
    let session = session.as_mut().ok_or("no device is open")?;
    match words {
        ["prepare", name, kind, inputs] => Ok(session.prepare(name, kind, inputs)?.to_string()),
        ["run", name, runs] => Ok(session.run(name, runs.parse::<usize>()?.max(1))?.to_string()),
        ["read", name, file] => {
            let bytes: Vec<u8> = session.work(name)?.read()?.iter().flat_map(|v| v.to_le_bytes()).collect();
            std::fs::write(file, bytes)?;
            Ok(String::new())
        }
        ["drop", name] => {
            session.works.remove(*name);
            Ok(String::new())
        }
        _ => Err(format!("unknown command `{}`", words.join(" ")).into()),
    }
}

fn main() -> std::io::Result<()> {
    let mut session = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split('\t').collect();
        if words == ["quit"] {
            break;
        }
        let reply = match catch_unwind(AssertUnwindSafe(|| answer(&mut session, &words))) {
            Ok(Ok(text)) => format!("ok {text}"),
            Ok(Err(error)) => format!("error {}", error.to_string().replace('\n', " ")),
            Err(_) => "error burn panics; its message is above".to_string(),
        };
        println!("{}", reply.trim_end());
        std::io::stdout().flush()?;
    }
    Ok(())
}
