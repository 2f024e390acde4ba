//! Uniforms: structs that lie in memory as WGSL has them, and tables of their members.

/// Type of a member of a kernel's uniform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// WGSL `u32`.
    U32,
    /// WGSL `f32`.
    F32,
}

/// A member of a kernel's uniform, to hold Rust and WGSL to the same layout in a test.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Member name in both languages.
    pub name: &'static str,
    /// Byte offset.
    pub offset: usize,
    /// Scalar type.
    pub ty: FieldType,
}

/// Declares a kernel's uniform: a `repr(C)` struct of u32 and f32 and the table of its members.
macro_rules! params {
    (@ty u32) => { $crate::kernels::FieldType::U32 };
    (@ty f32) => { $crate::kernels::FieldType::F32 };
    ($($(#[$doc:meta])* $field:ident: $ty:ident),* $(,)?) => {
        /// The uniform of this kernel; members as in the WGSL file.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        pub struct Params { $($(#[$doc])* pub $field: $ty),* }
        impl Params {
            pub(crate) const FIELDS: &'static [$crate::kernels::Field] = &[$($crate::kernels::Field {
                name: stringify!($field),
                offset: std::mem::offset_of!(Params, $field),
                ty: params!(@ty $ty),
            }),*];
            pub(crate) fn read(bytes: &[u8]) -> Self {
                bytemuck::pod_read_unaligned(bytes)
            }
            pub(crate) fn bytes(&self) -> Vec<u8> {
                bytemuck::bytes_of(self).to_vec()
            }
        }
    };
}
