// predict: what a step makes of the network's output. All of a step's numbers come in one array, 64 of them:
// [0] guidance  [1] x0_x  [2] x0_out  [3] eps_x  [4] eps_out
// [5] clip kind  [6] clip range or largest threshold  [7] quantile  [8] variance kind  [9] sigma
// [10] log variance, smallest  [11] log variance, largest  [12] noise factor  [13] tensors of the memory
// [16 + 8 r ..] what row r takes of x, x̂₀, ε and the memory's five; row 0 is the next sample, row r the memory's tensor r - 1

// Classifier-free guidance (Ho & Salimans 2022): from the unconditional towards the conditional output and beyond.
fn guide(unconditional: f32, conditional: f32, guidance: f32) -> f32 {
    return unconditional + guidance * (conditional - unconditional);
}

// x̂₀ where `share` of it is a known picture (GLIDE's inpainting, Nichol et al. 2021).
fn keep(x0: f32, known: f32, share: f32) -> f32 {
    return share * known + (1.0 - share) * x0;
}

// x̂₀ or ε̂, both linear in the sample and the (guided) output.
fn linear(x: f32, out: f32, of_x: f32, of_out: f32) -> f32 {
    return of_x * x + of_out * out;
}
