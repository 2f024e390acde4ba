// activation: the activation functions of the models, chosen by number (kernels/epilogue.rs, `Activation`).

const IDENTITY: u32 = 0u;
const SILU: u32 = 1u;
const GELU: u32 = 2u;
const GELU_TANH: u32 = 3u;
const QUICK_GELU: u32 = 4u;
const RELU: u32 = 5u;

// 1 / (1 + e^-x). The clamp keeps e^-x finite: WGSL lets an implementation assume there is no infinity.
fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-clamp(x, -80.0, 80.0)));
}

// erf by a rational function of x², a few units in the last place; beyond ±3.92 it rounds to ±1 in f32.
fn erf(x: f32) -> f32 {
    if abs(x) >= 3.92 {
        return sign(x);
    }
    let s = x * x;
    var p = -2.72614225801306e-10;
    p = p * s + 2.77068142495902e-08;
    p = p * s - 2.10102402082508e-06;
    p = p * s - 5.69250639462346e-05;
    p = p * s - 7.34990630326855e-04;
    p = p * s - 2.95459980854025e-03;
    p = p * s - 1.60960333262415e-02;
    var q = -1.45660718464996e-05;
    q = q * s - 2.13374055278905e-04;
    q = q * s - 1.68282697438203e-03;
    q = q * s - 7.37332916720468e-03;
    q = q * s - 1.42647390514189e-02;
    return x * p / q;
}

fn activate(x: f32, activation: u32) -> f32 {
    switch activation {
        case SILU: { return x * sigmoid(x); }
        case GELU: { return 0.5 * x * (1.0 + erf(x * 0.7071067811865476)); }
        case GELU_TANH: {
            // 0.5 (1 + tanh u) = sigmoid(2u)
            return x * sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x));
        }
        case QUICK_GELU: { return x * sigmoid(1.702 * x); }
        case RELU: { return max(x, 0.0); }
        default: { return x; }
    }
}
