// fixed_point: a step of the search for x = g(x), for each picture by itself, by Anderson's acceleration (1965) from
// the last two evaluations:
//   f = g - x      gamma = f · (f - f') / |f - f'|²      x <- g - gamma (g - g')
// with g' and f' of the evaluation before; x <- g where there is none, or the other is no number. The answer is x,
// unless an earlier x was nearer to its g: then that.
//   first   [B, item]     f32   what g was evaluated at before any search
//   x       [B, item]     f32   g; becomes where g is to be evaluated next
//   answer  [B, item]     f32
//   memory  [B, 4, item]  f32   where g was evaluated; where it was nearest; g'; f'
//   found   [B, 2]        f32   root mean square of f where it was smallest; evaluations, 0 where the search begins
// A picture whose error is no more than p.settled stays at its answer.
// One workgroup computes one picture. Three passes over it: dot products; whether all numbers are; what follows.
// x, answer, memory and found are updated in place.
struct Params { item: u32, settled: f32 }

override WG: u32 = 256u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> first: array<f32>;   // [B, item]
@group(0) @binding(2) var<storage, read_write> x: array<f32>;       // [B, item]
@group(0) @binding(3) var<storage, read_write> answer: array<f32>;  // [B, item]
@group(0) @binding(4) var<storage, read_write> memory: array<f32>;  // [B, 4, item]
@group(0) @binding(5) var<storage, read_write> found: array<f32>;   // [B, 2]

fn no_number(v: f32) -> bool {
    return (bitcast<u32>(v) & 0x7f800000u) == 0x7f800000u;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let b = group.x;
    let start = b * p.item;
    let at = 4u * start;
    let nearest = at + p.item;
    let g_before = nearest + p.item;
    let f_before = g_before + p.item;
    let least = found[2u * b];
    let evaluations = found[2u * b + 1u];
    let begins = evaluations == 0.0;
    let settled = !begins && !no_number(least) && least <= p.settled;

    var lengths = 0.0;
    var products = 0.0;
    var changes = 0.0;
    for (var i = lane; i < p.item; i = i + WG) {
        if begins {
            memory[at + i] = first[start + i];
        }
        let f = x[start + i] - memory[at + i];
        lengths = lengths + f * f;
        if !begins {
            let change = f - memory[f_before + i];
            products = products + f * change;
            changes = changes + change * change;
        }
    }
    lengths = workgroup_sum(lengths, lane);
    products = workgroup_sum(products, lane);
    changes = workgroup_sum(changes, lane);
    let error = sqrt(lengths / f32(p.item));
    let improves = !no_number(error) && (begins || no_number(least) || error < least);

    var accelerates = changes > 0.0 && !no_number(changes);
    var gamma = 0.0;
    if accelerates {
        gamma = products / changes;
    }
    var broken = 0.0;
    for (var i = lane; i < p.item; i = i + WG) {
        let g = x[start + i];
        if accelerates && no_number(g - gamma * (g - memory[g_before + i])) {
            broken = 1.0;
        }
    }
    accelerates = accelerates && workgroup_max(broken, lane) == 0.0;

    for (var i = lane; i < p.item; i = i + WG) {
        if settled {
            x[start + i] = answer[start + i];
            continue;
        }
        let g = x[start + i];
        let evaluated = memory[at + i];
        var next = g;
        if accelerates {
            next = g - gamma * (g - memory[g_before + i]);
        }
        if improves || begins {
            memory[nearest + i] = evaluated;
        }
        answer[start + i] = select(memory[nearest + i], next, improves);
        memory[g_before + i] = g;
        memory[f_before + i] = g - evaluated;
        memory[at + i] = next;
        x[start + i] = next;
    }
    if lane == 0u && !settled {
        found[2u * b] = select(least, error, improves || begins);
        found[2u * b + 1u] = evaluations + 1.0;
    }
}
