//! Cooperative matrices without an adapter that has them: the operations of `shaders/shared/matrices.wgsl` are replaced
//! by plain WGSL in which a subgroup's 32 lanes hold a share of a matrix's elements each. What is staged, where matrices
//! are read and written, edges and epilogues are the shader's own. A driver's operations themselves are tested where it
//! has them: those of 8 × 8, attention's among them, by `./check --drivers` on Mesa 26.

use crate::cases::all;
use crate::device::{has_f16, on_gpu, skip};
use crate::harness::{F16, F32, compare, reference, run};
use crate::table;
use ancestral::internals::device::{Device, ProgramOptions, Variants};
use ancestral::internals::graph::Storage;
use ancestral::internals::kernels::{ALL, Kernel, Needs, Precision, Shader};

/// The operations of `shaders/shared/matrices.wgsl`, in place of the matrices' types, too.
const OPERATIONS: &str = "
const SUBGROUP: u32 = 32u;
const OWN: u32 = EDGE * EDGE / SUBGROUP;  // elements of a matrix that an invocation holds
alias Left = vec2<u32>;                   // first element, elements from row to row
alias Right = vec3<u32>;                  // the same, and from column to column
alias Sum = array<f32, OWN>;
var<private> element: u32;                // first of this invocation's in a matrix
var<private> own: u32;                    // OWN, and
var<private> edge: u32;                   // EDGE, as bounds the driver does not know: it would unroll thousands of lines

fn load_left(at: u32) -> Left { return vec2<u32>(at, LEFT_ROW); }
fn load_right(at: u32) -> Right { return vec3<u32>(at, RIGHT_ROW, 1u); }
fn load_right_turned(at: u32) -> Right { return vec3<u32>(at, 1u, RIGHT_ROW); }

fn multiply_add(x: Left, w: Right, sum: Sum) -> Sum {
    var y = sum;
    for (var i = 0u; i < own; i++) {
        let row = x.x + (element + i) / EDGE * x.y;
        let col = w.x + (element + i) % EDGE * w.z;
        for (var k = 0u; k < edge; k++) {
            y[i] += f32(left_element(row + k)) * f32(right_element(col + k * w.y));
        }
    }
    return y;
}

fn load_sum(at: u32) -> Sum {
    var y: Sum;
    for (var i = 0u; i < own; i++) { y[i] = stage[at + (element + i) / EDGE * STAGE_ROW + (element + i) % EDGE]; }
    return y;
}

fn store_sum(sum: Sum, at: u32) {
    var y = sum;
    for (var i = 0u; i < own; i++) { stage[at + (element + i) / EDGE * STAGE_ROW + (element + i) % EDGE] = y[i]; }
}
";
/// Elements of staged quads, and of what is staged one by one.
const OF_QUADS: &str = "
fn left_element(at: u32) -> f16 { return left[at / 4u][at % 4u]; }
fn right_element(at: u32) -> f16 { return right[at / 4u][at % 4u]; }
";
const ONE_BY_ONE: &str = "
fn left_element(at: u32) -> f16 { return left[at]; }
fn right_element(at: u32) -> f16 { return right[at]; }
";

/// What it is called in the table of `./check --drivers`.
const FORMAT: &str = "f16, plain matrices";

/// The shader with its operations replaced.
fn emulated(shader: &'static Shader) -> &'static Shader {
    let by_lane = ",\n        @builtin(subgroup_id) subgroup: u32) {";
    let mut replaced = 0;
    let mut part = |part: &'static str| -> &'static str {
        let elements = if part.contains("alias Staged = f16;") { ONE_BY_ONE } else { OF_QUADS };
        if part.starts_with("// matrices: ") {
            replaced += 1;
            OPERATIONS
        } else if part.starts_with("// matrices") {
            replaced += 1;
            let plain = part.lines().filter(|line| !line.contains("coop_mat")).collect::<Vec<_>>().join("\n");
            format!("{plain}{elements}").leak()
        } else if part.contains(by_lane) {
            replaced += 1;
            let begin = ") {
    let subgroup = lane / SUBGROUP;
    element = lane % SUBGROUP * OWN;
    own = OWN * min(p.cols, 1u);
    edge = EDGE * min(p.cols, 1u);";
            part.replace(by_lane, begin).leak()
        } else {
            part
        }
    };
    let shared = shader.shared.iter().map(|text| part(text)).collect::<Vec<_>>().leak();
    let wgsl = part(shader.wgsl);
    assert_eq!(replaced, 3, "{}: matrices, their operations, the entry", shader.name);
    let name = format!("{}_emulated", shader.name).leak();
    Box::leak(Box::new(Shader { name, shared, wgsl, needs: Needs::NOTHING, ..*shader }))
}

/// All but attention's: LLVM takes minutes for them.
fn check(device: &Device) {
    if !has_f16(device) {
        skip("no f16 shaders");
        return;
    }
    let shaders = ALL.iter().flat_map(|kernel| kernel.shaders.iter().map(move |shader| (kernel, shader)));
    let products = shaders.filter(|(kernel, _)| kernel.name != "attention");
    for (kernel, shader) in products.filter(|(_, shader)| shader.needs.cooperative.is_some()) {
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
