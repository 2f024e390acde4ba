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

/// Declares a kernel's uniform: a `repr(C)` struct of u32 and f32 and the table of its members. `; epilogue` behind them adds
/// an [`Epilogue`](crate::kernels::epilogue::Epilogue), whose members lie there as members of the uniform.
macro_rules! params {
    (@ty u32) => { $crate::kernels::FieldType::U32 };
    (@ty f32) => { $crate::kernels::FieldType::F32 };
    (@field $name:expr, $place:expr, $ty:ident) => {
        $crate::kernels::Field { name: $name, offset: $place, ty: params!(@ty $ty) }
    };
    ($($(#[$doc:meta])* $field:ident: $ty:ident),* $(,)? $(; $epilogue:ident)?) => {
        /// The uniform of this kernel; members as in the WGSL file.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        pub struct Params {
            $($(#[$doc])* pub $field: $ty,)*
            $(
                /// What follows the sum.
                pub $epilogue: $crate::kernels::epilogue::Epilogue,
            )?
        }
        impl Params {
            pub(crate) const FIELDS: &'static [$crate::kernels::Field] = &[
                $(params!(@field stringify!($field), std::mem::offset_of!(Params, $field), $ty),)*
                $(
                    params!(@field "act", std::mem::offset_of!(Params, $epilogue.act), u32),
                    params!(@field "operand_op", std::mem::offset_of!(Params, $epilogue.operand_op), u32),
                    params!(@field "operand_rows", std::mem::offset_of!(Params, $epilogue.operand_rows), u32),
                    params!(@field "scale", std::mem::offset_of!(Params, $epilogue.scale), f32),
                )?
            ];
            pub(crate) fn read(bytes: &[u8]) -> Self {
                bytemuck::pod_read_unaligned(bytes)
            }
            pub(crate) fn bytes(&self) -> Vec<u8> {
                bytemuck::bytes_of(self).to_vec()
            }
        }
    };
}
