// activation_derivative: the derivatives of the activation functions by number. Needs shared/activation.wgsl.

// Of x * sigmoid(u) where x u'(x) is `slope`: sigmoid(u) (1 + slope (1 - sigmoid(u))), with nothing taken from 1.
fn gated_derivative(u: f32, slope: f32) -> f32 {
    let e = exp(-clamp(u, -80.0, 80.0));
    let s = 1.0 / (1.0 + e);
    return s * (1.0 + slope * (e * s));
}

// At x. Where a function is flat or straight within rounding, x is brought nearer, so that no power of it overflows.
fn activation_derivative(x: f32, activation: u32) -> f32 {
    switch activation {
        case SILU: {
            let near = clamp(x, -80.0, 80.0);
            return gated_derivative(near, near);
        }
        case GELU: {
            // The normal distribution up to x, and x times its density.
            let near = clamp(x, -14.0, 14.0);
            return 0.5 * (1.0 + erf(near * 0.7071067811865476)) + 0.3989422804014327 * near * exp(-0.5 * near * near);
        }
        case GELU_TANH: {
            let near = clamp(x, -10.0, 10.0);
            let squared = near * near;
            let straight = 1.5957691216057308 * near;
            return gated_derivative(straight * (1.0 + 0.044715 * squared), straight * (1.0 + 0.134145 * squared));
        }
        case QUICK_GELU: {
            let near = clamp(1.702 * x, -80.0, 80.0);
            return gated_derivative(near, near);
        }
        case RELU: { return select(0.0, 1.0, x > 0.0); }
        default: { return 1.0; }
    }
}
