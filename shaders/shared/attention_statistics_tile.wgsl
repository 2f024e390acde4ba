// attention_statistics_tile: the statistics of ROWS queries by a workgroup of 256; an invocation keeps maximum and sum
// over its own keys. Needs shared/attention.wgsl, attention_products.wgsl and the functions of
// attention_statistics.wgsl.

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.y;
    let n = group.z;
    let row = group.x * ROWS + lane / ACROSS * 4u;
    var top = vec4f(LOWEST);
    var total = vec4f(0.0);
    for (var first = 0u; first < p.keys1 + p.keys2; first = first + OTHERS) {
        var s = products(false, n, head, group.x * ROWS, first, lane);
        var new_top = top;
        for (var j = 0u; j < OWN; j = j + 1u) {
            let at = first + lane % ACROSS * OWN + j;
            let score = s[j] * p.scale;
            s[j] = vec4f(adjusted(score.x, n, head, row, at), adjusted(score.y, n, head, row + 1u, at),
                adjusted(score.z, n, head, row + 2u, at), adjusted(score.w, n, head, row + 3u, at));
            new_top = max(new_top, s[j]);
        }
        total = total * exp(top - new_top);
        top = new_top;
        for (var j = 0u; j < OWN; j = j + 1u) {
            total = total + exp(s[j] - top);
        }
    }
    workgroupBarrier();
    left[lane] = top;
    right[lane] = total;
    workgroupBarrier();
    let across = lane % ACROSS;
    if across >= 4u {
        return;
    }
    // One row each for four of the invocations that share them.
    var row_top = LOWEST;
    for (var i = lane - across; i < lane - across + ACROSS; i = i + 1u) {
        row_top = max(row_top, left[i][across]);
    }
    var row_total = 0.0;
    for (var i = lane - across; i < lane - across + ACROSS; i = i + 1u) {
        row_total = row_total + right[i][across] * exp(left[i][across] - row_top);
    }
    put_statistics(n, head, row + across, row_top, row_total);
}
