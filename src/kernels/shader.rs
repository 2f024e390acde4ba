//! WGSL files: what they are made of, what they need, how many workgroups they take.

/// Storage types a pipeline is compiled for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Precision {
    /// `Elem` (activations) is f16.
    pub elem_f16: bool,
    /// `Weight` (weight matrices) is f16.
    pub weight_f16: bool,
}

impl Precision {
    /// Activations and weights in f32.
    pub const F32: Precision = Precision { elem_f16: false, weight_f16: false };
    /// Activations and weights stored in f16; sums stay f32.
    pub const F16: Precision = Precision { elem_f16: true, weight_f16: true };
}

/// One WGSL file that computes a kernel.
pub struct Shader {
    /// The file's name, with a suffix where other snippets or constants make another shader of it.
    pub name: &'static str,
    /// The WGSL file.
    pub wgsl: &'static str,
    /// Function snippets of `shaders/shared/` (or `shaders/software/shared/`) the file calls.
    pub shared: &'static [&'static str],
    /// Values of the file's overrides that differ from their defaults.
    pub constants: &'static [(&'static str, f64)],
    /// What the adapter must have.
    pub needs: Needs,
    /// Whether it computes the sizes in a uniform.
    pub fits: fn(&[u8]) -> bool,
    /// Workgroups in x, y, z from the uniform and the shape of the output.
    pub grid: fn(&[u8], &[usize]) -> [u32; 3],
}

/// Cooperative matrices as they are laid out in `shaders/shared/matrices16.wgsl` and `matrices8.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrices {
    /// Rows and columns of one.
    pub edge: u32,
    /// Subgroups of a workgroup.
    pub subgroups: u32,
}

impl Matrices {
    /// 16 × 16.
    pub const OF16: Matrices = Matrices { edge: 16, subgroups: 4 };
    /// 8 × 8.
    pub const OF8: Matrices = Matrices { edge: 8, subgroups: 8 };
    /// Workgroup memory that their shaders may use: twice of what every adapter has.
    pub const WORKGROUP_BYTES: u32 = 32_768;

    /// Whether workgroups of subgroups of this size stage and reduce as the shaders do: at most 256 invocations, at least
    /// one for a row of a subgroup's matrices.
    pub fn take(self, subgroup: u32) -> bool {
        subgroup >= self.edge && self.subgroups * subgroup <= 256
    }
}

/// What a shader asks of an adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Subgroups of exactly this many invocations.
    pub subgroup: Option<u32>,
    /// Cooperative matrices: f16 factors, f32 sums, activations and weights stored in f16. The device's subgroups, all of
    /// one size, make up the workgroup; the override `SUBGROUP` gets their size.
    pub cooperative: Option<Matrices>,
    /// Real workgroup memory: it runs on software adapters too, but slower than what does without.
    pub hardware: bool,
}

impl Needs {
    /// Subgroups of 8: the vectors of software adapters.
    pub const SUBGROUP8: Needs = Needs { subgroup: Some(8), ..Needs::NOTHING };
    /// Real workgroup memory.
    pub const HARDWARE: Needs = Needs { hardware: true, ..Needs::NOTHING };
    /// Runs everywhere.
    pub const NOTHING: Needs = Needs { subgroup: None, cooperative: None, hardware: false };
    /// Cooperative matrices of 16 × 16.
    pub const MATRICES16: Needs = Needs::matrices(Matrices::OF16);
    /// Cooperative matrices of 8 × 8.
    pub const MATRICES8: Needs = Needs::matrices(Matrices::OF8);

    const fn matrices(of: Matrices) -> Needs {
        Needs { subgroup: None, cooperative: Some(of), hardware: true }
    }

    /// Whether it uses what is common to the invocations of a subgroup.
    pub fn subgroups(self) -> bool {
        self.subgroup.is_some() || self.cooperative.is_some()
    }
}

