//! Workgroups for a large card: what stands in a node's place on hardware has enough of them at published sizes.

use crate::plans::{layout, parts, parts_of_karlo};
use ancestral::internals::diffusion::numbers;
use ancestral::internals::graph::rewrites::{NORM_GRADIENT_STRIPS, NORM_STRIPS, QUANTILE_PARTS, Rewrite};
use ancestral::internals::graph::{Graph, Node, Storage};
use ancestral::internals::kernels::epilogue::Activation;
use ancestral::internals::kernels::group_norm::GroupNorm;
use ancestral::internals::kernels::group_norm_gradient::group_norm_gradient;
use ancestral::internals::kernels::quantile::quantile;
use ancestral::internals::kernels::{Precision, Shader};
use std::collections::BTreeMap;

/// Pixels of a picture of 256².
const PIXELS: usize = 1 << 16;

/// Workgroups of each part that stands in a node's place, by the last shader that computes it: the best on hardware.
fn workgroups(graph: &Graph, node: &Node, rewrite: &Rewrite) -> Vec<(&'static str, u32)> {
    let mut graph = graph.clone();
    graph.nodes.clear();
    (rewrite.apply)(&mut graph, node, 0, u64::MAX);
    let count = |part: &Node| {
        let shader =
            part.kernel.shaders.iter().rfind(|shader| (shader.fits)(&part.params)).expect("a shader");
        (shader.name, (shader.grid)(&part.params, &graph.info(part.output()).shape).iter().product())
    };
    graph.nodes.iter().map(count).collect()
}

/// The steps of networks that draw or enlarge pictures of 256², of one picture.
fn steps() -> Vec<(&'static str, Graph)> {
    vec![
        ("IF-II", parts(&layout("IF-II"), 1, false, 10).step),
        ("Karlo's super-resolution", parts_of_karlo("super_res", 7).step),
    ]
}

#[test]
fn group_norms_of_large_pictures() {
    for (name, graph) in steps() {
        let mut fewest = BTreeMap::new();
        for node in graph.nodes.iter().filter(|node| node.kernel.name == "group_norm") {
            let shape = &graph.info(node.output()).shape;
            if shape[1..shape.len() - 1].iter().product::<usize>() != PIXELS {
                continue;
            }
            for (shader, count) in workgroups(&graph, node, &NORM_STRIPS) {
                let least = fewest.entry(shader).or_insert(count);
                *least = count.min(*least);
            }
        }
        println!("{name}, 256 × 256: at least {fewest:?} workgroups");
        for part in ["group_moments_quads", "group_apply_quads"] {
            assert!(fewest[part] >= 512, "{name}: {fewest:?}");
        }
    }
}

#[test]
fn the_gradient_of_a_large_group_norm() {
    for channels in [192, 320] {
        let mut g = Graph::new();
        let mut input = |name: &str| g.input(name, &[1, 256, 256, channels], Storage::Elem);
        let (x, dy) = (input("x"), input("dy"));
        let norm = GroupNorm::new(&mut g, "norm", channels, 32, 1e-5);
        group_norm_gradient(&mut g, "norm", (&x, None), &norm, None, Activation::Silu, &dy);
        let counts = workgroups(&g, &g.nodes[0], &NORM_GRADIENT_STRIPS);
        println!("{channels} channels, 256 × 256: {counts:?} workgroups");
        for (shader, count) in counts.iter().filter(|(_, count)| *count != 32) {
            assert!(*count >= 512, "{shader}: {count}");
        }
        let large = counts.iter().filter(|(_, count)| *count >= 512).count();
        assert_eq!(large, 3, "those that read the picture");
    }
}

/// A convolution, filled up with zeros as often as a rewrite does so, comes to the tiles of quads.
fn is_tiled(graph: &Graph, node: &Node) -> Result<(), String> {
    let fits = |shader: &&Shader| !shader.needs.subgroups() && (shader.fits)(&node.params);
    if node.kernel.shaders.iter().rfind(fits).is_some_and(|shader| shader.name == "conv2d_tile") {
        return Ok(());
    }
    let filled = node.kernel.rewrites.others.iter().filter(|rewrite| rewrite.name.starts_with("filled_"));
    let mut fitting = filled.filter(|rewrite| (rewrite.fits)(graph, node, Precision::F16));
    let rewrite = fitting.next().ok_or_else(|| format!("{} is left to the scalar shader", node.label))?;
    let mut graph = graph.clone();
    graph.nodes.clear();
    (rewrite.apply)(&mut graph, node, 0, u64::MAX);
    let mut parts = graph.nodes.iter().filter(|part| part.kernel.name == "conv2d");
    parts.try_for_each(|part| is_tiled(&graph, part))
}

/// No convolution of pictures of 3 or 6 channels falls to the scalar shader.
#[test]
fn convolutions_of_few_channels() {
    for (name, graph) in steps() {
        let channels = |node: &Node| {
            let of = |id| graph.info(id).shape.last().copied().unwrap_or(0);
            [of(node.inputs[0]), of(node.output())]
        };
        let few = |node: &&Node| {
            node.kernel.name == "conv2d" && channels(node).iter().any(|n| !n.is_multiple_of(4))
        };
        let found: Vec<&Node> = graph.nodes.iter().filter(few).collect();
        let sizes: Vec<_> = found.iter().map(|node| channels(node)).collect();
        println!("{name}: convolutions of {sizes:?} channels");
        assert!(found.len() >= 2, "{name} reads and writes pictures");
        for node in found {
            is_tiled(&graph, node).unwrap_or_else(|what| panic!("{name}: {what}"));
        }
    }
}

#[test]
fn the_quantile_of_a_large_picture() {
    let mut graph = Graph::new();
    let mut input = |name: &str, shape: &[usize]| graph.input(name, shape, Storage::F32);
    let (x, out) = (input("x", &[1, 256, 256, 3]), input("out", &[2, 256, 256, 6]));
    let numbers = input("numbers", &[numbers::COUNT + 1]);
    quantile(&mut graph, &x, &out, &numbers, None);
    let counts = workgroups(&graph, &graph.nodes[0], &QUANTILE_PARTS);
    println!("256 × 256: {counts:?} workgroups");
    assert!(counts.len() <= 4, "at most three dispatches more");
    for (shader, count) in &counts[..counts.len() - 1] {
        assert!(*count >= 64, "{shader}: {count}");
    }
}
