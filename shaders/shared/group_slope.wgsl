// group_slope: what an activation passes of a gradient at four values. Needs shared/activation_derivative.wgsl.

fn slope_of(v: vec4f, activation: u32) -> vec4f {
    if activation == IDENTITY {
        return vec4f(1.0);
    }
    return vec4f(
        activation_derivative(v.x, activation), activation_derivative(v.y, activation),
        activation_derivative(v.z, activation), activation_derivative(v.w, activation));
}