impl Shader {
    /// A shader that runs everywhere and computes all sizes.
    pub(crate) const fn plain(
        name: &'static str,
        wgsl: &'static str,
        shared: &'static [&'static str],
        grid: fn(&[u8], &[usize]) -> [u32; 3],
    ) -> Shader {
        Shader { name, wgsl, shared, constants: &[], needs: Needs::NOTHING, fits: |_| true, grid }
    }

    /// A shader whose workgroups are subgroups of 8, with sums over them (`software/shared/reduce_subgroup.wgsl`).
    pub(crate) const fn narrow(
        name: &'static str,
        wgsl: &'static str,
        shared: &'static [&'static str],
        grid: fn(&[u8], &[usize]) -> [u32; 3],
    ) -> Shader {
        let constants = &[("WG", 8.0)];
        Shader { name, wgsl, shared, constants, needs: Needs::SUBGROUP8, fits: |_| true, grid }
    }

    /// It asks this of the adapter.
    pub(crate) const fn needing(self, needs: Needs) -> Shader {
        Shader { needs, ..self }
    }

    /// It computes these sizes only.
    pub(crate) const fn fitting(self, fits: fn(&[u8]) -> bool) -> Shader {
        Shader { fits, ..self }
    }

    /// Name of its file in `shaders/`, as the file's first words say it.
    pub fn file(&self) -> &'static str {
        self.wgsl.trim_start_matches("// ").split(':').next().unwrap_or_default()
    }

    /// The complete WGSL source: prelude (storage aliases), shared functions, the file.
    pub fn source(&self, precision: Precision) -> String {
        let name = |half: bool| if half { "f16" } else { "f32" };
        let f16 = if precision.elem_f16 || precision.weight_f16 { "enable f16;\n" } else { "" };
        let cooperative =
            if self.needs.cooperative.is_some() { "enable wgpu_cooperative_matrix;\n" } else { "" };
        let mut source = format!(
            "{f16}{cooperative}alias Elem = {};\nalias Weight = {};\n",
            name(precision.elem_f16),
            name(precision.weight_f16)
        );
        for part in self.shared.iter().chain([&self.wgsl]) {
            source.push_str(part);
        }
        source
    }
}

/// Largest workgroup count along one axis that every adapter accepts (WebGPU's default limit).
pub const MAX_GRID: usize = 65_535;

/// A one-dimensional grid of `groups` workgroups, folded into y above [`MAX_GRID`]; shaders undo it with
/// `linear_group` of `shared/index.wgsl`.
pub(crate) fn fold_grid(groups: usize) -> [u32; 3] {
    let rows = groups.div_ceil(MAX_GRID).max(1);
    [groups.div_ceil(rows).max(1) as u32, rows as u32, 1]
}

/// The grid of a kernel whose workgroups compute 64 elements of the output each.
pub(crate) fn element_grid(_: &[u8], output: &[usize]) -> [u32; 3] {
    fold_grid(output.iter().product::<usize>().div_ceil(64))
}

/// The same of 64 quads.
pub(crate) fn quad_grid(_: &[u8], output: &[usize]) -> [u32; 3] {
    fold_grid((output.iter().product::<usize>() / 4).div_ceil(64))
}

/// The grid of a kernel whose workgroups compute a row of the output each.
pub(crate) fn row_grid(_: &[u8], output: &[usize]) -> [u32; 3] {
    fold_grid(output.iter().rev().skip(1).product())
}

/// The grid of `batches` products of `rows` by `cols`, in the tiles of `shared/tile.wgsl`.
pub(crate) fn tile_grid(rows: usize, cols: usize, batches: usize) -> [u32; 3] {
    let across = cols.div_ceil(8).clamp(1, 8);
    let down = 64 / across;
    fold_grid(batches * cols.div_ceil(8 * across) * rows.div_ceil(4 * down))
}

/// The grid of `batches` products of `rows` by `cols`, in the tiles of `tile` rows of `software/shared/subgroup.wgsl`.
pub(crate) fn subgroup_grid(rows: u32, cols: u32, batches: u32, tile: u32) -> [u32; 3] {
    fold_grid(batches as usize * rows.div_ceil(tile) as usize * cols.div_ceil(16) as usize)
}

/// The grid of `batches` products of `rows` by `cols`, in tiles of `tall` by 64.
pub(crate) fn wide_grid(rows: u32, cols: u32, batches: u32, tall: u32) -> [u32; 3] {
    fold_grid(batches as usize * rows.div_ceil(tall) as usize * cols.div_ceil(64) as usize)
}
