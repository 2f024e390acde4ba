//! Cooperative matrices without an adapter that has them: each operation of `shaders/shared/cooperative.wgsl` is
//! replaced by plain WGSL in which a subgroup's 32 lanes hold 8 elements of a matrix each. What is staged, where matrices
//! are read and written, edges and epilogues are the shader's own; a driver's operations themselves are not tested.

use crate::cases::all;
use crate::device::{has_f16, on_gpu, skip};
use crate::harness::{F16, F32, compare, reference, run};
use crate::table;
use ancestral::internals::device::{Device, ProgramOptions, Variants};
use ancestral::internals::graph::Storage;
use ancestral::internals::kernels::{ALL, Kernel, Needs, Precision, Shader};

const OPERATIONS: &str = "
alias Left = vec2<u32>;   // first quad, quads from row to row
alias Right = vec2<u32>;
alias Sum = array<f32, 8>;
var<private> element: u32;  // first of this lane's in a matrix
var<private> eight: u32;    // a bound the driver does not know: it would unroll thousands of lines

fn at_left(at: u32, stride: u32) -> Left { return vec2<u32>(at, stride); }
fn at_right(at: u32, stride: u32) -> Right { return vec2<u32>(at, stride); }

fn multiply_add(x: Left, w: Right, sum: Sum) -> Sum {
    var y = sum;
    for (var i = 0u; i < eight; i++) {
        let row = (element + i) / 16u;
        let col = (element + i) % 16u;
        for (var k = 0u; k < 2u * eight; k++) {
            y[i] += f32(left[x.x + row * x.y + k / 4u][k % 4u]) * f32(right[w.x + k * w.y + col / 4u][col % 4u]);
        }
    }
    return y;
}

fn load_sum(at: u32, stride: u32) -> Sum {
    var y: Sum;
    for (var i = 0u; i < eight; i++) { y[i] = stage[at + (element + i) / 16u * stride + (element + i) % 16u]; }
    return y;
}

fn store_sum(sum: Sum, at: u32, stride: u32) {
    var y = sum;
    for (var i = 0u; i < eight; i++) { stage[at + (element + i) / 16u * stride + (element + i) % 16u] = y[i]; }
}
";

/// What it is called in the table of `./check --drivers`.
const FORMAT: &str = "f16, plain matrices";

/// The shader with its operations replaced.
fn emulated(shader: &'static Shader) -> &'static Shader {
    let replace = [
        ("alias Left = coop_mat16x16<f16, A>;\nalias Right = coop_mat16x16<f16, B>;\n", ""),
        ("alias Sum = coop_mat16x16<f32, C>;\n", OPERATIONS),
        (
            ", @builtin(subgroup_id) subgroup: u32) {",
            ") {\n    let subgroup = lane / 32u;\n    element = lane % 32u * 8u;\n    eight = 8u * min(p.cols, 1u);",
        ),
        ("coopLoadT<Sum>(&stage[0]", "load_sum(0u"),
        ("coopLoadT<Left>(&left[", "at_left("),
        ("coopLoadT<Right>(&right[", "at_right("),
        ("], 6u)", ", 6u)"),
        ("], 18u)", ", 18u)"),
        ("coopMultiplyAdd(", "multiply_add("),
        ("coopStoreT(", "store_sum("),
        ("&stage[own]", "own"),
    ];
    let shared = shader.shared.iter().map(|part| -> &'static str {
        if !part.starts_with("// cooperative: ") {
            return part;
        }
        let mut part = part.to_string();
        for (from, to) in replace {
            assert!(part.contains(from), "shared/cooperative.wgsl has no `{from}`");
            part = part.replace(from, to);
        }
        part.leak()
    });
    Box::leak(Box::new(Shader {
        name: format!("{}_emulated", shader.name).leak(),
        shared: shared.collect::<Vec<_>>().leak(),
        needs: Needs::NOTHING,
        ..*shader
    }))
}

fn check(device: &Device) {
    if !has_f16(device) {
        skip("no f16 shaders");
        return;
    }
    let shaders = ALL.iter().flat_map(|kernel| kernel.shaders.iter().map(move |shader| (kernel, shader)));
    for (kernel, shader) in shaders.filter(|(_, shader)| shader.needs.cooperative) {
        let (mut checked, mut worst) = (0, 0.0f64);
        let emulated = emulated(shader);
        let name = emulated.name;
        let alone: &'static Kernel =
            Box::leak(Box::new(Kernel { shaders: std::slice::from_ref(emulated), ..**kernel }));
        for mut case in all().into_iter().filter(|case| case.kernel == kernel.name) {
            // The element-wise nodes that join the kernel's keep theirs.
            for node in case.graph.nodes.iter_mut().filter(|node| node.kernel.name == kernel.name) {
                node.kernel = alone;
            }
            if !case
                .graph
                .nodes
                .iter()
                .filter(|n| n.kernel.name == kernel.name)
                .all(|n| (shader.fits)(&n.params))
            {
                continue;
            }
            let options = ProgramOptions {
                precision: Precision::F16,
                variants: Variants::Only(name),
                ..Default::default()
            };
            let (y, ran) = run(device, &case.graph, &case.inputs, options).expect("it runs");
            assert!(ran.nodes.iter().any(|n| n.shader().name == name), "{}: ran without {name}", case.name);
            let half = ran.info(ran.outputs[0].1).storage == Storage::Elem;
            let expected = reference(&case.graph, &case.inputs, Precision::F16);
            match compare(&expected, &y, if half { F16 } else { F32 }) {
                Ok(found) => worst = worst.max(found.nmse),
                Err(what) => {
                    table::fails(shader.name, FORMAT);
                    panic!("{} by {name}: {what}", case.name);
                }
            }
            checked += 1;
        }
        assert!(checked > 0, "no case fits `{}`", shader.name);
        table::holds(shader.name, FORMAT, worst);
    }
}

#[test]
fn cooperative_shaders_with_plain_matrices() {
    on_gpu(check);
}
