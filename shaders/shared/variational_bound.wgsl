// variational_bound: an element's term of the variational bound (Nichol & Dhariwal 2021, arXiv:2102.09672), in nats,
// of the file that needs it. c holds 8 numbers an item: x̂₀ = c0 x_t + c1 out; the posterior's mean is c2 x₀ + c3 x_t,
// its log variance c4; the network's is between c4 and c5; c6 is 1 at the first timestep; c7 weighs the item.

struct Term { xt: f32, x0: f32, mean: f32, log_variance: f32 }

fn term(k: u32, x: f32, start: f32, value: f32, between: f32) -> Term {
    let x0 = c[k] * x + c[k + 1u] * value;
    var log_variance = c[k + 5u];
    if p.learned != 0u {
        let share = 0.5 * (between + 1.0);
        log_variance = share * c[k + 5u] + (1.0 - share) * c[k + 4u];
    }
    return Term(x, start, c[k + 2u] * x0 + c[k + 3u] * x, log_variance);
}

const SLOPE: f32 = 0.7978845608;  // √(2 / π)
const CUBE: f32 = 0.044715;
const LEAST: f32 = 1e-12;

// About the normal distribution's cumulative function, (1 + tanh z) / 2, in a form that keeps digits where it is small.
fn normal_cdf(u: f32) -> f32 {
    return 1.0 / (1.0 + exp(clamp(-2.0 * SLOPE * (u + CUBE * u * u * u), -80.0, 80.0)));
}

fn normal_density(u: f32) -> f32 {
    return 2.0 * normal_cdf(u) * normal_cdf(-u) * SLOPE * (1.0 + 3.0 * CUBE * u * u);
}

// The share of a byte's values that lie below its upper and above its lower edge.
struct Bin { upper: f32, lower: f32, mass: f32 }

fn bin(t: Term) -> Bin {
    let over_deviation = exp(-0.5 * t.log_variance);
    let upper = over_deviation * (t.x0 - t.mean + 1.0 / 255.0);
    let lower = over_deviation * (t.x0 - t.mean - 1.0 / 255.0);
    // On the side where both are small.
    var mass = select(normal_cdf(upper) - normal_cdf(lower), normal_cdf(-lower) - normal_cdf(-upper), t.x0 > t.mean);
    if t.x0 < -0.999 {
        mass = normal_cdf(upper);
    } else if t.x0 > 0.999 {
        mass = normal_cdf(-lower);
    }
    return Bin(upper, lower, mass);
}
